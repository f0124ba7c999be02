"""The hot snapshot: the latest events of active sessions, copied from the journal into Redis.

Why it never answers with a wrong or a missing event:

- Only events that were *read back from the inner store* are copied, so each is committed and is what the journal has,
  its time included. A journal only grows: what is true of an event stays true.
- The name of a snapshot contains the life of its session (when it was created). A session that is erased and made again
  under the same name begins with an empty snapshot, even if Redis was away when it was erased.
- A reader asks the inner store first how far the journal goes (one row, no bodies), and takes from the snapshot only an
  unbroken run of numbers from the one it needs. What is not in that run, it reads from the inner store. So the snapshot
  never decides what exists; it only saves reading bodies. Redis may lose, evict or keep any of it.

What is kept is sealed, and its key is erased with the session; whatever an erasure did not reach runs out after
`HOT_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from callbox.errors import CallboxError
from callbox.stores.redis.ending import end
from callbox.stores.redis.link import Link, RedisAway, log
from callbox.stores.redis.names import Names, contiguous, life_of, pack_event, unpack_event
from callbox.stores.redis.news import ERASED
from callbox.stores.store import EVENTS_READ_MAX, Event, SessionInfo, SessionKey, Store

HOT_S = 3_600
"""Seconds that a snapshot is kept after its last use."""

HOT_EVENTS_MAX = 1_000
"""Events of one session in its snapshot: the latest."""

HOT_EVENT_BYTES_MAX = 256 << 10
"""Of one event in a snapshot. Larger ones are read from the inner store."""

TOUCHED_MAX = 10_000
"""Sessions that wait to be copied. More are not copied; who follows them sees it within `news.CHECK_S`."""

CLOSED_WITHIN_S = 1.0
"""Of copying at the end."""


class Hot:
    """Copies what is committed, and reads the copies.

    Args:
        inner: Where the journals are.
    """

    def __init__(self, inner: Store, link: Link, names: Names) -> None:
        self._inner = inner
        self._link = link
        self._names = names
        self._touched: dict[SessionKey, int] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def touch(self, key: SessionKey, after: int) -> None:
        """Copy and announce, soon, what was appended after that number. Costs the caller nothing."""
        if self._link.away or len(self._touched) >= TOUCHED_MAX:
            return
        self._touched[key] = min(after, self._touched.get(key, after))
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._copy_always())

    async def read(self, key: SessionKey, after: int, limit: int) -> list[Event]:
        """What `Store.read` returns."""
        if self._link.away:
            return await self._inner.read(key, after=after, limit=limit)
        info = await self._inner.info(key)
        return [] if info is None else await self.read_of(info, after, limit)

    async def read_of(self, info: SessionInfo, after: int, limit: int) -> list[Event]:
        """What `Store.read` returns, as far as the journal went when the inner store said `info`."""
        key = info.key
        after = max(after, 0 if info.parent is None else info.parent.seq)
        limit = min(limit, EVENTS_READ_MAX, info.last_seq - after)
        if limit <= 0:
            return []
        events = await self.run(key, life_of(info), after, limit)
        if len(events) < limit:
            known = after + len(events)
            more = await self._inner.read(key, after=known, limit=limit - len(events))
            await self._keep(info, more)
            events += more
        return events

    async def run(self, key: SessionKey, life: str, after: int, limit: int = EVENTS_READ_MAX) -> list[Event]:
        """The unbroken run of committed events after a number that the snapshot has; empty if Redis is away."""
        name = self._names.hot(key, life)
        try:
            members: list[bytes] = await self._link.run(
                lambda redis: redis.zrangebyscore(name, after + 1, after + limit)
            )
            return contiguous([unpack_event(member) for member in members], after)
        except RedisAway:
            return []
        except ValueError:
            log.warning("A snapshot in Redis is not of our own writing; it is not used.")
            return []

    async def forget(self, key: SessionKey, life: str) -> None:
        """Remove a session's snapshot, and tell all who follow it that it is erased."""
        self._touched.pop(key, None)

        async def command(redis: Any) -> None:
            pipe = redis.pipeline(transaction=False)
            pipe.unlink(self._names.hot(key, life))
            pipe.publish(self._names.channel(key), f"{life} {ERASED}")
            await pipe.execute()

        try:
            await self._link.run(command)
        except RedisAway:
            return  # it runs out, nobody can open it, and nobody looks for that life again

    async def aclose(self) -> None:
        """Copy what waits to be copied, if that is quick, and stop."""
        await end(self._task)
        self._task = None
        try:
            async with asyncio.timeout(CLOSED_WITHIN_S):
                await self._copy_touched()
        except TimeoutError:
            return

    async def _copy_always(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._copy_touched()

    async def _copy_touched(self) -> None:
        while self._touched:
            key = next(iter(self._touched))
            after = self._touched.pop(key)
            try:
                await self._copy(key, after)
            except asyncio.CancelledError:
                self._touched[key] = min(after, self._touched.get(key, after))
                raise
            except CallboxError as error:  # of the inner store; the copy is only a help
                log.debug("An append was not copied to Redis: %s", error.code)

    async def _copy(self, key: SessionKey, after: int) -> None:
        info = await self._inner.info(key)
        while info is not None and after < info.last_seq and not self._link.away:
            events = await self._inner.read(key, after=after)
            if not events:
                return
            await self._keep(info, events, announce=True)
            after = events[-1].seq

    async def _keep(self, info: SessionInfo, events: Sequence[Event], *, announce: bool = False) -> None:
        """Copy events that were read from the inner store after `info` was."""
        life = life_of(info)
        name = self._names.hot(info.key, life)
        members = {pack_event(event): event.seq for event in events if len(event.body) <= HOT_EVENT_BYTES_MAX}

        async def command(redis: Any) -> None:
            pipe = redis.pipeline(transaction=False)
            if members:
                pipe.zadd(name, members)
                pipe.zremrangebyrank(name, 0, -HOT_EVENTS_MAX - 1)
                pipe.expire(name, HOT_S)
            if announce:
                pipe.publish(self._names.channel(info.key), f"{life} {events[-1].seq}")
            await pipe.execute()

        if members or announce:
            try:
                await self._link.run(command)
            except RedisAway:
                return
