"""The socket of the supervisor: who may connect, what is answered here, and what is passed on to a guest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from callbox.errors import CallboxError
from callbox.sandboxes.channel import Channel, Incoming, relay
from callbox.sandboxes.driver import Driver, RootImage
from callbox.sandboxes.home import Home
from callbox.sandboxes.supervisor.disk_check import check_disk
from callbox.sandboxes.supervisor.drivers import Drivers
from callbox.sandboxes.supervisor.fleet import Fleet
from callbox.sandboxes.supervisor.operations import Operations, unknown_operation
from callbox.sandboxes.supervisor.pacing import Pacer
from callbox.sandboxes.supervisor.points import FaultPoints
from callbox.sandboxes.supervisor.room import host_refused
from callbox.sandboxes.supervisor.settings import Settings
from callbox.sandboxes.supervisor.sharing import Host, supervisor_ends

_LOG = logging.getLogger("callbox.sandboxes.supervisor.server")

RELAYED = ("exec.", "fs.", "port.")
"""Beginnings of the guest operations that clients may use. What changes a guest's identity is ours alone."""

RELAYED_TOO = frozenset({"ping", "info"})
"""The same, whole."""

LONG = frozenset({"exec.run", "exec.attach", "exec.wait", "exec.stdin", "fs.watch", "port.forward", "port.wait"})
"""Those that may last as long as the sandbox."""

TO_THE_END = frozenset({"sandbox.get", "sandbox.list", "sandbox.logs", "supervisor.status", "supervisor.stop"})
"""What is answered while everything is laid down: it wakes nothing and changes nothing."""

CHECKS_PER_IDLE = 20
"""How often within `exit_idle_s` it is looked whether there is still a reason to stay."""

BACKLOG = 128
"""Clients that may knock at the same moment."""


class Supervisor:
    """Everything of one home. `run` returns when it was told to stop, or when nobody needs it."""

    def __init__(
        self,
        home: Home,
        drivers: Iterable[Driver],
        images: Callable[[str], RootImage],
        *,
        settings: Settings | None = None,
        points: FaultPoints | None = None,
        pacer: Pacer | None = None,
        disk_checker: Callable[[Path], Awaitable[None]] = check_disk,
    ) -> None:
        self.host = Host(home, settings=settings, points=points, pacer=pacer, disk_checker=disk_checker)
        self.fleet = Fleet(self.host, Drivers(drivers), images)
        self.stopping = asyncio.Event()
        self.listening = asyncio.Event()
        self._operations = Operations(self.fleet, stop=self.stopping, status=self._status)
        self._clients: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take over, serve, and stop in good order. The caller holds the home's lock."""
        async with asyncio.TaskGroup() as tasks:
            await self.fleet.open(tasks)
            server = await self._listen()
            self.listening.set()
            idle = tasks.create_task(self._stop_when_idle())
            try:
                await self.stopping.wait()
            finally:
                # Who comes from now on finds no socket, and starts the next supervisor; that one waits for our lock.
                self.host.home.socket.unlink(missing_ok=True)
                server.close()
                idle.cancel()
                try:
                    await self.fleet.close()
                finally:
                    for client in self._clients:
                        client.cancel()
                    if self._clients:
                        await asyncio.wait(self._clients)

    async def handle(self, incoming: Incoming) -> Mapping[str, Any]:
        """Answer one request, or pass it on to the guest that it is for, waking it."""
        op = incoming.request.get("op")
        if not isinstance(op, str):
            raise unknown_operation(op)
        if self.stopping.is_set() and op not in TO_THE_END:
            raise supervisor_ends()
        own = self._operations.find(op)
        if own is not None:
            try:
                return await own(incoming.request)
            except OSError as error:
                _LOG.warning("%s failed", op, exc_info=error)
                raise host_refused(error, f"{op} failed") from error
        if not op.startswith(RELAYED) and op not in RELAYED_TOO:
            raise unknown_operation(op)
        keeper = self.fleet.find(incoming.request.get("sandbox"))
        request = {name: value for name, value in incoming.request.items() if name != "sandbox"}
        async with keeper.use(long=op in LONG) as channel:
            return await relay(incoming, await channel.open(request))

    async def _listen(self) -> asyncio.Server:
        path = self.host.home.socket
        path.unlink(missing_ok=True)  # of a supervisor that died: we hold the lock
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(path))
        path.chmod(0o600)
        return await asyncio.start_unix_server(self._welcome, sock=listening, backlog=BACKLOG)

    async def _welcome(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            uid = _peer_uid(writer)
            if uid != os.getuid():
                _LOG.warning("a process of uid %s was turned away", uid)
                return
            welcome = {"supervisor": True, "pid": os.getpid()}
            await Channel.serve(reader, writer, welcome=welcome, handler=self.handle)
        except asyncio.CancelledError:
            # asyncio would log it as a failure of its own callback. We cancel these when we end, nobody else does.
            if not self.stopping.is_set():
                raise
        except (CallboxError, OSError) as error:
            _LOG.info("a client was lost: %s", error)
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _stop_when_idle(self) -> None:
        limit_s, pacer = self.host.settings.exit_idle_s, self.host.pacer
        needed_at = pacer.monotonic()
        while True:
            await asyncio.sleep(limit_s / CHECKS_PER_IDLE)
            if self._clients or self.fleet.must_stay:
                needed_at = pacer.monotonic()
            elif pacer.monotonic() - needed_at >= limit_s:
                _LOG.info("nobody needs a supervisor: ending")
                self.stopping.set()
                return

    def _status(self) -> Mapping[str, Any]:
        return {"clients": len(self._clients), "home": str(self.host.home.root)}


def _peer_uid(writer: StreamWriter) -> int:
    peer: socket.socket = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1]
