"""A run told as it happens: the model's own events, and what becomes of its calls."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeAlias

from callbox.agents.asking import ask, next_request
from callbox.agents.events import CallFinished, CallProgress, CallRunning, Event, ReplyEnded, RunEnded
from callbox.agents.loop import Loop
from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import find_dialect
from callbox.errors import ProviderError
from callbox.gate.caller import Caller
from callbox.gate.gate import Gate
from callbox.gate.streaming import EagerStart
from callbox.messages import Message, StreamEvent
from callbox.providers.provider import Provider

Inbox: TypeAlias = "asyncio.Queue[Event | None]"


class RunStream:
    """The events of one run: an async iterator.

    The run goes on in a task of its own while events are read. Leaving the stream ends it: by `aclose` (from any task),
    by ``async with``, by cancelling who reads, or by dropping the stream after a ``break``.
    """

    def __init__(self, provider: Provider, loop: Loop, gate: Gate, caller: Caller) -> None:
        self._loop = loop
        self._begin: Callable[[Inbox], Coroutine[None, None, None]] = partial(_produce, provider, loop, gate, caller)
        self._inbox: Inbox | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def messages(self) -> list[Message]:
        """The conversation so far; always one that a model API accepts, also after a cancellation."""
        return list(self._loop.conversation.messages)

    def __aiter__(self) -> RunStream:
        return self

    async def __anext__(self) -> Event:
        if self._closed:
            raise StopAsyncIteration
        if self._inbox is None or self._task is None:
            self._inbox = asyncio.Queue()
            self._task = asyncio.create_task(self._begin(self._inbox))
            # The task holds nothing of this object, so that dropping the stream is noticed.
            weakref.finalize(self, _cancel, asyncio.get_running_loop(), self._task)
        try:
            event = await self._inbox.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if event is None:
            self._closed = True
            await asyncio.gather(self._task, return_exceptions=True)
            if not self._task.cancelled():
                self._task.result()  # raises what ended the run
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Cancel what is still running. Idempotent; whoever waits for the next event gets the end."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> RunStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _produce(provider: Provider, loop: Loop, gate: Gate, caller: Caller, inbox: Inbox) -> None:
    restore = find_dialect(provider.dialect).restore
    tell = inbox.put_nowait
    try:
        while (request := await next_request(provider, loop)) is not None:
            async with gate.turn(caller=caller, budget=loop.budget, observer=_Watcher(tell), restore=restore) as turn:
                eager = EagerStart(turn) if request.tool_choice != "none" else None
                reply = await ask(provider, loop, request, _listener(tell, eager))
                if reply is None:
                    break
                tell(ReplyEnded(reply))
                prepared = turn.prepare(reply.calls)
                if loop.take(reply, [call for call, _ in prepared]):
                    loop.give(await turn.finish((), prepared=prepared))
        tell(RunEnded(loop.result()))
    except ProviderError as error:
        error.run = loop.result()
        raise
    finally:
        tell(None)


def _listener(tell: Callable[[Event], None], eager: EagerStart | None) -> Callable[[StreamEvent], None]:
    def listen(event: StreamEvent) -> None:
        if eager is not None:
            eager.watch(event)
        tell(event)  # pyright: ignore[reportArgumentType] - `ask` keeps Finished, the only one that is no Event

    return listen


class _Watcher:
    """An `Observer` that turns what it is told into events."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell

    def started(self, call: ToolCall) -> None:
        self._tell(CallRunning(call))

    def progress(self, call: ToolCall, progress: float, total: float | None, message: str | None) -> None:
        self._tell(CallProgress(call, progress, total, message))

    def finished(self, result: ToolResult) -> None:
        self._tell(CallFinished(result))


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
