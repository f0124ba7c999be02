"""The contract of `Store`, on every store: each sentence of its docstrings."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from callbox.errors import (
    ConfigurationError,
    JournalConflict,
    SessionBusy,
    SessionFenced,
    SessionHasForks,
    SessionNotFound,
    StoreError,
)
from callbox.stores.store import (
    EVENT_BYTES_MAX,
    EVENTS_READ_MAX,
    ID_BYTES_MAX,
    Event,
    Expired,
    NewEvent,
    Parent,
    SessionKey,
    Store,
    this_process,
)
from support_stores import STORES, begin, contents, given, kept_secret, new_events, new_key, read_all

DEADLINE_S = 20.0


@pytest.fixture(params=list(STORES))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with STORES[request.param](tmp_path) as made:
        yield made


# Sessions


async def test_a_session_is_made_once(store: Store) -> None:
    key = new_key()
    before = time.time()
    assert await store.create(key, b"first") is True
    assert await store.create(key, b"second") is False
    assert await kept_secret(store, key) == b"first"
    info = await store.info(key)
    assert info is not None
    assert (info.key, info.last_seq, info.status, info.parent) == (key, 0, "idle", None)
    assert (info.expires_at, info.owner) == (None, None)
    assert abs(info.created_at - before) < 60
    assert info.updated_at >= info.created_at


async def test_the_longest_ids_are_kept(store: Store) -> None:
    tenant = os.urandom(ID_BYTES_MAX).hex()[:ID_BYTES_MAX]  # nothing that an index could make shorter
    key, fork = (SessionKey(tenant, os.urandom(ID_BYTES_MAX).hex()[:ID_BYTES_MAX]) for _ in range(2))
    lease = await begin(store, key)
    await store.append(lease, 0, [NewEvent("decided", b"1", "d:apr_1")], status="idle")
    await store.create(fork, b"secret", parent=Parent(key.session, 1))
    assert await store.forks(key) == [fork.session]
    assert [info.key for info in await store.sessions(tenant)] == sorted([key, fork])
    assert len(await store.read(key)) == 1


async def test_of_many_that_make_one_session_one_does(store: Store) -> None:
    key = new_key()
    made = await asyncio.gather(*(store.create(key, b"%d" % number) for number in range(20)))
    assert made.count(True) == 1
    assert await kept_secret(store, key) == b"%d" % made.index(True)


async def test_what_is_loaded_is_what_info_and_read_say(store: Store) -> None:
    key, fork = new_key(), new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(5), status="running")
    for after, limit in ((0, EVENTS_READ_MAX), (2, 2), (4, 10), (5, 10), (9, 1), (0, 0), (0, -1)):
        loaded = await store.load(key, after=after, limit=limit)
        assert loaded is not None
        info, events = await store.info(key), await store.read(key, after=after, limit=limit)
        assert info is not None
        # Times may be those of another clock when what was pending is flushed meanwhile (interval mode).
        assert replace(loaded.info, updated_at=0.0) == replace(info, updated_at=0.0)
        assert [replace(event, at=0.0) for event in loaded.events] == [replace(event, at=0.0) for event in events]
    assert await store.create(fork, b"fork's", parent=Parent(key.session, 3))
    empty = await store.load(fork)
    assert empty is not None
    assert (empty.info, empty.secret, empty.events) == (await store.info(fork), b"fork's", [])
    held = await store.acquire(fork, "writer", ttl_s=60)
    await store.append(held, 3, new_events(1), status="idle")
    for after in (0, 3, 4):
        loaded = await store.load(fork, after=after)
        assert loaded is not None
        assert [event.seq for event in loaded.events] == ([4] if after < 4 else [])
    assert b"fork's" not in repr(loaded).encode()


async def test_what_is_not_there_is_none(store: Store) -> None:
    key = new_key()
    assert await store.info(key) is None
    assert await kept_secret(store, key) is None
    assert await store.read(key) == []
    assert await store.forks(key) == []
    assert await store.erase(key) is False
    assert [event async for event in store.follow(key)] == []
    with pytest.raises(SessionNotFound):
        await store.acquire(key, "writer", ttl_s=10)


async def test_tenants_are_apart(store: Store) -> None:
    ours, theirs = new_key("acme"), SessionKey("other", "x")
    theirs = SessionKey("other", ours.session)
    lease = await begin(store, ours)
    assert await store.create(theirs, b"theirs")
    await store.append(lease, 0, new_events(2), status="idle")
    assert await store.read(theirs) == []
    assert await kept_secret(store, theirs) == b"theirs"
    their_lease = await store.acquire(theirs, "them", ttl_s=10)
    with pytest.raises(SessionFenced):
        await store.append(replace(lease, key=theirs), 0, new_events(1), status="idle")
    await store.append(their_lease, 0, [NewEvent("note", b"x", "k")], status="idle")
    assert [info.key for info in await store.sessions("other")] == [theirs]
    with pytest.raises(SessionNotFound):  # a parent is of the same tenant
        await store.create(new_key("third"), b"s", parent=Parent(ours.session, 0))
    assert await store.erase(theirs)
    assert len(await store.read(ours)) == 2


# Leases


async def test_a_lease_is_had_by_one_at_a_time(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key, owner="first")
    assert (lease.key, lease.owner, lease.ttl_s) == (key, "first", 60.0)
    for owner in ("second", "first"):
        with pytest.raises(SessionBusy):
            await store.acquire(key, owner, ttl_s=60)
    info = await store.info(key)
    assert info is not None
    assert info.owner == "first"
    await store.release(lease)
    info = await store.info(key)
    assert info is not None
    assert info.owner is None
    assert (await store.acquire(key, "second", ttl_s=60)).fence > lease.fence


async def test_of_racing_acquirers_one_wins(store: Store) -> None:
    key = new_key()
    await store.create(key, b"s")
    tries = [store.acquire(key, f"writer-{n}", ttl_s=60) for n in range(20)]
    taken = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, SessionBusy) for one in taken) == 19
    assert sum(not isinstance(one, BaseException) for one in taken) == 1


async def test_a_lease_that_ran_out_can_be_taken(store: Store) -> None:
    key = new_key()
    old = await begin(store, key, owner="old", ttl_s=0.05)
    new = await _acquire_when_free(store, key)
    assert new.fence > old.fence
    with pytest.raises(SessionFenced):
        await store.append(old, 0, new_events(1), status="idle")
    with pytest.raises(SessionFenced):
        await store.renew(old)
    with pytest.raises(SessionFenced):
        await store.expire_at(old, None)
    await store.release(old)  # does nothing
    with pytest.raises(SessionBusy):
        await store.acquire(key, "third", ttl_s=60)
    assert await store.read(key) == []


async def test_a_lease_that_ran_out_and_that_nobody_took_still_writes(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key, ttl_s=0.01)
    await _until_without_owner(store, key)
    await store.append(lease, 0, new_events(1), status="idle")
    await store.renew(replace(lease, ttl_s=60.0))
    with pytest.raises(SessionBusy):
        await store.acquire(key, "other", ttl_s=60)


async def test_renewing_makes_it_run_out_later(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key, ttl_s=0.5)
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        await store.renew(lease)
        with pytest.raises(SessionBusy):
            await store.acquire(key, "other", ttl_s=0.5)
        await asyncio.sleep(0.05)


async def test_the_lease_of_a_dead_process_is_free(store: Store) -> None:
    key = new_key()
    old = await begin(store, key, owner=await asyncio.to_thread(_process_that_ended), ttl_s=600)
    new = await store.acquire(key, this_process("new"), ttl_s=600)
    assert new.fence > old.fence
    with pytest.raises(SessionBusy):  # and this process lives
        await store.acquire(key, this_process("third"), ttl_s=600)


async def test_fences_never_go_back_not_even_after_erasure(store: Store) -> None:
    fences: list[int] = []
    key = new_key()
    for _ in range(4):
        for one in (key, new_key()):
            fences.append((await begin(store, one)).fence)
        await store.erase(key)
    assert fences == sorted(set(fences))


async def test_the_lease_of_an_erased_session_is_void_for_its_successor(store: Store) -> None:
    key = new_key()
    old = await begin(store, key)
    await store.erase(key)
    with pytest.raises(SessionFenced):
        await store.append(old, 0, new_events(1), status="idle")
    with pytest.raises(SessionFenced):
        await store.renew(old)
    await store.release(old)
    assert await store.create(key, b"another")
    with pytest.raises(SessionFenced):
        await store.append(old, 0, new_events(1), status="idle")
    await store.acquire(key, "new", ttl_s=10)
    with pytest.raises(SessionFenced):
        await store.append(old, 0, new_events(1), status="idle")
    assert await store.read(key) == []


# Events


async def test_what_was_appended_is_read_with_its_numbers(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    first, second = new_events(3), [NewEvent("intent", b"", "call-1"), NewEvent("ünïcode", bytes(range(256)), "ключ")]
    await store.append(lease, 0, first, status="running")
    await store.append(lease, 3, second, status="waiting")
    events = await store.read(key)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    assert contents(events) == given(first + second)
    assert all(abs(event.at - time.time()) < 60 for event in events)
    assert all(type(event.body) is bytes for event in events)
    info = await store.info(key)
    assert info is not None
    assert (info.last_seq, info.status) == (5, "waiting")
    assert info.updated_at >= info.created_at
    assert [event.seq for event in await store.read(key, after=2, limit=2)] == [3, 4]
    assert await store.read(key, after=5) == []
    assert await store.read(key, limit=0) == []


async def test_a_gap_an_overlap_and_an_old_number_are_conflicts(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(3), status="idle")
    for after in (0, 1, 2, 4, 100):
        with pytest.raises(JournalConflict):
            await store.append(lease, after, new_events(2), status="running")
    info = await store.info(key)
    assert info is not None
    assert (info.last_seq, info.status) == (3, "idle")


async def test_the_same_append_again_changes_nothing(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    events = [*new_events(2), NewEvent("intent", b"body", "call-1")]
    await store.append(lease, 0, events, status="running")
    await store.append(lease, 0, events, status="running")
    more = new_events(1)
    await store.append(lease, 3, more, status="idle")
    await store.append(lease, 0, events, status="running")
    assert contents(await store.read(key)) == given(events + more)
    info = await store.info(key)
    assert info is not None
    assert (info.last_seq, info.status) == (4, "idle")
    for other in (
        [events[0], events[1], replace(events[2], body=b"other")],
        [events[0], events[1], replace(events[2], key="call-2")],
        [replace(events[0], kind="other"), *events[1:]],
        [*events, *more, *new_events(1)],  # starts alike, goes on past the end
    ):
        with pytest.raises(JournalConflict):
            await store.append(lease, 0, other, status="running")
    await store.release(lease)
    newer = await store.acquire(key, "newer", ttl_s=60)
    with pytest.raises(SessionFenced):
        await store.append(lease, 3, more, status="idle")
    with pytest.raises(JournalConflict):  # another lease is another append
        await store.append(newer, 3, more, status="idle")


async def test_a_key_is_in_a_journal_once(store: Store) -> None:
    key, other = new_key(), new_key()
    lease, other_lease = await begin(store, key), await begin(store, other)
    await store.append(lease, 0, [NewEvent("intent", b"1", "k"), NewEvent("note", b"2")], status="idle")
    for events in (
        [NewEvent("intent", b"3", "k")],
        [*new_events(2), NewEvent("outcome", b"3", "k")],
        [NewEvent("intent", b"3", "twice"), NewEvent("intent", b"4", "twice")],
    ):
        with pytest.raises(JournalConflict):
            await store.append(lease, 2, events, status="running")
    assert len(await store.read(key)) == 2  # all of them or none
    await store.append(lease, 2, [NewEvent("intent", b"3", "twice")], status="idle")  # nothing was left of it
    await store.append(other_lease, 0, [NewEvent("intent", b"1", "k")], status="idle")


async def test_no_events_and_events_too_large_are_refused(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    with pytest.raises(ConfigurationError):
        await store.append(lease, 0, [], status="idle")
    with pytest.raises(ConfigurationError):
        await store.append(lease, 0, [NewEvent("note", bytes(EVENT_BYTES_MAX + 1))], status="idle")
    assert await store.read(key) == []


async def test_the_largest_event_is_kept(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    body = os.urandom(1 << 20) * (EVENT_BYTES_MAX >> 20)
    await store.append(lease, 0, [NewEvent("result", body)], status="idle")
    assert (await store.read(key))[0].body == body


async def test_one_read_returns_so_many_at_most(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(EVENTS_READ_MAX + 5, size_bytes=8), status="idle")
    assert len(await store.read(key, limit=EVENTS_READ_MAX * 2)) == EVENTS_READ_MAX
    assert [event.seq for event in await read_all(store, key)] == list(range(1, EVENTS_READ_MAX + 6))


async def test_fifty_sessions_at_once_have_gapless_journals(store: Store) -> None:
    keys = [new_key() for _ in range(50)]
    wrote: dict[SessionKey, list[NewEvent]] = {key: [] for key in keys}

    async def write(key: SessionKey) -> None:
        lease = await begin(store, key)
        for count in (1, 2, 1, 3, 1, 1, 2, 1):
            events = new_events(count)
            await store.append(lease, len(wrote[key]), events, status="running")
            wrote[key] += events

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(write(key))
    for key in keys:
        events = await read_all(store, key)
        assert [event.seq for event in events] == list(range(1, 13))
        assert contents(events) == given(wrote[key])


async def test_appends_that_are_refused_do_not_spoil_the_others(store: Store) -> None:
    good, bad = [new_key() for _ in range(10)], [new_key() for _ in range(10)]
    leases = {key: await begin(store, key) for key in (*good, *bad)}
    for key in bad:
        await store.append(leases[key], 0, [NewEvent("note", b"x", "k")], status="idle")
    tries = [store.append(leases[key], 0, new_events(2), status="idle") for key in good]
    for number, key in enumerate(bad):
        wrong = [
            (leases[key], 7, new_events(1)),
            (replace(leases[key], fence=leases[key].fence - 1), 1, new_events(1)),
            (leases[key], 1, [NewEvent("note", b"y", "k")]),
        ][number % 3]
        tries.insert(number * 2, store.append(*wrong, status="idle"))
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, (JournalConflict, SessionFenced)) for one in done) == len(bad)
    assert done.count(None) == len(good)
    assert [len(await store.read(key)) for key in good] == [2] * 10
    assert [len(await store.read(key)) for key in bad] == [1] * 10


async def test_of_racing_appends_after_the_same_number_one_is_kept(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    tries = [store.append(lease, 0, new_events(2), status="idle") for _ in range(10)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert done.count(None) == 1
    assert sum(isinstance(one, JournalConflict) for one in done) == 9
    assert len(await store.read(key)) == 2


# Forks


async def test_a_fork_goes_on_counting_where_it_left(store: Store) -> None:
    key, fork, of_fork = new_key(), new_key(), new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(4), status="idle")
    assert await store.create(fork, b"own", parent=Parent(key.session, 3))
    info = await store.info(fork)
    assert info is not None
    assert (info.last_seq, info.parent, info.status) == (3, Parent(key.session, 3), "idle")
    assert await store.read(fork) == []  # its parent's are not its own
    fork_lease = await store.acquire(fork, "w", ttl_s=60)
    with pytest.raises(JournalConflict):
        await store.append(fork_lease, 0, new_events(1), status="idle")
    own = new_events(2)
    await store.append(fork_lease, 3, own, status="idle")
    await store.append(fork_lease, 3, own, status="idle")
    assert [event.seq for event in await store.read(fork)] == [4, 5]
    assert [event.seq for event in await store.read(fork, after=4)] == [5]
    assert [event.seq for event in await store.read(key)] == [1, 2, 3, 4]
    await store.create(of_fork, b"s", parent=Parent(fork.session, 5))
    assert await store.forks(key) == [fork.session]
    assert await store.forks(fork) == [of_fork.session]


async def test_a_fork_needs_a_parent_that_is_long_enough(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(2), status="idle")
    for parent in (Parent(key.session, 3), Parent("nobody", 0)):
        fork = new_key()
        with pytest.raises(SessionNotFound):
            await store.create(fork, b"s", parent=parent)
        assert await store.info(fork) is None
    for seq in (0, 2):
        assert await store.create(new_key(), b"s", parent=Parent(key.session, seq))


async def test_a_session_with_forks_is_not_erased(store: Store) -> None:
    key, fork = new_key(), new_key()
    await store.create(key, b"s")
    await store.create(fork, b"s", parent=Parent(key.session, 0))
    with pytest.raises(SessionHasForks):
        await store.erase(key)
    assert await kept_secret(store, key) == b"s"
    assert await store.erase(fork)
    assert await store.forks(key) == []
    assert await store.erase(key)


# Following


async def test_following_gives_what_is_there_and_then_what_comes(store: Store) -> None:
    key, other = new_key(), new_key()
    lease, other_lease = await begin(store, key), await begin(store, other)
    events = new_events(6)
    await store.append(lease, 0, events[:3], status="running")
    seen: dict[int, list[Event]] = {0: [], 2: [], 3: []}

    async def follow(after: int) -> None:
        async for event in store.follow(key, after=after):
            seen[after].append(event)
            if event.seq == 6:
                return

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for after in seen:
            group.create_task(follow(after))
        while not seen[0]:
            await asyncio.sleep(0)
        await store.append(other_lease, 0, new_events(1), status="idle")
        for seq in (3, 4, 5):
            await store.append(lease, seq, [events[seq]], status="running")
    for after, found in seen.items():
        assert [event.seq for event in found] == list(range(after + 1, 7))
        assert contents(found) == given(events[after:])


async def test_following_from_ahead_waits_for_that_number(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    follower = store.follow(key, after=2)
    first = asyncio.ensure_future(anext(follower))
    await store.append(lease, 0, new_events(2), status="idle")
    await store.append(lease, 2, [NewEvent("third", b"x")], status="idle")
    async with asyncio.timeout(DEADLINE_S):
        assert (await first).kind == "third"
    await follower.aclose()


async def test_following_more_than_one_read_returns(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(EVENTS_READ_MAX + 3, size_bytes=8), status="idle")
    follower, seen = store.follow(key), 0
    async with asyncio.timeout(DEADLINE_S):
        async for event in follower:
            seen += 1
            assert event.seq == seen
            if seen == EVENTS_READ_MAX + 3:
                break
    await follower.aclose()


async def test_following_ends_when_the_session_is_erased(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    await store.append(lease, 0, new_events(1), status="idle")
    seen: list[Event] = []

    async def follow() -> None:
        async for event in store.follow(key):
            seen.append(event)

    task = asyncio.ensure_future(follow())
    async with asyncio.timeout(DEADLINE_S):
        while not seen:
            await asyncio.sleep(0)
        assert await store.erase(key)
        assert await store.create(key, b"its successor is another")
        await task
    assert len(seen) == 1


async def test_following_can_be_cancelled(store: Store) -> None:
    key = new_key()
    await begin(store, key)
    task = asyncio.ensure_future(anext(store.follow(key)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Listing, expiry, erasure


async def test_sessions_are_listed_by_id_and_page_by_page(store: Store) -> None:
    tenant = new_key().session  # one of its own
    names = ["b", "B", "a-2", "a-10", "_", "ä", "a", "a_1", "日本"]
    for name in names:
        await store.create(SessionKey(tenant, name), b"s")
    for name, status in (("b", "waiting"), ("ä", "waiting"), ("a", "running")):
        lease = await store.acquire(SessionKey(tenant, name), "w", ttl_s=60)
        await store.append(lease, 0, new_events(1), status=status)  # type: ignore[arg-type]
    assert [info.key.session for info in await store.sessions(tenant)] == sorted(names)
    paged: list[str] = []
    while page := await store.sessions(tenant, after=paged[-1] if paged else "", limit=2):
        assert len(page) <= 2
        paged += [info.key.session for info in page]
    assert paged == sorted(names)
    waiting = await store.sessions(tenant, status="waiting")
    assert [(info.key.session, info.status, info.last_seq) for info in waiting] == [
        ("b", "waiting", 1),
        ("ä", "waiting", 1),
    ]
    assert [info.key.session for info in await store.sessions(tenant, status="waiting", after="b")] == ["ä"]
    assert [info.owner for info in waiting] == ["w", "w"]
    assert await store.sessions("nobody") == []


async def test_expiry_says_whose_time_is_over(store: Store) -> None:
    now = time.time()
    soon, late, never, was = new_key(), new_key("other"), new_key(), new_key()
    await store.create(soon, b"s", expires_at=now + 10)
    await store.create(late, b"s", expires_at=now + 1_000)
    await store.create(never, b"s")
    lease = await begin(store, was)
    await store.expire_at(lease, now + 5)
    info = await store.info(was)
    assert info is not None
    assert info.expires_at == pytest.approx(now + 5, abs=1e-3)
    assert await store.expired(now) == []
    assert [over.key for over in await store.expired(now + 11)] == [was, soon]
    assert len(await store.expired(now + 11, limit=1)) == 1
    assert [over.key for over in await store.expired(now + 2_000)] == [was, soon, late]
    await store.expire_at(lease, None)
    info = await store.info(was)
    assert info is not None
    assert info.expires_at is None
    assert [over.key for over in await store.expired(now + 11)] == [soon]
    assert await store.erase(soon)
    assert await store.expired(now + 11) == []


async def test_whose_time_is_over_is_answered_page_by_page(store: Store) -> None:
    now = time.time()
    made: list[Expired] = []
    for ends, tenant, session in (
        (-3.0, "b", "a"), (-2.0, "B", "ä"), (-2.0, "a", "b"), (-2.0, "a", "B"), (-2.0, "a", "a-2"), (-2.0, "ä", "a"),
        (-1.5, "a", "日本"), (0.0, "a", "z"), (5.0, "a", "later"),
    ):  # fmt: skip
        made.append(Expired(now + ends, SessionKey(tenant, session)))
        assert await store.create(made[-1].key, b"s", expires_at=made[-1].expires_at)
    over = sorted(made)[:-1]
    assert await store.expired(now) == over
    for limit in (1, 2, 3, 100):
        paged: list[Expired] = []
        while page := await store.expired(now, after=paged[-1] if paged else None, limit=limit):
            assert len(page) <= limit
            paged += page
        assert paged == over, limit
    assert await store.erase(over[3].key)
    assert await store.expired(now, after=over[3]) == over[4:], "the one that it begins after is gone"
    assert await store.expired(now, after=over[-1]) == []
    assert await store.expired(now, limit=0) == []


async def test_erasing_leaves_nothing_whoever_holds_the_lease(store: Store) -> None:
    key, other = new_key(), new_key()
    lease, other_lease = await begin(store, key), await begin(store, other)
    await store.append(lease, 0, [NewEvent("note", b"x", "k")], status="running")
    await store.append(other_lease, 0, new_events(2), status="idle")
    assert await store.erase(key) is True
    assert await store.erase(key) is False
    assert await store.info(key) is None
    assert await kept_secret(store, key) is None
    assert await store.read(key) == []
    assert key not in {info.key for info in await store.sessions(key.tenant)}
    assert await store.create(key, b"again")
    again = await store.acquire(key, "again", ttl_s=60)
    await store.append(again, 0, [NewEvent("note", b"y", "k")], status="idle")
    assert len(await store.read(other)) == 2


async def test_closing_twice_is_fine_and_nothing_works_afterwards(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreError):
        await store.info(key)
    with pytest.raises(StoreError):
        await store.append(lease, 0, new_events(1), status="idle")


async def test_an_append_that_is_cancelled_is_done_or_not_but_never_half(store: Store) -> None:
    key = new_key()
    lease = await begin(store, key)
    last, events = 0, new_events(3)
    for rounds in range(20):
        task = asyncio.ensure_future(store.append(lease, last, events, status="idle"))
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.append(lease, last, events, status="idle")  # whether it was done or not
        last, events = last + 3, new_events(3)
    assert [event.seq for event in await store.read(key)] == list(range(1, last + 1))


def _process_that_ended() -> str:
    code = "from callbox.stores.store import this_process; print(this_process('w'))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


async def _acquire_when_free(store: Store, key: SessionKey):
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await store.acquire(key, "new", ttl_s=60)
            except SessionBusy:
                await asyncio.sleep(0.01)


async def _until_without_owner(store: Store, key: SessionKey) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (info := await store.info(key)) and info.owner is not None:
            await asyncio.sleep(0.01)
