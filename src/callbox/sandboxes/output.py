"""The output of a process, followed by byte offset: across lost connections, and bounded in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from callbox.errors import SandboxInterrupted, SandboxLost, SandboxNotFound
from callbox.sandboxes.client import REPEATS_MAX, Target, was_cut
from callbox.sandboxes.guest import STDERR, STDOUT, ExecRequest, Gap
from callbox.sandboxes.results import Exit, Output

LINE_BYTES_MAX = 1_048_576
"""A line that is longer is given out in pieces of this size."""

AWAKE_POLL_S = 0.05
"""Seconds between two looks whether a sandbox that was put to standby is awake again."""

FALL_ASLEEP_S_MAX = 10.0
"""Seconds after which a standby that ended our call, and is still not there, is taken for one that failed."""

_ASLEEP = ("hot", "warm", "cold")
_OUTPUTS: dict[int, Output] = {STDOUT: "stdout", STDERR: "stderr"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output.

    Attributes:
        output: ``"stdout"`` or ``"stderr"``; a terminal's output is all ``"stdout"``.
        data: Its bytes.
        offset: Of its first byte, counted from the process's start.
        skipped: Bytes right before it that nobody can read any more: they were overwritten before they were asked for.
    """

    output: Output
    data: bytes
    offset: int
    skipped: int = 0


class Attachment:
    """Follows one exec's outputs from given offsets to its end, and comes back where it was when the supervisor died.

    Args:
        target: The sandbox.
        exec_id: The exec; it must exist unless `begin` says how to start it.
        begin: To start it and follow it in one request.
        stdout_offset: Where to begin.
        stderr_offset: Where to begin.
        follow: Wait for more until it ends; False: only what is there now.
        wakes: Wake the sandbox where somebody puts it to standby before the end; else wait until somebody wakes it.
    """

    def __init__(
        self,
        target: Target,
        exec_id: str,
        *,
        begin: ExecRequest | None = None,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        follow: bool = True,
        wakes: bool = False,
    ) -> None:
        self._target = target
        self._id = exec_id
        self._begin = begin
        self._follow = follow
        self._wakes = wakes
        self._seen = begin is None
        self._skipped: dict[int, int] = {}
        self.offsets = {STDOUT: stdout_offset, STDERR: stderr_offset}
        self.end: Exit | None = None
        """How it ended; None before, and where it still runs."""

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """Every piece of output, in order. Close it (`contextlib.aclosing`) when you leave before the end.

        Raises:
            SandboxLost: The machine died, or the supervisor did again and again.
            SandboxNotFound: There is no such process (any more).
        """
        fresh = self._begin is not None
        lost = 0
        while True:
            before = dict(self.offsets)
            try:
                async with aclosing(self._attach(fresh)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except SandboxInterrupted:
                if self._wakes:
                    await self._target.client.let_it_stop()
                else:
                    await self._awake_again()
                fresh = False
            except _ConnectionLost as error:
                lost = 0 if self.offsets != before else lost + 1
                if lost > REPEATS_MAX:
                    raise SandboxLost("The supervisor died several times while output was read.") from error
                fresh = False
            except SandboxNotFound:
                # A guest that has never heard of it never began it: the request died with the supervisor.
                if self._seen or fresh:
                    raise
                fresh = True

    async def _attach(self, fresh: bool) -> AsyncGenerator[Chunk]:
        offsets = {"stdout_offset": self.offsets[STDOUT], "stderr_offset": self.offsets[STDERR]}
        channel = await self._target.client.channel()
        guest = self._target.guest(channel)
        try:
            if fresh and self._begin is not None:
                stream = await guest.exec_run(self._begin, **offsets)
            else:
                stream = await guest.exec_attach(self._id, follow=self._follow, **offsets)
            async with stream:
                async for item in stream:
                    self._seen = True
                    self.offsets[item.channel] = item.end if isinstance(item, Gap) else item.offset + len(item.data)
                    if isinstance(item, Gap):
                        self._skipped[item.channel] = self._skipped.get(item.channel, 0) + item.end - item.start
                    else:
                        skipped = self._skipped.pop(item.channel, 0)
                        yield Chunk(_OUTPUTS[item.channel], item.data, item.offset, skipped)
                result = await stream.result()
        except SandboxLost as error:
            if was_cut(channel):
                raise _ConnectionLost from error
            raise
        if not result.running:
            self.end = Exit.of(result)

    async def _awake_again(self) -> None:
        """Wait until somebody else wakes the sandbox: a follower must not undo a standby that was asked for."""
        fell_asleep, deadline = False, asyncio.get_running_loop().time() + FALL_ASLEEP_S_MAX
        while True:
            state = (await self._target.call("sandbox.get", repeat=True))["sandbox"]["state"]
            fell_asleep = fell_asleep or state in _ASLEEP
            late = asyncio.get_running_loop().time() > deadline
            if state not in _ASLEEP and (fell_asleep or late):
                return
            await asyncio.sleep(AWAKE_POLL_S)


class _ConnectionLost(Exception):
    """The connection to the supervisor broke; the process went on."""


class OutputReader:
    """One output of a process. Remembers where it was: iterating again goes on from there.

    Example::

        async for data in process.stdout:        # bytes as they come, until the process ends
            ...
        async for line in process.stdout.lines():
            ...
        everything_so_far = await process.stdout.read(0)
    """

    def __init__(self, target: Target, exec_id: str, output: Output, offset: int = 0) -> None:
        self._target = target
        self._id = exec_id
        self._output: Output = output
        self.offset = offset
        """Of the next byte that iterating gives. Set it to go back, or to skip."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._bytes(follow=True)

    def lines(self) -> AsyncIterator[str]:
        """Its lines as text, without their ends."""
        return _lines(self._bytes(follow=True))

    async def read(self, offset: int, length_max: int = LINE_BYTES_MAX) -> bytes:
        """What is there now from `offset` on, at most `length_max` bytes; does not wait, does not move `offset`.

        Where it was overwritten already, the answer begins at the oldest byte that is left.
        """
        reader = OutputReader(self._target, self._id, self._output, offset)
        found = bytearray()
        async with aclosing(reader._bytes(follow=False)) as pieces:
            async for data in pieces:
                found += data
                if len(found) >= length_max:
                    break
        return bytes(found[:length_max])

    async def _bytes(self, *, follow: bool) -> AsyncGenerator[bytes]:
        # The guest sends both outputs; the other one is taken and dropped, so that it does not hold this one up.
        stdout, stderr = (self.offset if self._output == each else 0 for each in ("stdout", "stderr"))
        attachment = Attachment(self._target, self._id, stdout_offset=stdout, stderr_offset=stderr, follow=follow)
        async with aclosing(attachment.chunks()) as chunks:
            async for chunk in chunks:
                if chunk.output == self._output:
                    self.offset = chunk.offset + len(chunk.data)
                    yield chunk.data


async def _lines(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    splitter = LineSplitter()
    async with aclosing(pieces):
        async for data in pieces:
            for line in splitter.feed(data):
                yield line
    for line in splitter.finish():
        yield line


class LineSplitter:
    """Cuts bytes into lines of text; holds at most one line of `LINE_BYTES_MAX`."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """Take more; return the lines that are complete now."""
        self._rest += data
        if b"\n" not in data and len(self._rest) <= LINE_BYTES_MAX:
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        while len(rest) > LINE_BYTES_MAX:
            lines.append(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._rest = bytearray(rest)
        return [_text(line) for line in lines]

    def finish(self) -> list[str]:
        """The last line, if it had no end."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")


