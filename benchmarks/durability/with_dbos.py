"""DBOS: ``python with_dbos.py step|calls|calls-of-one URL PID ...`` prints one JSON object.

step: a workflow with one step (the workflow's row is the intent, the step's row the outcome), and one more step of a
workflow, which writes an outcome and no intent. Functions are sync, which is what costs DBOS least. A conversation is
not part of a workflow, so that its length does not matter here.
"""

from __future__ import annotations

import itertools
import sqlite3
import sys
from typing import Any

from dbos import DBOS
from workload import ARGUMENTS_BYTES, HISTORIES, RESULT_BYTES, RUNS, STEPS, Marks, Server, arguments, emit, result

marks: Marks | None = None
result_bytes = RESULT_BYTES
numbers = itertools.count()


@DBOS.step()
def look_up(query: str) -> str:
    if marks is not None:
        marks.hit()
    return result(query[:20], result_bytes)


@DBOS.workflow()
def one_step(query: str) -> str:
    return look_up(query)


@DBOS.workflow()
def many_steps(seed: str, count: int, arguments_bytes: int) -> int:
    for n in range(count):
        look_up(arguments(f"{seed}-{n}", arguments_bytes)["query"])
    return count


def steps_of_one(count: int, arguments_bytes: int = ARGUMENTS_BYTES) -> None:
    for n in range(count):
        one_step(arguments(f"{next(numbers)}-{n}", arguments_bytes)["query"])


def step(url: str, server: Server) -> Any:
    global marks  # noqa: PLW0603
    figures: dict[str, Any] = {"settings": settings(url)}
    steps_of_one(3)
    many_steps("warm", 3, ARGUMENTS_BYTES)
    for name, run in (
        ("one", lambda: steps_of_one(STEPS + 1)),
        ("more", lambda: many_steps("m", STEPS + 1, ARGUMENTS_BYTES)),
    ):
        marks = Marks(server)
        for _ in range(RUNS):
            run()
        figures[name] = {str(history): marks.figures() for history in HISTORIES[:1]}
    return figures


def settings(url: str) -> str:
    """What its commits wait for: it sets neither, so that a connection of our own tells."""
    if not url.startswith("sqlite"):
        return ""
    db = sqlite3.connect(url.removeprefix("sqlite:///"))
    names = ("journal_mode", "synchronous")
    return ", ".join(f"{name}={db.execute(f'PRAGMA {name}').fetchone()[0]}" for name in names)


def main() -> None:
    global result_bytes
    command, url, pid, *rest = sys.argv[1:]
    DBOS(config={"name": "benchmark", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    try:
        if command == "step":
            emit(step(url, Server(int(pid))))
        elif command in ("calls", "calls-of-one"):
            count, arguments_bytes, result_bytes = int(rest[0]), int(rest[1]), int(rest[2])
            if command == "calls":
                many_steps("more", count, arguments_bytes)
            else:
                steps_of_one(count, arguments_bytes)
        elif command != "fill":
            sys.exit(f"no command {command}")
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    main()
