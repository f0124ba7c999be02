"""What SQLite adds to the contract: several processes, migrations, erasure from the files, disks that are full."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import sqlite3
import stat
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callbox.errors import ConfigurationError, JournalDamaged, SessionBusy, SessionFenced, StoreError, StoreUnavailable
from callbox.stores.sqlite import schema
from callbox.stores.sqlite.connection import connect
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import Event, NewEvent, SessionKey, this_process
from support_stores import ManualClock, begin, contents, given, new_events, new_key, read_all

DEADLINE_S = 20.0
WRITE_FROM_ANOTHER = """
import asyncio, sys
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import NewEvent, SessionKey
async def main():
    store = SqliteStore(sys.argv[1])
    key = SessionKey("acme", sys.argv[2])
    await store.create(key, b"s")
    lease = await store.acquire(key, "another", ttl_s=60)
    last = (await store.info(key)).last_seq
    for seq in range(last, last + int(sys.argv[3])):
        await store.append(lease, seq, [NewEvent("note", b"%d" % (seq + 1))], status="idle")
    await store.release(lease)
    await store.aclose()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(path)
    yield made
    await made.aclose()


async def another(path: Path, session: str, count: int) -> None:
    """Append from another process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITE_FROM_ANOTHER, str(path), session, str(count), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


def bytes_of(path: Path) -> bytes:
    """All files of the database."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


# Files and processes


async def test_a_file_that_is_opened_again_has_everything(store: SqliteStore, path: Path) -> None:
    key, events = new_key(), new_events(5)
    lease = await begin(store, key)
    await store.append(lease, 0, events, status="waiting")
    beside = SqliteStore(path)
    assert contents(await beside.read(key)) == given(events)
    with pytest.raises(SessionBusy):
        await beside.acquire(key, "second", ttl_s=60)
    await beside.aclose()
    await store.aclose()
    again = SqliteStore(path)
    info = await again.info(key)
    assert info is not None
    assert (info.last_seq, info.status, info.owner) == (5, "waiting", "writer")
    assert contents(await again.read(key)) == given(events)
    await again.append(lease, 5, new_events(1), status="idle")  # the lease is still the newest
    await again.aclose()


async def test_only_this_user_may_read_the_file(store: SqliteStore, path: Path) -> None:
    await begin(store, new_key())
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_processes_write_one_file_together(store: SqliteStore, path: Path) -> None:
    names = [new_key().session for _ in range(3)]
    key = new_key()
    lease = await begin(store, key)

    async def here() -> None:
        for seq in range(60):
            await store.append(lease, seq, new_events(1), status="idle")

    await asyncio.gather(here(), *(another(path, name, 40) for name in names))
    assert [event.seq for event in await store.read(key)] == list(range(1, 61))
    for name in names:
        assert [event.body for event in await store.read(SessionKey("acme", name))] == [b"%d" % n for n in range(1, 41)]


async def test_a_lease_taken_by_another_process_fences_this_one(path: Path) -> None:
    clock = ManualClock()
    store, other = SqliteStore(path, clock=clock), SqliteStore(path, clock=clock)
    key = new_key()
    lease = await begin(store, key, owner=this_process("w"), ttl_s=30)
    clock.now += 29
    with pytest.raises(SessionBusy):
        await other.acquire(key, "other", ttl_s=30)
    clock.now += 1
    await other.acquire(key, "other", ttl_s=30)
    with pytest.raises(SessionFenced):
        await store.append(lease, 0, new_events(1), status="idle")
    await store.aclose()
    await other.aclose()


async def test_an_end_that_is_too_far_ahead_is_not_believed(path: Path) -> None:
    clock = ManualClock()
    store = SqliteStore(path, clock=clock)
    key = new_key()
    lease = await begin(store, key, ttl_s=30)
    clock.now -= 365 * 86_400
    info = await store.info(key)
    assert info is not None
    assert info.owner is None
    assert (await store.acquire(key, "other", ttl_s=30)).fence > lease.fence
    await store.aclose()


