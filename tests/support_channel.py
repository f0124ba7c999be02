"""Two ends of a connection in one process, for tests of the guest protocol."""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from callbox.sandboxes.channel import Channel, Data, Handler, Incoming, relay
from callbox.sandboxes.wire import Decoder, Frame, FrameType, encode, parse_object

WELCOME = {"agent": "0123456789abcdef", "generation": 0}


@asynccontextmanager
async def byte_pipe() -> AsyncIterator[tuple[StreamReader, StreamWriter, StreamReader, StreamWriter]]:
    """Two ends; what is written to one is read from the other."""
    one, two = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=one)
    other_reader, other_writer = await asyncio.open_connection(sock=two)
    try:
        yield reader, writer, other_reader, other_writer
    finally:
        for each in (writer, other_writer):
            each.transport.abort()
            with suppress(OSError):
                await each.wait_closed()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Channel]:
    """A channel to an acceptor of ours that runs `handler`."""
    async with byte_pipe() as (reader, writer, other_reader, other_writer):
        serve = asyncio.create_task(Channel.serve(other_reader, other_writer, welcome=WELCOME, handler=handler))
        channel = await Channel.connect(reader, writer)
        try:
            yield channel
        finally:
            await channel.aclose()
            async with asyncio.timeout(10):
                await serve


@asynccontextmanager
async def relaying(upstream: Channel) -> AsyncIterator[Channel]:
    """A channel to an acceptor that passes everything on to `upstream`."""

    async def pass_on(incoming: Incoming) -> Mapping[str, Any]:
        return await relay(incoming, await upstream.open(incoming.request))

    async with serving(pass_on) as channel:
        yield channel


class RawPeer:
    """One end that sends and sees single frames: the place of whoever breaks the rules."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    def send(self, type_: int, stream: int, payload: bytes | Mapping[str, Any] = b"", channel: int = 0) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self._writer.write(encode(type_, stream, data, channel))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def next(self, *types: int) -> Frame:
        """The next frame of one of these types."""
        async with asyncio.timeout(10):
            while True:
                for at, frame in enumerate(self._frames):
                    if not types or frame.type in types:
                        del self._frames[: at + 1]
                        return frame
                self._frames.clear()
                data = await self._reader.read(65_536)
                if not data:
                    raise EOFError
                self._frames += self._decoder.feed(data)

    async def ended(self) -> None:
        """Return when the other end has closed the connection."""
        with suppress(EOFError, ConnectionError):
            while True:
                await self.next()

    async def welcome(self) -> None:
        """Answer HELLO, as a guest does."""
        hello = parse_object((await self.next(FrameType.HELLO)).payload)
        self.send(FrameType.WELCOME, 0, {"version": 1, "epoch": hello["epoch"], **WELCOME})

    async def hello(self, epoch: str = "0" * 32) -> dict[str, Any]:
        """Say HELLO, as a host does; return WELCOME."""
        self.send(FrameType.HELLO, 0, {"version": 1, "epoch": epoch})
        while True:
            welcome = parse_object((await self.next(FrameType.WELCOME)).payload)
            if welcome["epoch"] == epoch:
                return welcome


@asynccontextmanager
async def hostile_guest() -> AsyncIterator[tuple[Channel, RawPeer]]:
    """A channel of ours whose other end the test plays."""
    async with byte_pipe() as (reader, writer, other_reader, other_writer):
        peer = RawPeer(other_reader, other_writer)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(peer.welcome())
            channel = await Channel.connect(reader, writer)
        try:
            yield channel, peer
        finally:
            await channel.aclose()


@asynccontextmanager
async def hostile_client(handler: Handler) -> AsyncIterator[tuple[RawPeer, asyncio.Task[None]]]:
    """An acceptor of ours whose opener the test plays; the task ends with the connection."""
    async with byte_pipe() as (reader, writer, other_reader, other_writer):
        serve = asyncio.create_task(Channel.serve(other_reader, other_writer, welcome=WELCOME, handler=handler))
        try:
            yield RawPeer(reader, writer), serve
        finally:
            writer.transport.abort()
            async with asyncio.timeout(10):
                await serve


async def received(incoming: Incoming) -> bytes:
    """All that an opener sends on a stream."""
    return b"".join([item.data async for item in incoming if isinstance(item, Data)])
