"""The law of stores: whatever is asked in whatever order, SQLite answers as memory does."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callbox.errors import CallboxError
from callbox.stores.memory import MemoryStore
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import Lease, NewEvent, Parent, SessionKey, Store
from support_stores import ManualClock

A, B, C = SessionKey("acme", "a"), SessionKey("acme", "b"), SessionKey("other", "a")
KEYS = st.sampled_from([A, A, A, B, C])  # few, so that much happens to one
EVENTS = st.lists(
    st.builds(
        NewEvent,
        st.sampled_from(["intent", "outcome"]),
        st.binary(max_size=20),
        st.none() | st.sampled_from(["k1", "k2", "k3"]),
    ),
    max_size=3,
)
STATUS = st.sampled_from(["idle", "running", "waiting"])
SECONDS = st.sampled_from([0.0, 1.0, 9.0, 10.0, 11.0, 1_000.0, -5.0, -1_000.0])


class Alike(RuleBasedStateMachine):
    """Asks both stores the same, and compares answers and errors."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.stores: list[Store] = [
            MemoryStore(clock=self.clock),
            SqliteStore(self.folder / "store.db", clock=self.clock),
        ]
        self.leases: list[Lease] = []
        self.appends: list[tuple[Lease, int, list[NewEvent]]] = []

    def both(self, method: str, *values: Any, **options: Any) -> Any:
        answers = [
            self.loop.run_until_complete(_told(getattr(store, method)(*values, **options))) for store in self.stores
        ]
        assert answers[0] == answers[1]
        return answers[0]

    def teardown(self) -> None:
        for store in self.stores:
            self.loop.run_until_complete(store.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        self.both("create", A, b"secret")
        self.leases.append(self.both("acquire", A, "one", ttl_s=5.0))

    @rule(key=KEYS, expires_in=st.none() | SECONDS)
    def create(self, key: SessionKey, expires_in: float | None) -> None:
        self.both("create", key, b"secret", expires_at=None if expires_in is None else self.clock.now + expires_in)

    @rule(key=KEYS, parent=st.builds(Parent, st.sampled_from(["a", "b"]), st.integers(0, 4)))
    def fork(self, key: SessionKey, parent: Parent) -> None:
        self.both("create", key, b"secret", parent=parent)

    @rule(key=KEYS, owner=st.sampled_from(["one", "two"]), ttl_s=st.sampled_from([5.0, 10.0]), waits=st.booleans())
    def acquire(self, key: SessionKey, owner: str, ttl_s: float, waits: bool) -> None:
        self.clock.now += 10.0 if waits else 0.0  # the longest lease
        lease = self.both("acquire", key, owner, ttl_s=ttl_s)
        if isinstance(lease, Lease):
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), method=st.sampled_from(["renew", "release"]))
    def renew_or_release(self, data: st.DataObject, method: str) -> None:
        self.both(method, data.draw(st.sampled_from(self.leases)))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), events=EVENTS, status=STATUS, off=st.sampled_from([0, 0, 0, 0, -1, 1]))
    def append(self, data: st.DataObject, events: list[NewEvent], status: str, off: int) -> None:
        lease = data.draw(st.sampled_from(self.leases[-4:]))
        info = self.both("info", lease.key)
        after = max(0, (info.last_seq if info else 0) + off)
        if self.both("append", lease, after, events, status=status) is None:
            self.appends.append((lease, after, events))

    @precondition(lambda self: self.appends)
    @rule(data=st.data(), status=STATUS)
    def append_again(self, data: st.DataObject, status: str) -> None:
        lease, after, events = data.draw(st.sampled_from(self.appends[-4:]))
        self.both("append", lease, after, events, status=status)
        self.both("append", lease, after, [*events[:-1], replace(events[-1], body=b"changed")], status=status)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), seconds=st.none() | SECONDS)
    def expire(self, data: st.DataObject, seconds: float | None) -> None:
        ends = None if seconds is None else self.clock.now + seconds
        self.both("expire_at", data.draw(st.sampled_from(self.leases)), ends)

    @rule(key=KEYS)
    def erase(self, key: SessionKey) -> None:
        self.both("erase", key)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def open_again(self) -> None:
        self.loop.run_until_complete(self.stores[1].aclose())
        self.stores[1] = SqliteStore(self.folder / "store.db", clock=self.clock)

    @rule(key=KEYS, after=st.integers(-1, 6), limit=st.integers(-1, 4))
    def read(self, key: SessionKey, after: int, limit: int) -> None:
        self.both("read", key, after=after, limit=limit)

    @rule(tenant=st.sampled_from(["acme", "other"]), status=st.none() | STATUS, after=st.sampled_from(["", "a", "b"]))
    def listing(self, tenant: str, status: str | None, after: str) -> None:
        self.both("sessions", tenant, status=status, after=after)
        self.both("sessions", tenant, status=status, after=after, limit=1)
        over = self.both("expired", self.clock.now)
        self.both("expired", self.clock.now, limit=1)
        for each in over:
            self.both("expired", self.clock.now, after=each)

    @rule(key=KEYS)
    def look(self, key: SessionKey) -> None:
        for method in ("info", "load", "forks", "read"):
            self.both(method, key)

    @invariant()
    def fences_only_grow(self) -> None:
        fences = [lease.fence for lease in self.leases]
        assert fences == sorted(set(fences))


async def _told(call: Coroutine[Any, Any, Any]) -> Any:
    """The answer, or the kind and words of the error."""
    try:
        return await call
    except CallboxError as error:
        return type(error), str(error)


TestAlike = Alike.TestCase
TestAlike.settings = settings(
    max_examples=min(settings().max_examples, 1_000),  # each example is a database on a disk
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
