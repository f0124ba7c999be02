"""Redis killed, emptied, paused and restarted under several writers and followers, in both modes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from callbox.errors import ConfigurationError, SessionFenced, StoreError, StoreUnavailable
from callbox.stores.memory import MemoryStore
from callbox.stores.redis.front import RedisStore
from callbox.stores.redis.names import Names, life_of, unpack_event
from callbox.stores.store import NewEvent, SessionKey, Store
from support_redis import PASSWORD, RedisServer, Shared, new_namespace, redis_store
from support_stores import begin, new_events, new_key, read_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WRITERS = 4
ROUNDS = 3
DEADLINE_S = 20.0


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    made = RedisServer("always")
    yield made
    made.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


class Writer:
    """Appends one event after the other; again, if it is not known whether it was done."""

    def __init__(self, store: Store, key: SessionKey, *, pause_s: float = 0.0) -> None:
        self.store, self.key, self.pause_s = store, key, pause_s
        self.acknowledged: list[tuple[float, bytes]] = []
        self.unavailable = 0
        self.going = True

    async def write(self) -> None:
        lease = await begin(self.store, self.key, owner=f"writer of {self.key.session}")
        while self.going:
            body = b"%s %d" % (self.key.session.encode(), len(self.acknowledged))
            event = NewEvent("note", body, f"key-{len(self.acknowledged)}")
            try:
                await self.store.append(lease, len(self.acknowledged), [event], status="running")
                self.acknowledged.append((time.time(), body))
            except StoreUnavailable:
                self.unavailable += 1
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.pause_s)


async def killed(server: RedisServer, _progress: Callable[[], Awaitable[None]]) -> None:
    await asyncio.to_thread(server.kill_and_restart)


async def away(server: RedisServer, progress: Callable[[], Awaitable[None]]) -> None:
    server.kill()
    await progress()
    await asyncio.to_thread(server.start)


async def emptied(server: RedisServer, _progress: Callable[[], Awaitable[None]]) -> None:
    async with Redis.from_url(server.url) as redis:
        await redis.flushall()


async def paused(server: RedisServer, progress: Callable[[], Awaitable[None]]) -> None:
    server.signal(signal.SIGSTOP)
    try:
        await progress()
    finally:
        server.signal(signal.SIGCONT)


@pytest.mark.parametrize("fault", [killed, away, emptied, paused])
async def test_sync_mode_loses_nothing_whatever_happens_to_redis(
    fault: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    inner, namespace = MemoryStore(), new_namespace()
    keys = [new_key() for _ in range(WRITERS)]
    async with contextlib.AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(redis_store("sync", Shared(inner), server, namespace=namespace))
            for _ in range(3)
        ]
        writers = [Writer(stores[index % 2], key) for index, key in enumerate(keys)]
        seen: dict[SessionKey, list[Any]] = {key: [] for key in keys}

        async def follow(key: SessionKey) -> None:
            async for event in stores[2].follow(key):
                seen[key].append(event)

        async def progress() -> None:
            """Every writer and every follower goes on."""
            goals = [len(writer.acknowledged) + 50 for writer in writers]
            await until(lambda: all(len(w.acknowledged) >= goal for w, goal in zip(writers, goals, strict=True)))
            await until(lambda: all(len(seen[key]) >= goal for key, goal in zip(keys, goals, strict=True)))

        writing = [asyncio.create_task(writer.write()) for writer in writers]
        await until(lambda: all(len(writer.acknowledged) > 20 for writer in writers))
        following = [asyncio.create_task(follow(key)) for key in keys]
        for _ in range(ROUNDS):
            await progress()
            await fault(server, progress)
        await progress()
        for writer in writers:
            writer.going = False
        await asyncio.gather(*writing)
        journals = {writer.key: await read_all(inner, writer.key) for writer in writers}
        await until(lambda: all(len(seen[key]) >= len(journals[key]) for key in keys))
        for task in following:
            task.cancel()
        await asyncio.wait(following)
        for writer in writers:
            journal = journals[writer.key]
            assert [event.seq for event in journal] == list(range(1, len(journal) + 1))
            assert [event.body for event in journal] == [body for _, body in writer.acknowledged]
            assert seen[writer.key] == journal
            assert await read_all(stores[2], writer.key) == journal
            await snapshot_is_of(server, namespace, inner, writer.key)
        total = sum(len(writer.acknowledged) for writer in writers)
        print(f"\nsync, Redis {fault.__name__} {ROUNDS} times: {total} appends acknowledged, 0 lost, 0 twice, "
              f"{sum(writer.unavailable for writer in writers)} refused")  # fmt: skip
    assert PASSWORD not in caplog.text
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) * 20 < total  # when it goes and when it is back, not for each call


async def snapshot_is_of(server: RedisServer, namespace: str, inner: Store, key: SessionKey) -> None:
    """Whatever Redis has is what the journal has, and no secret is there."""
    info = await inner.info(key)
    assert info is not None
    journal = {event.seq: event for event in await read_all(inner, key)}
    async with Redis.from_url(server.url) as redis:
        members = await redis.zrange(Names(namespace).hot(key, life_of(info)), 0, -1)
    copied = [unpack_event(member) for member in members]
    assert copied
    assert all(journal[event.seq] == event for event in copied)


async def test_no_secret_and_no_password_leaves(server: RedisServer) -> None:
    for durability in ("sync", "interval"):
        async with redis_store(durability, server=server, flush_s=100.0) as store:
            key = new_key()
            assert await store.create(key, b"a-session-secret")
            lease = await store.acquire(key, "writer", ttl_s=10)
            await store.append(lease, 0, new_events(3), status="idle")
            assert len(await store.read(key)) == 3
            assert PASSWORD not in repr(store) + repr(vars(store)) + str(store)
    held = b"".join(path.read_bytes() for path in (server.folder / "appendonlydir").iterdir())
    assert b"callbox" in held or b"test-" in held
    assert b"a-session-secret" not in held
    with pytest.raises(ConfigurationError) as raised:
        RedisStore(MemoryStore(), f"http://:{PASSWORD}@host/")
    assert PASSWORD not in str(raised.value)
    stranger = RedisStore(MemoryStore(), server.url.replace(PASSWORD, "wrong"), durability="interval")
    with pytest.raises(StoreUnavailable) as refused:
        await stranger.info(key)
    assert "wrong" not in str(refused.value)
    await stranger.aclose()


async def test_interval_mode_needs_an_append_only_file() -> None:
    server = RedisServer(None)
    try:
        async with redis_store("interval", server=server) as store:
            with pytest.raises(ConfigurationError, match="appendonly yes"):
                await store.create(new_key(), b"secret")
    finally:
        server.end()


@pytest.mark.parametrize("fault", [killed, away, paused])
async def test_interval_mode_loses_nothing_when_every_write_is_synced(fault: Any, server: RedisServer) -> None:
    inner, namespace = MemoryStore(), new_namespace()
    async with contextlib.AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(
                redis_store("interval", Shared(inner), server, namespace=namespace, timeout_s=0.5)
            )
            for _ in range(2)
        ]
        writers = [Writer(stores[index % 2], new_key()) for index in range(WRITERS)]
        seen: list[Any] = []

        async def follow() -> None:
            async for event in stores[1].follow(writers[0].key):
                seen.append(event)

        async def nothing() -> None:
            refused = [writer.unavailable for writer in writers]
            await until(lambda: all(w.unavailable > before for w, before in zip(writers, refused, strict=True)))

        writing = [asyncio.create_task(writer.write()) for writer in writers]
        await until(lambda: all(len(writer.acknowledged) > 20 for writer in writers))
        following = asyncio.create_task(follow())
        for _ in range(ROUNDS):
            goals = [len(writer.acknowledged) + 50 for writer in writers]
            await until(lambda goals=goals: all(len(w.acknowledged) > g for w, g in zip(writers, goals, strict=True)))
            await fault(server, nothing)
        goals = [len(writer.acknowledged) + 50 for writer in writers]
        await until(lambda: all(len(w.acknowledged) > g for w, g in zip(writers, goals, strict=True)))
        for writer in writers:
            writer.going = False
        await asyncio.gather(*writing)
        await until(lambda: len(seen) >= len(writers[0].acknowledged))
        following.cancel()
        await asyncio.wait([following])
        for writer in writers:
            assert [event.body for event in await read_all(stores[0], writer.key)] == [
                b for _, b in writer.acknowledged
            ]
    for writer in writers:  # closed, so all is flushed
        journal = await read_all(inner, writer.key)
        assert [event.seq for event in journal] == list(range(1, len(journal) + 1))
        assert [event.body for event in journal] == [body for _, body in writer.acknowledged]
    assert [event.body for event in seen] == [body for _, body in writers[0].acknowledged]
    total = sum(len(writer.acknowledged) for writer in writers)
    print(f"\ninterval, always, Redis {fault.__name__} {ROUNDS} times: {total} appends acknowledged, 0 lost, 0 twice")


async def test_what_a_dead_process_left_is_flushed_by_the_next(server: RedisServer) -> None:
    inner, namespace, key = MemoryStore(), new_namespace(), new_key()
    dead = RedisStore(Shared(inner), server.url, durability="interval", flush_s=100.0, namespace=namespace)
    lease = await begin(dead, key)
    await dead.append(lease, 0, new_events(7), status="running")
    assert await inner.read(key) == []  # and nobody closes it
    async with redis_store("interval", Shared(inner), server, namespace=namespace) as store:
        assert [event.seq for event in await store.read(key)] == [1, 2, 3, 4, 5, 6, 7]
        assert [event.seq for event in await inner.read(key)] == [1, 2, 3, 4, 5, 6, 7]
    await dead.aclose()


class Flaky(Shared):
    """Commits, and the answer is lost, every second time."""

    appends = 0

    async def append(self, *arguments: Any, **named: Any) -> None:
        await self._store.append(*arguments, **named)
        self.appends += 1
        if self.appends % 2:
            raise StoreUnavailable("The answer was lost.")


async def test_a_flush_whose_answer_was_lost_is_done_again(server: RedisServer) -> None:
    inner, key = MemoryStore(), new_key()
    flaky = Flaky(inner)
    async with redis_store("interval", flaky, server, flush_s=0.01) as store:
        lease = await begin(store, key)
        for after in range(0, 400, 2):
            await store.append(lease, after, new_events(2), status="running")
        await until(lambda: flaky.appends > 3)
        events = await read_all(store, key)
    assert [event.seq for event in events] == list(range(1, 401))
    assert [(event.seq, event.body) for event in await read_all(inner, key)] == [(e.seq, e.body) for e in events]


async def test_emptying_redis_in_interval_mode_is_said(server: RedisServer) -> None:
    inner, namespace, key = MemoryStore(), new_namespace(), new_key()
    options: dict[str, Any] = {"namespace": namespace, "flush_s": 100.0}
    async with (
        redis_store("interval", Shared(inner), server, **options) as store,
        redis_store("interval", Shared(inner), server, **options) as other,
    ):
        lease = await begin(store, key)
        await other.open()  # before, because opening flushes
        await store.append(lease, 0, new_events(3), status="running")
        assert len(await other.read(key)) == 3
        assert await inner.read(key) == []
        await emptied(server, None)  # type: ignore[arg-type]
        for _ in range(2):
            with pytest.raises(StoreError, match="may be lost"):
                await store.append(lease, 3, new_events(1), status="running")
        with pytest.raises(StoreError, match="may be lost"):
            await other.read(key)
        assert await other.read(key) == []
        await store.release(lease)
        with contextlib.suppress(StoreError):  # said once in this process too
            await store.info(key)
        again = await store.acquire(key, "writer", ttl_s=60)
        await store.append(again, 0, new_events(2), status="idle")
        assert [event.seq for event in await other.read(key)] == [1, 2]


async def test_a_redis_that_went_back_in_time_commits_no_stale_lease(server: RedisServer) -> None:
    inner, namespace, key = MemoryStore(), new_namespace(), new_key()
    options: dict[str, Any] = {"namespace": namespace, "flush_s": 100.0}
    async with (
        redis_store("interval", Shared(inner), server, **options) as old,
        redis_store("interval", Shared(inner), server, **options) as new,
    ):
        stale = await begin(old, key, ttl_s=0.05)
        await old.append(stale, 0, new_events(2), status="running")
        size = server.aof.stat().st_size
        await asyncio.sleep(0.06)  # its lease runs out, by the store's own clock
        lease = await new.acquire(key, "successor", ttl_s=60)
        await new.append(lease, 2, new_events(2), status="running")
        server.kill()
        with server.aof.open("r+b") as file:
            file.truncate(size)
        await asyncio.to_thread(server.start)
        await until_done(lambda: new.info(key))
        with pytest.raises(SessionFenced):
            await until_done(lambda: old.append(stale, 2, new_events(1), status="running"))
        with pytest.raises(StoreError, match="may be lost"):  # it had two acknowledged that are gone
            await new.append(lease, 4, new_events(1), status="running")
        await new.release(lease)
        again = await new.acquire(key, "successor", ttl_s=60)
        await new.append(again, 2, new_events(1), status="idle")
        assert [event.seq for event in await new.read(key)] == [1, 2, 3]


async def until_done(action: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await action()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


SLOW_DISK = ("-e", "inject=fdatasync:delay_enter=1200000")
LOST_MAX_S = 5.0


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed: it tells what was fsynced, and when"
)
@pytest.mark.parametrize(
    ("appendfsync", "disk", "cut"),
    [
        ("everysec", (), "kill -9"),
        ("everysec", (), "power cut"),
        ("everysec", SLOW_DISK, "kill -9"),
        ("everysec", SLOW_DISK, "power cut"),
        ("always", (), "power cut"),
    ],
)
async def test_the_bound_of_what_interval_mode_can_lose(
    appendfsync: str, disk: tuple[str, ...], cut: str, tmp_path: Path
) -> None:
    """A power cut: the file is what it was when the last fdatasync that ended had begun; the rest was in memory."""
    trace = tmp_path / "trace"
    calls = ("-f", "-y", "-s", "0", "-e", "trace=write,fdatasync", "-e", "signal=none", "-o", str(trace))
    server = RedisServer(appendfsync, command=("strace", *calls, *disk))
    inner, namespace = MemoryStore(), new_namespace()
    try:
        store = RedisStore(Shared(inner), server.url, durability="interval", flush_s=100.0, namespace=namespace)
        writers = [Writer(store, new_key(), pause_s=0.002) for _ in range(WRITERS)]
        writing = [asyncio.create_task(writer.write()) for writer in writers]
        await asyncio.sleep(3.3)  # measuring: several rounds of the fsync that comes every second
        server.kill()
        cut_at = time.time()
        for writer in writers:
            writer.going = False
        await asyncio.gather(*writing)
        if cut == "power cut":
            with server.aof.open("r+b") as file:
                file.truncate(min(synced_bytes(trace.read_text()), server.aof.stat().st_size))
        server._command = server._command[
            server._command.index(next(w for w in server._command if "redis-server" in w)) :
        ]
        await asyncio.to_thread(server.start)
        async with redis_store("interval", Shared(inner), server, namespace=namespace) as heir:
            await heir.open()  # which flushes
        lost: list[float] = []
        for writer in writers:
            journal = await read_all(inner, writer.key)
            assert [event.seq for event in journal] == list(range(1, len(journal) + 1))
            kept = [event.body for event in journal][: len(writer.acknowledged)]
            assert kept == [body for _, body in writer.acknowledged][: len(kept)]
            lost += [cut_at - at for at, _ in writer.acknowledged[len(kept) :]]
        total = sum(len(writer.acknowledged) for writer in writers)
        what = f"interval, {appendfsync}{', slow disk' if disk else ''}, {cut}"
        print(f"\n{what}: {total} acknowledged, {len(lost)} lost, "
              f"the oldest {max(lost, default=0.0) * 1000:.0f} ms before the cut")  # fmt: skip
        assert total > 100
        assert max(lost, default=0.0) < LOST_MAX_S
        if appendfsync == "always":
            assert not lost
        with contextlib.suppress(StoreError):
            await store.aclose()
    finally:
        server.end()


def synced_bytes(trace: str) -> int:
    """Of the append-only file, from what strace saw."""
    written = synced = 0
    begun: dict[str, tuple[str, int]] = {}
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if match := re.match(r"(write|fdatasync)\(\d+<[^>]*incr\.aof>", call):
            begun[pid] = (match[1], written)
        elif not (call.startswith("<...") and pid in begun):
            continue
        if "unfinished" in call or not (result := re.search(r"= (\d+)( \(DELAYED\)| \(INJECTED\))?$", call)):
            continue
        name, size = begun.pop(pid)
        if name == "write":
            written += int(result[1])
        else:
            synced = max(synced, size)
    return synced
