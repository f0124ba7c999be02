"""Opening a session of 200 messages: CPU and wall time until its messages are there, in a new process and a new agent.

The first time of a process imports what reading needs; later times have a new agent and new connections. Neither an
agent nor a graph is made while the clock runs. Peers: a saver of its own and `get_tuple` every time.
``python load.py --peers PYTHON``
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator

from measuring import SAVERS, alone, markdown, median_and_spread, subject
from server import Disk

HISTORY = 200
TIMES = 16


def subjects(peers: str | None) -> Iterator[tuple[str, str, str, str, tuple[str, ...]]]:
    """Name, kind of store, python, script, arguments before the URL."""
    for kind in ("sqlite", "postgres"):
        yield f"callbox, {kind}", kind, sys.executable, "with_callbox.py", ()
    if peers is not None:
        for saver, kind in SAVERS.items():
            yield f"langgraph, {saver}", kind, peers, "with_langgraph.py", (saver,)


def measure(disk: Disk, peers: str | None, rounds: int) -> str:
    """The table."""
    urls: dict[str, str] = {}
    figures: dict[str, list[list[tuple[float, float]]]] = {}
    kinds: dict[str, str] = {}
    for _ in range(rounds):
        for name, kind, python, script, before in subjects(peers):
            print(f"  {name}", file=sys.stderr)
            if name not in urls:
                urls[name] = disk.fresh(kind)
                subject(python, script, "fill", *before, urls[name], 0, HISTORY)
            kinds[name] = kind
            found = subject(python, script, "load", *before, urls[name], 0, TIMES)
            figures.setdefault(name, []).append(found["figures"])
    rows: list[list[str]] = []
    for name, by_round in figures.items():
        first_cpu = [times[0][0] for times in by_round]
        first_wall = [times[0][1] for times in by_round]
        later_cpu = [statistics.median([each[0] for each in times[1:]]) for times in by_round]
        later_wall = [statistics.median([each[1] for each in times[1:]]) for times in by_round]
        ours = [statistics.median([each[0] for each in times[1:]]) for times in figures[f"callbox, {kinds[name]}"]]
        ratio = statistics.median(later_cpu) / statistics.median(ours)
        cells = [median_and_spread(each, 1) for each in (first_cpu, first_wall, later_cpu, later_wall)]
        rows.append([name, *cells, f"{ratio:.1f}"])
    columns = ["ms to load 200 messages", "first: CPU", "wall", "later: CPU", "wall", "x callbox, later CPU"]
    return markdown(columns, rows)


if __name__ == "__main__":
    alone(measure, __doc__)