async def test_following_sees_what_another_process_appends(store: SqliteStore, path: Path) -> None:
    key = new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(1), status="idle")
    await store.release(lease)
    seen: list[Event] = []

    async def follow() -> None:
        async for event in store.follow(key, after=1):
            seen.append(event)
            if event.seq == 6:
                return

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        group.create_task(follow())
        await another(path, key.session, 5)
    assert [event.body for event in seen] == [b"%d" % n for n in range(2, 7)]


async def test_following_ends_when_another_process_erases(store: SqliteStore, path: Path) -> None:
    key = new_key()
    await begin(store, key)
    task = asyncio.ensure_future(anext(store.follow(key), None))
    other = SqliteStore(path)
    assert await other.erase(key)
    async with asyncio.timeout(DEADLINE_S):
        assert await task is None
    await other.aclose()


async def test_nobody_looks_at_the_file_when_nobody_follows(store: SqliteStore) -> None:
    key = new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(1), status="idle")

    def looking() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "callbox-sqlite-follow"]

    followers = [store.follow(key) for _ in range(5)]
    for follower in followers:
        await anext(follower)
    assert len(looking()) == 1
    for follower in followers:
        await follower.aclose()
    async with asyncio.timeout(DEADLINE_S):
        while looking():
            await asyncio.sleep(0.01)


async def test_closing_tells_those_who_follow(store: SqliteStore) -> None:
    key = new_key()
    await begin(store, key)
    task = asyncio.ensure_future(anext(store.follow(key)))
    while not any(thread.name == "callbox-sqlite-follow" for thread in threading.enumerate()):
        await asyncio.sleep(0)
    await store.aclose()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(StoreUnavailable, match="closed"):
            await task


# Commits


async def test_what_waits_shares_one_commit(store: SqliteStore, path: Path) -> None:
    keys = [new_key() for _ in range(40)]
    leases = [await begin(store, key) for key in keys]
    watch = connect(path, busy_timeout_s=1)
    block = connect(path, busy_timeout_s=1)
    block.execute("BEGIN IMMEDIATE")  # while this is held, all of them come to wait
    tasks = [asyncio.ensure_future(store.append(lease, 0, new_events(1), status="idle")) for lease in leases]
    await asyncio.sleep(0)
    before = watch.execute("PRAGMA data_version").fetchone()
    block.execute("ROLLBACK")
    commits = 0
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        after = watch.execute("PRAGMA data_version").fetchone()
        commits, before = commits + (after != before), after
    assert await asyncio.gather(*tasks) == [None] * 40
    assert commits <= 3  # the first alone, those that waited together
    watch.close()
    block.close()


async def test_a_write_that_cannot_be_done_at_all_fails_alone(store: SqliteStore) -> None:
    keys = [new_key() for _ in range(3)]
    leases = [await begin(store, key) for key in keys]
    lone = "\ud800"  # no UTF-8: the binding fails, in the middle of a transaction
    done = await asyncio.gather(
        store.append(leases[0], 0, new_events(1), status="idle"),
        store.append(leases[1], 0, [*new_events(1), NewEvent(lone, b"x")], status="idle"),
        store.append(leases[2], 0, new_events(1), status="idle"),
        return_exceptions=True,
    )
    assert done[0] is None
    assert isinstance(done[1], UnicodeEncodeError)
    assert done[2] is None
    assert [len(await store.read(key)) for key in keys] == [1, 0, 1]


async def test_a_lock_that_is_not_given_is_unavailable_and_then_it_goes_on(path: Path) -> None:
    store = SqliteStore(path, busy_timeout_s=0.1)
    key = new_key()
    lease = await begin(store, key)
    block = connect(path, busy_timeout_s=1)
    block.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable) as error:
        await store.append(lease, 0, new_events(1), status="idle")
    assert error.value.retryable
    assert await store.read(key) == []  # reading goes on
    block.execute("ROLLBACK")
    block.close()
    await store.append(lease, 0, new_events(1), status="idle")
    await store.aclose()


