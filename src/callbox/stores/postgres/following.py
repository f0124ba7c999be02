"""Who follows a session is woken by NOTIFY, and reads from where it was: a notification that is lost loses nothing.

What is notified is a session's `watch`, a random number: who listens in the same database learns no name and no tenant.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from callbox.errors import StoreError
from callbox.stores.postgres.connections import Connection, Connections
from callbox.stores.postgres.failures import translated

log = logging.getLogger("callbox.stores.postgres")

RECONNECT_S_MAX = 2.0
"""Between two attempts to listen again, seconds; they begin at a twentieth."""

CHECK_S = 10.0
"""A listening connection is asked so often whether it lives: a peer that vanished closes nothing."""


class Following:
    """One listening connection, while somebody follows."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._woken: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    @asynccontextmanager
    async def watching(self, watch: str) -> AsyncGenerator[asyncio.Event]:
        """An event that is set when there may be something new, and after every reconnection.

        Entered when the connection listens: what is committed later is notified.
        """
        woken = asyncio.Event()
        self._woken[watch].add(woken)
        try:
            if self._task is None or self._task.done():
                self._listening = asyncio.Event()
                self._task = asyncio.create_task(self._listen(self._listening), name="callbox postgres listener")
            await self._until_listening(self._task, self._listening)
            yield woken
        finally:
            self._woken[watch].discard(woken)
            if not self._woken[watch]:
                del self._woken[watch]
            if not self._woken:
                await self.aclose()

    async def aclose(self) -> None:
        """Stop listening; followers wake up and find the store closed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._wake_all()

    @staticmethod
    async def _until_listening(task: asyncio.Task[None], listening: asyncio.Event) -> None:
        ready = asyncio.create_task(listening.wait())
        try:
            await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def _listen(self, listening: asyncio.Event) -> None:
        pause_s = RECONNECT_S_MAX / 40
        while True:
            try:
                await self._listen_once(listening)
                pause_s = RECONNECT_S_MAX / 40
            except StoreError as error:
                if not listening.is_set():
                    raise  # the first attempt: who asked is told
                log.warning("Lost the connection that listens, trying again: %s", error.message)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_S_MAX)

    async def _listen_once(self, listening: asyncio.Event) -> None:
        """Returns when the connection is lost."""
        connection: Connection = await self._connections.connect("listen")
        ended = asyncio.Event()

        def end(_: Any) -> None:
            ended.set()

        try:
            with translated("listen"):
                connection.add_termination_listener(end)
                await connection.add_listener(self._connections.schema, self._notified)
                # See `followers` in the schema: from here on appends notify, and those that did not are committed.
                await connection.execute("SELECT pg_advisory_lock_shared(followers())")
            listening.set()
            self._wake_all()
            while not ended.is_set() and not connection.is_closed():
                try:
                    async with asyncio.timeout(CHECK_S):
                        await ended.wait()
                except TimeoutError:
                    with translated("listen"):
                        await connection.execute("SELECT 1")
        finally:
            try:
                connection.remove_termination_listener(end)
                connection.terminate()
            except asyncpg.InterfaceError:
                pass  # it is gone already

    def _notified(self, _connection: Any, _pid: int, _channel: str, watch: str) -> None:
        for woken in self._woken.get(watch, ()):
            woken.set()

    def _wake_all(self) -> None:
        for events in self._woken.values():
            for woken in events:
                woken.set()
