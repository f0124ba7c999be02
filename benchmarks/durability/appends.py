"""Appends per second with 1, 10, 100 and 1,000 sessions that write at the same time: those that wait share a commit.

One event of 400 bytes after another, each durable before the next; a commit waits for the disk once. Appends per
sync are counted by the server, which also syncs for other reasons; SQLite syncs once for each commit, and at
checkpoints. ``python appends.py``
"""

from __future__ import annotations

import sys
import time

from measuring import alone, markdown, median_and_spread, percentile, subject
from server import Disk

WRITERS = (1, 10, 100, 1_000)
SECONDS = 1.5


def measure(disk: Disk, peers: str | None, rounds: int) -> str:
    """The table."""
    del peers
    figures: dict[tuple[str, int], dict[str, list[float]]] = {}
    for _ in range(rounds):
        for kind in ("sqlite", "postgres"):
            for writers in WRITERS:
                print(f"  {kind} {writers}", file=sys.stderr)
                before = disk.syncs() if kind == "postgres" else 0
                pid = disk.pid if kind == "postgres" else 0
                found = subject(sys.executable, "with_callbox.py", "appends", disk.fresh(kind), pid, writers, SECONDS)
                if kind == "postgres":
                    time.sleep(0.2)  # the server's statistics are told when a connection has ended
                    found["syncs"] = disk.syncs() - before
                for name, value in found.items():
                    figures.setdefault((kind, writers), {}).setdefault(name, []).append(value)
    rows: list[list[str]] = []
    for (kind, writers), each in figures.items():
        server = f" + {median_and_spread(each['server_ms'])}" if kind == "postgres" else ""
        rows.append(
            [
                f"{kind}, {writers:,}",
                median_and_spread(each["per_s"], 0),
                median_and_spread(each["per_commit"], 1),
                median_and_spread([n / syncs for n, syncs in zip(each["done"], each["syncs"], strict=True)], 1)
                if "syncs" in each
                else "",
                median_and_spread(each["cpu_ms"]) + server,
                f"{percentile(each['p50'], 0.5):,.1f} / {percentile(each['p99'], 0.5):,.1f}",
            ]
        )
    columns = ["writers", "appends per second", "per commit", "per sync", "ms of CPU per append", "ms p50 / p99"]
    return markdown(columns, rows)


if __name__ == "__main__":
    alone(measure, __doc__)
