"""Export and import: a session goes on elsewhere, whole or not at all, and nothing is allowed or done twice by it."""

from __future__ import annotations

import asyncio
import copy
import json
import os

import pytest

import support_stores
from callbox import errors
from callbox.sessions import portable
from callbox.sessions.journal import Journal
from callbox.stores import rules
from callbox.stores.memory import MemoryStore
from callbox.stores.store import SessionKey
from support_sessions import Stopped, agent, call, dying

REFUND = ([call("refund", amount=9)], "Done.")
PAY = ([call("pay", amount=5)], "Paid.")


@pytest.fixture
def done():
    return []


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def other(request, tmp_path):
    async with getattr(support_stores, request.param)(tmp_path) as made:
        yield made


async def text_of(session, lines):
    if lines:
        return "\n".join(await portable.export_lines(session.journal))
    return json.dumps(await session.export())


async def entries(session):
    return [placed.entry for placed in await session.journal.read()]


@pytest.mark.parametrize("lines", [False, True])
async def test_a_session_goes_on_in_another_store(store, other, done, lines):
    session = agent(store, done, *PAY).session("s")
    said = "Pay 5 \u2028 \ud800 \U0001f600"
    await session.run(said, key="m-1")
    there = await agent(other, done, "Again.").import_session(await text_of(session, lines))
    assert there.id == "s"
    assert await there.messages() == await session.messages()
    assert (await entries(there))[:-1] == await entries(session)
    assert (
        await agent(other, done, *PAY).session("s").run("Pay 5 \u2028 \ud800 \U0001f600", key="m-1")
    ).output == "Paid."
    assert (await there.run("More")).output == "Again."
    assert done == [("pay", 5)]
    notes = (await there.state()).notes
    assert notes[portable.IMPORTED]["session"] == "s"


async def test_a_fork_brings_the_past_that_it_shares(store, other, done):
    session = agent(store, done, *PAY).session("s")
    await session.run("Pay 5")
    one = await session.fork("one", at=3)
    fork = await one.fork("two", at=0)
    assert await fork.messages() == []
    fork = await session.fork("three")
    await agent(store, done, "Forked.").session("three").run("Go on")
    document = await fork.export()
    assert document["forked_from"] == {"session": "s", "seq": 6}
    there = await agent(other, done, "Home.").import_session(document)
    assert await there.messages() == await fork.messages()
    assert (await other.info(there.journal.key)).parent is None
    assert (await there.run("And now?")).output == "Home."


async def test_a_rewound_session_stays_rewound(store, other, done):
    session = agent(store, done, *PAY).session("s")
    await session.run("Pay 5")
    await session.run("Pay 5 again")
    await session.rewind(6)
    there = await agent(other, done, "Home.").import_session(await session.export(), "t")
    assert await there.messages() == await session.messages()
    assert len(await there.messages()) == 4


@pytest.mark.parametrize("point", ["intent.after", "outcome.before"])
async def test_a_call_without_an_outcome_is_unknown_after_an_import(store, other, done, point):
    with pytest.raises((Stopped, BaseExceptionGroup)):
        await agent(store, done, *PAY).session("s", reach=dying(point)).run("Pay 5")
    before = list(done)
    document = await agent(store, done).session("s").export()
    run = await (await agent(other, done, *PAY).import_session(document, "t")).resume()
    result = next(message for message in run.messages if message.role == "tool").results[0]
    assert result.error.code == "outcome_unknown"
    assert done == before


async def test_an_idempotent_call_runs_again_with_the_same_key(store, other, done):
    turns = ([call("put", name="x")], "Put.")
    with pytest.raises((Stopped, BaseExceptionGroup)):
        await agent(store, done, *turns).session("s", reach=dying("outcome.before")).run("Put x")
    document = await agent(store, done).session("s").export()
    await (await agent(other, done, *turns).import_session(document, "t")).resume()
    assert len(done) == 2
    assert len({key for _, _, key in done}) == 1


async def test_an_open_approval_waits_on_under_the_same_id(store, other, done):
    session = agent(store, done, *REFUND).session("s")
    asked = (await session.run("Refund 9")).approvals[0]
    there = await agent(other, done, *REFUND).import_session(await session.export())
    assert [each.id for each in await there.approvals()] == [asked.id]
    assert (await other.info(there.journal.key)).status == "waiting"
    await there.approve(asked.id, by="kim")
    assert (await there.resume()).stop == "done"
    assert done == [("refund", 9)]


