"""Tables are made and brought forward once, whoever is first, and never back."""

from __future__ import annotations

import asyncio
import sys

import asyncpg
import pytest

from callbox.errors import ConfigurationError, JournalDamaged, StoreError
from callbox.stores.opening import open_store
from callbox.stores.postgres.migrations import migrate, released
from callbox.stores.postgres.store import PostgresStore
from callbox.stores.store import Lease, NewEvent, SessionKey
from support_stores import kept_secret

KEY = SessionKey("acme", "one")
NEXT = """
ALTER TABLE sessions ADD COLUMN title text;
ALTER TABLE sessions NO FORCE ROW LEVEL SECURITY;
UPDATE sessions SET title = session;
ALTER TABLE sessions FORCE ROW LEVEL SECURITY;
"""
MIGRATE = """
import asyncio, sys
from callbox.stores.postgres.store import PostgresStore
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    store = PostgresStore(sys.argv[1])
    print(await store.migrate(), flush=True)
    await store.aclose()
asyncio.run(main())
"""


@pytest.fixture
async def owner(database):
    connection = await asyncpg.connect(database.url)
    yield connection
    await connection.close()


async def test_an_empty_database_gets_all_versions_once(owner) -> None:
    assert await migrate(owner, "callbox", released()) == len(released())
    assert await migrate(owner, "callbox", released()) == 0


async def test_who_only_looks_makes_no_tables(database, owner) -> None:
    looking = open_store(database.url, create=False)
    with pytest.raises(ConfigurationError, match="no schema callbox"):
        await looking.sessions("acme")
    assert not await owner.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'callbox'")
    await migrate(owner, "callbox", released())
    assert await looking.sessions("acme") == []
    await looking.aclose()


async def test_of_processes_that_start_together_one_migrates(database) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", MIGRATE, database.url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        assert await process.stdout.readline() == b"ready\n"
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert sorted(int(out) for out, _ in answers) == [0, 0, 0, len(released())]


async def test_an_older_database_is_brought_forward_with_its_rows(database, store, owner) -> None:
    await store.create(KEY, b"secret")
    lease = await store.acquire(KEY, "writer", ttl_s=60)
    await store.append(lease, 0, [NewEvent("intent", b"before")], status="running")
    assert await migrate(owner, "callbox", (*released(), NEXT)) == 1
    assert [row["title"] for row in await database.execute("SELECT title FROM callbox.sessions")] == ["one"]
    await store.append(lease, 1, [NewEvent("outcome", b"after")], status="idle")  # who is connected goes on
    assert [event.body for event in await store.read(KEY)] == [b"before", b"after"]


@pytest.mark.parametrize("version", range(1, len(released())))
async def test_what_an_older_callbox_wrote_goes_on(database, owner, version: int) -> None:
    # As version 1 wrote it; later versions keep these functions.
    await migrate(owner, "callbox", released()[:version])
    await owner.execute("SET search_path TO callbox")
    assert await owner.fetchval("SELECT create_session('acme', 'one', 'secret', NULL, NULL, NULL)") == "made"
    fence = await owner.fetchval("SELECT fence FROM acquire_lease('acme', 'one', 'writer', 60, NULL)")
    verdict = await owner.fetchval(
        "SELECT verdict FROM append_events('{acme}', '{one}', $1, '{0}', '{1}', '{0}', '{running}', '{1}', '{intent}',"
        " '{NULL}', $2)",
        [fence],
        [b"before"],
    )
    assert verdict == "ok"
    store = PostgresStore(database.url)
    await store.append(Lease(KEY, fence, "writer", 60), 1, [NewEvent("outcome", b"after")], status="idle")
    assert [event.body for event in await store.read(KEY)] == [b"before", b"after"]
    assert await kept_secret(store, KEY) == b"secret"
    await store.aclose()


async def test_a_version_that_fails_leaves_nothing_behind(owner) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await migrate(owner, "callbox", (*released(), "CREATE TABLE half (a int); SELECT 1 / 0"))
    assert await owner.fetchval("SELECT to_regclass('callbox.half')") is None
    assert await owner.fetchval("SELECT to_regclass('callbox.sessions')") is None


async def test_a_newer_database_is_refused(database, owner) -> None:
    await migrate(owner, "callbox", (*released(), NEXT))
    store = PostgresStore(database.url)
    with pytest.raises(JournalDamaged, match="newer callbox") as caught:
        await store.info(KEY)
    assert not caught.value.retryable
    await store.aclose()


async def test_who_may_not_migrate_says_what_to_do(database) -> None:
    store = PostgresStore(database.url, migrate=False)
    with pytest.raises(StoreError, match=r"PostgresStore\(url\)\.migrate\(\)"):
        await store.info(KEY)
    assert await store.migrate() == len(released())
    assert await store.info(KEY) is None
    await store.aclose()


async def test_two_schemas_of_a_database_know_nothing_of_each_other(database) -> None:
    one, two = PostgresStore(database.url, schema="one"), PostgresStore(database.url, schema="two")
    assert await one.create(KEY, b"1")
    assert await kept_secret(two, KEY) is None
    await one.aclose()
    await two.aclose()


async def test_who_could_look_for_expired_sessions_still_can_when_the_tables_are_brought_forward(
    database, owner
) -> None:
    await migrate(owner, "callbox", released()[:1])
    plain = f"{database.name}_swept"
    await database.execute(
        f"CREATE ROLE {plain} LOGIN PASSWORD 'plain'",
        f"GRANT USAGE ON SCHEMA callbox TO {plain}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA callbox TO {plain}",
    )
    old = await asyncpg.connect(database.url, user=plain, password="plain")
    older = "SELECT tenant, session FROM callbox.expired($1, $2)"  # as a callbox of version 1 asks
    assert await old.fetch(older, 10.0, 10) == []
    await migrate(owner, "callbox", released())
    assert await old.fetch(older, 10.0, 10) == []
    assert await old.fetch("SELECT * FROM callbox.expired($1, $2, $3, $4, $5)", 10.0, 10, 1.0, "a", "b") == []
    await old.close()
    public = "SELECT has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc WHERE proname = 'expired'"
    assert [row[0] for row in await owner.fetch(public)] == [False]
    await database.execute(f"DROP OWNED BY {plain}", f"DROP ROLE {plain}")
