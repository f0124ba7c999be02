"""Sessions end when their time is over: forks first, never under somebody's hands, and with their sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time

import pytest

import support_stores
from callbox import errors
from callbox.gate.runners import sandbox as sandboxes
from callbox.sessions import retention
from callbox.sessions.journal import Journal
from callbox.sessions.sealing import life_of
from callbox.stores.memory import MemoryStore
from callbox.stores.store import Parent, SessionKey
from support_sessions import agent

KEY = SessionKey("default", "s")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request, tmp_path):
    async with getattr(support_stores, request.param)(tmp_path) as made:
        yield made


async def make(store, name, ends=None, parent=None, tenant="default"):
    key = SessionKey(tenant, name)
    assert await Journal(store, key).ensure(parent=parent and Parent(parent, 0), expires_at=ends)
    return key


async def collected(store, now, **options):
    return [(each.key.session, each.fate) async for each in retention.collect(store, now, **options)]


async def names(store, tenant="default"):
    return [info.key.session for info in await store.sessions(tenant)]


async def test_what_is_over_is_erased_for_all_tenants(store):
    await make(store, "old", 10.0)
    await make(store, "new", 30.0)
    await make(store, "kept")
    await make(store, "theirs", 10.0, tenant="other")
    assert sorted(await collected(store, 20.0)) == [("old", "erased"), ("theirs", "erased")]
    assert (await names(store), await names(store, "other")) == (["kept", "new"], [])
    assert await collected(store, 20.0) == []


async def test_forks_go_before_what_they_share(store):
    await make(store, "s", 1.0)
    await make(store, "a", 3.0, parent="s")
    await make(store, "b", 2.0, parent="a")
    assert await collected(store, 5.0) == [("b", "erased"), ("a", "erased"), ("s", "erased")]


async def test_what_a_fork_lives_on_is_kept_until_that_is_over(store):
    await make(store, "s", 1.0)
    await make(store, "live", parent="s")
    await make(store, "over", 1.0, parent="s")
    assert sorted(await collected(store, 5.0)) == [("over", "erased"), ("s", "has forks")]
    assert await names(store) == ["live", "s"]
    await store.erase(SessionKey("default", "live"))
    assert await collected(store, 5.0) == [("s", "erased")]


async def test_nobody_loses_the_session_that_is_worked_on(store):
    await make(store, "s", 1.0)
    async with Journal(store, KEY).writing():
        assert await collected(store, 5.0) == [("s", "in use")]
    assert await collected(store, 5.0) == [("s", "erased")]


async def test_many_are_collected_page_by_page():
    store = MemoryStore()
    for number in range(1_200):
        await make(store, f"s{number}", 1.0)
    assert len(await collected(store, 5.0)) == 1_200


@pytest.mark.parametrize("page_max", [1, 2, 3])
async def test_pages_of_sessions_that_are_kept_do_not_hide_those_behind_them(store, page_max):
    for number in range(3):
        await make(store, f"trunk{number}", 1.0)
        await make(store, f"live{number}", parent=f"trunk{number}")
    await make(store, "used", 1.0)
    await make(store, "behind", 2.0)
    await make(store, "behind it", 2.0, parent="behind")
    async with Journal(store, SessionKey("default", "used")).writing():
        fates = await collected(store, 5.0, page_max=page_max)
    assert fates == [
        *[(f"trunk{number}", "has forks") for number in range(3)],
        ("used", "in use"),
        ("behind it", "erased"),
        ("behind", "erased"),
    ]


async def test_a_collection_can_be_cancelled_and_done_again():
    store = MemoryStore()
    for number in range(50):
        await make(store, f"s{number}", 1.0)
    seen = []

    async def work():
        async for each in retention.collect(store, 5.0):
            seen.append(each)

    task = asyncio.create_task(work())
    while len(seen) < 10:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = await names(store)
    assert 0 < len(left) < 50
    assert len(await collected(store, 5.0)) == len(left)


async def test_every_run_moves_the_end(store):
    session = agent(store, [], "Yes.").session("s", ttl_s=100)
    before = time.time()
    await session.run("Hello")
    first = (await store.info(KEY)).expires_at
    assert before + 100 <= first <= time.time() + 100
    await session.run("Hello again")
    second = (await store.info(KEY)).expires_at
    assert second > first
    await session.resume()
    assert (await store.info(KEY)).expires_at > second
    await agent(store, [], "Yes.").session("s").run("Without saying so")
    assert (await store.info(KEY)).expires_at > second, "it stays as it was"
    fork = await agent(store, []).session("s").fork("f")
    assert (await store.info(fork.journal.key)).expires_at == (await store.info(KEY)).expires_at


async def test_the_longest_span_has_an_end_that_can_be_told(store):
    session = agent(store, [], "Yes.").session("s", ttl_s=retention.TTL_S_MAX)
    await session.run("Hello")
    assert (await session.export())["expires_at"].startswith("21")


@pytest.mark.parametrize(
    "ttl_s", [0, -1, float("nan"), float("inf"), 1e300, 10**400, retention.TTL_S_MAX + 1, "30", True]
)
def test_a_span_that_is_none_is_refused(ttl_s):
    with pytest.raises(errors.ConfigurationError, match="ttl_s is a number"):
        agent(MemoryStore(), []).session("s", ttl_s=ttl_s)


async def test_sandboxes_go_first_and_keep_the_session_if_they_cannot(store, monkeypatch):
    await make(store, "s")
    await make(store, "f", parent="s")
    asked = []
    keys = {await mark(store, key): key for key in (KEY, SessionKey("default", "f"))}

    async def delete(mark):
        asked.append((keys[mark].session, await store.info(keys[mark]) is not None))
        if len(asked) == 1:
            raise errors.SandboxLost("The supervisor died.")
        return 1

    monkeypatch.setattr(sandboxes, "delete_marked_sandboxes", delete)
    with pytest.raises(errors.SessionHasForks):
        await retention.erase(store, KEY)
    assert asked == [], "nothing of a session that stays is deleted"
    fork = agent(store, []).session("f")
    with pytest.raises(errors.SandboxLost):
        await fork.erase()
    assert await names(store) == ["f", "s"]
    assert await fork.erase()
    assert [key.session async for key in retention.erase_with_forks(store, KEY)] == ["s"]
    assert asked == [("f", True), ("f", True), ("f", False), ("s", True), ("s", False)]
    assert not await retention.erase(store, KEY)


async def mark(store, key):
    return sandboxes.life_mark(life_of(key, (await store.load(key, limit=0)).secret))


def change(file, statement):
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        assert db.execute(statement).rowcount == 1


DAMAGES = {
    "its row": "UPDATE sessions SET status = x'ff' WHERE session = 'bad'",
    "its secret": "DELETE FROM secrets WHERE id = (SELECT id FROM sessions WHERE session = 'bad')",
    "its fork": "UPDATE sessions SET session = x'ff' WHERE session = 'fork'",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_session_that_cannot_be_read_is_kept_and_hides_none_behind_it(tmp_path, damage):
    async with support_stores.sqlite(tmp_path) as store:
        await make(store, "before", 1.0)
        await make(store, "bad", 2.0)
        await make(store, "fork", parent="bad")
        await make(store, "behind", 3.0)
        if "'fork'" not in damage:
            await store.erase(SessionKey("default", "fork"))
        change(tmp_path / "store.db", damage)
        assert await collected(store, 5.0) == [("before", "erased"), ("bad", "damaged"), ("behind", "erased")]
        assert await collected(store, 5.0) == [("bad", "damaged")]


async def test_a_session_without_its_secret_can_be_forgotten(tmp_path, caplog):
    async with support_stores.sqlite(tmp_path) as store:
        await make(store, "bad")
        change(tmp_path / "store.db", DAMAGES["its secret"])
        assert await retention.erase(store, SessionKey("default", "bad"))
        assert "cannot be found" in caplog.text
        assert await names(store) == []
