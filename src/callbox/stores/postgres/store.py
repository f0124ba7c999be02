"""Journals in Postgres: many processes, tenants separated by row level security, appends in shared commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from callbox.errors import StoreError, StoreUnavailable
from callbox.stores import rules
from callbox.stores.postgres.connections import Connections
from callbox.stores.postgres.following import RECONNECT_S_MAX, Following
from callbox.stores.postgres.migrations import migrate, released
from callbox.stores.postgres.writer import Writer
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
    is_dead,
)

_COLUMNS = """
session, created_at, updated_at, last_seq, status, parent, parent_seq, expires_at,
CASE WHEN lease_until > moment() AND lease_until <= moment() + lease_ttl_s THEN owner END AS owner
"""
_INFO = f"SELECT {_COLUMNS} FROM sessions WHERE tenant = $1 AND"  # noqa: S608  (constants)
_LOAD = f"""
SELECT {_COLUMNS}, watch::text, secret
FROM sessions JOIN secrets USING (tenant, session) WHERE tenant = $1 AND session = $2
"""  # noqa: S608  (constants)
_READ = """
SELECT e.seq, e.kind, e.body, e.key, e.at FROM sessions s CROSS JOIN LATERAL (
    SELECT * FROM events x WHERE x.tenant = $1 AND x.id = s.id AND x.seq > $3 ORDER BY x.seq LIMIT $4
) e WHERE s.tenant = $1 AND s.session = $2 AND ($5::uuid IS NULL OR s.watch = $5) ORDER BY e.seq
"""


class PostgresStore:
    """Implements `Store` on a Postgres database, 13 or newer.

    Nothing is connected before the first call. The role should be a plain one: for superusers and roles with BYPASSRLS
    the server separates no tenants, and a warning is logged. The same store can be used in another event loop once the
    first has ended.

    Args:
        url: ``postgresql://user:password@host:port/database``, with the options that asyncpg takes, like ``?sslmode=``.
        schema: Where the tables are; made if it is not there. Lower-case letters, digits and ``_``.
        connections_max: That this process opens at most; one more while somebody follows.
        migrate: Whether the first call may create tables and bring them to this version. False if the role may not:
            then `migrate` is run once by the role that owns them.
        create: False: a database that has no tables yet gets none, but a `ConfigurationError` at the first call.
        connect_s: Seconds to open a connection.
        command_s: Seconds for one statement; then `StoreUnavailable`.
        lock_s: Seconds that a statement waits for somebody else's lock; then `StoreUnavailable`.

    Raises:
        ConfigurationError: A schema or a number of connections that cannot be.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "callbox",
        connections_max: int = 4,
        migrate: bool = True,
        create: bool = True,
        connect_s: float = 10.0,
        command_s: float = 30.0,
        lock_s: float = 10.0,
    ) -> None:
        self._url = url
        self._schema = schema
        self._connections_max = connections_max
        self._may_migrate = migrate
        self._may_create = create
        self._connect_s, self._command_s, self._lock_s = connect_s, command_s, lock_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._begin()

    def __repr__(self) -> str:
        return f"PostgresStore({self._connections.shown!r}, schema={self._schema!r})"

    async def migrate(self) -> int:
        """Create the tables, or bring them to this version; returns how many versions were applied.

        Raises:
            JournalDamaged: The tables were made by a newer callbox.
        """
        async with self._here().use("migrate its tables") as connection:
            return await migrate(connection, self._schema, released())

    async def create(
        self, key: SessionKey, secret: bytes, *, parent: Parent | None = None, expires_at: float | None = None
    ) -> bool:
        """See `Store.create`."""
        origin = (None, None) if parent is None else (parent.session, parent.seq)
        verdict = await self._value(
            "create a session",
            "SELECT create_session($1, $2, $3, $4, $5, $6)",
            key.tenant,
            key.session,
            secret,
            *origin,
            expires_at,
        )
        if verdict == "orphan" and parent is not None:
            raise rules.no_parent(parent)
        return verdict == "made"

    async def info(self, key: SessionKey) -> SessionInfo | None:
        """See `Store.info`."""
        rows = await self._rows("look at a session", key.tenant, f"{_INFO} session = $2", key.session)
        return _info(key.tenant, rows[0]) if rows else None

    async def load(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> Loaded | None:
        """See `Store.load`."""
        rows = await self._rows("load a session", key.tenant, _LOAD, key.session)
        if not rows:
            return None
        info = _info(key.tenant, rows[0])
        begins = 0 if info.parent is None else info.parent.seq
        there = info.last_seq > max(after, begins)
        events = await self._events(key, after, limit, rows[0]["watch"]) if there and limit > 0 else []
        return Loaded(info, rows[0]["secret"], events)

    async def acquire(self, key: SessionKey, owner: str, *, ttl_s: float) -> Lease:
        """See `Store.acquire`."""
        dead: int | None = None
        while True:
            query = "SELECT verdict, fence, owner FROM acquire_lease($1, $2, $3, $4, $5)"
            async with (await self._ready()).use("take a lease") as connection:
                verdict, fence, holder = await connection.fetchrow(query, key.tenant, key.session, owner, ttl_s, dead)
            if verdict == "taken":
                return Lease(key, fence, owner, ttl_s)
            if verdict == "none":
                raise rules.not_found(key)
            if not is_dead(holder):
                raise rules.busy(key, holder)
            dead = fence  # this lease, and not one that somebody took meanwhile

    async def renew(self, lease: Lease) -> None:
        """See `Store.renew`."""
        query = "SELECT renew_lease($1, $2, $3, $4, $5)"
        if not await self._value("renew a lease", query, *_fence(lease), lease.owner, lease.ttl_s):
            raise rules.fenced(lease.key)

    async def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        await self._value("give a lease back", "SELECT release_lease($1, $2, $3)", *_fence(lease))

    async def append(self, lease: Lease, after: int, events: Sequence[NewEvent], *, status: Status) -> None:
        """See `Store.append`."""
        rules.check_events(events)
        await self._ready()
        await self._writer.append(lease, after, events, status)

    async def read(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> list[Event]:
        """See `Store.read`."""
        return await self._events(key, after, limit)

    async def follow(self, key: SessionKey, *, after: int = 0) -> AsyncGenerator[Event]:
        """See `Store.follow`. Lost connections are opened again, however long the server is away."""
        watch = await self._watch(key)
        if watch is None:
            return
        async with self._following.watching(watch) as woken:
            pause_s = RECONNECT_S_MAX / 40
            while True:
                woken.clear()
                try:
                    events = await self._events(key, after, EVENTS_READ_MAX, watch)
                    there = events or await self._watch(key) == watch
                except StoreUnavailable:
                    if self._closed:
                        raise
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, RECONNECT_S_MAX)
                    continue
                pause_s = RECONNECT_S_MAX / 40
                if not there:
                    return
                for event in events:
                    yield event
                    after = event.seq
                if not events:
                    await woken.wait()

    async def expire_at(self, lease: Lease, expires_at: float | None) -> None:
        """See `Store.expire_at`."""
        query = "SELECT set_expiry($1, $2, $3, $4)"
        if not await self._value("set an expiry", query, *_fence(lease), expires_at):
            raise rules.fenced(lease.key)

    async def sessions(
        self, tenant: str, *, status: Status | None = None, after: str = "", limit: int = SESSIONS_LISTED_MAX
    ) -> list[SessionInfo]:
        """See `Store.sessions`."""
        query = f"{_INFO} session > $2 AND ($3::text IS NULL OR status = $3) ORDER BY session LIMIT $4"
        limit = max(0, min(limit, SESSIONS_LISTED_MAX))
        rows = await self._rows("list sessions", tenant, query, after, status, limit)
        return [_info(tenant, row) for row in rows]

    async def forks(self, key: SessionKey) -> list[str]:
        """See `Store.forks`."""
        query = "SELECT session FROM sessions WHERE tenant = $1 AND parent = $2 ORDER BY session"
        return [row[0] for row in await self._rows("list forks", key.tenant, query, key.session)]

    async def erase(self, key: SessionKey) -> bool:
        """See `Store.erase`. The table of secrets is written anew, without it, and its old file given back.

        What the server keeps elsewhere: events stay in their table's file until VACUUM, and cannot be read without the
        secret. The secret stays in the write-ahead log until the server recycles it, and in archives and backups.
        """
        verdict = await self._value("erase a session", "SELECT erase_session($1, $2)", key.tenant, key.session)
        if verdict == "forks":
            raise rules.has_forks(key)
        await self._forget()
        return verdict == "erased"

    async def expired(
        self, now: float, *, after: Expired | None = None, limit: int = SESSIONS_LISTED_MAX
    ) -> list[Expired]:
        """See `Store.expired`."""
        limit = max(0, min(limit, SESSIONS_LISTED_MAX))
        last = after or BEFORE_ALL
        query = "SELECT expires_at, tenant, session FROM expired($1, $2, $3, $4, $5)"
        async with (await self._ready()).use("look for expired sessions") as connection:
            rows = await connection.fetch(query, now, limit, last.expires_at, last.key.tenant, last.key.session)
        return [Expired(row[0], SessionKey(row[1], row[2])) for row in rows]

    async def aclose(self) -> None:
        """See `Store.aclose`. Appends that wait are committed first."""
        self._closed = True
        if self._loop is not asyncio.get_running_loop():
            self._connections.abandon()
            return
        await self._writer.aclose()
        await self._connections.aclose()
        await self._following.aclose()

    def _begin(self) -> None:
        self._connections = Connections(
            self._url,
            schema=self._schema,
            connections_max=self._connections_max,
            connect_s=self._connect_s,
            command_s=self._command_s,
            lock_s=self._lock_s,
        )
        self._writer = Writer(self._connections)
        self._following = Following(self._connections)
        self._opening = asyncio.Lock()
        self._forgetting = asyncio.Lock()
        self._is_ready = False

    def _here(self) -> Connections:
        """The connections of this event loop."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise StoreUnavailable("The store was closed.", hint="Open it again.")
        if self._loop is not loop:
            if self._loop is not None:
                if not self._loop.is_closed():
                    raise StoreError("The store is in use in another event loop.", hint="Make one for each loop.")
                self._connections.abandon()
                self._begin()
            self._loop = loop
        return self._connections

    async def _ready(self) -> Connections:
        """Connections to tables of this version."""
        connections = self._here()
        if not self._is_ready:
            async with self._opening:
                if not self._is_ready:
                    async with connections.use("prepare its tables") as connection:
                        await migrate(
                            connection,
                            self._schema,
                            released(),
                            allowed=self._may_migrate,
                            create=self._may_create,
                        )
                    await self._forget()  # somebody was stopped between the two steps of an erasure
                    self._is_ready = True
        return connections

    async def _forget(self) -> None:
        """Rewrite the table of secrets if it has deleted ones; erasures at the same time share one rewriting."""
        async with self._forgetting, self._connections.use("overwrite erased secrets") as connection:
            if await connection.fetchval("SELECT pending FROM forgetting"):
                await connection.execute("SELECT forget()")

    async def _events(self, key: SessionKey, after: int, limit: int, watch: str | None = None) -> list[Event]:
        """Events of the session with that `watch`: one that was erased and made again is another."""
        limit = max(0, min(limit, EVENTS_READ_MAX))
        rows = await self._rows("read events", key.tenant, _READ, key.session, after, limit, watch)
        return [Event(row[0], row[1], row[2], row[3], row[4]) for row in rows]

    async def _watch(self, key: SessionKey) -> str | None:
        query = "SELECT watch::text FROM sessions WHERE tenant = $1 AND session = $2"
        rows = await self._rows("look at a session", key.tenant, query, key.session)
        return rows[0][0] if rows else None

    async def _rows(self, doing: str, tenant: str, query: str, *arguments: Any) -> list[Any]:
        """What a query finds among a tenant's rows; the tenant is $1."""
        async with (await self._ready()).use(doing, tenant) as connection:
            return await connection.fetch(query, tenant, *arguments)

    async def _value(self, doing: str, query: str, *arguments: Any) -> Any:
        """What one of the schema's functions answers; it sets the tenant for its own transaction."""
        async with (await self._ready()).use(doing) as connection:
            return await connection.fetchval(query, *arguments)


def _fence(lease: Lease) -> tuple[str, str, int]:
    return lease.key.tenant, lease.key.session, lease.fence


def _info(tenant: str, row: Any) -> SessionInfo:
    return SessionInfo(
        key=SessionKey(tenant, row["session"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_seq=row["last_seq"],
        status=row["status"],
        parent=None if row["parent"] is None else Parent(row["parent"], row["parent_seq"]),
        expires_at=row["expires_at"],
        owner=row["owner"],
    )
