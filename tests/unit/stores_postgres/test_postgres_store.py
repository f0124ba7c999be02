"""What is particular to Postgres: shared commits, erasure on the disk, lost servers, and what errors say."""

from __future__ import annotations

import asyncio
import logging
import os
import traceback

import asyncpg
import pytest

from callbox.errors import (
    CallboxError,
    ConfigurationError,
    JournalConflict,
    SessionBusy,
    SessionFenced,
    StoreError,
    StoreUnavailable,
)
from callbox.stores.postgres.store import PostgresStore
from callbox.stores.store import NewEvent, SessionKey
from support_postgres import PASSWORD
from support_stores import kept_secret

KEY = SessionKey("acme", "one")


async def until(what: str, condition, deadline_s: float = 20) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


async def begin(store: PostgresStore, key: SessionKey = KEY, secret: bytes = b"secret"):
    assert await store.create(key, secret)
    return await store.acquire(key, "writer", ttl_s=600)


# Commits


async def test_appends_of_many_tenants_share_commits(database, store) -> None:
    leases = [await begin(store, SessionKey(f"tenant {n % 5}", f"session {n}")) for n in range(100)]
    await asyncio.gather(*(store.append(lease, 0, [NewEvent("intent", b"x")], status="running") for lease in leases))
    rows = await database.execute("SELECT count(*), count(DISTINCT xmin::text) FROM callbox.events")
    assert tuple(rows[0]) == (100, 1)
    rows = await database.execute("SELECT count(*) FROM callbox.events e JOIN callbox.sessions s USING (tenant, id)")
    assert rows[0][0] == 100


async def test_an_append_reads_no_more_rows_as_the_tables_grow(database) -> None:
    """With plans that were made while they were empty, which is when a server starts."""
    store = PostgresStore(database.url, connections_max=1)
    lease = await begin(store)
    await store.append(lease, 0, [NewEvent("intent", b"x", key="0")], status="running")
    await database.execute(
        "ALTER TABLE callbox.sessions SET (autovacuum_enabled = off)",
        "ALTER TABLE callbox.events SET (autovacuum_enabled = off)",
    )
    await store.append(lease, 1, [NewEvent("intent", b"x", key="1")], status="running")
    await database.execute(
        "INSERT INTO callbox.sessions (tenant, session, created_at, updated_at, last_seq)"
        " SELECT 'acme', 'other ' || n, 0, 0, 0 FROM generate_series(1, 5000) n",
        "INSERT INTO callbox.events (tenant, id, seq, at, kind, key, body)"
        " SELECT 'acme', 1000 + n % 10, n, 0, 'intent', n, '' FROM generate_series(1, 5000) n",
    )
    async with store._here().use("count") as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")
        read = "SELECT sum(idx_tup_fetch + coalesce(seq_tup_read, 0)) FROM pg_stat_xact_user_tables"
        async with connection.transaction():
            await connection.fetch(
                "SELECT * FROM append_events('{acme}', '{one}', $1, '{2}', '{1}', '{0}', '{running}',"
                " '{1}', '{intent}', '{k}', '{x}')",
                [lease.fence],
            )
            assert await connection.fetchval(read) < 20
    await store.aclose()


