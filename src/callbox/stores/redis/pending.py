"""Events that Redis has acknowledged and the inner store does not have yet (`durability="interval"`).

Who decides what:

- The inner store gives out fences and is the journal. Redis holds, for each session that is written, the newest fence
  it was told, the last number, and a stream of what is pending. A script checks fence and number and appends, in one
  step.
- A lease may append in Redis once it was *opened*: fence told to Redis (older ones are refused from then on),
  everything pending moved to the inner store under that fence, last number and idempotency keys taken from the inner
  store.
- An entry is removed from the stream only after the inner store has committed it, so what is pending always joins on to
  what is committed. A reader takes the pending ones first and asks the inner store afterwards: a flush in between shows
  an event twice (the number tells), never not at all.
- A flush may be repeated or done by two at once: the inner store takes the same numbers once, and refuses others.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from callbox.errors import ConfigurationError, JournalConflict, SessionBusy, SessionFenced, StoreError, StoreUnavailable
from callbox.stores import rules
from callbox.stores.redis import scripts
from callbox.stores.redis.link import Link, RedisAway, log
from callbox.stores.redis.names import Names, contiguous, life_of, pack_key, text, unpack_key
from callbox.stores.redis.news import ERASED
from callbox.stores.store import (
    EVENTS_READ_MAX,
    Event,
    Lease,
    NewEvent,
    SessionInfo,
    SessionKey,
    Status,
    Store,
    this_process,
)

PENDING_MAX = 5_000
"""Events of one session that may wait for the inner store. More are refused: it has been away for long."""

FLUSHED_AT_ONCE = 500
"""Events that one commit of the inner store takes, if no single append has more."""

LEASES_MAX = 10_000
"""Of which it is remembered what was acknowledged to them."""

FLUSHER_LEASE_S = 10.0
"""Of a lease that a flusher takes when its holder has gone."""

ATTEMPTS_MAX = 10
"""Of a flush that others overtake."""

T = TypeVar("T")

REDIS_CONF = """appendonly yes
appendfsync everysec   # or "always": then a power cut loses nothing that was acknowledged
maxmemory-policy noeviction"""


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An entry of the stream.

    Attributes:
        event: Its `at` is the clock of Redis; after the flush it is the clock of the inner store.
        status: Of the append that it belongs to.
        ends: It is the last one of its append.
    """

    event: Event
    status: Status
    ends: bool


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a flush looks at: the server's run, the newest fence and life that it was told, entries, and the last
    number."""

    run: str
    fence: int
    life: str
    entries: list[PendingEvent]
    last: int


class Pending:
    """The Redis side of interval mode, and how it is moved to the inner store."""

    def __init__(self, inner: Store, link: Link, names: Names) -> None:
        self._inner = inner
        self._link = link
        self._names = names
        self._scripts: dict[str, Any] = {}
        self._acknowledged: dict[int, int] = {}  # fence -> last number that was acknowledged to its holder, here
        self._epoch = ""

    async def check(self) -> None:
        """See that this Redis keeps what it acknowledges, and remember which it is.

        Raises:
            ConfigurationError: It does not; the hint has the lines of redis.conf.
        """
        settings = await self._run(lambda redis: redis.info("persistence"))
        memory = await self._run(lambda redis: redis.info("memory"))
        if not settings.get("aof_enabled"):
            raise ConfigurationError(
                'durability="interval" needs a Redis that writes an append-only file, and this one does not.',
                hint=f"Put this into its redis.conf and restart it:\n{REDIS_CONF}",
            )
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if memory.get("maxmemory") and policy.startswith("allkeys"):
            raise ConfigurationError(
                f'durability="interval" needs a Redis that does not evict what waits there; this one has {policy}.',
                hint=f"Put this into its redis.conf and restart it:\n{REDIS_CONF}",
            )
        await self.same_redis()

    async def same_redis(self) -> None:
        """See that Redis was not emptied since we looked last.

        Raises:
            StoreError: It was; said once, because we can only say that something *may* be lost.
        """
        mine = this_process(os.urandom(8).hex())
        await self._run(lambda redis: redis.set(self._names.epoch, mine, nx=True))
        found = text(await self._run(lambda redis: redis.get(self._names.epoch)))
        before, self._epoch = self._epoch, found
        if before and found != before:
            log.error("Redis was emptied while callbox used it.")
            raise lost()

    async def append(self, lease: Lease, after: int, events: Sequence[NewEvent], *, status: Status) -> None:
        """What `Store.append` does; durable as far as Redis's file is."""
        rules.check_events(events)
        keys = [event.key for event in events if event.key is not None]
        if len(set(keys)) < len(keys):
            raise rules.key_taken(lease.key, next(key for key in keys if keys.count(key) > 1))
        names, key = self._names, lease.key
        arguments: list[Any] = [lease.fence, after, status, PENDING_MAX, pack_key(key)]
        for event in events:
            arguments += [event.kind, "" if event.key is None else f"k{event.key}", event.body]
        for attempt in range(ATTEMPTS_MAX):
            code, *detail = await self._script(
                scripts.APPEND,
                [names.state(key), names.pending(key), names.taken(key), names.waiting, names.channel(key)],
                arguments,
            )
            match code:
                case b"ok":
                    return self._acknowledge(lease, after + len(events))
                case b"stale":
                    await self._inner.renew(lease)
                    await self.open_lease(lease)
                case b"full" if attempt == 0:
                    await self.drain(key)
                case _:
                    return await self._refused(code, detail, lease, after, events, status)
        raise StoreUnavailable(f"Session {key.session!r} was opened by others again and again.")

    async def _refused(
        self, code: bytes, detail: list[Any], lease: Lease, after: int, events: Sequence[NewEvent], status: Status
    ) -> None:
        key = lease.key
        match code:
            case b"fenced":
                raise rules.fenced(key)
            case b"conflict" if after < int(detail[0]):  # perhaps the very same again: the journal knows
                await self.drain(key)
                await self._inner.append(lease, after, events, status=status)
            case b"conflict":
                raise rules.not_next(key, after, int(detail[0]))
            case b"taken":
                raise rules.key_taken(key, text(detail[0]))
            case b"full":
                raise StoreUnavailable(
                    f"{PENDING_MAX} events of session {key.session!r} wait in Redis for the store behind it.",
                    hint="See why that store does not take them.",
                )
            case _:
                raise damaged(key)

    def _acknowledge(self, lease: Lease, seq: int) -> None:
        self._acknowledged[lease.fence] = seq
        if len(self._acknowledged) > LEASES_MAX:
            del self._acknowledged[next(iter(self._acknowledged))]

    async def open_lease(self, lease: Lease) -> None:
        """Let a lease of the inner store append in Redis.

        Raises:
            SessionFenced: There is a newer one.
            StoreError: Redis has lost what it had acknowledged.
        """
        names, key = self._names, lease.key
        three = [names.state(key), names.pending(key), names.taken(key)]
        for _ in range(ATTEMPTS_MAX):
            info = await self._inner.info(key)
            if info is None or not await self._tell(lease, info):
                raise rules.fenced(key)
            await self.drain(key)
            last, taken = await self._journal(key)
            if last < self._acknowledged.get(lease.fence, 0):
                raise lost()
            self._acknowledge(lease, last)
            if await self._script(scripts.OPENED, three, [lease.fence, last, *taken]):
                return
        raise StoreUnavailable(f"Session {key.session!r} was opened by others again and again.")

    async def close_lease(self, lease: Lease) -> None:
        """Move all that is pending, so that the next holder finds it."""
        await self.drain(lease.key)
        self._acknowledged.pop(lease.fence, None)

    async def _tell(self, lease: Lease, info: SessionInfo) -> bool:
        names, key = self._names, lease.key
        keys = [names.state(key), names.pending(key), names.taken(key), names.waiting]
        return bool(await self._script(scripts.FENCE, keys, [lease.fence, life_of(info), pack_key(key)]))

    async def _journal(self, key: SessionKey) -> tuple[int, list[str]]:
        """The last number of what is committed, and all idempotency keys."""
        info = await self._inner.info(key)
        last = 0 if info is None else info.last_seq
        taken: list[str] = []
        after = 0
        while events := await self._inner.read(key, after=after):
            taken += [f"k{event.key}" for event in events if event.key is not None]
            after = events[-1].seq
        return last, taken

    async def events(self, key: SessionKey, after: int, limit: int = EVENTS_READ_MAX) -> list[PendingEvent]:
        """What is pending above a number, in order."""
        name = self._names.pending(key)
        return await self._entries(lambda pipe: pipe.xrange(name, f"{after + 1}-0", "+", count=limit))

    async def last(self, key: SessionKey) -> PendingEvent | None:
        """The newest of what is pending."""
        name = self._names.pending(key)
        entries = await self._entries(lambda pipe: pipe.xrevrange(name, "+", "-", count=1))
        return entries[0] if entries else None

    async def _entries(self, ask: Callable[[Any], Any]) -> list[PendingEvent]:
        async def command(redis: Any) -> list[Any]:
            pipe = redis.pipeline(transaction=False)
            pipe.get(self._names.epoch)
            ask(pipe)
            return await pipe.execute()

        epoch, entries = await self._run(command)
        if text(epoch) != self._epoch:
            await self.same_redis()
        return [_parse(entry) for entry in entries]

    async def run(self, key: SessionKey, after: int) -> list[Event]:
        """The unbroken run of pending events after a number; empty if it was flushed, or Redis is away."""
        try:
            return contiguous([each.event for each in await self.events(key, after)], after)
        except StoreUnavailable:
            return []

    async def waiting(self) -> list[SessionKey]:
        """The sessions that have something pending, oldest first."""
        names = await self._run(lambda redis: redis.zrange(self._names.waiting, 0, -1))
        return [unpack_key(name) for name in names]

    async def forget(self, key: SessionKey, life: str) -> None:
        """Remove all of an erased session, and tell who follows it."""
        names = self._names
        keys = [names.state(key), names.pending(key), names.taken(key), names.waiting, names.channel(key)]
        await self._script(scripts.FORGET, keys, [pack_key(key), f"{life} {ERASED}" if life else ""])

    async def drain(self, key: SessionKey) -> bool:
        """Move what is pending now of a session to the inner store.

        Returns:
            False if somebody has taken the session over this moment, has not told Redis yet, and will move it.

        Raises:
            StoreUnavailable: The inner store or Redis did not answer; it stays pending.
            StoreError: What is pending does not join on to the journal. It stays pending, and the session takes no
                more.
        """
        goal: int | None = None
        attempts = 0
        while attempts < ATTEMPTS_MAX:
            batch = await self._waiting_of(key, FLUSHED_AT_ONCE)
            if batch.entries and not any(each.ends for each in batch.entries):  # one very long append: all or nothing
                batch = await self._waiting_of(key, PENDING_MAX)
            goal = batch.last if goal is None else goal
            while batch.entries and not batch.entries[-1].ends:
                batch.entries.pop()
            if not batch.entries or batch.entries[0].event.seq > goal:
                await self._flushed(key, batch.run, 0)
                return True
            lease = Lease(key, batch.fence, this_process("flusher"), FLUSHER_LEASE_S)
            try:
                await self._commit(lease, batch.entries)
                await self._flushed(key, batch.run, batch.entries[-1].event.seq)
                attempts = 0
            except SessionFenced:
                attempts += 1
                if not await self._take_over(key, batch.life):
                    return False
            except JournalConflict:
                attempts += 1
                if not await self._committed_partly(key, batch):
                    raise await self._stuck(key) from None
        raise StoreUnavailable(f"The store behind Redis refuses what waits of session {key.session!r}.")

    async def _waiting_of(self, key: SessionKey, count: int) -> _Batch:
        keys = [self._names.state(key), self._names.pending(key)]
        run, fence, life, entries, newest = await self._script(scripts.WAITING, keys, [count])
        parsed = [_parse((each[0], _pairs(each[1]))) for each in entries]
        last = _number(newest[0][0]) if newest else 0
        return _Batch(text(run), int(fence or 0), text(life), parsed, last)

    async def _commit(self, lease: Lease, entries: Sequence[PendingEvent]) -> None:
        events = [NewEvent(each.event.kind, each.event.body, each.event.key) for each in entries]
        await self._inner.append(lease, entries[0].event.seq - 1, events, status=entries[-1].status)

    async def _flushed(self, key: SessionKey, run: str, seq: int) -> None:
        keys = [self._names.pending(key), self._names.waiting]
        await self._script(scripts.FLUSHED, keys, [run, seq + 1, pack_key(key)])

    async def _committed_partly(self, key: SessionKey, batch: _Batch) -> bool:
        """Remove those that an earlier flush has committed. False if the journal has others in their place, or a
        gap."""
        info = await self._inner.info(key)
        first, last = batch.entries[0].event.seq, 0 if info is None else info.last_seq
        if last < first:
            return info is None or last == first - 1  # the next attempt says which
        there = await self._inner.read(key, after=first - 1)
        for mine, theirs in zip((each.event for each in batch.entries), there, strict=False):
            if (mine.seq, mine.kind, mine.body, mine.key) != (theirs.seq, theirs.kind, theirs.body, theirs.key):
                return False
        if there:
            await self._flushed(key, batch.run, min(batch.entries[-1].event.seq, there[-1].seq))
        return True

    async def _take_over(self, key: SessionKey, life: str) -> bool:
        """The inner store has a newer fence than Redis was told. False if there is nothing for us to flush."""
        info = await self._inner.info(key)
        if info is None or life_of(info) != life:
            log.warning("Events of an erased session were still pending in Redis; they are removed.")
            await self.forget(key, life)
            return True
        try:
            lease = await self._inner.acquire(key, this_process("flusher"), ttl_s=FLUSHER_LEASE_S)
        except SessionBusy:
            return False
        try:
            await self._tell(lease, info)
        finally:
            await self._inner.release(lease)
        return True

    async def _stuck(self, key: SessionKey) -> StoreError:
        name = self._names.state(key)
        await self._run(lambda redis: redis.hset(name, "stuck", "1"))
        return damaged(key)

    async def _script(self, source: str, keys: list[str], arguments: list[Any]) -> Any:
        script = self._scripts.get(source) or self._scripts.setdefault(source, self._link.redis.register_script(source))
        return await self._run(lambda _: script(keys=keys, args=arguments))

    async def _run(self, command: Callable[[Any], Awaitable[T]]) -> T:
        try:
            return await self._link.run(command)
        except RedisAway as error:
            raise StoreUnavailable(
                str(error), hint='With durability="interval" nothing is read or written without Redis.'
            ) from None