class Clip:
    """Keeps the head and the tail of an output, `bytes_max` together, whatever comes in between."""

    def __init__(self, bytes_max: int) -> None:
        self._head_max = bytes_max // 2
        self._tail_max = bytes_max - self._head_max
        self._head = bytearray()
        self._tail = bytearray()
        self._is_head_open = True

    def add(self, chunk: Chunk) -> None:
        """Take the next piece."""
        data = chunk.data
        if chunk.skipped:
            # Head and tail must each be without holes: what stood right before a hole belongs to neither.
            self._is_head_open = False
            self._tail.clear()
        if self._is_head_open:
            room = self._head_max - len(self._head)
            self._head += data[:room]
            data = data[room:]
            self._is_head_open = len(self._head) < self._head_max
        self._tail += data
        if len(self._tail) > 2 * self._tail_max:
            self._cut()

    def text(self, bytes_total: int, where: str) -> tuple[str, bool]:
        """The text, and whether something was left out of it.

        Args:
            bytes_total: All that was written.
            where: How to read the rest, for the note in the middle.
        """
        self._cut()
        left_out = bytes_total - len(self._head) - len(self._tail)
        if left_out <= 0:
            return (self._head + self._tail).decode(errors="replace"), False
        head = _whole_end(bytes(self._head)).decode(errors="replace")
        tail = _whole_start(bytes(self._tail)).decode(errors="replace")
        return f"{head}\n[... {left_out:,} bytes left out; {where} ...]\n{tail}", True

    def _cut(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_max)]


def _whole_end(data: bytes) -> bytes:
    """Without the beginning of a UTF-8 character whose rest was cut off."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return data[:-back] if length > back else data
        if byte < 0x80:
            break
    return data


def _whole_start(data: bytes) -> bytes:
    """Without the rest of a UTF-8 character whose beginning was cut off."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]
