"""A port of a sandbox on this host's loopback."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from callbox.errors import ConfigurationError, HostUnsuited, SandboxError
from callbox.sandboxes.channel import Data, Stream
from callbox.sandboxes.client import Target

_LOG = logging.getLogger("callbox.sandboxes.forward")

PIECE_BYTES = 65_536
"""What is taken from a local connection at once."""

CONNECTIONS_MAX = 128
"""Local connections of one forward at the same time; the rest wait in the socket's backlog."""


class Forward:
    """Listens on 127.0.0.1 and passes each connection on to a port inside. `Sandbox.forward` makes it.

    Only an open connection keeps the sandbox awake, not the forward; the next connection wakes it.

    Example::

        async with box.forward(3000) as forward:
            print(forward.url)                  # http://127.0.0.1:49321
    """

    def __init__(self, target: Target, port: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self.port = port
        """Inside the sandbox."""
        self.host_port = 0
        """On 127.0.0.1."""

    @classmethod
    async def start(cls, target: Target, port: int, host_port: int) -> Forward:
        """Begin to listen; `host_port` 0: any free one."""
        for each, least in ((port, 1), (host_port, 0)):
            if not least <= each <= 65_535:
                raise ConfigurationError(f"{each} is not a port.", hint=f"Use {least} to 65535.")
        forward = cls(target, port)
        try:
            server = await asyncio.start_server(forward._connected, "127.0.0.1", host_port)
        except OSError as error:
            raise HostUnsuited(
                f"Port {host_port} of 127.0.0.1 cannot be listened on: {error.strerror}.",
                hint="Use another one, or host_port=0 for any that is free.",
            ) from error
        forward._server = server
        forward.host_port = server.sockets[0].getsockname()[1]
        return forward

    @property
    def url(self) -> str:
        """For a browser or an HTTP client."""
        return f"http://127.0.0.1:{self.host_port}"

    async def aclose(self) -> None:
        """Stop listening and end the connections."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            async with self._room:
                channel = await self._target.client.channel()
                stream = await self._target.guest(channel).port_forward(self.port)
                async with stream, asyncio.TaskGroup() as group:
                    upward = group.create_task(_send(reader, stream))
                    await _receive(stream, writer)
                    upward.cancel()
                    await stream.result()
        except* asyncio.CancelledError:
            # asyncio would log it as a failure of its own callback. `aclose` cancels these, nobody else does.
            if self._server is not None:
                raise
        except* (SandboxError, OSError) as failures:
            # The peer sees its connection end, as it would with a server that crashed.
            for failure in failures.exceptions:
                _LOG.info("a connection to port %d of %s ended: %s", self.port, self._target.sandbox, failure)
        finally:
            self._connections.discard(task)
            writer.close()


async def _send(reader: asyncio.StreamReader, stream: Stream) -> None:
    while data := await reader.read(PIECE_BYTES):
        await stream.send(data)
    await stream.end()


async def _receive(stream: Stream, writer: asyncio.StreamWriter) -> None:
    async for item in stream:
        if isinstance(item, Data):
            writer.write(item.data)
            await writer.drain()
        elif writer.can_write_eof():  # an Eof: events do not come here
            writer.write_eof()
