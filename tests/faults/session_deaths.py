"""Lives of a session with deaths in them: who is killed where, and what is wrong afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

Kill: TypeAlias = tuple[str, int]
"""A point, and which time a process passes it."""

PROCESSES_MAX = 20
TESTS = Path(__file__).parent.parent


class Nursery:
    """A program that forks processes (`session_life`). A context manager; one thread at a time."""

    def __enter__(self) -> Nursery:
        self._program = subprocess.Popen(
            [sys.executable, "-m", "faults.session_life"], cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(30)
        self._program.stdout.close()

    def do(self, **job: Any) -> dict[str, Any]:
        """Run one process to its end."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(job) + "\n")
        self._program.stdin.flush()
        return json.loads(self._program.stdout.readline())


@dataclass
class Place:
    """Where a life takes place.

    Attributes:
        folder: Of what its processes leave.
        url: Of the store; None: a file in the folder.
        tenant: Whose it is.
    """

    folder: Path
    url: str | None = None
    tenant: str = "acme"

    def job(self, role: str) -> dict[str, Any]:
        url = self.url or f"sqlite:///{self.folder / 'sessions.db'}"
        return {"folder": str(self.folder), "url": url, "tenant": self.tenant, "role": role}


@dataclass
class Lived:
    """How a life went.

    Attributes:
        passed: The points that each process passed that ended by itself, by its number.
        killed: Numbers of the processes that were killed.
        violations: What was wrong, and after which process it was seen.
    """

    passed: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    killed: list[int] = field(default_factory=list[int])
    violations: list[str] = field(default_factory=list[str])


def live(nursery: Nursery, place: Place, kills: dict[int, Kill], *, first: int = 0, role: str = "live",
         keep: Path | None = None, mutant: str | None = None) -> Lived:  # fmt: skip
    """Start processes until the life is over, and look after each death and at the end.

    Args:
        kills: Where each process is killed, by its number.
        first, role: The number of the first process, and what it is.
        keep: Keep the files as they were before each process here, in a folder of its number.
        mutant: See `session_mutants`.
    """
    lived = Lived()
    place.folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + PROCESSES_MAX):
        if keep is not None:
            shutil.copytree(place.folder, keep / f"{number}-{role}")
        left = nursery.do(**place.job(role), kill=kills.get(number), mutant=mutant)
        how = left["how"]
        if how == "killed":
            lived.killed.append(number)
        else:
            lived.passed[number] = left["passed"]
        if how == "failed":
            lived.violations.append(f"process {number} failed: {left['why']}")
            break
        if how in ("killed", "done"):
            looked = nursery.do(**place.job("check the end" if how == "done" else "check"))
            found = json.loads(looked["how"]) if looked["how"] != "failed" else [looked["why"]]
            lived.violations += [f"after process {number}: {what}" for what in found]
        if how == "done" or lived.violations:
            break
        role = {"waiting": "decide", "decided": "live", "killed": role}[how]
    else:
        lived.violations.append(f"it is not over after {PROCESSES_MAX} processes")
    return lived


def kills_in(passed: Iterable[str]) -> list[Kill]:
    """Every point, and every time that it was passed."""
    times: Counter[str] = Counter()
    kills: list[Kill] = []
    for point in passed:
        times[point] += 1
        kills.append((point, times[point]))
    return kills