async def test_a_full_disk_is_unavailable_and_with_room_it_goes_on(store: SqliteStore, path: Path) -> None:
    key = new_key()
    lease = await begin(store, key)
    events = new_events(1, size_bytes=200_000)
    await store.append(lease, 0, new_events(1), status="idle")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))  # Python ignores SIGXFSZ: writing fails with EFBIG
    try:
        with pytest.raises(StoreUnavailable) as error:
            await store.append(lease, 1, events, status="idle")
        assert "room" in str(error.value) or "goes on" in str(error.value)
        assert len(await store.read(key)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await store.append(lease, 1, events, status="idle")
    assert contents(await store.read(key, after=1)) == given(events)


async def test_one_store_serves_event_loops_one_after_the_other(path: Path) -> None:
    store = SqliteStore(path)
    key = new_key()

    async def step(seq: int) -> None:
        lease = await store.acquire(key, "w", ttl_s=60)
        await store.append(lease, seq, new_events(1), status="idle")
        await store.release(lease)

    await store.create(key, b"s")
    for seq in range(3):
        await asyncio.to_thread(asyncio.run, step(seq))
    assert len(await store.read(key)) == 3
    await store.aclose()


# Migrations


async def test_an_older_file_is_migrated_and_keeps_its_events(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    key, events = new_key(), new_events(3)
    await store.append(await begin(store, key), 0, events, status="idle")
    await store.aclose()
    newer = (*schema.MIGRATIONS, ("ALTER TABLE sessions ADD COLUMN label TEXT NOT NULL DEFAULT 'none'",))
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    made = await asyncio.gather(*(asyncio.to_thread(connect, path, busy_timeout_s=5) for _ in range(4)))
    for db in made:
        assert db.execute("SELECT label FROM sessions").fetchall() == [("none",)]
        assert schema.version_of(db) == len(newer)
        db.close()
    monkeypatch.undo()
    old = SqliteStore(path)
    for use in (old.read(key), old.acquire(key, "w", ttl_s=60)):
        with pytest.raises(StoreError, match="newer callbox") as error:
            await use
        assert not isinstance(error.value, StoreUnavailable)
    await old.aclose()


async def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    key, events = new_key(), new_events(3)
    await store.append(await begin(store, key), 0, events, status="idle")
    await store.aclose()
    broken = (*schema.MIGRATIONS, ("ALTER TABLE sessions ADD COLUMN label TEXT", "NO SUCH STATEMENT"))
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(sqlite3.OperationalError):
        connect(path, busy_timeout_s=1)
    monkeypatch.undo()
    again = SqliteStore(path)
    assert contents(await again.read(key)) == given(events)
    await again.aclose()


async def test_a_file_that_is_migrated_while_it_is_open_is_not_written_any_more(store: SqliteStore, path: Path) -> None:
    key = new_key()
    lease = await begin(store, key)
    db = connect(path, busy_timeout_s=1)
    db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(StoreError, match="newer callbox"):
        await store.append(lease, 0, new_events(1), status="idle")


async def test_the_files_of_others_are_left_alone(tmp_path: Path) -> None:
    foreign, junk = tmp_path / "foreign.db", tmp_path / "junk.db"
    db = sqlite3.connect(foreign)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    junk.write_bytes(b"this is no database" * 1_000)
    for file, error in ((foreign, StoreError), (junk, JournalDamaged)):
        store = SqliteStore(file)
        with pytest.raises(error):
            await store.create(new_key(), b"s")
        with pytest.raises(error):
            await store.info(new_key())
        await store.aclose()
    assert sqlite3.connect(foreign).execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


async def test_a_file_that_must_be_there_is_not_made(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "not" / "there.db", create=False)
    with pytest.raises(ConfigurationError, match="no file"):
        await store.create(new_key(), b"s")
    with pytest.raises(ConfigurationError, match="no file"):
        await store.info(new_key())
    assert list(tmp_path.iterdir()) == []
    await store.aclose()


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = SqliteStore(tmp_path / "file" / "store.db")
    with pytest.raises(StoreUnavailable):
        await store.create(new_key(), b"s")
    with pytest.raises(StoreUnavailable):
        await store.info(new_key())
    with pytest.raises(ConfigurationError):
        await store.append(await _no_lease(), 0, [], status="idle")
    await store.aclose()


async def _no_lease():
    from callbox.stores.store import Lease

    return Lease(new_key(), 1, "w", 60)


# Erasure


async def test_an_erased_session_is_in_no_file_of_the_database(store: SqliteStore, path: Path) -> None:
    key, other = new_key(), new_key()
    secret, other_secret = os.urandom(32), os.urandom(32)
    await store.create(key, secret)
    await store.create(other, other_secret)
    lease, other_lease = await store.acquire(key, "w", ttl_s=60), await store.acquire(other, "w", ttl_s=60)
    events = [*new_events(20), *new_events(2, size_bytes=50_000)]
    for seq, event in enumerate(events):
        await store.append(lease, seq, [event], status="idle")
        await store.append(other_lease, seq, new_events(1), status="idle")
    there = bytes_of(path)
    assert secret in there
    assert all(event.body[:16] in there for event in events)
    assert await store.erase(key)
    left = bytes_of(path)
    assert secret not in left
    assert other_secret in left
    for event in events:
        assert all(event.body[at : at + 16] not in left for at in range(0, len(event.body) - 16, 2_000))


async def test_secrets_are_gone_whatever_the_order_in_which_sessions_come_and_go(path: Path) -> None:
    chance = random.Random(1)
    store = SqliteStore(path)
    alive: dict[SessionKey, bytes] = {}
    gone: list[bytes] = []
    for _ in range(8):  # deleting the rows instead of overwriting them leaves a few secrets behind here
        new = {new_key(): os.urandom(chance.choice([32])) for _ in range(500)}
        await asyncio.gather(*(store.create(key, secret) for key, secret in new.items()))
        alive |= new
        doomed = chance.sample(list(alive), chance.choice([300, 400, 480]))
        assert all(await asyncio.gather(*(store.erase(key) for key in doomed)))
        gone += [alive.pop(key) for key in doomed]
    left = bytes_of(path)
    assert not [secret for secret in gone if secret[:8] in left or secret[-8:] in left]
    assert all(secret in left for secret in alive.values())
    await store.aclose()


async def test_erasing_while_another_reads_the_log_says_so_and_can_be_asked_again(path: Path) -> None:
    store = SqliteStore(path, busy_timeout_s=0.1)
    key, secret = new_key(), os.urandom(32)
    await store.create(key, secret)
    reader = connect(path, busy_timeout_s=1)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM sessions").fetchall()
    with pytest.raises(StoreUnavailable, match="reads"):
        await store.erase(key)
    reader.execute("COMMIT")
    assert await store.erase(key) is False
    assert secret not in bytes_of(path)
    reader.close()
    await store.aclose()


async def test_an_erasure_that_a_crash_cut_short_is_finished_by_the_next_opening(path: Path) -> None:
    store = SqliteStore(path, busy_timeout_s=0.1)
    key, secret = new_key(), os.urandom(32)
    await store.create(key, secret)
    reader = connect(path, busy_timeout_s=1)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM sessions").fetchall()
    with pytest.raises(StoreUnavailable):
        await store.erase(key)
    await store.aclose()
    reader.execute("COMMIT")
    assert secret in bytes_of(path)
    again = SqliteStore(path)
    await again.create(new_key(), b"s")
    assert secret not in bytes_of(path)
    reader.close()
    await again.aclose()


async def test_a_journal_takes_little_more_than_its_bodies(path: Path) -> None:
    store = SqliteStore(path)
    keys = [new_key() for _ in range(10)]
    leases = [await begin(store, key) for key in keys]
    for seq in range(200):
        events = [[NewEvent("outcome", os.urandom(400), f"call-{seq}")] for _ in keys]
        writes = (store.append(lease, seq, event, status="idle") for lease, event in zip(leases, events, strict=True))
        await asyncio.gather(*writes)
    assert len(await read_all(store, keys[0])) == 200
    await store.aclose()
    assert path.stat().st_size < 2 * 400 * 200 * 10
