"""Even a wrong query of the application's role sees no other tenant, and writes nothing into one."""

from __future__ import annotations

import logging

import asyncpg
import pytest

from callbox.stores.postgres.store import PostgresStore
from callbox.stores.store import NewEvent, SessionKey
from support_stores import kept_secret

TABLES = ("sessions", "events", "secrets")


@pytest.fixture
async def raw(database, store):
    """A connection of the application's role, which owns the tables, with rows of two tenants there."""
    for tenant in ("acme", "bravo"):
        key = SessionKey(tenant, "one")
        await store.create(key, b"secret", expires_at=1.0)
        lease = await store.acquire(key, "writer", ttl_s=60)
        await store.append(lease, 0, [NewEvent("intent", b"body")], status="running")
    connection = await asyncpg.connect(database.url, server_settings={"search_path": "callbox"})
    yield connection
    await connection.close()


async def tenants(raw, table: str) -> list[str]:
    return [row[0] for row in await raw.fetch(f"SELECT tenant FROM {table}")]


@pytest.mark.parametrize("table", TABLES)
async def test_a_query_without_a_tenant_sees_nothing(raw, database, table: str) -> None:
    assert await tenants(raw, table) == []
    assert len(await database.execute(f"SELECT FROM callbox.{table}")) == 2  # they are there


@pytest.mark.parametrize("table", TABLES)
async def test_a_query_without_a_condition_sees_its_tenant_only(raw, table: str) -> None:
    await raw.execute("SELECT set_config('callbox.tenant', 'acme', false)")
    assert await tenants(raw, table) == ["acme"]
    assert await raw.fetch(f"SELECT FROM {table} WHERE tenant = 'bravo'") == []


@pytest.mark.parametrize("table", TABLES)
async def test_another_tenants_rows_are_neither_changed_nor_deleted(raw, database, table: str) -> None:
    await raw.execute("SELECT set_config('callbox.tenant', 'acme', false)")
    assert await raw.execute(f"UPDATE {table} SET tenant = tenant WHERE tenant = 'bravo'") == "UPDATE 0"
    assert await raw.execute(f"DELETE FROM {table} WHERE tenant = 'bravo'") == "DELETE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await raw.execute(f"UPDATE {table} SET tenant = 'bravo'")
    assert len(await database.execute(f"SELECT FROM callbox.{table} WHERE tenant = 'bravo'")) == 1


async def test_nothing_is_written_into_another_tenant(raw) -> None:
    await raw.execute("SELECT set_config('callbox.tenant', 'acme', false)")
    for insert in (
        "INSERT INTO sessions (tenant, session, created_at, updated_at, last_seq) VALUES ('bravo', 'x', 0, 0, 0)",
        "INSERT INTO events (tenant, id, seq, at, kind, body) VALUES ('bravo', 2, 9, 0, 'intent', '')",
        "INSERT INTO secrets VALUES ('bravo', 'x', '')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await raw.execute(insert)


async def test_what_looks_across_tenants_returns_names_and_ends_only(raw) -> None:
    rows = await raw.fetch("SELECT * FROM expired(10, 10)")
    assert [dict(row) for row in rows] == [
        {"tenant": "acme", "session": "one", "expires_at": 1.0},
        {"tenant": "bravo", "session": "one", "expires_at": 1.0},
    ]
    assert await tenants(raw, "sessions") == []  # it leaves no door open


async def test_a_role_that_does_not_own_the_tables_cannot_turn_the_sweep_on(raw, database) -> None:
    plain = f"{database.name}_plain"
    await database.execute(
        f"CREATE ROLE {plain} LOGIN PASSWORD 'plain'",
        f"GRANT USAGE ON SCHEMA callbox TO {plain}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA callbox TO {plain}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA callbox TO {plain}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA callbox TO {plain}",
    )
    url = database.url.replace(f"//{database.name}:", f"//{plain}:").replace(
        database.url.split(":")[2].split("@")[0], "plain"
    )
    connection = await asyncpg.connect(url)
    await connection.execute("SELECT set_config('callbox.sweep', 'on', false)")
    assert await connection.fetch("SELECT FROM callbox.sessions") == []
    await connection.close()
    store = PostgresStore(url, migrate=False)  # and it can do all that a store does
    key = SessionKey("acme", "two")
    assert await store.create(key, b"secret of two")
    lease = await store.acquire(key, "writer", ttl_s=60)
    await store.append(lease, 0, [NewEvent("intent", b"body")], status="running")
    assert len(await store.expired(10)) == 2
    assert await store.erase(key)
    await store.aclose()
    await database.execute(f"DROP OWNED BY {plain}", f"DROP ROLE {plain}")


async def test_a_connection_that_served_one_tenant_serves_the_next(database) -> None:
    store = PostgresStore(database.url, connections_max=1)
    for tenant in ("acme", "bravo", "acme"):
        await store.create(SessionKey(tenant, "one"), tenant.encode())
        assert await kept_secret(store, SessionKey(tenant, "one")) == tenant.encode()
        assert [info.key.tenant for info in await store.sessions(tenant)] == [tenant]
    await store.aclose()


async def test_a_superuser_is_warned_about_and_a_plain_role_is_not(database, caplog) -> None:
    for url, warned in ((database.url, False), (database.server.url(database.name), True)):
        caplog.clear()
        store = PostgresStore(url)
        with caplog.at_level(logging.WARNING):
            await store.sessions("acme")
        assert ("row level security does NOT separate tenants" in caplog.text) is warned
        await store.aclose()