def lost() -> StoreError:
    """Redis no longer has what it acknowledged."""
    return StoreError(
        "Redis was emptied, or went back in time: events that it had acknowledged may be lost.",
        hint="What the store behind it has is whole: open the session again, and it goes on from there.",
    )


def damaged(key: SessionKey) -> StoreError:
    """What is pending does not join on to the journal: somebody wrote past Redis."""
    return StoreError(
        f"What waits in Redis of session {key.session!r} does not join on to its journal.",
        hint='All processes must use this store with durability="interval" and the same Redis. Export what is pending, '
        "then erase the session or its keys in Redis.",
    )


def merged(info: SessionInfo, newest: PendingEvent | None) -> SessionInfo:
    """What a session looks like with what is pending."""
    if newest is None or newest.event.seq <= info.last_seq:
        return info
    return dataclasses.replace(
        info, last_seq=newest.event.seq, status=newest.status, updated_at=max(info.updated_at, newest.event.at)
    )


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _number(name: bytes) -> int:
    return int(name.partition(b"-")[0])


def _parse(entry: tuple[bytes, dict[bytes, bytes]]) -> PendingEvent:
    name, fields = entry
    key = text(fields[b"key"])
    event = Event(_number(name), text(fields[b"kind"]), fields[b"body"], key[1:] if key else None, float(fields[b"at"]))
    status: Any = text(fields[b"status"])
    return PendingEvent(event, status, bool(fields[b"end"]))
