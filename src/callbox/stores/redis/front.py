"""A store behind Redis. What Redis may be relied upon for depends on `durability`; see `RedisStore`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Literal

from callbox.clock import Clock, SystemClock
from callbox.errors import ConfigurationError, StoreUnavailable
from callbox.stores.redis.flusher import Flusher
from callbox.stores.redis.hot import Hot
from callbox.stores.redis.link import Link
from callbox.stores.redis.names import Names, contiguous, life_of
from callbox.stores.redis.news import CHECK_S, News, Subscription
from callbox.stores.redis.pending import Pending, lost, merged
from callbox.stores.store import (
    EVENTS_READ_MAX,
    SESSIONS_LISTED_MAX,
    Event,
    Expired,
    Lease,
    Loaded,
    NewEvent,
    Parent,
    SessionInfo,
    SessionKey,
    Status,
    Store,
)

SUBSCRIBED_WITHIN_S = 0.5
"""If notices do not arrive by then, a follower begins without them."""


class RedisStore:
    """Implements `Store` over another one.

    ``durability="sync"``: an append is committed by the inner store, then copied to Redis for readers and followers of
    all processes. Redis may be killed, emptied or away at any time: nothing is lost, it is only slower, and it heals by
    itself. Leases are those of the inner store.

    ``durability="interval"``: an append returns when it is in the append-only file of Redis; every `flush_s` what is
    pending is committed by the inner store, and removed from Redis after that. The fence still comes from the inner
    store. What can be lost of what was acknowledged:

    - the process killed, or the inner store: nothing;
    - redis-server killed (kill -9): what it had not yet *written* to its file. With ``appendfsync always`` nothing.
      With ``everysec`` nothing while the disk keeps up; during a slow fsync Redis puts writes off, for up to 2 s;
    - a power cut or a kernel crash of Redis's machine: with ``always`` nothing; with ``everysec`` what was written
      since the last fsync that ended had *begun*: about 1 s, and with a slow disk twice the time of one fsync more.
      The test of the bound in `tests/faults/test_redis_faults.py` measures it;
    - FLUSHALL, or the file deleted: all that was pending, up to `flush_s` and more if the inner store was away. The
      holder of the lease gets `StoreError` at its next append, every other process once at its next read or acquire,
      and the session goes on from what the inner store has. Nobody can tell any more if all processes had ended before.

    Without Redis this mode neither reads nor writes (`StoreUnavailable`). `Event.at` and `SessionInfo.updated_at` are
    by the clock of Redis until the flush and by the inner store's afterwards. All processes of one inner store must use
    the same mode, Redis and namespace. One Redis, not a cluster of them.

    Args:
        inner: Where the journals are; closed together with this one.
        url: Of Redis, like ``"redis://127.0.0.1:6379/0"``. It never appears in errors, logs or reprs.
        durability: See above.
        flush_s: Between two flushes, in interval mode.
        namespace: In front of all keys in Redis.
        timeout_s: Of one command of Redis; None: 0.25 in sync mode, 5 in interval mode.
        retry_s: Between attempts while Redis is away.
        clock: For time-outs.

    Raises:
        ConfigurationError: An argument is wrong; the first use in interval mode raises it if Redis keeps no append-only
            file.
    """

    def __init__(
        self,
        inner: Store,
        url: str,
        *,
        durability: Literal["sync", "interval"] = "sync",
        flush_s: float = 1.0,
        namespace: str = "callbox",
        timeout_s: float | None = None,
        retry_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        if durability not in ("sync", "interval"):
            raise ConfigurationError(f"There is no durability {durability!r}.", hint='It is "sync" or "interval".')
        if not (flush_s > 0 and retry_s > 0 and (timeout_s is None or timeout_s > 0)):
            raise ConfigurationError("flush_s, retry_s and timeout_s are seconds above zero.")
        clock = clock or SystemClock()
        interval = durability == "interval"
        names = Names(namespace)
        self._inner = inner
        self._link = Link(url, timeout_s=timeout_s or (5.0 if interval else 0.25), retry_s=retry_s, clock=clock)
        self._news = News(self._link, names, retry_s=retry_s)
        self._hot = None if interval else Hot(inner, self._link, names)
        self._pending = Pending(inner, self._link, names) if interval else None
        self._flusher = Flusher(self._pending, self._link, names, flush_s=flush_s) if self._pending else None
        self._opening = asyncio.Lock()
        self._opened = not interval
        self._closed = False

    async def open(self) -> None:
        """Interval mode: look at Redis, flush what earlier processes left, begin to flush. Every method does it first.

        Raises:
            ConfigurationError: Redis keeps no append-only file, or evicts.
            StoreUnavailable: Redis does not answer.
        """
        if self._closed:
            raise StoreUnavailable("The store was closed.", hint="Open it again.")
        if self._opened or self._pending is None or self._flusher is None:
            return
        async with self._opening:
            if not self._opened:
                await self._pending.check()
                await self._flusher.flush()
                self._flusher.start()
                self._opened = True

    async def create(
        self, key: SessionKey, secret: bytes, *, parent: Parent | None = None, expires_at: float | None = None
    ) -> bool:
        """See `Store.create`. The inner store has it on return, in both modes."""
        await self.open()
        if self._pending is not None:
            if parent is not None:
                await self._pending.drain(SessionKey(key.tenant, parent.session))
            if await self._inner.info(key) is None:
                await self._pending.forget(key, "")  # of an erasure that was interrupted
        return await self._inner.create(key, secret, parent=parent, expires_at=expires_at)

    async def info(self, key: SessionKey) -> SessionInfo | None:
        """See `Store.info`."""
        await self.open()
        newest = (
            None if self._pending is None else await self._pending.last(key)
        )  # before the inner store: see pending.py
        info = await self._inner.info(key)
        return None if info is None else merged(info, newest)

    async def load(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> Loaded | None:
        """See `Store.load`. Redis never has the secret."""
        await self.open()
        if self._hot is not None and self._link.away:
            return await self._inner.load(key, after=after, limit=limit)
        newest = None if self._pending is None else await self._pending.last(key)  # before the inner store: pending.py
        loaded = await self._inner.load(key, limit=0)
        if loaded is None:
            return None
        if self._hot is not None:
            return replace(loaded, events=await self._hot.read_of(loaded.info, after, limit))
        events = await self._read_with_pending(key, after, max(0, min(limit, EVENTS_READ_MAX)))
        return Loaded(merged(loaded.info, newest), loaded.secret, events)

    async def acquire(self, key: SessionKey, owner: str, *, ttl_s: float) -> Lease:
        """See `Store.acquire`. The inner store gives out the fence, whatever Redis remembers."""
        await self.open()
        if self._pending is None:
            return await self._inner.acquire(key, owner, ttl_s=ttl_s)
        await self._pending.same_redis()
        lease = await self._inner.acquire(key, owner, ttl_s=ttl_s)
        try:
            await self._pending.open_lease(lease)
        except BaseException:
            await self._inner.release(lease)
            raise
        return lease

    async def renew(self, lease: Lease) -> None:
        """See `Store.renew`."""
        await self.open()
        await self._inner.renew(lease)

    async def release(self, lease: Lease) -> None:
        """See `Store.release`. In interval mode what is pending is flushed first."""
        await self.open()
        if self._pending is not None:
            await self._pending.close_lease(lease)
        await self._inner.release(lease)

    async def append(self, lease: Lease, after: int, events: Sequence[NewEvent], *, status: Status) -> None:
        """See `Store.append`, and above for what is durable on return."""
        await self.open()
        if self._pending is not None:
            await self._pending.append(lease, after, events, status=status)
        else:
            await self._inner.append(lease, after, events, status=status)
            if self._hot is not None:
                self._hot.touch(lease.key, after)

    async def read(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> list[Event]:
        """See `Store.read`."""
        await self.open()
        if self._hot is not None:
            return await self._hot.read(key, after, limit)
        return await self._read_with_pending(key, after, max(0, min(limit, EVENTS_READ_MAX)))

    async def _read_with_pending(self, key: SessionKey, after: int, limit: int) -> list[Event]:
        if self._pending is None or limit == 0:
            return []
        pending = await self._pending.events(key, after, limit)  # before the inner store: see pending.py
        events = await self._inner.read(key, after=after, limit=limit)
        if not pending or len(events) >= limit:
            return events
        last = events[-1].seq if events else after
        if not events:
            info = await self._inner.info(key)
            if info is None:
                return []
            last = max(after, 0 if info.parent is None else info.parent.seq)
        more = [each.event for each in pending if each.event.seq > last]
        if more and more[0].seq != last + 1:
            raise lost()
        return (events + contiguous(more, last))[:limit]

    async def follow(self, key: SessionKey, *, after: int = 0) -> AsyncGenerator[Event]:
        """See `Store.follow`. Raises `StoreError` if events that it has shown are lost (interval mode)."""
        info = await self.info(key)
        if info is None:
            return
        life, shown = life_of(info), 0
        async with self._news.subscribed(key) as heard:
            if not self._link.away:
                await heard.until_up(SUBSCRIBED_WITHIN_S)
            while True:
                if not heard.up and self._hot is not None:
                    async with aclosing(_until_up(self._inner.follow(key, after=after), heard)) as events:
                        async for event in events:
                            yield event
                            after = shown = event.seq
                    heard.unsure = True
                run = await self._fresh(key, life, after, shown, heard)
                if run is None:
                    return
                for event in run:
                    yield event
                    after = shown = event.seq
                if not run and not heard.unsure:
                    await heard.wait(CHECK_S)

    async def _fresh(
        self, key: SessionKey, life: str, after: int, shown: int, heard: Subscription
    ) -> list[Event] | None:
        """Events above `after` as far as is known that there are some; None: the session is erased."""
        try:
            last = heard.last
            if heard.unsure or heard.erased:
                heard.looked(life)
                info = await self.info(key)
                if info is None or life_of(info) != life:
                    return None
                if info.last_seq < shown:
                    raise lost()
                last = info.last_seq
            if last <= after:
                return []
            return await self._in_redis(key, life, after) or await self.read(key, after=after)
        except StoreUnavailable:
            heard.unsure = True
            if self._closed or self._hot is not None:
                raise
            await heard.wait(SUBSCRIBED_WITHIN_S)  # without Redis nothing is appended either
            return []

    async def _in_redis(self, key: SessionKey, life: str, after: int) -> list[Event]:
        if self._hot is not None:
            return await self._hot.run(key, life, after)
        return [] if self._pending is None else await self._pending.run(key, after)

    async def expire_at(self, lease: Lease, expires_at: float | None) -> None:
        """See `Store.expire_at`."""
        await self.open()
        await self._inner.expire_at(lease, expires_at)

    async def sessions(
        self, tenant: str, *, status: Status | None = None, after: str = "", limit: int = SESSIONS_LISTED_MAX
    ) -> list[SessionInfo]:
        """See `Store.sessions`. In interval mode what is pending of the tenant is flushed first."""
        await self.open()
        if self._pending is not None:
            for key in await self._pending.waiting():
                if key.tenant == tenant:
                    await self._pending.drain(key)
        return await self._inner.sessions(tenant, status=status, after=after, limit=limit)

    async def forks(self, key: SessionKey) -> list[str]:
        """See `Store.forks`."""
        await self.open()
        return await self._inner.forks(key)

    async def erase(self, key: SessionKey) -> bool:
        """See `Store.erase`. What Redis has of it is sealed with the secret that the inner store destroys, and removed
        too."""
        await self.open()
        info = await self._inner.info(key)
        done = await self._inner.erase(key)
        if info is not None and done:
            if self._hot is not None:
                await self._hot.forget(key, life_of(info))
            elif self._pending is not None:
                await self._pending.forget(key, life_of(info))
        return done

    async def expired(
        self, now: float, *, after: Expired | None = None, limit: int = SESSIONS_LISTED_MAX
    ) -> list[Expired]:
        """See `Store.expired`."""
        await self.open()
        return await self._inner.expired(now, after=after, limit=limit)

    async def aclose(self) -> None:
        """See `Store.aclose`. Closes the inner store too; in interval mode what is pending is flushed first if it can
        be."""
        if self._closed:
            return
        self._closed = True
        if self._flusher is not None:
            await self._flusher.aclose()
        if self._hot is not None:
            await self._hot.aclose()
        await self._news.aclose()
        await self._link.aclose()
        await self._inner.aclose()


async def _until_up(events: AsyncGenerator[Event], heard: Subscription) -> AsyncGenerator[Event]:
    """What the inner store's own `follow` gives, until notices arrive again, or it ends."""
    up = asyncio.create_task(heard.until_up(None))
    following: asyncio.Task[Event | None] | None = None
    try:
        while not up.done():
            following = asyncio.create_task(_next(events))
            await asyncio.wait({up, following}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                event = following.result()
                following = None
                if event is None:
                    return
                yield event
    finally:
        tasks = [up] if following is None else [up, following]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await events.aclose()


async def _next(events: AsyncGenerator[Event]) -> Event | None:
    return await anext(events, None)
