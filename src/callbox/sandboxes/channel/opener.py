"""The end of a connection that asks: the supervisor towards a guest, a client towards the supervisor."""

from __future__ import annotations

import asyncio
import logging
import secrets
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, Self

from callbox.errors import CallboxError, GuestError, GuestProtocolError, SandboxLost
from callbox.sandboxes.channel import acceptor
from callbox.sandboxes.channel.failures import again, from_wire
from callbox.sandboxes.channel.flow import Flow
from callbox.sandboxes.channel.items import Data, Event, Item
from callbox.sandboxes.channel.outbox import Outbox
from callbox.sandboxes.wire import (
    PING_BYTES_MAX,
    RESYNC,
    STREAMS_MAX,
    VERSION,
    Decoder,
    Frame,
    FrameType,
    dump_object,
    encode,
    parse_object,
    parse_window,
)

_log = logging.getLogger("callbox.sandboxes.channel")

_PINGS_MAX: Final = 64
_CHANNEL_MAX: Final = 2
_STREAM_NUMBER_MAX: Final = 2**32 - 1


class Stream(Flow):
    """One request. Iterate for what arrives, or ask for the `result`; both raise what went wrong.

    Use it as a context manager: what is not over at the end of the block is cancelled. A task that is cancelled while
    it waits for the stream cancels the stream too.

    Attributes:
        answered: Whether it was the peer itself that ended it with an error.
    """

    def __init__(self, number: int, outbox: Outbox) -> None:
        super().__init__(number, outbox)
        self.answered = False
        self._ok: dict[str, Any] | None = None
        self._failure: CallboxError | None = None
        self._cancelled = False
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    async def send(self, data: bytes | bytearray | memoryview, channel: int = 0) -> None:
        """Send bytes; waits for credit. What is sent after the peer ended the stream well is dropped.

        Raises:
            CallboxError: The stream has failed.
        """
        try:
            await self._send(data, channel)
        except asyncio.CancelledError:
            self._abandon()
            raise
        if self._failure is not None:
            raise again(self._failure)

    async def end(self) -> None:
        """Say that no more bytes follow."""
        if not self._over and not self._ended:
            self._ended = True
            self._outbox.put(FrameType.EOF, self.number)

    async def cancel(self) -> None:
        """Tell the peer to stop, and drop what it still sends. Does nothing when the stream is over."""
        self._abandon()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        while not self._items:
            if self._over:
                if self._failure is not None and not self._cancelled:
                    raise again(self._failure)
                raise StopAsyncIteration
            await self._wait_or_abandon()
        return self._take()

    async def result(self) -> dict[str, Any]:
        """Wait for the end and return the reply. What arrived and was not read is dropped.

        Raises:
            GuestError: The peer answered with an error; the class tells which kind.
            SandboxLost: The connection is gone.
        """
        while True:
            while self._items:
                self._take()
            if self._over:
                break
            await self._wait_or_abandon()
        if self._failure is not None:
            raise again(self._failure)
        assert self._ok is not None
        return self._ok

    @property
    def over(self) -> bool:
        """Whether the peer has ended it, or the connection is gone."""
        return self._over

    # What the connection calls.

    def arrive_item(self, item: Data | Event, size: int) -> None:
        """Queue what the peer sent; after `cancel` it is only dropped."""
        if not self._cancelled:
            self.arrive(item, size)

    def close(self, reply: Mapping[str, Any]) -> None:
        """Take the CLOSE payload."""
        ok = reply.get("ok")
        if isinstance(ok, dict) and "error" not in reply:
            self._ok = ok
            self._finish()
        else:
            self.answered = True
            self.fail(from_wire(reply.get("error")))

    def fail(self, failure: CallboxError) -> None:
        """End with an error."""
        if not self._over:
            self._failure = failure
            self._finish()

    async def _wait_or_abandon(self) -> None:
        try:
            await self._wait()
        except asyncio.CancelledError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        if not self._over and not self._cancelled:
            self._cancelled = True
            self._items.clear()
            self._outbox.put(FrameType.CANCEL, self.number)


