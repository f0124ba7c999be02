"""One streamed turn: chunks in, events out, reads begun as soon as their arguments are complete."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects.dialect import StreamReader
from callbox.gate.turn import Turn
from callbox.messages import CallReady, CallStarted, Finished, Reply, StreamEvent


class EagerStart:
    """Watches a stream's events and offers each call to the turn when it is complete."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._names: dict[int, str] = {}

    def watch(self, event: StreamEvent) -> None:
        """Take the next event."""
        if isinstance(event, CallStarted):
            self._names[event.index] = event.name
        elif isinstance(event, CallReady) and all(index in self._names for index in range(event.index)):
            before = [self._names[index] for index in range(event.index)]
            self._turn.offer(event.call, before)


class StreamedTurn:
    """See `Gate.stream`."""

    def __init__(
        self,
        reader: StreamReader,
        turn: Turn,
        *,
        eager: bool,
    ) -> None:
        self._reader = reader
        self._turn = turn
        self._eager = EagerStart(turn) if eager else None
        self._results: list[ToolResult] | None = None
        self.reply: Reply | None = None
        """The whole reply, once the stream has ended."""
        self.calls: list[ToolCall] = []
        """The reply's calls, read and validated, once `results` has been asked for."""

    async def __aenter__(self) -> StreamedTurn:
        await self._turn.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._turn.__aexit__(kind, error, trace)

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """Take one chunk as the vendor's SDK gives it; return what it means."""
        return self._note(self._reader.feed(chunk))

    async def results(self) -> list[ToolResult]:
        """End of the stream: run what has not run yet; one result per call, in the model's order.

        Asked again, it gives the same results.
        """
        if self._results is None:
            self._note(self._reader.finish())
            assert self.reply is not None, "a reader's last event is Finished"
            prepared = [] if self.reply.held_back else self._turn.prepare(self.reply.calls)
            self.calls = [call for call, _ in prepared]
            self._results = await self._turn.finish((), prepared=prepared)
        return list(self._results)

    def _note(self, events: list[StreamEvent]) -> list[StreamEvent]:
        for event in events:
            if isinstance(event, Finished):
                self.reply = event.reply
            elif self._eager is not None:
                self._eager.watch(event)
        return events
