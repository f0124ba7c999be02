"""Moves what is pending to the inner store, every `flush_s`, while this process lives. Any process may; one does."""

from __future__ import annotations

import asyncio
import os

from callbox.errors import CallboxError
from callbox.stores.redis import scripts
from callbox.stores.redis.ending import end
from callbox.stores.redis.link import Link, RedisAway, log
from callbox.stores.redis.names import Names
from callbox.stores.redis.pending import Pending
from callbox.stores.store import SessionKey

SESSIONS_AT_ONCE = 16
"""That are flushed side by side, so that the inner store can put them into one commit."""


class Flusher:
    """The regular flush.

    Args:
        flush_s: Between two flushes. Another process takes over when nothing was flushed for three of them (at least 3
            s).
    """

    def __init__(self, pending: Pending, link: Link, names: Names, *, flush_s: float) -> None:
        self._pending = pending
        self._link = link
        self._names = names
        self._flush_s = flush_s
        self._token = os.urandom(16).hex()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._flush_regularly())

    async def flush(self) -> bool:
        """Move all that is pending, of all sessions. False if some of it could not be moved; it stays where it is."""
        waiting = iter(await self._pending.waiting())
        failures: list[CallboxError] = []

        async def work() -> None:
            for key in waiting:
                await self._flush_one(key, failures)

        async with asyncio.TaskGroup() as group:
            for _ in range(SESSIONS_AT_ONCE):
                group.create_task(work())
        if failures and not self._failing:
            log.warning("Events wait in Redis, because the store behind it did not take them: %s", failures[0].code)
        self._failing = bool(failures)
        return not failures

    async def _flush_one(self, key: SessionKey, failures: list[CallboxError]) -> None:
        try:
            await self._pending.drain(key)
        except CallboxError as error:
            failures.append(error)

    async def aclose(self) -> None:
        """Flush once more, if both stores answer, and stop."""
        if self._task is None:
            return
        await end(self._task)
        self._task = None
        try:
            await self.flush()
            await self._script(scripts.UNLOCK, [self._token])
        except (CallboxError, RedisAway):
            return  # it stays pending; the next one who opens this store flushes it

    async def _flush_regularly(self) -> None:
        held_ms = int(max(3.0, 3 * self._flush_s) * 1000)
        while True:
            await asyncio.sleep(self._flush_s)
            try:
                if await self._script(scripts.LOCK, [self._token, held_ms]):
                    await self.flush()
            except RedisAway:
                continue
            except CallboxError as error:
                log.debug("A flush was not done: %s", error.code)
            except Exception:  # noqa: BLE001 - the next flush is tried whatever happened to this one
                log.exception("A flush failed; what is pending stays, and is tried again.")

    async def _script(self, source: str, arguments: list[object]) -> object:
        return await self._link.run(lambda redis: redis.eval(source, 1, self._names.flusher, *arguments))