class Channel:
    """One connection to an acceptor. A task of its own reads; anybody may open streams at the same time.

    Attributes:
        welcome: What the acceptor said of itself.
        closed: Set when the connection is gone, whoever ended it.
    """

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.welcome: Mapping[str, Any] = {}
        self.closed = asyncio.Event()
        self._reader = reader
        self._outbox = Outbox(writer)
        self._epoch = secrets.token_hex(16)
        self._streams: dict[int, Stream] = {}
        self._next_number = 1
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._failure: CallboxError | None = None
        self._greeted: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, reader: StreamReader, writer: StreamWriter, *, timeout_s: float = 10.0) -> Channel:
        """Begin an epoch on a byte channel. Streams that a predecessor left open there end.

        Raises:
            GuestProtocolError: The peer speaks another version, or no version at all.
            SandboxLost: It said nothing within `timeout_s`, or is gone.
        """
        self = cls(reader, writer)
        self._reading = asyncio.create_task(self._read(), name="callbox-channel")
        try:
            self._outbox.raw(
                RESYNC + encode(FrameType.HELLO, 0, dump_object({"version": VERSION, "epoch": self._epoch}))
            )
            async with asyncio.timeout(timeout_s):
                self.welcome = await self._greeted
        except TimeoutError:
            await self.aclose()
            raise SandboxLost(f"The agent did not answer within {timeout_s:g} s.") from None
        except BaseException:
            await self.aclose()
            raise
        return self

    @classmethod
    async def serve(
        cls,
        reader: StreamReader,
        writer: StreamWriter,
        *,
        welcome: Mapping[str, Any],
        handler: Callable[[acceptor.Incoming], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """Answer one opener until it is gone: see `acceptor.serve`."""
        await acceptor.serve(reader, writer, welcome=welcome, handler=handler)

    async def open(self, request: Mapping[str, Any]) -> Stream:
        """Begin a stream.

        Raises:
            SandboxLost: The connection is gone.
            GuestError: ``too_many_streams``, ``too_large``.
        """
        if self._failure is not None:
            raise again(self._failure)
        payload = dump_object(request)
        if len(self._streams) >= STREAMS_MAX:
            raise GuestError(f"{STREAMS_MAX} streams are open already.", guest_code="too_many_streams")
        number = self._next_number
        if number > _STREAM_NUMBER_MAX:
            self._fail(SandboxLost("The connection has used up its stream numbers.", hint="Connect again."))
            raise again(self._failure or SandboxLost("The connection is gone."))
        self._next_number += 2
        stream = Stream(number, self._outbox)
        self._streams[number] = stream
        # No waiting for a turn between numbering and writing: the peer sees numbers only grow.
        self._outbox.put(FrameType.OPEN, number, payload)
        return stream

    async def call(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask and wait for the reply. Cancelling this cancels the request.

        Raises:
            CallboxError: As `Stream.result`.
        """
        stream = await self.open({"op": op, **fields})
        return await stream.result()

    async def ping(self) -> float:
        """Seconds of one round trip to the peer's frame reader.

        Raises:
            SandboxLost: The connection is gone.
            GuestError: ``busy``: 64 pings are already unanswered.
        """
        if self._failure is not None:
            raise again(self._failure)
        if len(self._pings) >= _PINGS_MAX:
            raise GuestError(f"{_PINGS_MAX} pings are not answered yet.", guest_code="busy")
        loop = asyncio.get_running_loop()
        token = secrets.token_bytes(8)
        answer = self._pings[token] = loop.create_future()
        began = loop.time()
        try:
            self._outbox.put(FrameType.PING, 0, token)
            await answer
        finally:
            self._pings.pop(token, None)
        return loop.time() - began

    async def aclose(self) -> None:
        """End the connection; may be called again. Streams that are still open fail with SandboxLost."""
        failure = SandboxLost("The connection was closed.")
        self._outbox.flush()  # CANCELs that were sent just before
        self._fail(failure)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._outbox.aclose(failure, timeout_s=acceptor.CLOSE_TIMEOUT_S)
        acceptor.close_reader(self._reader)

    async def _read(self) -> None:
        decoder = Decoder()
        skipped_bytes: int | None = None
        try:
            while data := await self._reader.read(acceptor.READ_BYTES):
                for frame in decoder.feed(data):
                    self._dispatch(frame)
                if skipped_bytes is not None and decoder.skipped_bytes != skipped_bytes:
                    raise GuestProtocolError("The peer sent bytes that are no frame.")
                if self._greeted.done():
                    # Only what was under way before WELCOME may be torn: from here on the peer has no excuse.
                    skipped_bytes = decoder.skipped_bytes
                if self._outbox.backlog_bytes > acceptor.REPLY_BYTES_MAX:
                    await self._outbox.settle()
            self._fail(SandboxLost("The connection to the sandbox ended."))
        except OSError as exc:
            self._fail(SandboxLost(f"The connection to the sandbox broke: {exc.strerror or type(exc).__name__}."))
        except GuestProtocolError as exc:
            _log.warning("closing a connection: %s", exc.message)
            self._fail(exc)
            self._outbox.abort()
        except Exception as exc:  # noqa: BLE001 - whatever broke here, nobody may wait for ever
            _log.error("a connection's reader broke", exc_info=exc)
            self._fail(GuestProtocolError("A frame could not be handled; the log says why."))
            self._outbox.abort()

    def _dispatch(self, frame: Frame) -> None:
        if not self._greeted.done():
            if frame.type == FrameType.WELCOME:
                self._greet(parse_object(frame.payload))
        elif frame.stream == 0:
            self._dispatch_own(frame)
        else:
            self._dispatch_to_stream(frame, self._streams.get(frame.stream))

    def _dispatch_own(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.PING:
                if len(frame.payload) > PING_BYTES_MAX:
                    raise GuestProtocolError("The peer sent a PING that is too large.")
                self._outbox.put(FrameType.PONG, 0, frame.payload)
            case FrameType.PONG:
                answer = self._pings.get(frame.payload)
                if answer is not None and not answer.done():
                    answer.set_result(None)
            case FrameType.WELCOME:
                pass  # a late answer to a predecessor
            case _:
                raise GuestProtocolError(f"The peer sent a frame of type {frame.type} for the connection.")

    def _dispatch_to_stream(self, frame: Frame, stream: Stream | None) -> None:
        # What it says is checked also when the stream is closed already: a peer that sends nonsense is cut off.
        match frame.type:
            case FrameType.DATA:
                if frame.channel > _CHANNEL_MAX:
                    raise GuestProtocolError(f"The peer sent data of channel {frame.channel}.")
                if stream is not None:
                    stream.arrive_item(Data(frame.channel, frame.payload), len(frame.payload))
            case FrameType.EVENT:
                parse_object(frame.payload)
                if stream is not None:
                    stream.arrive_item(Event(frame.payload), len(frame.payload))
            case FrameType.EOF:
                if stream is not None:
                    stream.arrive_end()
            case FrameType.CLOSE:
                reply = parse_object(frame.payload)
                if stream is not None:
                    del self._streams[frame.stream]
                    stream.close(reply)
            case FrameType.WINDOW:
                size = parse_window(frame.payload)
                if stream is not None:
                    stream.grant(size)
            case _:
                raise GuestProtocolError(f"The peer sent a frame of type {frame.type} for a stream.")

    def _greet(self, welcome: Mapping[str, Any]) -> None:
        if welcome.get("epoch") != self._epoch:
            return  # meant for a predecessor
        if welcome.get("version") != VERSION or "error" in welcome:
            raise GuestProtocolError(
                f"The agent speaks version {welcome.get('version')!r:.20} of the protocol, we speak {VERSION}.",
                hint="Restart the sandbox, or the supervisor (`callbox sandbox` starts a new one by itself).",
            )
        self._greeted.set_result(welcome)

    def _fail(self, failure: CallboxError) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            stream.fail(failure)
        for answer in [*self._pings.values(), self._greeted]:
            if not answer.done():
                answer.set_exception(again(failure))
                answer.exception()  # nobody may be waiting any more, and that is no mistake
        self._outbox.fail(failure)
        self.closed.set()
