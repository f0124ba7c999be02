"""Everything that one connection writes: in batches, fairly, and never more in memory than a bound."""

from __future__ import annotations

import asyncio
from asyncio import StreamWriter
from collections import deque
from contextlib import suppress
from typing import Final, NamedTuple

from callbox.errors import CallboxError
from callbox.sandboxes.channel.failures import again
from callbox.sandboxes.wire import header

ROOM_BYTES: Final = 262_144
"""Frames of streams are taken in up to here; then their senders wait, first come first served."""

REPLY_BYTES_MAX: Final = 1_048_576
"""Written but not taken by the peer: above this its own frames are not read any more, until it reads ours."""

_HIGH_WATER_BYTES: Final = 131_072
_LOW_WATER_BYTES: Final = 32_768


class _Waiting(NamedTuple):
    turn: asyncio.Future[None]
    head: bytes
    payload: bytes | memoryview


class Outbox:
    """The writing half of a connection.

    Frames of one turn of the event loop leave in one write. A sender with more than one frame goes to the end of
    the queue for each of them, so that a large download does not hold up the reply to a small request.
    """

    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer
        self._transport = writer.transport
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES, low=_LOW_WATER_BYTES)
        self._loop = asyncio.get_running_loop()
        self._batch: list[bytes | memoryview] = []
        self._batch_bytes = 0
        self._waiting: deque[_Waiting] = deque()
        self._scheduled = False
        self._drainer: asyncio.Task[None] | None = None
        self._failure: CallboxError | None = None

    @property
    def backlog_bytes(self) -> int:
        """Written here and not yet taken by the system."""
        return self._batch_bytes + self._transport.get_write_buffer_size()

    def put(self, type_: int, stream: int, payload: bytes | memoryview = b"", channel: int = 0) -> None:
        """Send a frame that must not wait: whoever calls this often enough to matter watches `settle`."""
        if self._failure is None:
            self._append(header(type_, stream, payload, channel), payload)

    def raw(self, data: bytes) -> None:
        """Send bytes that are no frame."""
        self._append(data, b"")

    async def send(self, type_: int, stream: int, payload: bytes | memoryview, channel: int = 0) -> None:
        """Send a frame when it is its turn. `payload` must not change afterwards.

        Raises:
            SandboxLost: The connection is gone.
        """
        if self._failure is not None:
            raise again(self._failure)
        head = header(type_, stream, payload, channel)
        if not self._waiting and self.backlog_bytes < ROOM_BYTES:
            self._append(head, payload)
            return
        entry = _Waiting(self._loop.create_future(), head, payload)
        self._waiting.append(entry)
        self._schedule()
        try:
            await entry.turn
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting.remove(entry)
            raise

    async def settle(self) -> None:
        """Return when the peer has taken enough of what it was sent. Called before more of its frames are read."""
        while self._failure is None and self.backlog_bytes > REPLY_BYTES_MAX:
            self.flush()
            await self._writer.drain()

    def fail(self, failure: CallboxError) -> None:
        """The connection is gone: nobody waits any longer."""
        if self._failure is None:
            self._failure = failure
        self._batch.clear()
        self._batch_bytes = 0
        while self._waiting:
            turn = self._waiting.popleft().turn
            if not turn.done():
                turn.set_exception(again(failure))

    def abort(self) -> None:
        """Close without another byte."""
        self._transport.abort()

    async def aclose(self, failure: CallboxError, *, timeout_s: float) -> None:
        """Write what is left, as far as the peer takes it within `timeout_s`, and close."""
        self.flush()
        self.fail(failure)
        if self._drainer is not None:
            self._drainer.cancel()
            await asyncio.gather(self._drainer, return_exceptions=True)
        self._writer.close()
        # Not every write-only transport knows how to wait for its end; it says so with a kind of RuntimeError.
        with suppress(OSError, TimeoutError, RuntimeError):
            async with asyncio.timeout(timeout_s):
                await self._writer.wait_closed()
        if self._transport.get_write_buffer_size():
            self._transport.abort()

    def _append(self, head: bytes, payload: bytes | memoryview) -> None:
        self._batch.append(head)
        size = len(payload)
        if size:
            self._batch.append(payload)
        self._batch_bytes += size + len(head)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._drainer is None:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hand to the system what it takes now. Happens by itself once per turn of the event loop."""
        self._scheduled = False
        while self._failure is None:
            if self._transport.get_write_buffer_size() > _HIGH_WATER_BYTES:
                if self._drainer is None:
                    self._drainer = self._loop.create_task(self._drain())
                return
            if self._batch:
                chunk = b"".join(self._batch)
                self._batch.clear()
                self._batch_bytes = 0
                self._transport.write(chunk)
            self._admit()
            if not self._batch:
                return

    def _admit(self) -> None:
        while self._waiting and self.backlog_bytes < ROOM_BYTES:
            turn, head, payload = self._waiting.popleft()
            if not turn.done():
                self._batch.append(head)
                self._batch.append(payload)
                self._batch_bytes += len(head) + len(payload)
                turn.set_result(None)

    async def _drain(self) -> None:
        # The reader notices a broken connection and fails us; here it only means that there is nothing to wait for.
        with suppress(OSError):
            await self._writer.drain()
        self._drainer = None
        self.flush()
