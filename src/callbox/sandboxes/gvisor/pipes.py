"""Two FIFOs as one connection to the agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import Generator
from pathlib import Path

from callbox.errors import SandboxLost

_READ_LIMIT_BYTES = 1 << 20


async def open_channel(reading: Path, writing: Path) -> tuple[StreamReader, StreamWriter]:
    """Open two FIFOs as one connection; closing the writer closes both.

    Raises:
        SandboxLost: Nobody is at the other end.
    """
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit=_READ_LIMIT_BYTES, loop=loop)
    with contextlib.ExitStack() as cleanup:
        try:
            read = cleanup.enter_context(os.fdopen(os.open(reading, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0))
            write = cleanup.enter_context(os.fdopen(os.open(writing, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0))
        except OSError as error:
            raise SandboxLost(f"The machine's channel cannot be opened: {error.strerror}.") from error
        incoming, _ = await loop.connect_read_pipe(lambda: StreamReaderProtocol(reader, loop=loop), read)
        cleanup.callback(incoming.close)
        outgoing, protocol = await loop.connect_write_pipe(lambda: _Outgoing(incoming, loop), write)
        cleanup.pop_all()
    return reader, StreamWriter(outgoing, protocol, None, loop)


class _Outgoing(StreamReaderProtocol):
    """The writing half of a channel: flow control for `StreamWriter`, and the end of the reading half."""

    def __init__(self, incoming: asyncio.ReadTransport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(StreamReader(loop=loop), loop=loop)
        self._incoming = incoming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take no notice: there is nothing to read on this half."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the reading half, too."""
        super().connection_lost(exc)
        self._incoming.close()


@contextlib.contextmanager
def held(fifo: Path) -> Generator[None, None, None]:
    """Keep a FIFO open at both ends: whoever is connected stays so while nobody else is there."""
    handle = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(handle)
