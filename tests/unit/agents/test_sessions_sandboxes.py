"""A session's sandboxes are those of this very session: not of one that has or had its id, here or in another store."""

from __future__ import annotations

import asyncio

import pytest

import support_boxes
import support_stores
from callbox import Agent, CallContext, Gate, ToolCall, errors, tool
from callbox.gate.caller import Caller
from callbox.gate.runners import sandbox
from callbox.sessions import retention
from callbox.sessions.sealing import life_of, new_secret
from callbox.stores.memory import MemoryStore
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import SessionKey
from support_boxes import count
from support_sessions import call, script

KEY = SessionKey("default", "s")


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLBOX_HOME", str(tmp_path / "home"))
    return support_boxes.use(monkeypatch)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request, tmp_path):
    async with getattr(support_stores, request.param)(tmp_path) as made:
        yield made


def session(store, name="s", *tools, **options):
    return Agent(model=script(call("count"), "ok"), tools=[count, *tools], store=store).session(name, **options)


async def counted(session):
    run = await session.run("Count.")
    return run.results[-1].value


async def test_a_session_finds_its_sandbox_from_every_process(host, tmp_path):
    for expected in (1, 2, 3):
        store = SqliteStore(tmp_path / "a.db")
        assert await counted(session(store)) == expected
        await store.aclose()
    assert len(host.boxes) == 1


async def test_the_same_id_in_another_store_is_another_session(host, store, tmp_path):
    other = SqliteStore(tmp_path / "other.db")
    assert [await counted(session(each)) for each in (store, other, MemoryStore())] == [1, 1, 1]
    assert await session(other).erase()
    assert await counted(session(store)) == 2, "what was erased was the other's"
    await other.aclose()


async def test_a_session_that_is_made_anew_begins_empty_whatever_is_left(host, store):
    assert await counted(session(store)) == 1
    kept = dict(host.boxes)
    assert await session(store).erase()
    assert host.boxes == {}
    host.boxes = kept  # as on another host, where nobody has erased anything
    assert await counted(session(store)) == 1


async def test_a_run_that_is_overtaken_by_the_erasure_leaves_nothing_to_the_next_session(host, store):
    """An attacker has his own session's id used again, or waits for a customer whose id returns."""
    arrived, erased = asyncio.Event(), asyncio.Event()
    find = host.open

    async def late(name, *, home):
        arrived.set()
        await erased.wait()
        return await find(name, home=home)

    host.open = late
    running = asyncio.create_task(counted(session(store)))
    await arrived.wait()
    assert await session(store).erase()
    erased.set()
    with pytest.raises((errors.SessionFenced, errors.SessionNotFound)):
        await running
    [orphan] = host.boxes.values()
    assert orphan.counted == 1
    assert await counted(session(store)) == 1
    assert orphan.counted == 1


async def test_what_is_made_while_a_session_is_erased_is_deleted_too(host, store, monkeypatch):
    assert await counted(session(store)) == 1
    [box] = host.boxes.values()
    forget = store.erase

    async def meanwhile(key):
        await host.create_from(box.spec, home=None)
        return await forget(key)

    monkeypatch.setattr(store, "erase", meanwhile)
    assert await session(store).erase()
    assert host.boxes == {}


async def test_what_cannot_be_looked_for_again_is_said_and_the_session_is_erased(host, store, monkeypatch, caplog):
    assert await counted(session(store)) == 1
    forget = store.erase

    async def meanwhile(key):
        monkeypatch.setattr(host, "list", lost)
        return await forget(key)

    monkeypatch.setattr(store, "erase", meanwhile)
    assert await session(store).erase()
    assert "could not be looked for again" in caplog.text


async def lost(**_):
    raise errors.SandboxLost("The supervisor died.")


async def test_forks_and_copies_begin_empty(host, store):
    origin = session(store)
    assert [await counted(origin), await counted(origin)] == [1, 2]
    fork = await origin.fork("f")
    assert await counted(fork) == 1
    agent = Agent(model=script(call("count"), "ok"), tools=[count], store=store)
    document = await origin.export()
    assert await counted(await agent.import_session(document, "copy")) == 1
    elsewhere = Agent(model=script(call("count"), "ok"), tools=[count], store=MemoryStore())
    assert await counted(await elsewhere.import_session(document)) == 1, "also under its own id"
    assert await counted(origin) == 3
    assert await fork.erase()
    assert await counted(origin) == 4
    assert [key.session async for key in retention.erase_with_forks(store, KEY)] == ["s"]
    assert len(host.boxes) == 2


async def test_what_is_collected_takes_its_sandboxes_with_it(host, store):
    assert await counted(session(store, ttl_s=1)) == 1
    await session(store).fork("f")
    assert await counted(session(store, "f", ttl_s=1)) == 1
    assert await counted(session(store, "kept")) == 1
    info = await store.info(SessionKey("default", "f"))
    fates = [(each.key.session, each.fate) async for each in retention.collect(store, info.expires_at + 1)]
    assert fates == [("f", "erased"), ("s", "erased")]
    assert len(host.boxes) == 1


async def test_a_caller_without_a_journal_has_sandboxes_apart(host, store):
    gate = Gate([count])
    caller = Caller(session_id="s", tenant_id="default")

    async def directly():
        [result] = await gate.execute([ToolCall("c", "count", {})], caller=caller)
        return result.value

    assert [await counted(session(store)), await directly(), await directly()] == [1, 1, 2]
    assert await session(store).erase()
    assert await directly() == 3
    assert await sandbox.delete_session_sandboxes("default", "s") == 1
    assert host.boxes == {}


async def test_a_caller_cannot_name_the_sandboxes_of_a_session(host, store):
    assert await counted(session(store)) == 1
    [box] = host.boxes.values()
    life = life_of(KEY, (await store.load(KEY, limit=0)).secret)
    [mark] = box.spec.labels.values()
    assert mark == sandbox.life_mark(life)
    for name in ("s", life, mark, box.spec.name):
        for tenant in (None, "default", "life", "journal"):
            await Gate([count]).execute([ToolCall("c", "count", {})], caller=Caller(session_id=name, tenant_id=tenant))
    assert box.counted == 1


async def test_neither_tools_nor_models_are_told(host, store):
    told = []

    @tool
    def look(context: CallContext) -> str:
        """Look."""
        told.append(repr(context))
        return "seen"

    agent = Agent(model=script([call("count"), call("look")], "ok"), tools=[count, look], store=store)
    run = await agent.session("s").run("Look.")
    secret = (await store.load(KEY, limit=0)).secret
    life = life_of(KEY, secret)
    [sent] = host.sent
    assert "session_id" in sent.context
    for said in (str(sent.context), *told, str(run.messages), *host.boxes):
        assert life not in said
        assert secret.hex() not in said


def test_a_life_is_of_a_secret_and_a_key():
    first, second = new_secret(), new_secret()
    lives = {life_of(key, each) for each in (first, second) for key in (KEY, SessionKey("default", "t"))}
    assert len(lives) == 4
    assert life_of(KEY, first) in lives
    assert all(first.hex() not in life for life in lives)
