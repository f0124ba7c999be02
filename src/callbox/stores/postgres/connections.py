"""Connections to Postgres: opened when they are needed, checked, and each told whose rows it may see."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

import asyncpg

from callbox.errors import ConfigurationError, StoreError, StoreUnavailable
from callbox.stores.postgres.failures import store_error, translated

log = logging.getLogger("callbox.stores.postgres")

Connection: TypeAlias = Any
"""An `asyncpg.Connection`; the package has no types."""

_connect: Any = cast("Any", asyncpg).connect

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")

_CHECK = """
SELECT current_setting('synchronous_commit') AS commits, current_setting('fsync') AS fsync,
       current_setting('server_encoding') AS encoding, current_setting('server_version_num')::int AS version,
       pg_is_in_recovery() AS standby,
       (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS unbound, current_user AS role
"""


@dataclass(slots=True, eq=False)
class _Member:
    connection: Connection
    tenant: str = ""


class Connections:
    """At most `connections_max` at a time, the one used last first. Of one event loop.

    Args:
        url: ``postgresql://user:password@host:port/database``, with the options that asyncpg takes.
        schema: Where the tables are.
        connect_s: Seconds that opening a connection may take.
        command_s: Seconds that one statement may take; then its connection is given up.
        lock_s: Seconds that a statement waits for somebody's lock.
    """

    def __init__(
        self, url: str, *, schema: str, connections_max: int, connect_s: float, command_s: float, lock_s: float
    ) -> None:
        if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
            raise ConfigurationError(f"A schema named {schema!r}.", hint="Use a-z, 0-9 and _, at most 48.")
        if connections_max < 1:
            raise ConfigurationError("A store needs at least one connection.")
        self._url = url
        self.shown = shown(url)
        self.schema = schema
        self._connect_s = connect_s
        self._command_s = command_s
        self._settings = {
            "search_path": f"{schema}, pg_temp",
            "synchronous_commit": "on",  # an append is durable on return, whatever the server's default is
            "lock_timeout": str(int(lock_s * 1000)),
            "plan_cache_mode": "force_generic_plan",  # a plan for every batch costs more than the batch
            "enable_seqscan": "off",  # generic plans do not know how large a table has grown
            "jit": "off",
            "application_name": "callbox",
        }
        self._free: list[_Member] = []
        self._used: set[_Member] = set()
        self._room = asyncio.Semaphore(connections_max)
        self._closed = False
        self._warned = False

    @asynccontextmanager
    async def use(self, doing: str, tenant: str | None = None) -> AsyncGenerator[Connection]:
        """Lend a connection; with a `tenant`, one that sees this tenant's rows and no others.

        Args:
            doing: Completes "Postgres could not ...".
            tenant: None for what brings its own tenant, or needs none.

        Raises:
            StoreUnavailable: There is none to be had, or it was lost meanwhile. Other errors of a store likewise.
        """
        async with self._room:
            member = await self._take(doing)
            self._used.add(member)
            whole = False
            try:
                with translated(doing):
                    try:
                        if tenant is not None and tenant != member.tenant:
                            await member.connection.execute("SELECT set_config('callbox.tenant', $1, false)", tenant)
                            member.tenant = tenant
                        yield member.connection
                        whole = True
                    except asyncpg.PostgresError as error:
                        whole = not isinstance(store_error(error, doing), StoreUnavailable)  # an answer, and it goes on
                        raise
            finally:
                self._used.discard(member)
                if whole and not self._closed and not member.connection.is_closed():
                    self._free.append(member)
                else:
                    member.connection.terminate()  # cut off in the middle of something: nobody reads the rest

    async def connect(self, doing: str = "open a connection") -> Connection:
        """Open a connection that nobody else uses, and that the caller closes."""
        with translated(doing):
            try:
                connection: Connection = await _connect(
                    self._url,
                    timeout=self._connect_s,
                    command_timeout=self._command_s,
                    server_settings=self._settings,
                )
            except OSError:  # of which some are ValueErrors, too: certificates
                raise
            except ValueError:  # also asyncpg's ClientConfigurationError; the message may quote the whole URL
                raise ConfigurationError(
                    "Not a URL of a Postgres database.", hint="Write postgresql://user:password@host:5432/database."
                ) from None
            try:
                self._check(await connection.fetchrow(_CHECK))
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def aclose(self) -> None:
        """Close what is free now, and what is lent when it comes back."""
        self._closed = True
        while self._free:
            connection = self._free.pop().connection
            try:
                await connection.close(timeout=self._connect_s)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    def abandon(self) -> None:
        """Forget all, because the event loop that they belong to has ended."""
        self._closed = True
        self._free.clear()

    async def _take(self, doing: str) -> _Member:
        if self._closed:
            raise StoreUnavailable("The store was closed.", hint="Open it again.")
        while self._free:
            member = self._free.pop()
            if not member.connection.is_closed():
                return member
        return _Member(await self.connect(doing))

    def _check(self, row: Any) -> None:
        if row["standby"]:
            raise StoreUnavailable(f"{self.shown} is a standby, where nothing can be written.")
        if row["version"] < 130000:
            raise StoreError("The server is older than Postgres 13.")
        if row["encoding"] != "UTF8":
            raise StoreError(f"The database's encoding is {row['encoding']}.", hint="Create one with ENCODING 'UTF8'.")
        if row["commits"] not in {"on", "remote_apply"}:  # a pooler in between drops what we ask for
            raise StoreError(
                f"synchronous_commit is {row['commits']!r}, and asking for 'on' had no effect.",
                hint="ALTER ROLE ... SET synchronous_commit = on, or connect without the pooler.",
            )
        if self._warned:
            return
        self._warned = True
        if row["fsync"] != "on":
            log.warning("%s runs with fsync off: a power cut loses what was acknowledged.", self.shown)
        if row["unbound"]:
            log.warning(
                "The role %r is a superuser or has BYPASSRLS: row level security does NOT separate tenants for it. "
                "Use a plain role for callbox.",
                row["role"],
            )


def shown(url: str) -> str:
    """A URL as it may be printed: host, port and database."""
    try:
        parts = urlsplit(url)
        return f"postgresql://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except ValueError:
        return "postgresql://..."
