"""A TCP proxy on loopback that cuts connections at the worst moments."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal, TypeAlias

Fault: TypeAlias = Literal["before send", "after send", "acknowledgement"]
"""Where it cuts: what the client sends never arrives; it arrives, and nobody waits; its answer is thrown away."""


class Proxy:
    """Forwards connections to `host` and `port`.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        struck: How many faults have happened.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._armed: tuple[Fault, bytes] | None = None
        self.port = 0
        self.struck = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        while self._writers:
            await asyncio.sleep(0.01)

    def arm(self, fault: Fault, needle: bytes) -> None:
        """Let it happen once, to the next bytes of a client that contain `needle`."""
        self._armed = (fault, needle)

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(back)
        losing = asyncio.Event()
        tasks = [
            asyncio.create_task(self._forward(reader, back, losing)),
            asyncio.create_task(self._return(there, writer, losing)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for end in (writer, back):
                end.transport.abort()
                self._writers.discard(end)

    async def _forward(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 20):
                fault = None
                if self._armed is not None and self._armed[1] in data:
                    fault, self._armed = self._armed[0], None
                    self.struck += 1
                if fault == "before send":
                    return
                if fault == "acknowledgement":
                    losing.set()
                to.write(data)
                await to.drain()
                if fault == "after send":
                    to.write_eof()  # all of it arrives; an abort could take it back
                    return

    async def _return(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 20):
                if losing.is_set():
                    return
                to.write(data)
                await to.drain()
