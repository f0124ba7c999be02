"""A run told as it happens: the model's own events, and what becomes of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from callbox.agents.asking import ask_streaming, next_request
from callbox.agents.events import CallFinished, CallProgress, CallRunning, Event, ReplyEnded, RunEnded
from callbox.agents.loop import Loop
from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import find_dialect
from callbox.errors import ProviderError
from callbox.gate.caller import Caller
from callbox.gate.gate import Gate
from callbox.gate.streaming import EagerStart
from callbox.gate.turn import Turn
from callbox.messages import Finished, Message, Reply
from callbox.providers.provider import Provider, Request


class RunStream:
    """The events of one run: an async iterator. Call `aclose` when you leave it early; that cancels the run."""

    def __init__(self, provider: Provider, loop: Loop, gate: Gate, caller: Caller) -> None:
        self._provider = provider
        self._loop = loop
        self._gate = gate
        self._caller = caller
        self._restore = find_dialect(provider.dialect).restore
        self._inbox: asyncio.Queue[Event | None] = asyncio.Queue()
        self._events = self._run()

    @property
    def messages(self) -> list[Message]:
        """The conversation so far; always one that a model API accepts, also after a cancellation."""
        return list(self._loop.conversation.messages)

    def __aiter__(self) -> RunStream:
        return self

    async def __anext__(self) -> Event:
        return await self._events.__anext__()

    async def aclose(self) -> None:
        """Cancel what is still running. Idempotent."""
        await self._events.aclose()

    async def _run(self) -> AsyncGenerator[Event]:
        loop = self._loop
        try:
            while (request := await next_request(self._provider, loop)) is not None:
                async with (
                    self._gate.turn(
                        caller=self._caller,
                        budget=loop.budget,
                        observer=_Inbox(self._inbox),
                        restore=self._restore,
                    ) as turn,
                    aclosing(self._turn(turn, request)) as events,
                ):
                    async for event in events:
                        yield event
        except ProviderError as error:
            error.run = loop.result()
            raise
        yield RunEnded(loop.result())

    async def _turn(self, turn: Turn, request: Request) -> AsyncGenerator[Event]:
        reply: Reply | None = None
        eager = EagerStart(turn) if request.tool_choice != "none" else None
        async with aclosing(ask_streaming(self._provider, self._loop, request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    reply = event.reply
                    continue
                if eager is not None:
                    eager.watch(event)
                yield event
                while not self._inbox.empty():
                    told = self._inbox.get_nowait()
                    assert told is not None, "nothing has been finished yet"
                    yield told
        assert reply is not None, "a provider's last event is Finished"
        yield ReplyEnded(reply)
        prepared = turn.prepare(reply.calls)
        if not self._loop.take(reply, [call for call, _ in prepared]):
            return
        finishing = asyncio.create_task(turn.finish((), prepared=prepared))
        finishing.add_done_callback(lambda _: self._inbox.put_nowait(None))
        try:
            while (told := await self._inbox.get()) is not None:
                yield told
            self._loop.give(await finishing)
        finally:
            await _end(finishing)


class _Inbox:
    """An `Observer` that turns what it is told into events."""

    def __init__(self, inbox: asyncio.Queue[Event | None]) -> None:
        self._inbox = inbox

    def started(self, call: ToolCall) -> None:
        self._inbox.put_nowait(CallRunning(call))

    def progress(self, call: ToolCall, progress: float, total: float | None, message: str | None) -> None:
        self._inbox.put_nowait(CallProgress(call, progress, total, message))

    def finished(self, result: ToolResult) -> None:
        self._inbox.put_nowait(CallFinished(result))


async def _end(task: asyncio.Task[list[ToolResult]]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