@pytest.mark.parametrize("session_id", ["s", "t"])
async def test_a_yes_that_was_not_used_is_not_copied(store, other, done, session_id):
    session = agent(store, done, *REFUND).session("s")
    asked = (await session.run("Refund 9")).approvals[0]
    await session.approve(asked.id, by="kim")
    there = await agent(other, done, *REFUND).import_session(await session.export(), session_id)
    run = await there.resume()
    assert (run.stop, done) == ("approval", [])
    assert len(await there.approvals()) == 1
    await there.approve(run.approvals[0].id, by="lee")
    assert (await there.resume()).stop == "done"
    assert done == [("refund", 9)]


async def test_a_used_yes_stays_used(store, other, done):
    session = agent(store, done, *REFUND).session("s")
    asked = (await session.run("Refund 9")).approvals[0]
    await session.approve(asked.id, by="kim")
    await session.resume()
    there = await agent(other, done, *REFUND).import_session(await session.export())
    [known] = (await there.state()).approvals.values()
    assert (known.by, known.used) == ("kim", True)
    assert done == [("refund", 9)]


async def test_nothing_that_is_there_is_replaced(store, done):
    session = agent(store, done, *PAY).session("s")
    await session.run("Pay 5")
    document, before = await session.export(), await entries(session)
    with pytest.raises(errors.SessionError, match="already"):
        await agent(store, done).import_session(document)
    fork = await session.fork("f", at=0)
    with pytest.raises(errors.SessionError, match="already"):
        await agent(store, done).import_session(document, "f")
    assert await entries(session) == before
    assert await fork.messages() == []


async def test_an_import_that_was_interrupted_can_be_done_again(store, other, done):
    session = agent(store, done, *PAY).session("s")
    await session.run("Pay 5")
    document = await session.export()
    await Journal(other, SessionKey("default", "s")).ensure(expires_at=5.0)  # all that an interrupted one leaves
    there = await agent(other, done).import_session(document)
    assert await there.messages() == await session.messages()
    info = await other.info(there.journal.key)
    assert (info.expires_at, info.owner) == (None, None)