async def test_an_append_that_is_refused_does_not_spoil_those_it_is_committed_with(store) -> None:
    leases = [await begin(store, SessionKey("acme", f"session {n}")) for n in range(6)]
    await store.append(leases[1], 0, [NewEvent("intent", b"first", key="taken")], status="running")
    await store.release(leases[2])
    await store.acquire(leases[2].key, "another", ttl_s=600)
    await store.erase(leases[3].key)
    answers = await asyncio.gather(
        store.append(leases[0], 0, [NewEvent("intent", b"good")], status="running"),
        store.append(leases[1], 1, [NewEvent("intent", b"other", key="taken")], status="running"),
        store.append(leases[2], 0, [NewEvent("intent", b"stale")], status="running"),
        store.append(leases[3], 0, [NewEvent("intent", b"erased")], status="running"),
        store.append(leases[4], 7, [NewEvent("intent", b"gap")], status="running"),
        store.append(leases[5], 0, [NewEvent("intent", b"good")], status="running"),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [type(None), JournalConflict, SessionFenced, SessionFenced, JournalConflict, type(None)]
    assert [event.body for event in await store.read(leases[0].key)] == [b"good"]
    assert [event.body for event in await store.read(leases[1].key)] == [b"first"]


async def test_an_append_that_breaks_the_statement_does_not_spoil_the_others(store) -> None:
    leases = [await begin(store, SessionKey("acme", f"session {n}")) for n in range(3)]
    endless = os.urandom(8000).hex()  # longer than an index takes, and it does not compress
    answers = await asyncio.gather(
        *(
            store.append(lease, 0, [NewEvent("intent", b"x", key=key)], status="running")
            for lease, key in zip(leases, ("a", endless, "b"), strict=True)
        ),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [type(None), ConfigurationError, type(None)]
    assert endless[:40] not in str(answers[1])
    assert [len(await store.read(lease.key)) for lease in leases] == [1, 0, 1]


async def test_two_processes_with_one_lease_append_each_number_once(database, store) -> None:
    """A lease that was copied: row locks, taken in one order, decide and do not end in a deadlock."""
    another = PostgresStore(database.url)
    leases = [await begin(store, SessionKey(f"tenant {n % 3}", f"session {n}")) for n in range(60)]
    for after in range(5):
        body = [[NewEvent("intent", b"%d by %d" % (after, who))] for who in range(2)]
        answers = await asyncio.gather(
            *(store.append(lease, after, body[0], status="running") for lease in leases),
            *(another.append(lease, after, body[1], status="running") for lease in reversed(leases)),
            return_exceptions=True,
        )
        assert {type(answer) for answer in answers} == {type(None), JournalConflict}
        assert sum(answer is None for answer in answers) == len(leases)
    await another.aclose()


async def test_two_appends_of_one_session_come_one_after_the_other(store) -> None:
    lease = await begin(store)
    await asyncio.gather(
        *(store.append(lease, n, [NewEvent("intent", b"%d" % n)], status="running") for n in range(20))
    )
    assert [event.body for event in await store.read(KEY)] == [b"%d" % n for n in range(20)]


async def test_an_append_that_is_cancelled_while_it_waits_is_not_made(store) -> None:
    lease = await begin(store)
    first = asyncio.create_task(store.append(lease, 0, [NewEvent("intent", b"1")], status="running"))
    second = asyncio.create_task(store.append(lease, 1, [NewEvent("intent", b"2")], status="running"))
    await asyncio.sleep(0)
    second.cancel()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second
    await store.append(lease, 1, [NewEvent("intent", b"3")], status="running")
    assert [event.body for event in await store.read(KEY)] == [b"1", b"3"]


async def test_commits_are_synchronous_whatever_the_servers_default_is(database) -> None:
    await database.execute(f"ALTER ROLE {database.name} SET synchronous_commit = off")
    store = PostgresStore(database.url)
    await store.create(KEY, b"secret")
    async with store._here().use("ask") as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
    await store.aclose()


async def test_closing_commits_what_waits(database) -> None:
    store = PostgresStore(database.url)
    lease = await begin(store)
    asked = asyncio.create_task(store.append(lease, 0, [NewEvent("intent", b"last")], status="running"))
    await asyncio.sleep(0)
    await store.aclose()
    await asked
    again = PostgresStore(database.url)
    assert [event.body for event in await again.read(KEY)] == [b"last"]
    await again.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.info(KEY)


def test_a_store_can_be_used_in_one_event_loop_after_another(database_url: str) -> None:
    store = PostgresStore(database_url)

    async def once(n: int) -> bool:
        return await store.create(SessionKey("acme", f"loop {n}"), b"secret")

    assert asyncio.run(once(1))
    assert asyncio.run(once(2))
    asyncio.run(store.aclose())


# Leases


async def test_the_end_of_a_lease_is_read_by_the_servers_clock_and_not_believed_too_far_ahead(database, store) -> None:
    await store.create(KEY, b"secret")
    lease = await store.acquire(KEY, "a writer of some host", ttl_s=100)
    set_end = "UPDATE callbox.sessions SET lease_until = extract(epoch FROM clock_timestamp())"
    for seconds in (1, 99):
        await database.execute(f"{set_end} + {seconds}")
        with pytest.raises(SessionBusy):
            await store.acquire(KEY, "another", ttl_s=100)
    for seconds in (-1, 200, 1e9):
        await database.execute(f"{set_end} + {seconds}")
        info = await store.info(KEY)
        assert info is not None
        assert info.owner is None
        newer = await store.acquire(KEY, "another", ttl_s=100)
        assert newer.fence > lease.fence
        lease = newer


# Erasure


def files_with(database, needle: bytes) -> list[str]:
    """Files of all databases that have it."""
    base = database.server.data / "base"
    return [str(path) for path in base.rglob("*") if path.is_file() and needle in path.read_bytes()]


async def test_an_erased_secret_is_in_no_file_of_the_database(database, store) -> None:
    secrets = [os.urandom(32) for _ in range(20)]
    for n, secret in enumerate(secrets):
        await begin(store, SessionKey("acme", f"session {n}"), secret)
    await database.execute("ANALYZE", "CHECKPOINT")
    assert files_with(database, secrets[7])
    old = await asyncpg.connect(database.server.url(database.name))
    transaction = old.transaction(isolation="repeatable_read")
    await transaction.start()
    await old.fetch("SELECT count(*) FROM callbox.sessions")  # a snapshot that could still see the row
    await asyncio.gather(*(store.erase(SessionKey("acme", f"session {n}")) for n in (7, 8, 9)))
    await database.execute("CHECKPOINT")
    for n in (7, 8, 9):
        assert files_with(database, secrets[n]) == []
    assert files_with(database, secrets[6])
    assert await kept_secret(store, SessionKey("acme", "session 6")) == secrets[6]
    await transaction.rollback()
    await old.close()
    await database.execute("ANALYZE", "CHECKPOINT")
    assert files_with(database, secrets[6])[1:] == []  # in its table, and in no statistics


async def test_deleting_and_vacuum_would_leave_the_secret_in_the_file(database, store) -> None:
    """Why the table is written anew; and an erasure that was cut off between its two steps is finished by the next."""
    secrets = [os.urandom(32) for _ in range(3)]
    for n, secret in enumerate(secrets):
        await store.create(SessionKey("acme", f"session {n}"), secret)
    connection = await asyncpg.connect(database.url, server_settings={"search_path": "callbox"})
    assert await connection.fetchval("SELECT erase_session('acme', 'session 2')") == "erased"
    await connection.close()
    await database.execute("VACUUM callbox.secrets", "CHECKPOINT")
    assert files_with(database, secrets[2])
    another = PostgresStore(database.url)
    assert await another.info(SessionKey("acme", "session 2")) is None
    await another.aclose()
    await database.execute("CHECKPOINT")
    assert files_with(database, secrets[2]) == []


async def test_an_erasure_that_cannot_lock_the_secrets_says_so_and_is_finished_later(database) -> None:
    store = PostgresStore(database.url, lock_s=0.2)
    secret = os.urandom(32)
    await store.create(KEY, secret)
    reader = await asyncpg.connect(database.server.url(database.name))
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute("LOCK TABLE callbox.secrets IN ACCESS SHARE MODE")
    with pytest.raises(StoreUnavailable, match="overwrite erased secrets"):
        await store.erase(KEY)
    assert await kept_secret(store, KEY) is None
    await transaction.rollback()
    await reader.close()
    assert await store.erase(KEY) is False
    await database.execute("CHECKPOINT")
    assert files_with(database, secret) == []
    await store.aclose()


async def test_erasing_and_creating_at_the_same_time_do_not_lock_each_other_out(store) -> None:
    keys = [SessionKey("acme", f"session {n}") for n in range(10)]
    for _ in range(5):
        async with asyncio.timeout(20):
            await asyncio.gather(*(store.create(key, b"s") for key in keys), *(store.erase(key) for key in keys))


# Servers that are not there


async def kick(database) -> None:
    await database.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{database.name}'")


async def test_a_follower_survives_connections_that_are_ended(database, store, caplog) -> None:
    lease = await begin(store)
    seen: list[int] = []

    async def follow() -> None:
        async for event in store.follow(KEY):
            seen.append(event.seq)

    follower = asyncio.create_task(follow())
    seq = 0
    for round_ in range(5):
        for _ in range(3):
            while True:
                try:
                    await store.append(lease, seq, [NewEvent("intent", b"%d" % seq)], status="running")
                except StoreUnavailable:
                    continue
                break
            seq += 1
            if round_ % 2:
                await kick(database)
        await until("it has all", lambda seq=seq: len(seen) == seq)
    assert seen == list(range(1, seq + 1))
    while not await erased(store):
        pass
    await asyncio.wait_for(follower, 20)  # it ends with the session


async def test_a_follower_of_an_erased_session_does_not_go_on_with_its_successor(store) -> None:
    await begin(store)
    seen: list[bytes] = []

    async def follow() -> None:
        async for event in store.follow(KEY):
            seen.append(event.body)

    for _ in range(10):
        follower = asyncio.create_task(follow())
        await until("it follows", lambda: store._following._listening.is_set())
        await store.erase(KEY)
        lease = await begin(store)
        await store.append(lease, 0, [NewEvent("intent", b"of the successor")], status="running")
        await asyncio.wait([follower], timeout=20)
        assert follower.done()
        assert seen == []
        await store.erase(KEY)
        await begin(store)


async def erased(store: PostgresStore) -> bool:
    try:
        await store.erase(KEY)
        return await store.info(KEY) is None
    except StoreUnavailable:
        return False


async def test_there_is_one_listening_connection_and_only_while_somebody_follows(database, store) -> None:
    await begin(store)
    await begin(store, SessionKey("bravo", "two"))

    async def listening() -> int:
        query = f"SELECT count(*) FROM pg_locks l JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND usename = '{database.name}'"  # noqa: E501
        return (await database.execute(query))[0][0]

    async def follow(key: SessionKey) -> None:
        async for _ in store.follow(key):
            pass

    async def settles(count: int) -> None:
        async with asyncio.timeout(10):
            while await listening() != count:
                await asyncio.sleep(0.01)

    assert await listening() == 0
    followers = [asyncio.create_task(follow(key)) for key in (KEY, KEY, SessionKey("bravo", "two"))]
    await settles(1)
    for follower in followers[:2]:
        follower.cancel()
    await asyncio.wait(followers[:2])
    assert await listening() == 1
    followers[2].cancel()
    await asyncio.wait(followers)
    await settles(0)


async def test_who_listens_in_the_same_database_learns_no_name(database, store) -> None:
    heard: list[str] = []
    listener = await asyncpg.connect(database.url)
    await listener.add_listener("callbox", lambda *args: heard.append(args[3]))
    await listener.execute("SELECT 1")
    lease = await begin(store)
    reading = store.follow(KEY)
    following = asyncio.create_task(anext(reading))
    while not heard:
        info = await store.info(KEY)
        await store.append(lease, info.last_seq, [NewEvent("intent", b"x")], status="running")
        await listener.execute("SELECT 1")
    await following
    await reading.aclose()
    await listener.close()
    assert not any(word in payload for payload in heard for word in ("acme", "one"))


@pytest.mark.parametrize("state", ["53100", "53200", "53300", "57P01", "57P03", "58030", "40P01"])
async def test_an_append_that_the_server_could_not_make_can_be_asked_again(database, store, state: str) -> None:
    """The server's own codes: disk full, out of memory, too many connections, shutdown, starting, I/O, deadlock."""
    lease = await begin(store)
    await database.execute(
        f"CREATE FUNCTION callbox.fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON callbox.events FOR EACH ROW EXECUTE FUNCTION callbox.fail()",
    )
    with pytest.raises(StoreUnavailable) as caught:
        await store.append(lease, 0, [NewEvent("intent", b"x")], status="running")
    assert caught.value.retryable
    await database.execute("DROP TRIGGER fail ON callbox.events")
    await store.append(lease, 0, [NewEvent("intent", b"x")], status="running")
    assert len(await store.read(KEY)) == 1


async def test_too_many_connections_are_unavailable_until_there_is_room(database) -> None:
    store = PostgresStore(database.url)
    await database.execute(f"ALTER ROLE {database.name} CONNECTION LIMIT 0")
    with pytest.raises(StoreUnavailable):
        await store.info(KEY)
    await database.execute(f"ALTER ROLE {database.name} CONNECTION LIMIT -1")
    assert await store.info(KEY) is None
    await store.aclose()


async def test_a_statement_that_waits_too_long_is_given_up_and_its_connection_too(database) -> None:
    store = PostgresStore(database.url, command_s=0.3, connections_max=1)
    lease = await begin(store)
    holder = await asyncpg.connect(database.server.url(database.name))
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM callbox.sessions FOR UPDATE")
    with pytest.raises(StoreUnavailable):
        await store.append(lease, 0, [NewEvent("intent", b"x")], status="running")
    await transaction.rollback()
    await holder.close()
    await store.append(lease, 0, [NewEvent("intent", b"x")], status="running")
    assert len(await store.read(KEY)) == 1
    await store.aclose()


# What errors say


async def test_no_error_and_no_log_has_the_password(database, caplog) -> None:
    there = database.server
    good = there.url(database.name, database.name)
    urls = [
        good.replace(str(there.port), "1"),
        good.replace(database.name, "nobody"),
        good.replace(f"/{database.name}", "/nowhere"),
        good.replace("postgresql://", "mysql://"),
        good.replace(str(there.port), "port"),
        good.replace("%20", "%20%20"),
        f"postgresql://{there.host}:{there.port}/{database.name}?user={database.name}&password={PASSWORD}&sslmode=none",
    ]
    caplog.set_level(logging.DEBUG)
    for url in urls:
        store = PostgresStore(url)
        with pytest.raises(CallboxError) as caught:
            await store.info(KEY)
        text = "".join(traceback.format_exception(caught.value)) + repr(store) + caplog.text
        for word in (PASSWORD, PASSWORD.replace(" ", "%20")):
            assert word not in text
        await store.aclose()
    assert database.name in repr(PostgresStore(good))


def test_a_schema_is_a_plain_name() -> None:
    for schema in ("a b", "a;b", "", "pg_x", "Ä", 'a"b', "x" * 60):
        with pytest.raises(ConfigurationError):
            PostgresStore("postgresql://localhost/x", schema=schema)


async def test_names_that_no_column_takes_are_refused(store) -> None:
    for key in (SessionKey("acme", "a\0b"), SessionKey("a\ud800", "b")):
        with pytest.raises((ConfigurationError, StoreError)):
            await store.create(key, b"secret")
    lease = await begin(store)
    with pytest.raises(ConfigurationError):
        await store.append(lease, 0, [NewEvent("intent", b"", key="a\0b")], status="running")
    with pytest.raises(ConfigurationError):
        await store.append(lease, 0, [NewEvent("intent", b"", key="\ud800")], status="running")
