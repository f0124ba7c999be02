"""Several processes on one session: one works, the others wait; who slept past the lease and wakes commits nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from callbox import Agent, errors
from callbox.clock import SystemClock
from callbox.providers.scripted import Scripted
from callbox.sessions.entries import Noted
from callbox.sessions.journal import Journal
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import SessionKey
from faults.session_deaths import TESTS
from faults.session_world import Files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

YEAR_S = 365 * 86_400.0
HOUR_S = 3_600.0
SHORT_S = 0.5


class Holder:
    """A running `session_holder`."""

    def __init__(self, folder: Path, key: str, *, ttl_s: float, wait_s: float) -> None:
        job = {"url": f"sqlite:///{folder / 'sessions.db'}", "session": "s", "folder": str(folder), "key": key,
               "ttl_s": ttl_s, "wait_s": wait_s}  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults.session_holder", json.dumps(job)], cwd=TESTS, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def says(self) -> dict[str, Any]:
        """Wait for the next thing that it tells; the test's time-out is the deadline."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            deadline = time.monotonic() + 20
            while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                assert time.monotonic() < deadline

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(key: str = "k", *, ttl_s: float = HOUR_S, wait_s: float = 60.0) -> Holder:
        holders.append(Holder(tmp_path, key, ttl_s=ttl_s, wait_s=wait_s))
        return holders[-1]

    yield start
    for holder in holders:
        holder.end()


def effects(folder: Path) -> list[tuple[str, int, int]]:
    return [(each["tool"], each["what"], each["pid"]) for each in Files.lines(Files(folder).effects)]


def events(folder: Path) -> list[Any]:
    async def read() -> list[Any]:
        store = SqliteStore(folder / "sessions.db")
        try:
            found = await store.read(SessionKey("default", "s"))
            await Journal(store, SessionKey("default", "s")).read()
            return found
        finally:
            await store.aclose()

    return asyncio.run(read())


def test_one_process_works_and_the_other_is_told_so_or_waits(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    one = hold("first")
    assert one.says() == {"at": "hold", "number": 1}
    assert hold("second", wait_s=0).says() == {"end": "SessionBusy", "retryable": True}
    waiting = hold("second")
    one.go_on()
    assert one.says() == {"at": "hold", "number": 3}
    one.go_on()
    assert one.says()["end"] == "done"
    for number in (1, 3):
        assert waiting.says() == {"at": "hold", "number": number}
        waiting.go_on()
    assert waiting.says()["end"] == "done"
    did = [("hold", 1), ("pay", 2), ("hold", 3), ("pay", 4)]
    pids = [one.process.pid] * 4 + [waiting.process.pid] * 4
    assert effects(tmp_path) == [(*each, pid) for each, pid in zip(did * 2, pids, strict=True)]


def test_processes_that_say_the_same_at_once_have_one_answer(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    holders = [hold("same") for _ in range(4)]
    for holder in holders:
        holder.go_on()
        holder.go_on()
    ends = []
    for holder in holders:
        while "end" not in (said := holder.says()):
            pass
        ends.append((said["end"], said["run"]))
    assert len(set(ends)) == 1
    assert ends[0][0] == "done"
    assert len(effects(tmp_path)) == 4


def test_a_process_that_slept_past_its_lease_commits_nothing(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    sleeper = hold(ttl_s=SHORT_S)
    assert sleeper.says() == {"at": "hold", "number": 1}
    sleeper.send(signal.SIGSTOP)
    other = hold(ttl_s=HOUR_S)
    assert other.says() == {"at": "hold", "number": 3}, "it took over, and goes on"
    before = events(tmp_path)
    sleeper.go_on()
    sleeper.send(signal.SIGCONT)
    assert sleeper.says() == {"end": "SessionFenced", "retryable": False}
    assert sleeper.process.wait(60) == 0
    assert events(tmp_path) == before, "it wrote nothing"
    other.go_on()
    assert other.says()["end"] == "done"
    a, b = sleeper.process.pid, other.process.pid
    assert effects(tmp_path) == [("hold", 1, a), ("pay", 2, b), ("hold", 3, b), ("pay", 4, b)]
    results = asyncio.run(_results(tmp_path))
    assert results == ["outcome_unknown", None, None, None], "what the sleeper did is not known to the other"


async def _results(folder: Path) -> list[str | None]:
    store = SqliteStore(folder / "sessions.db")
    state = await Journal(store, SessionKey("default", "s")).state()
    await store.aclose()
    return [each.error.code if each.error else None for message in state.messages for each in message.results]


def test_a_dead_process_is_not_waited_for(tmp_path: Path, hold: Callable[..., Holder]) -> None:
    dead = hold(ttl_s=HOUR_S)
    assert dead.says() == {"at": "hold", "number": 1}
    dead.send(signal.SIGKILL)
    dead.process.wait()
    heir = hold(wait_s=0)
    assert heir.says() == {"at": "hold", "number": 3}, "at once, an hour before the lease runs out"
    heir.go_on()
    assert heir.says()["end"] == "done"
    assert [each[:2] for each in effects(tmp_path)] == [("hold", 1), ("pay", 2), ("hold", 3), ("pay", 4)]


class WrongClock(SystemClock):
    """A clock that somebody sets."""

    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s

    def wall(self) -> float:
        return time.time() + self.ahead_s


@pytest.mark.parametrize(("holder_s", "other_s"), [(YEAR_S, 0.0), (0.0, YEAR_S), (0.0, -YEAR_S), (-YEAR_S, 0.0)])
async def test_a_wrong_clock_blocks_nobody_and_loses_nothing(tmp_path: Path, holder_s: float, other_s: float) -> None:
    stores = [SqliteStore(tmp_path / "s.db", clock=WrongClock(ahead_s)) for ahead_s in (holder_s, other_s)]
    one, two = (Journal(store, SessionKey("default", "s")) for store in stores)
    await one.ensure()
    async with one.writing(ttl_s=HOUR_S) as held:
        # The holder lives: it is the clocks alone that say that its lease is over.
        await held.write(Noted(values={"by": "one"}))
        async with two.writing(wait_s=0, ttl_s=HOUR_S) as taken:
            await taken.write(Noted(values={"by": "two"}))
            with pytest.raises(errors.SessionFenced):
                await held.write(Noted(values={"by": "nobody"}))
            await taken.write(Noted(values={"last": True}))
    assert [each.seq for each in await one.read()] == [1, 2, 3]
    assert (await two.state()).notes == {"by": "two", "last": True}
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("ahead_s", [YEAR_S, -YEAR_S])
async def test_a_clock_that_is_set_during_a_run_and_back_changes_nothing(tmp_path: Path, ahead_s: float) -> None:
    clock = WrongClock(0.0)
    store = SqliteStore(tmp_path / "s.db", clock=clock)

    def say(messages: Any) -> str:
        clock.ahead_s = ahead_s if clock.ahead_s == 0.0 else 0.0
        return "Done."

    session = Agent(model=Scripted(say), store=store).session("s", busy_wait_s=0, lease_ttl_s=HOUR_S)
    for number in range(4):
        assert (await session.run(f"Say {number}", key=str(number))).output == "Done."
    assert [each.seq for each in await session.journal.read()] == list(range(1, 13))
    assert len(await session.messages()) == 8
    await store.aclose()
