"""What every subject does and how it is measured. Standard library only: peers' environments run it too.

A durable step is one tool call whose intent is on disk before the tool runs, and whose outcome is on disk before the
next step. Arguments are JSON text of about 100 bytes and results text of about 300, made of words, so that a store that
compresses can.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

HISTORIES = (0, 50, 200)
"""Messages that the conversation has before the first measured call."""

ARGUMENTS_BYTES, RESULT_BYTES = 100, 300
STEPS = 20
"""Measured calls of one run; one more begins it."""

RUNS = 2
"""Conversations of one process for each history."""

NAME = "look_up"
QUESTION = "What do the records say?"
ANSWER = "They say enough."

_WORDS = ("order", "city", "invoice", "weather", "amount", "late", "green", "parcel", "of", "and", "the", "status")


def text(seed: str, size: int) -> str:
    """Words, `size` characters, the same for the same seed."""
    chosen = random.Random(seed)
    words: list[str] = []
    length = 0
    while length <= size:
        words.append(f"{chosen.choice(_WORDS)}{chosen.randrange(100)}")
        length += len(words[-1]) + 1
    return " ".join(words)[:size]


def arguments(seed: str, size: int = ARGUMENTS_BYTES) -> dict[str, str]:
    """Arguments whose JSON text is `size` bytes."""
    return {"query": text(f"a{seed}", size - len(json.dumps({"query": ""})))}


def result(seed: str, size: int = RESULT_BYTES) -> str:
    """What the tool returns."""
    return text(f"r{seed}", size)


class Server:
    """CPU time of a Postgres server's processes, as far as /proc tells.

    Args:
        pid: Of its first process; 0 for no server.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_s(self) -> float:
        """Seconds on a core so far, of all processes that live."""
        if not self._pid:
            return 0.0
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        return sum(self._of(pid) for pid in [str(self._pid), *children])

    @staticmethod
    def _of(pid: str) -> float:
        try:
            return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
        except OSError:  # it ended meanwhile
            return 0.0


@dataclass
class Marks:
    """Figures of one subject at one history: CPU of each run, and the wall time of each step.

    Attributes:
        cpu_ms: Of our process and its threads, per step; one figure for each run.
        server_ms: Of the database server, per step; one figure for each run.
        wall_ms: Of each step.
        to_the_end: Count CPU until `end`: what is written behind a run's back belongs to its steps, too.
    """

    server: Server
    cpu_ms: list[float] = field(default_factory=list[float])
    server_ms: list[float] = field(default_factory=list[float])
    wall_ms: list[float] = field(default_factory=list[float])
    to_the_end: bool = False
    _hits: int = 0
    _began: tuple[float, float] = (0.0, 0.0)
    _last: float = 0.0

    def hit(self) -> None:
        """Call it when a step begins, `STEPS` + 1 times in a run: from each beginning to the next is one step."""
        now = time.perf_counter()
        if self._hits:
            self.wall_ms.append((now - self._last) * 1e3)
        if self._hits == STEPS:
            if not self.to_the_end:
                self._count(STEPS)
            self._hits = 0
            return
        if self._hits == 0:
            self._began = (0.0, self.server.cpu_s())
            self._began = (time.process_time(), self._began[1])
            now = time.perf_counter()
        self._hits += 1
        self._last = now

    def end(self) -> None:
        """Call it when a run has ended, with all that it left behind."""
        if self.to_the_end:
            self._count(STEPS + 1)

    def _count(self, steps: int) -> None:
        cpu = time.process_time()
        self.cpu_ms.append((cpu - self._began[0]) / steps * 1e3)
        self.server_ms.append((self.server.cpu_s() - self._began[1]) / steps * 1e3)

    def figures(self) -> dict[str, list[float]]:
        """As JSON."""
        return {"cpu_ms": self.cpu_ms, "server_ms": self.server_ms, "wall_ms": self.wall_ms}


def emit(value: object) -> None:
    """Print a subject's figures, as the last line."""
    print(json.dumps(value), flush=True)
