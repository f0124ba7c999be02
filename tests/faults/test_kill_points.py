"""A session's process is killed at every named point, and the next one in its recovery: nothing is lost or doubled.

The life (`session_life`): parallel reads, tools that run at most once and one that is idempotent, approvals that
another process gives, a fork, a rewind, a run out of time. After each death and at the end, another process looks at
what there is (`session_checks`).
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from callbox.sessions.points import POINTS
from faults.session_deaths import Kill, Lived, Nursery, Place, kills_in, live
from faults.session_mutants import MUTANTS, SEEN
from support_postgres import server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NURSERIES = 2
PAIRS = 150
"""Of a death and a second one while the next process recovers."""

SEED = 20
EFFECT_POINTS = ("effect.before", "effect.after")
RECOVERY_POINTS = ("recovery.before", "recovery.after")


@dataclass(frozen=True)
class Death:
    """Which process is killed where, and where the one after it is."""

    number: int
    role: str
    kill: Kill
    again: Kill | None = None


class Harness:
    """Plays lives, several at a time, each in a place of its own.

    Args:
        folder: For all that they leave.
        url: Of a store for all of them; None: a SQLite file for each.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self.url = url
        self.lives = 0
        self._numbers = count()

    def without_deaths(self) -> tuple[list[Death], list[str]]:
        """Every single death that there is to die."""
        place = self._place()
        with Nursery() as nursery:
            lived = live(nursery, place, {}, keep=self.folder / "before")
        assert lived.violations == []
        roles = {int(number): role for number, role in (p.name.split("-") for p in (self.folder / "before").iterdir())}
        deaths = [Death(at, roles[at], kill) for at, passed in lived.passed.items() for kill in kills_in(passed)]
        return deaths, [point for passed in lived.passed.values() for point in passed]

    def die(self, deaths: list[Death]) -> list[tuple[Death, Lived]]:
        """Play one life for each."""

        def share(own: list[Death]) -> list[tuple[Death, Lived]]:
            with Nursery() as nursery:
                return [(death, self._one(nursery, death)) for death in own]

        with ThreadPoolExecutor(NURSERIES) as threads:
            played = list(threads.map(share, [deaths[at::NURSERIES] for at in range(NURSERIES)]))
        return [each for share in played for each in share]

    def _one(self, nursery: Nursery, death: Death) -> Lived:
        place = self._place()
        self.lives += 1
        kills = {death.number: death.kill}
        if death.again is not None:
            kills[death.number + 1] = death.again
        if self.url is None:
            shutil.copytree(self.folder / "before" / f"{death.number}-{death.role}", place.folder)
            lived = live(nursery, place, kills, first=death.number, role=death.role)
        else:
            lived = live(nursery, place, kills)
        shutil.rmtree(place.folder)
        return lived

    def _place(self) -> Place:
        number = next(self._numbers)
        return Place(self.folder / f"life-{number}", self.url, f"tenant-{number}" if self.url else "acme")


def pairs_of(lived: list[tuple[Death, Lived]]) -> list[Death]:
    """A second death of the process after each death: every point of a recovery, and a sample of all others."""
    pairs = [
        Death(death.number, death.role, death.kill, again)
        for death, life in lived
        for again in kills_in(life.passed.get(death.number + 1, []))
    ]
    recovering = [pair for pair in pairs if pair.again is not None and pair.again[0] in RECOVERY_POINTS]
    others = [pair for pair in pairs if pair not in recovering]
    return recovering + random.Random(SEED).sample(others, max(0, min(len(others), PAIRS - len(recovering))))


def wrong(played: list[tuple[Death, Lived]]) -> list[str]:
    return [f"{death}: {what}" for death, life in played for what in life.violations]


def test_whatever_point_a_process_is_killed_at_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    deaths, passed = harness.without_deaths()
    assert set(passed) == {*POINTS, *EFFECT_POINTS} - set(RECOVERY_POINTS), "every point is passed"
    singles = harness.die(deaths)
    assert wrong(singles) == []
    assert all(life.killed == [death.number] for death, life in singles), "everybody died where they should"
    seen = {point for _, life in singles for points in life.passed.values() for point in points}
    assert seen >= set(RECOVERY_POINTS)
    pairs = harness.die(pairs_of(singles))
    assert wrong(pairs) == []
    twice = sum(len(life.killed) == 2 for _, life in pairs)
    kinds = Counter(point for point, _ in (death.kill for death in deaths))
    print(
        f"\nSQLite: {len(kinds)} points passed {len(deaths)} times, {len(singles)} lives with a death, "
        f"{twice} of {len(pairs)} with a second one in recovery, violations: 0"
    )
    assert twice >= len(pairs) * 0.9
    assert {death.again[0] for death, _ in pairs if death.again} >= set(RECOVERY_POINTS)


async def test_the_same_holds_on_postgres(tmp_path: Path) -> None:
    there = await asyncio.to_thread(server)
    name = await there.fresh_database()
    harness = Harness(tmp_path, there.url(name, name))
    try:
        deaths, _ = await asyncio.to_thread(harness.without_deaths)
        played = await asyncio.to_thread(harness.die, deaths)
    finally:
        await there.drop(name)
    assert wrong(played) == []
    assert all(life.killed == [death.number] for death, life in played), "everybody died where they should"
    print(f"\nPostgres: {len(deaths)} deaths, {len(played)} lives, violations: 0")


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_harness_finds_a_recorder_that_is_wrong(tmp_path: Path, mutant: str) -> None:
    with Nursery() as nursery:
        for number in range(1, 6):  # the effects of the first process; a pair of them is the payment's
            for point in ("effect.after", "outcome.before"):
                place = Place(tmp_path / f"{number}-{point}")
                lived = live(nursery, place, {0: (point, number)}, mutant=mutant)
                if lived.violations:
                    assert SEEN[mutant] in lived.violations[0]
                    print(f"\n{mutant}: {lived.violations[0]}")
                    return
    pytest.fail("the harness saw nothing")


def test_the_same_lives_without_a_mutant_have_no_violation(tmp_path: Path) -> None:
    with Nursery() as nursery:
        for number in range(1, 6):
            assert live(nursery, Place(tmp_path / str(number)), {0: ("effect.after", number)}).violations == []