async def test_an_import_that_was_cancelled_holds_nothing(store, done):
    session = agent(store, done, *PAY).session("s")
    await session.run("Pay 5")
    document = portable.read_document(await session.export())
    taken, go = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def acquire(self, key, owner, *, ttl_s):
            lease = await super().acquire(key, owner, ttl_s=ttl_s)
            taken.set()
            await go.wait()
            return lease

    slow = Slow()
    importing = asyncio.create_task(portable.import_session(slow, "default", document))
    await taken.wait()
    importing.cancel()
    await asyncio.wait({importing}, timeout=0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await importing
    key = await portable.import_session(slow, "default", document)
    assert (await slow.info(key)).last_seq == 7


async def test_a_store_that_fails_has_nothing_of_it(store, done):
    session = agent(store, done, *PAY).session("s")
    await session.run("Pay 5")
    document = await session.export()

    class Full(MemoryStore):
        async def append(self, lease, after, events, *, status):
            raise errors.StoreUnavailable("No room.")

    full = Full()
    with pytest.raises(errors.StoreUnavailable):
        await agent(full, done).import_session(document)
    assert await full.read(SessionKey("default", "s")) == []
    assert (await full.info(SessionKey("default", "s"))).owner is None


async def test_the_time_of_expiry_comes_along(store, other, done):
    session = agent(store, done, *PAY).session("s", ttl_s=1_000)
    await session.run("Pay 5")
    document = await session.export()
    there = await agent(other, done).import_session(document)
    before = (await store.info(session.journal.key)).expires_at
    assert (await other.info(there.journal.key)).expires_at == pytest.approx(before, abs=0.01)
    there = await agent(other, done).import_session(document, "t", ttl_s=9_000)
    assert (await other.info(there.journal.key)).expires_at > before + 7_000


async def sample():
    session = agent(MemoryStore(), [], *REFUND).session("s")
    await session.run("Refund 9", key="m")
    await session.approve((await session.approvals())[0].id, by="kim", note="fine")
    await session.resume()
    await session.note({"a": 1})
    return await session.export()


def sealed(document):
    """With a digest that fits: what a forger would send."""
    head = {name: value for name, value in document.items() if name not in ("entries", "count", "digest")}
    return {**document, **portable._end(head, document["entries"])}


def changed(document, at, **body):
    document["entries"][at]["body"].update(body)
    return sealed(document)


def without(document, at):
    del document["entries"][at]
    for number, entry in enumerate(document["entries"], 1):
        entry["seq"] = number
    return sealed(document)


BAD = {
    "another kind": lambda d: sealed({**d, "kind": "other"}),
    "a newer version": lambda d: sealed({**d, "version": 2}),
    "no version": lambda d: sealed({**d, "version": True}),
    "no entries": lambda d: {k: v for k, v in d.items() if k != "entries"},
    "no digest": lambda d: {k: v for k, v in d.items() if k != "digest"},
    "no id": lambda d: sealed({**d, "session": ""}),
    "an id that is no text": lambda d: sealed({**d, "session": 5}),
    "a wrong time": lambda d: sealed({**d, "exported_at": "yesterday"}),
    "a changed entry": lambda d: {**d, "entries": [*d["entries"][:-1], {**d["entries"][-1], "kind": "ended"}]},
    "a missing entry": lambda d: {**d, "entries": d["entries"][:-1]},
    "a gap": lambda d: sealed({**d, "entries": d["entries"][:2] + d["entries"][3:]}),
    "an unknown kind": lambda d: sealed({**d, "entries": [{**d["entries"][0], "kind": "dreamt"}]}),
    "a newer entry": lambda d: changed(d, 0, v=2),
    "more than is written": lambda d: changed(d, 0, more=1),
    "a decision that is no yes or no": lambda d: changed(d, 3, approved="no"),
    "arguments that are no object": lambda d: changed(d, 2, arguments="all"),
    "an intent that uses what nobody asked": lambda d: changed(d, 4, approval="apr_x"),
    "a decision on what nobody asked": lambda d: without(d, 2),
    "a result without a call": lambda d: without(d, 1),
    "a reply to nothing": lambda d: without(d, 0),
    "an entry that is a number": lambda d: {**d, "entries": [1]},
    "entries that are a text": lambda d: {**d, "entries": "abc"},
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_document_is_refused_and_nothing_is_imported(store, name):
    good = await sample()
    portable.read_document(sealed(copy.deepcopy(good)))
    with pytest.raises(errors.JournalDamaged):
        await agent(store, []).import_session(BAD[name](copy.deepcopy(good)))
    assert await store.sessions("default") == []


async def test_a_text_that_was_cut_off_or_changed_is_refused_wherever(store):
    document = await sample()
    session = await agent(store, []).import_session(document)
    whole = "\n".join(await portable.export_lines(session.journal))
    plain = json.dumps(document)
    portable.read_document(whole)
    for text in (whole, plain):
        for cut in range(len(text)):
            with pytest.raises(errors.JournalDamaged):
                portable.read_document(text[:cut])
    for at in range(len(whole)):
        other = "7" if whole[at] != "7" else "8"
        with pytest.raises(errors.JournalDamaged):
            portable.read_document(whole[:at] + other + whole[at + 1 :])


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "5", "{}", "\x00", "[" * 100_000, b"\xff\xfe", "hello\nworld", '"a"']
)
def test_what_is_no_document_is_refused(text):
    with pytest.raises(errors.JournalDamaged):
        portable.read_document(text)


async def test_a_text_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(portable, "DOCUMENT_BYTES_MAX", 10)
    with pytest.raises(errors.JournalDamaged, match="larger"):
        portable.read_document(json.dumps(await sample()))


async def test_what_a_store_took_can_be_imported_and_what_none_takes_cannot(store, other, done, monkeypatch):
    session = agent(store, done).session("s")
    await session.note({"deflates": "a" * 3_000, "does not": os.urandom(1_500).hex()})
    [placed] = await session.journal.read()
    document = await session.export()
    [event] = await store.read(session.journal.key)
    for limit in (len(event.body), len(event.body) - 1):
        for module in (portable, rules):
            monkeypatch.setattr(module, "EVENT_BYTES_MAX", limit)
        if limit == len(event.body):
            there = await agent(other, done).import_session(document)
            assert (await there.journal.read())[0].entry == placed.entry
        else:
            with pytest.raises(errors.JournalDamaged, match="too large"):
                await agent(other, done).import_session(document, "t")
    assert [info.key.session for info in await other.sessions("default")] == ["s"]


async def test_a_long_session_is_one_import(store, other, done):
    session = agent(store, done, "Yes.").session("s")
    for number in range(400):
        await session.note({"n": number})
    there = await agent(other, done).import_session("\n".join(await portable.export_lines(session.journal)))
    assert (await there.state()).notes["n"] == 399
    assert (await other.info(there.journal.key)).last_seq == 401
