"""The end of a connection that answers: the supervisor towards its clients, and a stand-in for the agent in tests."""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from callbox.errors import CallboxError, GuestError, GuestProtocolError, SandboxLost
from callbox.sandboxes.channel.failures import to_wire
from callbox.sandboxes.channel.flow import Flow
from callbox.sandboxes.channel.items import Data, Item
from callbox.sandboxes.channel.outbox import REPLY_BYTES_MAX, Outbox
from callbox.sandboxes.wire import (
    PING_BYTES_MAX,
    STREAMS_MAX,
    VERSION,
    Decoder,
    Frame,
    FrameType,
    dump_object,
    parse_object,
    parse_window,
)

_log = logging.getLogger("callbox.sandboxes.channel")

READ_BYTES: Final = 262_144
"""Asked of the system at once."""

CLOSE_TIMEOUT_S: Final = 1.0
"""What a peer that reads no more may cost when the connection is closed."""

Handler = Callable[["Incoming"], Awaitable[Mapping[str, Any]]]


class Incoming(Flow):
    """One request of the peer. What the handler returns, or raises, ends it.

    Attributes:
        request: The OPEN payload; nothing in it was checked but that it is an object.
        cancelled: Set with CANCEL and when the peer is gone; the handler's task is cancelled then, too.
        gone: Whether nobody is left who could be answered.
        started: Whether the handler's task has made its first step.
    """

    def __init__(self, number: int, outbox: Outbox, request: dict[str, Any]) -> None:
        super().__init__(number, outbox)
        self.request = request
        self.cancelled = asyncio.Event()
        self.gone = False
        self.started = False
        self._ended = False
        self._read_to_end = False
        self._listener: Callable[[], None] | None = None

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        if self._read_to_end:
            raise StopAsyncIteration
        while not self._items:
            if self._over:
                raise StopAsyncIteration
            await self._wait()
        item = self._take()
        self._read_to_end = not isinstance(item, Data)
        return item

    async def send(self, data: bytes | bytearray | memoryview, channel: int = 0) -> None:
        """Send bytes; waits for credit.

        Raises:
            SandboxLost: The peer is gone.
        """
        await self._send(data, channel)

    async def event(self, value: Mapping[str, Any]) -> None:
        """Send one JSON object; waits for credit."""
        await self._send_event(dump_object(value))

    async def event_payload(self, payload: bytes) -> None:
        """Pass on a JSON object that was checked when it arrived."""
        await self._send_event(payload)

    async def end(self) -> None:
        """Say that no more bytes follow."""
        if not self._ended and not self._over:
            self._ended = True
            self._outbox.put(FrameType.EOF, self.number)

    def when_readable(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as there is something to read. Most requests have no body: no task waits for it."""
        if self._items:
            callback()
        else:
            self._listener = callback

    def stop(self, *, gone: bool) -> None:
        """The peer wants no answer any more, or is gone."""
        self.gone = self.gone or gone
        self.cancelled.set()

    def finish(self) -> None:
        """CLOSE was sent."""
        self._finish()

    def _wake(self) -> None:
        super()._wake()
        if self._listener is not None and self._items:
            listener, self._listener = self._listener, None
            listener()


class _Acceptor:
    def __init__(self, outbox: Outbox, welcome: Mapping[str, Any], handler: Handler, tasks: asyncio.TaskGroup) -> None:
        self._outbox = outbox
        self._welcome = welcome
        self._handler = handler
        self._tasks = tasks
        self._running: dict[int, tuple[Incoming, asyncio.Task[None]]] = {}
        self._greeted = False
        self._last_number = 0

    async def read(self, reader: StreamReader) -> None:
        """Read frames until the peer is gone."""
        decoder = Decoder()
        try:
            while data := await reader.read(READ_BYTES):
                frames = decoder.feed(data)
                if decoder.garbage_bytes:
                    # What looks like a frame behind it may be the content of a torn one. Nobody else continues this
                    # connection, so there is nothing to wait for.
                    raise GuestProtocolError("The peer sent bytes that are no frame.")
                for frame in frames:
                    self._dispatch(frame)
                if self._outbox.backlog_bytes > REPLY_BYTES_MAX:
                    await self._outbox.settle()
        except OSError as exc:
            _log.debug("a connection broke: %s", exc)

    def stop_all(self) -> None:
        """End all streams without frames for them."""
        running = list(self._running.values())
        self._running.clear()
        for incoming, task in running:
            incoming.stop(gone=True)
            task.cancel()

    def _dispatch(self, frame: Frame) -> None:
        if frame.type == FrameType.HELLO:
            self._hello(frame)
            return
        if not self._greeted:
            return
        match frame.type:
            case FrameType.OPEN:
                self._open(frame)
            case FrameType.PING:
                if len(frame.payload) > PING_BYTES_MAX:
                    raise GuestProtocolError("The peer sent a PING that is too large.")
                self._outbox.put(FrameType.PONG, 0, frame.payload)
            case FrameType.PONG:
                pass
            case FrameType.DATA | FrameType.EOF | FrameType.CANCEL | FrameType.WINDOW:
                running = self._running.get(frame.stream)
                if running is not None:
                    self._deliver(frame, *running)
            case _:
                raise GuestProtocolError(f"The peer sent a frame of type {frame.type}, which is not its to send.")

    def _hello(self, frame: Frame) -> None:
        hello = parse_object(frame.payload)
        self.stop_all()
        self._greeted = hello.get("version") == VERSION
        self._last_number = 0
        answer = {**self._welcome, "version": VERSION, "epoch": str(hello.get("epoch"))[:64]}
        if not self._greeted:
            answer["error"] = {"code": "version_mismatch", "message": f"This end speaks version {VERSION}."}
        self._outbox.put(FrameType.WELCOME, 0, dump_object(answer))

    def _open(self, frame: Frame) -> None:
        number = frame.stream
        if number % 2 == 0 or number <= self._last_number:
            raise GuestProtocolError(f"The peer opened stream {number} after {self._last_number}.")
        self._last_number = number
        if len(self._running) >= STREAMS_MAX:
            self._close(number, GuestError(f"At most {STREAMS_MAX} streams at once.", guest_code="too_many_streams"))
            return
        try:
            request = parse_object(frame.payload)
        except GuestProtocolError as exc:
            self._close(number, GuestError(exc.message, guest_code="bad_request"))
            return
        incoming = Incoming(number, self._outbox, request)
        self._running[number] = (incoming, self._tasks.create_task(self._run(incoming)))

    def _deliver(self, frame: Frame, incoming: Incoming, task: asyncio.Task[None]) -> None:
        try:
            if frame.type == FrameType.DATA:
                incoming.arrive(Data(frame.channel, frame.payload), len(frame.payload))
            elif frame.type == FrameType.WINDOW:
                incoming.grant(parse_window(frame.payload))
            elif frame.type == FrameType.EOF:
                incoming.arrive_end()
            elif not incoming.cancelled.is_set():
                incoming.stop(gone=False)
                # A task that is cancelled before its first step never runs, and nobody would be answered.
                if incoming.started:
                    task.cancel()
        except GuestProtocolError as exc:
            # Only this stream is cut off: the others of the same peer have done nothing wrong.
            del self._running[incoming.number]
            incoming.stop(gone=True)
            task.cancel()
            self._close(incoming.number, GuestError(exc.message, guest_code="flow_control"))

    async def _run(self, incoming: Incoming) -> None:
        reply: Mapping[str, Any] | BaseException
        incoming.started = True
        try:
            if incoming.cancelled.is_set():
                raise asyncio.CancelledError
            reply = await self._handler(incoming)
        except asyncio.CancelledError:
            reply = GuestError("The request was cancelled.", guest_code="cancelled")
        except CallboxError as exc:
            reply = exc
        except Exception as exc:  # noqa: BLE001 - one request must not end the others; the log has it
            _log.error("a request broke: %r", incoming.request.get("op"), exc_info=exc)
            reply = exc
        incoming.finish()
        # Another stream of a new epoch may have the same number by now.
        running = self._running.get(incoming.number)
        if running is not None and running[0] is incoming:
            del self._running[incoming.number]
            self._close(incoming.number, reply)

    def _close(self, number: int, reply: Mapping[str, Any] | BaseException) -> None:
        try:
            payload = dump_object({"error": to_wire(reply)} if isinstance(reply, BaseException) else {"ok": reply})
        except CallboxError as exc:
            payload = dump_object({"error": to_wire(exc)})
        self._outbox.put(FrameType.CLOSE, number, payload)


async def serve(reader: StreamReader, writer: StreamWriter, *, welcome: Mapping[str, Any], handler: Handler) -> None:
    """Answer one opener: every OPEN runs `handler` in a task of its own. Returns when the peer is gone.

    A handler's task is cancelled with CANCEL, with a new HELLO and when the peer is gone; this waits for all of them.
    Whatever else a handler raises becomes an error for the peer.
    """
    outbox = Outbox(writer)
    try:
        async with asyncio.TaskGroup() as tasks:
            acceptor = _Acceptor(outbox, welcome, handler, tasks)
            try:
                await acceptor.read(reader)
            except GuestProtocolError as exc:
                _log.warning("closing a connection: %s", exc.message)
            finally:
                outbox.fail(SandboxLost("The peer is gone."))
                acceptor.stop_all()
    finally:
        await outbox.aclose(SandboxLost("The peer is gone."), timeout_s=CLOSE_TIMEOUT_S)
        close_reader(reader)


def close_reader(reader: StreamReader) -> None:
    """Close the reading half where it is a file of its own (two pipes), so that it takes no byte of its successor's."""
    transport = getattr(reader, "_transport", None)
    if isinstance(transport, asyncio.BaseTransport):
        with suppress(OSError):
            transport.close()
