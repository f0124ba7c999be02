"""Journals in one SQLite file: durable on return, many appends to one commit, open in several processes."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from callbox.clock import Clock, SystemClock
from callbox.errors import StoreUnavailable
from callbox.stores import rules
from callbox.stores.sqlite import rows, writes
from callbox.stores.sqlite.connection import connect, translated
from callbox.stores.sqlite.following import Followers
from callbox.stores.sqlite.writer import Writer
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

T = TypeVar("T")

READERS_MAX = 4
"""Threads that read, each with a connection of its own."""

BUSY_TIMEOUT_S = 10.0
"""How long to wait for another process's lock before `StoreUnavailable`."""

_EVENTS = f"{rows.EVENT} WHERE owner_id = ? AND seq > ? ORDER BY seq LIMIT ?"
_ROW = "SELECT id FROM sessions WHERE tenant = ? AND session = ?"


class SqliteStore:
    """Implements `Store` in a file, with write-ahead logging and `synchronous=FULL`.

    Args:
        path: The file; made with its folder if it is not there, readable by this user only. It must be on a local disk.
        clock: Where expiry and leases read the time.
        busy_timeout_s: How long to wait for another process's lock.
        create: False: a file that is not there is not made, but a `ConfigurationError` in any method.

    Nothing is opened before the first use. Errors of opening, in any method: `StoreError` for a file of a newer
    callbox or of another program, `JournalDamaged` for one that is no database, `StoreUnavailable` for the rest.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        create: bool = True,
    ) -> None:
        self._path = Path(path).absolute()
        self._clock = clock or SystemClock()
        self._busy_timeout_s = busy_timeout_s
        self._create = create
        self._writer = Writer(self._path, self._clock, busy_timeout_s, create=create)
        self._readers = ThreadPoolExecutor(READERS_MAX, thread_name_prefix="callbox-sqlite-reader")
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._followers = Followers(self._connect)
        self._closed = False

    async def create(
        self, key: SessionKey, secret: bytes, *, parent: Parent | None = None, expires_at: float | None = None
    ) -> bool:
        """See `Store.create`."""
        return await self._writer.submit(
            lambda db, now: writes.create(db, now, key, secret, parent, expires_at), size_bytes=len(secret)
        )

    async def info(self, key: SessionKey) -> SessionInfo | None:
        """See `Store.info`."""
        row = await self._one(f"{rows.INFO} WHERE tenant = ? AND session = ?", (key.tenant, key.session))
        return None if row is None else self._describe(row)

    async def load(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> Loaded | None:
        """See `Store.load`."""
        found = await self._read(_load, key, after, max(0, min(limit, EVENTS_READ_MAX)))
        if found is None:
            return None
        (*row, secret), events = found
        return Loaded(self._describe(row), rows.secret(secret), events)

    async def acquire(self, key: SessionKey, owner: str, *, ttl_s: float) -> Lease:
        """See `Store.acquire`."""
        return await self._writer.submit(lambda db, now: writes.acquire(db, now, key, owner, ttl_s))

    async def renew(self, lease: Lease) -> None:
        """See `Store.renew`."""
        await self._writer.submit(lambda db, now: writes.renew(db, now, lease))

    async def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        await self._writer.submit(lambda db, now: writes.release(db, now, lease))

    async def append(self, lease: Lease, after: int, events: Sequence[NewEvent], *, status: Status) -> None:
        """See `Store.append`."""
        size = rules.check_events(events)
        kept = tuple(events)  # the caller may change its list while we wait
        row_id = await self._writer.submit(
            lambda db, now: writes.append(db, now, lease, after, kept, status), size_bytes=size
        )
        self._followers.appended((row_id,))

    async def read(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> list[Event]:
        """See `Store.read`."""
        return await self._read(_read, key, after, max(0, min(limit, EVENTS_READ_MAX)))

    async def follow(self, key: SessionKey, *, after: int = 0) -> AsyncGenerator[Event]:
        """See `Store.follow`. Raises `StoreUnavailable` when the store is closed."""
        row = await self._one(_ROW, (key.tenant, key.session))
        if row is None:
            return
        row_id = int(row[0])  # the session itself: another one of the same name has another row
        follower = self._followers.join(row_id, after)
        try:
            while True:
                follower.woken.clear()
                events, is_there = await self._read(_read_row, row_id, after, EVENTS_READ_MAX)
                for event in events:
                    yield event
                    follower.after = after = event.seq
                if not is_there:
                    return
                if not events:
                    await follower.woken.wait()
        finally:
            self._followers.leave(follower)

    async def expire_at(self, lease: Lease, expires_at: float | None) -> None:
        """See `Store.expire_at`."""
        await self._writer.submit(lambda db, now: writes.expire_at(db, now, lease, expires_at))

    async def sessions(
        self, tenant: str, *, status: Status | None = None, after: str = "", limit: int = SESSIONS_LISTED_MAX
    ) -> list[SessionInfo]:
        """See `Store.sessions`."""
        found = await self._all(
            f"{rows.INFO} WHERE tenant = ? AND session > ? AND (? IS NULL OR status = ?) ORDER BY session LIMIT ?",
            (tenant, after, status, status, max(0, min(limit, SESSIONS_LISTED_MAX))),
        )
        return [self._describe(row) for row in found]

    async def forks(self, key: SessionKey) -> list[str]:
        """See `Store.forks`."""
        query = "SELECT session FROM sessions WHERE tenant = ? AND parent = ? ORDER BY session"
        return [rows.name(row) for row in await self._all(query, (key.tenant, key.session))]

    async def erase(self, key: SessionKey) -> bool:
        """See `Store.erase`. The write-ahead log is emptied before it returns."""
        row_id = await self._writer.submit(lambda db, now: writes.erase(db, now, key), scrub=True)
        if row_id is None:
            return False
        self._followers.appended((row_id,))
        return True

    async def expired(
        self, now: float, *, after: Expired | None = None, limit: int = SESSIONS_LISTED_MAX
    ) -> list[Expired]:
        """See `Store.expired`."""
        last = after or BEFORE_ALL
        query = (
            f"{rows.EXPIRED} WHERE expires_at <= ? AND (expires_at, tenant, session) > (?, ?, ?)"
            " ORDER BY expires_at, tenant, session LIMIT ?"
        )
        values = (now, last.expires_at, last.key.tenant, last.key.session, max(0, min(limit, SESSIONS_LISTED_MAX)))
        return [rows.expired(row) for row in await self._all(query, values)]

    async def aclose(self) -> None:
        """See `Store.aclose`."""
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._followers.close()
        self._writer.close()
        self._readers.shutdown()
        with self._lock:
            connections, self._connections = self._connections, []
        for db in connections:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    async def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return await self._read(_fetch_one, query, values)

    async def _all(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return await self._read(_fetch_all, query, values)

    async def _read(self, run: Callable[..., T], *values: Any) -> T:
        """Run a query in a thread that reads."""
        if self._closed:
            raise StoreUnavailable("The store was closed.", hint="Open it again.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._in_reader, run, values)
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise translated(error) from error

    def _in_reader(self, run: Callable[..., T], values: tuple[Any, ...]) -> T:
        db: sqlite3.Connection | None = getattr(self._of_thread, "db", None)
        if db is None:
            db = self._of_thread.db = self._connect()
            with self._lock:
                self._connections.append(db)
        return run(db, *values)

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, busy_timeout_s=self._busy_timeout_s, create=self._create)

    def _describe(self, row: Sequence[Any]) -> SessionInfo:
        return rows.describe(row, self._clock.wall())


def _fetch_one(db: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return db.execute(query, values).fetchone()


def _fetch_all(db: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return db.execute(query, values).fetchall()


def _read(db: sqlite3.Connection, key: SessionKey, after: int, limit: int) -> list[Event]:
    row = db.execute(_ROW, (key.tenant, key.session)).fetchone()
    return [] if row is None else [rows.event(found) for found in db.execute(_EVENTS, (row[0], after, limit))]


def _load(
    db: sqlite3.Connection, key: SessionKey, after: int, limit: int
) -> tuple[tuple[Any, ...], list[Event]] | None:
    """A session's row with its secret, and its events, of one moment."""
    db.execute("BEGIN")
    try:
        row = db.execute(f"{rows.LOAD} WHERE tenant = ? AND session = ?", (key.tenant, key.session)).fetchone()
        return None if row is None else (row, _read(db, key, after, limit))
    finally:
        if db.in_transaction:  # some failures end it
            db.execute("ROLLBACK")


def _read_row(db: sqlite3.Connection, row_id: int, after: int, limit: int) -> tuple[list[Event], bool]:
    """Events of a session, and whether it is still there."""
    events = [rows.event(row) for row in db.execute(_EVENTS, (row_id, after, limit))]
    return events, db.execute("SELECT 1 FROM sessions WHERE id = ?", (row_id,)).fetchone() is not None
