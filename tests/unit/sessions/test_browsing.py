"""Looking at sessions and changing them without their agent."""

from __future__ import annotations

import pytest

from callbox import errors
from callbox.sessions import browsing
from callbox.sessions.journal import FORKS_DEEP_MAX, Journal
from callbox.stores.memory import MemoryStore
from callbox.stores.store import NewEvent, SessionKey
from support_sessions import agent, call

REFUND = ([call("refund", amount=9)], "Done.")


@pytest.fixture
def store():
    return MemoryStore()


async def waiting(store):
    return [each async for each in browsing.waiting(store, "default")]


async def test_all_sessions_are_found_page_by_page(store):
    for number in range(1_500):
        await Journal(store, SessionKey("default", f"s{number:04}")).ensure()
    found = [info.key.session async for info in browsing.all_sessions(store, "default")]
    assert found == [f"s{number:04}" for number in range(1_500)]


async def test_what_waits_is_found_in_whatever_session(store):
    await agent(store, [], "Hello.").session("a").run("Hello")
    run = await agent(store, [], *REFUND).session("b").run("Refund 9")
    [found] = await waiting(store)
    assert found.key.session == "b"
    key, _, approval = await browsing.find_approval(store, "default", run.approvals[0].id)
    assert (key.session, approval.arguments) == ("b", {"amount": 9})
    with pytest.raises(errors.ApprovalError):
        await browsing.find_approval(store, "default", "apr_other")
    with pytest.raises(errors.ApprovalError):
        await browsing.find_approval(store, "default", approval.id, session="a")
    with pytest.raises(errors.SessionNotFound):
        await browsing.find_approval(store, "default", approval.id, session="c")
    with pytest.raises(errors.ApprovalError):
        await browsing.find_approval(store, "other", approval.id)


async def test_one_that_cannot_be_read_does_not_hide_the_others(store):
    broken = SessionKey("default", "a")
    await Journal(store, broken).ensure()
    lease = await store.acquire(broken, "me", ttl_s=10)
    await store.append(lease, 0, [NewEvent("asked", b"not sealed by anybody here")], status="waiting")
    await agent(store, [], *REFUND).session("b").run("Refund 9")
    first, second = await waiting(store)
    assert isinstance(first.error, errors.JournalDamaged)
    assert second.state is not None


async def test_a_question_that_a_fork_inherited_is_asked_again(store):
    [inherited] = (await agent(store, [], *REFUND).session("s").run("Refund 9")).approvals
    fork = await agent(store, []).session("s").fork("f")
    assert await fork.approvals() == [], "nobody can decide it there"
    run = await agent(store, [], *REFUND).session("f").resume()
    assert [each.id for each in await fork.approvals()] == [run.approvals[0].id]
    with pytest.raises(errors.ApprovalError, match="forked from"):
        await fork.approve(inherited.id, by="kim")


async def test_a_fork_of_a_fork_may_leave_before_the_first_one_did(store):
    session = agent(store, [], "Yes.").session("s")
    await session.run("One")
    await session.run("Two")
    first = await session.fork("first", at=6)
    await agent(store, [], "Yes.").session("first").run("Three")
    second = await first.fork("second", at=3)
    await agent(store, [], "Other.").session("second").run("Four")
    said = [message.text for message in await second.messages()]
    assert said == ["One", "Yes.", "Four", "Other."]
    assert [placed.seq for placed in await second.journal.read()] == [1, 2, 3, 4, 5, 6]


async def test_a_fork_that_nobody_could_read_is_not_made(store):
    session = agent(store, [], "Yes.").session("s")
    await session.run("One")
    for number in range(FORKS_DEEP_MAX):
        session = await session.fork(f"f{number}")
    assert [message.text for message in await session.messages()] == ["One", "Yes."]
    with pytest.raises(errors.SessionError, match="a fork of 64 forks"):
        await session.fork("deeper")
    assert await store.info(SessionKey("default", "deeper")) is None
