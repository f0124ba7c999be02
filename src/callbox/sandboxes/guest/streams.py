"""Requests to a guest that go on for a while: output of a process, its standard input, changes of files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Self

from callbox.errors import GuestError, GuestProtocolError, SandboxError, SandboxNotFound
from callbox.sandboxes.channel import Data, Eof, Event, Stream
from callbox.sandboxes.guest.reply import Reply
from callbox.sandboxes.guest.values import Change, ExecResult, Gap, Output

STDOUT: Final = 1
"""Channel of standard output, and of everything that a terminal shows."""

STDERR: Final = 2
"""Channel of standard error."""


class ExecStream:
    """Output of one process, as it comes. Leaving the block stops listening; the process goes on.

    Attributes:
        offsets: By channel, where to go on when this connection breaks: all before it was delivered (or is lost).
    """

    def __init__(self, stream: Stream, op: str, *, stdout_offset: int, stderr_offset: int) -> None:
        self._stream = stream
        self._op = op
        self.offsets = {STDOUT: stdout_offset, STDERR: stderr_offset}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.cancel()

    async def cancel(self) -> None:
        """Stop listening."""
        await self._stream.cancel()

    def __aiter__(self) -> AsyncIterator[Output | Gap]:
        return self

    async def __anext__(self) -> Output | Gap:
        while True:
            try:
                item = await self._stream.__anext__()
            except GuestError as exc:
                raise self._named(exc) from None
            if isinstance(item, Data):
                channel, start = item.channel, self.offsets.get(item.channel)
                if start is None:
                    raise GuestProtocolError(f"The guest answered {self._op} with data of channel {channel}.")
                self.offsets[channel] = start + len(item.data)
                return Output(channel=channel, offset=start, data=item.data)
            if isinstance(item, Event):
                return self._gap(Reply(self._op, item.value))

    async def result(self) -> ExecResult:
        """Wait for the end; output that was not read is dropped.

        Raises:
            CallboxError: See `Stream.result`.
        """
        try:
            reply = await self._stream.result()
        except GuestError as exc:
            raise self._named(exc) from None
        return ExecResult.read(Reply(self._op, reply))

    def _named(self, failure: GuestError) -> SandboxError:
        if self._op == "exec.attach" and failure.guest_code == "not_found":
            return SandboxNotFound("There is no such exec in this sandbox.")
        return failure

    def _gap(self, event: Reply) -> Gap:
        if event.text("event") != "gap":
            raise event.wrong("event")
        channel = event.integer("channel", least=STDOUT, most=STDERR)
        # A gap only ever goes forward from where we are: else the same bytes would be counted twice.
        start = event.integer("from", least=self.offsets[channel], most=self.offsets[channel])
        end = event.integer("to", least=start)
        self.offsets[channel] = end
        return Gap(channel=channel, start=start, end=end)


class StdinStream:
    """Standard input of one process. Leaving the block without `end` leaves it open for another `exec_stdin`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.cancel()

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the process does not read.

        Raises:
            GuestError: ``gone``: the process has ended.
        """
        await self._stream.send(data)

    async def end(self) -> None:
        """Close it: the process reads end of file."""
        await self._stream.end()

    async def cancel(self) -> None:
        """Stop without closing it."""
        await self._stream.cancel()

    async def written(self) -> int:
        """Wait for the guest's answer: bytes that the process was given since its start.

        Raises:
            CallboxError: See `Stream.result`.
        """
        return Reply("exec.stdin", await self._stream.result()).integer("written")


class Watch:
    """Changes below one path. Leaving the block stops watching."""

    def __init__(self, stream: Stream, path: str) -> None:
        self._stream = stream
        self._path = path
        self._changes: list[Change] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.cancel()

    async def cancel(self) -> None:
        """Stop watching."""
        await self._stream.cancel()

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def armed(self) -> None:
        """Wait until the guest watches: changes after this are seen."""
        event = await self._next()
        if event.text("event") != "watching":
            raise event.wrong("event")

    async def __anext__(self) -> Change:
        while not self._changes:
            event = await self._next()
            match event.text("event"):
                case "changed":
                    self._changes = [Change.read(each) for each in event.objects("changes")][::-1]
                case "overflow":
                    return Change(kind="overflow", path=self._path)
                case _:
                    raise event.wrong("event")
        return self._changes.pop()

    async def _next(self) -> Reply:
        item = await self._stream.__anext__()
        while isinstance(item, Eof):
            item = await self._stream.__anext__()
        if isinstance(item, Data):
            raise GuestProtocolError("The guest answered fs.watch with data.")
        return Reply("fs.watch", item.value)
