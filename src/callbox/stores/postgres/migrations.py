"""Versions of the tables: forward only, each in `schema/`, applied once, all or none.

A migration that changes rows of all tenants puts ``NO FORCE ROW LEVEL SECURITY`` on their table first, and ``FORCE``
back last: they are one transaction, and nobody sees the state between.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from callbox.errors import ConfigurationError, JournalDamaged, StoreError
from callbox.stores.postgres.connections import Connection


@cache
def released() -> tuple[str, ...]:
    """The SQL of every version; the first is version 1."""
    folder = resources.files("callbox.stores.postgres") / "schema"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    assert names == [f"{number:04}.sql" for number in range(1, len(names) + 1)], names
    return tuple((folder / name).read_text() for name in names)


async def migrate(
    connection: Connection, schema: str, versions: tuple[str, ...], *, allowed: bool = True, create: bool = True
) -> int:
    """Bring a database to the newest of `versions`. Several processes may try at the same time.

    Args:
        connection: Of a role that may create the schema, or owns it.
        schema: Its name, made of letters, digits and ``_``; nothing is quoted here.
        versions: See `released`.
        allowed: False: only look.
        create: False: only what is there is brought forward.

    Returns:
        How many versions were applied.

    Raises:
        JournalDamaged: The database was made by a newer callbox.
        ConfigurationError: There is nothing in it, and nothing may be made.
        StoreError: It is older, and that may not be changed.
    """
    there = await _version(connection, schema)
    if there == len(versions):
        return 0
    if there > len(versions):
        raise _newer(there, len(versions))
    if not there and not create:
        raise ConfigurationError(
            f"The database has no sessions: there is no schema {schema}.",
            hint="Look at the store's URL; an agent's first run makes it.",
        )
    if not allowed:
        raise StoreError(
            f"The tables are of version {there}, and this callbox needs {len(versions)}.",
            hint="Run PostgresStore(url).migrate() once, as the role that owns them.",
        )
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('callbox migration ' || $1, 0))", schema
        )
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        await connection.execute(f"SET LOCAL search_path TO {schema}, pg_temp")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS versions"
            " (version int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        there = await _version(connection, schema)  # somebody else may have been first
        if there > len(versions):
            raise _newer(there, len(versions))
        for number, sql in enumerate(versions[there:], there + 1):
            await connection.execute(sql)
            await connection.execute("INSERT INTO versions (version) VALUES ($1)", number)
    return len(versions) - there


async def _version(connection: Connection, schema: str) -> int:
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{schema}.versions"):
        return 0
    return await connection.fetchval(f"SELECT coalesce(max(version), 0) FROM {schema}.versions")  # noqa: S608  (checked)


def _newer(there: int, known: int) -> JournalDamaged:
    return JournalDamaged(
        f"The tables are of version {there}, which a newer callbox made; this one knows {known}.",
        hint="Upgrade callbox.",
    )
