"""Postgres stopped without warning, and connections cut at the worst moments: nothing acknowledged is lost or doubled.

Bodies are the numbers of the events, so that what is stored says by itself whether it is right.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from callbox.errors import SessionFenced, StoreUnavailable
from callbox.stores.postgres.store import PostgresStore
from callbox.stores.store import Lease, NewEvent, SessionKey
from support_postgres import PostgresServer, server
from support_proxy import Fault, Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FAULTS: tuple[Fault, ...] = ("before send", "after send", "acknowledgement")
NEEDLE = b"the body of an event "


@pytest.fixture
async def database() -> AsyncIterator[tuple[PostgresServer, str]]:
    there = await asyncio.to_thread(server)
    name = await there.fresh_database()
    yield there, name
    await there.drop(name)


class Writer:
    """Appends to a session of its own as a careful program does: what was not acknowledged is asked again."""

    def __init__(self, store: PostgresStore, key: SessionKey) -> None:
        self.store, self.key = store, key
        self.acknowledged = 0
        self.tries: Counter[str] = Counter()
        self.lease: Lease | None = None

    async def begin(self) -> None:
        assert await self.store.create(self.key, b"secret")
        self.lease = await self.store.acquire(self.key, "a writer", ttl_s=3600)

    async def append(self) -> None:
        assert self.lease is not None
        seq = self.acknowledged + 1
        event = NewEvent("intent", NEEDLE + b"%d" % seq, key=f"key {seq}" if seq % 4 < 2 else None)
        while True:
            self.tries["appends asked"] += 1
            try:
                await self.store.append(self.lease, seq - 1, [event], status="running")
            except StoreUnavailable:
                self.tries["not acknowledged"] += 1
                await asyncio.sleep(0.02)  # a pause between tries, not a wait for something
            else:
                self.acknowledged = seq
                return

    async def check(self, store: PostgresStore) -> None:
        """What is stored is what was acknowledged, each once, without gaps."""
        found = []
        while events := await store.read(self.key, after=len(found)):
            found += events
        assert [event.seq for event in found] == list(range(1, self.acknowledged + 1))
        assert [event.body for event in found] == [NEEDLE + b"%d" % seq for seq in range(1, self.acknowledged + 1)]
        info = await store.info(self.key)
        assert info is not None
        assert info.last_seq == self.acknowledged


async def follow(store: PostgresStore, key: SessionKey, into: list[int]) -> None:
    async for event in store.follow(key):
        into.append(event.seq)


async def until(what: str, condition, deadline_s: float = 30) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_server_that_is_stopped_at_once_keeps_what_it_acknowledged(database) -> None:
    there, name = database
    stores = [PostgresStore(there.url(name, name), connections_max=2) for _ in range(2)]
    writers = [Writer(stores[n % 2], SessionKey(f"tenant {n % 3}", f"session {n}")) for n in range(8)]
    for writer in writers:
        await writer.begin()
    followed: list[int] = []
    follower = asyncio.create_task(follow(stores[0], writers[1].key, followed))
    stopping = False

    async def stream(writer: Writer) -> None:
        while not stopping:
            await writer.append()

    tasks = [asyncio.create_task(stream(writer)) for writer in writers]
    stops = 12
    chance = random.Random(4)
    for _ in range(stops):
        before = sum(writer.acknowledged for writer in writers)
        enough = before + chance.randrange(50, 400)
        await until("the stream goes on", lambda n=enough: sum(w.acknowledged for w in writers) >= n)
        await asyncio.to_thread(there.stop_immediately)
        await asyncio.to_thread(there.start_again)
    at_last = [writer.acknowledged for writer in writers]
    await until("all recovered", lambda: all(w.acknowledged > n for w, n in zip(writers, at_last, strict=True)))
    stopping = True
    await asyncio.gather(*tasks)
    await until("the follower has all", lambda: len(followed) >= writers[1].acknowledged)
    assert followed == list(range(1, writers[1].acknowledged + 1))
    follower.cancel()
    await asyncio.wait([follower])
    async with asyncio.timeout(60):
        for writer in writers:
            await writer.check(stores[0])
            with pytest.raises(SessionFenced):
                await stores[1].append(
                    Lease(writer.key, (writer.lease or Lease(writer.key, 0, "", 0)).fence - 1, "an older writer", 60),
                    writer.acknowledged,
                    [NewEvent("intent", b"late")],
                    status="running",
                )
    tries = sum((writer.tries for writer in writers), Counter())
    assert tries["not acknowledged"] >= stops
    print(f"{stops} stops, {len(writers)} writers, {sum(w.acknowledged for w in writers)} acknowledged, {dict(tries)}")
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_connection_that_is_cut_loses_and_doubles_nothing(database, fault: Fault) -> None:
    there, name = database
    repetitions, stored_unacknowledged = 100, 0
    async with Proxy(there.host, there.port) as proxy:
        store = PostgresStore(there.url(name, name, port=proxy.port))
        direct = PostgresStore(there.url(name, name))
        writer = Writer(store, SessionKey("acme", "cut"))
        await writer.begin()
        for n in range(repetitions):
            proxy.arm(fault, NEEDLE)
            asking = asyncio.create_task(writer.append())
            await until("the fault struck", lambda n=n: proxy.struck == n + 1)
            await asking
            await writer.append()  # and one in peace
        await writer.check(direct)
        assert proxy.struck == repetitions == writer.tries["not acknowledged"]
        commits = await there.execute("SELECT count(DISTINCT xmin::text) FROM callbox.events", database=name)
        assert commits[0][0] == writer.acknowledged
        if fault != "before send":  # told apart: was it stored before it was asked again?
            for _ in range(10):
                proxy.arm(fault, NEEDLE)
                assert writer.lease is not None
                seq = writer.acknowledged + 1
                event = [NewEvent("intent", NEEDLE + b"%d" % seq, key=f"once {seq}" if seq % 2 else None)]
                with pytest.raises(StoreUnavailable):
                    await store.append(writer.lease, seq - 1, event, status="running")
                async with asyncio.timeout(10):
                    while not await direct.read(writer.key, after=seq - 1):
                        await asyncio.sleep(0.005)
                stored_unacknowledged += 1
                await store.append(writer.lease, seq - 1, event, status="running")
                writer.acknowledged = seq
            await writer.check(direct)
        await store.aclose()
        await direct.aclose()
    print(f"{fault}: {proxy.struck} cuts, {stored_unacknowledged} seen stored before the append was asked again")


async def test_cuts_under_many_writers_lose_and_double_nothing(database) -> None:
    there, name = database
    chance = random.Random(7)
    async with Proxy(there.host, there.port) as proxy:
        store = PostgresStore(there.url(name, name, port=proxy.port))
        direct = PostgresStore(there.url(name, name))
        writers = [Writer(store, SessionKey(f"tenant {n % 4}", f"session {n}")) for n in range(16)]
        for writer in writers:
            await writer.begin()
        followed: list[int] = []
        follower = asyncio.create_task(follow(store, writers[0].key, followed))

        async def stream(writer: Writer) -> None:
            for _ in range(100):
                if chance.random() < 0.08:
                    proxy.arm(chance.choice(FAULTS), NEEDLE)
                if chance.random() < 0.002:
                    proxy.cut()
                await writer.append()

        async with asyncio.timeout(90):
            await asyncio.gather(*map(stream, writers))
        await until("the follower has all", lambda: len(followed) >= 100)
        assert followed == list(range(1, 101))
        follower.cancel()
        await asyncio.wait([follower])
        for writer in writers:
            assert writer.acknowledged == 100
            await writer.check(direct)
        await store.aclose()
        await direct.aclose()
    tries = sum((writer.tries for writer in writers), Counter())
    assert proxy.struck > 20
    print(f"{proxy.struck} cuts under {len(writers)} writers, {dict(tries)}")
