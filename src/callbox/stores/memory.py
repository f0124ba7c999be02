"""Journals in memory: for tests and for conversations that may be forgotten."""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from callbox.clock import Clock, SystemClock
from callbox.errors import StoreUnavailable
from callbox.stores import rules
from callbox.stores.store import (
    BEFORE_ALL,
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
)


@dataclass(slots=True)
class _Session:
    secret: bytes
    created_at: float
    updated_at: float
    parent: Parent | None
    expires_at: float | None
    first: int  # its own events have larger numbers: where a fork left, else 0
    status: Status = "idle"
    events: list[Event] = field(default_factory=list[Event])
    fences: list[int] = field(default_factory=list[int])  # of the lease that appended each event
    keys: set[str] = field(default_factory=set[str])
    fence: int = 0
    owner: str | None = None
    ends_at: float = 0.0
    ttl_s: float = 0.0
    erased: bool = False
    followers: set[asyncio.Event] = field(default_factory=set[asyncio.Event])

    @property
    def last_seq(self) -> int:
        return self.first + len(self.events)

    def wake(self) -> None:
        for follower in self.followers:
            follower.set()


class MemoryStore:
    """Implements `Store` for the tasks of one event loop. Nothing outlives the process.

    Args:
        clock: Where expiry and leases read the time.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._sessions: dict[SessionKey, _Session] = {}
        self._ids: dict[str, list[str]] = {}  # of each tenant, sorted
        self._forks: dict[SessionKey, set[str]] = {}
        self._fence = 0
        self._closed = False

    async def create(
        self, key: SessionKey, secret: bytes, *, parent: Parent | None = None, expires_at: float | None = None
    ) -> bool:
        """See `Store.create`."""
        self._open()
        if key in self._sessions:
            return False
        if parent is not None:
            origin = self._sessions.get(SessionKey(key.tenant, parent.session))
            if origin is None or not 0 <= parent.seq <= origin.last_seq:
                raise rules.no_parent(parent)
            self._forks.setdefault(SessionKey(key.tenant, parent.session), set()).add(key.session)
        now = self._clock.wall()
        self._sessions[key] = _Session(secret, now, now, parent, expires_at, parent.seq if parent else 0)
        insort(self._ids.setdefault(key.tenant, []), key.session)
        return True

    async def info(self, key: SessionKey) -> SessionInfo | None:
        """See `Store.info`."""
        self._open()
        session = self._sessions.get(key)
        return None if session is None else self._describe(key, session)

    async def load(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> Loaded | None:
        """See `Store.load`."""
        info = await self.info(key)
        if info is None:
            return None
        return Loaded(info, self._sessions[key].secret, await self.read(key, after=after, limit=limit))

    async def acquire(self, key: SessionKey, owner: str, *, ttl_s: float) -> Lease:
        """See `Store.acquire`."""
        self._open()
        session = self._sessions.get(key)
        if session is None:
            raise rules.not_found(key)
        now = self._clock.wall()
        if rules.is_held(session.owner, session.ends_at, session.ttl_s, now):
            raise rules.busy(key, session.owner or "")
        self._fence += 1
        session.fence, session.owner = self._fence, owner
        session.ends_at, session.ttl_s = now + ttl_s, ttl_s
        return Lease(key, self._fence, owner, ttl_s)

    async def renew(self, lease: Lease) -> None:
        """See `Store.renew`."""
        session = self._newest(lease)
        session.owner, session.ttl_s = lease.owner, lease.ttl_s
        session.ends_at = self._clock.wall() + lease.ttl_s

    async def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        self._open()
        session = self._sessions.get(lease.key)
        if session is not None and session.fence == lease.fence:
            session.owner = None

    async def append(self, lease: Lease, after: int, events: Sequence[NewEvent], *, status: Status) -> None:
        """See `Store.append`."""
        rules.check_events(events)
        session = self._newest(lease)
        if after != session.last_seq:
            if self._has(session, lease.fence, after, events):
                return
            raise rules.not_next(lease.key, after, session.last_seq)
        taken = set(session.keys) if any(event.key is not None for event in events) else session.keys
        for event in events:
            if event.key is not None:
                if event.key in taken:
                    raise rules.key_taken(lease.key, event.key)
                taken.add(event.key)
        now = self._clock.wall()
        session.events += [
            Event(seq, event.kind, bytes(event.body), event.key, now) for seq, event in enumerate(events, after + 1)
        ]
        session.fences += [lease.fence] * len(events)
        session.keys = taken
        session.status, session.updated_at = status, now
        session.wake()

    async def read(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> list[Event]:
        """See `Store.read`."""
        self._open()
        session = self._sessions.get(key)
        return [] if session is None else self._slice(session, after, limit)

    async def follow(self, key: SessionKey, *, after: int = 0) -> AsyncGenerator[Event]:
        """See `Store.follow`."""
        self._open()
        session = self._sessions.get(key)
        if session is None:
            return
        woken = asyncio.Event()
        session.followers.add(woken)
        try:
            while not session.erased:
                self._open()
                woken.clear()
                events = self._slice(session, after, EVENTS_READ_MAX)
                for event in events:
                    yield event
                    after = event.seq
                if not events:
                    await woken.wait()
        finally:
            session.followers.discard(woken)

    async def expire_at(self, lease: Lease, expires_at: float | None) -> None:
        """See `Store.expire_at`."""
        self._newest(lease).expires_at = expires_at

    async def sessions(
        self, tenant: str, *, status: Status | None = None, after: str = "", limit: int = SESSIONS_LISTED_MAX
    ) -> list[SessionInfo]:
        """See `Store.sessions`."""
        self._open()
        ids = self._ids.get(tenant, [])
        found: list[SessionInfo] = []
        for index in range(bisect_right(ids, after), len(ids)):
            if len(found) >= min(limit, SESSIONS_LISTED_MAX):
                break
            key = SessionKey(tenant, ids[index])
            session = self._sessions[key]
            if status is None or session.status == status:
                found.append(self._describe(key, session))
        return found

    async def forks(self, key: SessionKey) -> list[str]:
        """See `Store.forks`."""
        self._open()
        return sorted(self._forks.get(key, ()))

    async def erase(self, key: SessionKey) -> bool:
        """See `Store.erase`."""
        self._open()
        session = self._sessions.get(key)
        if session is None:
            return False
        if self._forks.get(key):
            raise rules.has_forks(key)
        del self._sessions[key]
        self._ids[key.tenant].remove(key.session)
        if session.parent is not None:
            self._forks[SessionKey(key.tenant, session.parent.session)].discard(key.session)
        session.erased = True
        session.events = []
        session.wake()
        return True

    async def expired(
        self, now: float, *, after: Expired | None = None, limit: int = SESSIONS_LISTED_MAX
    ) -> list[Expired]:
        """See `Store.expired`."""
        self._open()
        over = sorted(
            Expired(session.expires_at, key)
            for key, session in self._sessions.items()
            if session.expires_at is not None and session.expires_at <= now
        )
        start = bisect_right(over, after or BEFORE_ALL)
        return over[start : start + max(0, min(limit, SESSIONS_LISTED_MAX))]

    async def aclose(self) -> None:
        """See `Store.aclose`. As nothing is kept elsewhere, what was appended stays only while this object does."""
        self._closed = True
        for session in self._sessions.values():
            session.wake()

    def _open(self) -> None:
        if self._closed:
            raise StoreUnavailable("The store was closed.", hint="Open it again.")

    def _newest(self, lease: Lease) -> _Session:
        self._open()
        session = self._sessions.get(lease.key)
        if session is None or session.fence != lease.fence:
            raise rules.fenced(lease.key)
        return session

    def _describe(self, key: SessionKey, session: _Session) -> SessionInfo:
        running = rules.is_running(session.ends_at, session.ttl_s, self._clock.wall())
        return SessionInfo(
            key=key,
            created_at=session.created_at,
            updated_at=session.updated_at,
            last_seq=session.last_seq,
            status=session.status,
            parent=session.parent,
            expires_at=session.expires_at,
            owner=session.owner if running else None,
        )

    @staticmethod
    def _slice(session: _Session, after: int, limit: int) -> list[Event]:
        start = max(0, after - session.first)
        return session.events[start : start + max(0, min(limit, EVENTS_READ_MAX))]

    @staticmethod
    def _has(session: _Session, fence: int, after: int, events: Sequence[NewEvent]) -> bool:
        """Whether this very append was done before."""
        start = after - session.first
        if start < 0:
            return False
        there = session.events[start : start + len(events)]
        return (
            len(there) == len(events)
            and set(session.fences[start : start + len(events)]) == {fence}
            and all((a.kind, a.body, a.key) == (b.kind, b.body, b.key) for a, b in zip(there, events, strict=True))
        )
