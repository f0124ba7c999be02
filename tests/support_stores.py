"""Every store that the contract suite runs on, each fresh and empty."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from callbox.stores.memory import MemoryStore
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import Event, Lease, NewEvent, SessionKey, Store

MakeStore: TypeAlias = Callable[[Path], AbstractAsyncContextManager[Store]]

_numbers = itertools.count(1)


class ManualClock:
    """Time that the test owns."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@asynccontextmanager
async def memory(_folder: Path) -> AsyncIterator[Store]:
    store = MemoryStore()
    yield store
    await store.aclose()


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Store]:
    store = SqliteStore(folder / "store.db")
    yield store
    await store.aclose()


@asynccontextmanager
async def postgres(_folder: Path) -> AsyncIterator[Store]:
    from support_postgres import postgres_store

    async with postgres_store() as store:
        yield store


@asynccontextmanager
async def redis_sync(_folder: Path) -> AsyncIterator[Store]:
    from support_postgres import postgres_store
    from support_redis import redis_store

    async with postgres_store() as inner, redis_store("sync", inner=inner) as store:
        yield store


@asynccontextmanager
async def redis_interval(_folder: Path) -> AsyncIterator[Store]:
    from support_postgres import postgres_store
    from support_redis import redis_store

    async with postgres_store() as inner, redis_store("interval", inner=inner) as store:
        yield store


STORES: dict[str, MakeStore] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgres": postgres,
    "redis-sync": redis_sync,
    "redis-interval": redis_interval,
}


def new_key(tenant: str = "acme") -> SessionKey:
    """A session that no other test has."""
    return SessionKey(tenant, f"session-{next(_numbers)}")


def new_events(count: int, *, kind: str = "note", size_bytes: int = 300) -> list[NewEvent]:
    """Events with random bodies."""
    return [NewEvent(kind, os.urandom(size_bytes)) for _ in range(count)]


async def begin(store: Store, key: SessionKey, *, owner: str = "writer", ttl_s: float = 60.0) -> Lease:
    """Make a session and take its lease."""
    assert await store.create(key, b"secret")
    return await store.acquire(key, owner, ttl_s=ttl_s)


async def read_all(store: Store, key: SessionKey) -> list[Event]:
    """All events of a session, page by page."""
    events: list[Event] = []
    while page := await store.read(key, after=events[-1].seq if events else 0):
        events += page
    return events


async def kept_secret(store: Store, key: SessionKey) -> bytes | None:
    """What a session was made with; None if it is not there."""
    loaded = await store.load(key, limit=0)
    return None if loaded is None else loaded.secret


def contents(events: list[Event]) -> list[tuple[str, bytes, str | None]]:
    """What was given, without what the store adds."""
    return [(event.kind, event.body, event.key) for event in events]


def given(events: list[NewEvent]) -> list[tuple[str, bytes, str | None]]:
    """The same of what was appended."""
    return [(event.kind, event.body, event.key) for event in events]
