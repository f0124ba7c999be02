"""A durable step, at most 1 ms of CPU and no dearer in a long conversation: against LangGraph's savers and DBOS.

Two tables. Whole runs: from one tool call to the next, with a model that answers at once. And what makes the step
durable, without a run around it. Each subject is a process of its own in every round; rounds take turns. CPU is that
of the subject's process, and after the ``+`` that of the Postgres server's. ``python step.py --peers PYTHON``
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from typing import Any

from measuring import SAVERS, alone, markdown, median_and_spread, p50_p99, subject
from server import Disk
from workload import HISTORIES

OURS = "callbox, "
DBOS_NOTE = (
    "A DBOS workflow holds no conversation: its one figure was measured once and stands for every length in the ratios."
)
VARIANTS = {
    "": "",
    ":async": ', durability="async" (not durable on return)',
    ":delta": ", DeltaChannel (beta)",
}


def subjects(peers: str | None) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Kind of store, python, script, and the arguments before the URL."""
    for kind in ("memory", "sqlite", "postgres"):
        yield kind, sys.executable, "with_callbox.py", ()
    if peers is not None:
        for saver, kind in SAVERS.items():
            yield kind, peers, "with_langgraph.py", (saver,)
        yield "sqlite", peers, "with_langgraph.py", ("SqliteSaver:async",)
        yield "sqlite", peers, "with_langgraph.py", ("SqliteSaver:delta",)
        for kind in ("sqlite", "postgres"):
            yield kind, peers, "with_dbos.py", ()


def labelled(kind: str, script: str, given: tuple[str, ...], what: str) -> str:
    if script == "with_callbox.py":
        return f"{OURS}{kind}: " + {"run": "session.run", "journal": "journal", "store": "store.append"}[what]
    if script == "with_langgraph.py":
        saver, _, variant = given[0].partition(":")
        return f"langgraph, {saver}{VARIANTS[f':{variant}' if variant else '']}" + (
            ": put + put_writes" if what == "saver" else ""
        )
    return f"dbos, {kind}: " + {"one": "workflow of one step", "more": "one more step (outcome only)"}[what]


Rows = dict[str, dict[str, dict[str, list[float]]]]


def collect(disk: Disk, peers: str | None, rounds: int) -> tuple[Rows, dict[str, str], set[str]]:
    """Figures by label and history, the kind of store of each label, and what SQLite waits for."""
    rows: Rows = {}
    kinds: dict[str, str] = {}
    settings: set[str] = set()
    for _ in range(rounds):
        for kind, python, script, given in subjects(peers):
            pid = disk.pid if kind == "postgres" else 0
            print(f"  {script} {' '.join(given) or kind}", file=sys.stderr)
            found: dict[str, Any] = subject(python, script, "step", *given, disk.fresh(kind), pid)
            if waits := found.pop("settings", ""):
                settings.add(f"{script.removeprefix('with_').removesuffix('.py')} {waits}")
            for what, by_history in found.items():
                label = labelled(kind, script, given, what)
                kinds[label] = kind
                for history, figures in by_history.items():
                    merged = rows.setdefault(label, {}).setdefault(
                        history, {"cpu_ms": [], "server_ms": [], "wall_ms": []}
                    )
                    merged["cpu_ms"].append(statistics.mean(figures["cpu_ms"]))
                    merged["server_ms"].append(statistics.mean(figures["server_ms"]))
                    merged["wall_ms"] += figures["wall_ms"]
    return rows, kinds, settings


def total(figures: dict[str, list[float]]) -> float:
    return statistics.median(figures["cpu_ms"]) + statistics.median(figures["server_ms"])


def table(rows: Rows, kinds: dict[str, str], labels: list[str], base: str) -> str:
    first, last = str(HISTORIES[0]), str(HISTORIES[-1])
    columns = [
        "ms of CPU per durable step",
        *[f"{history} messages" for history in HISTORIES],
        f"x callbox at {first}",
        f"x callbox at {last}",
        f"ms p50 / p99 (n) at {last}",
    ]
    lines: list[list[str]] = []
    for label in labels:
        cells: list[str] = []
        for history in map(str, HISTORIES):
            figures = rows[label].get(history)
            if figures is None:
                cells.append("no history")
                continue
            server = f" + {median_and_spread(figures['server_ms'])}" if kinds[label] == "postgres" else ""
            cells.append(median_and_spread(figures["cpu_ms"]) + server)
        ratios: list[str] = []
        for history in (first, last):
            ours = rows.get(f"{OURS}{kinds[label]}: {base}", {}).get(history)
            figures = rows[label].get(history, rows[label][first])
            ratios.append("" if ours is None else f"{total(figures) / total(ours):.1f}")
        lines.append([label, *cells, *ratios, p50_p99(rows[label].get(last, rows[label][first])["wall_ms"])])
    return markdown(columns, lines)


def measure(disk: Disk, peers: str | None, rounds: int) -> str:
    """Both tables."""
    rows, kinds, settings = collect(disk, peers, rounds)
    whole = [label for label in rows if label.endswith("session.run") or _is_graph(label)]
    parts = [label for label in rows if label not in whole]
    whole.sort(key=lambda label: (["memory", "sqlite", "postgres"].index(kinds[label]), not label.startswith(OURS)))
    parts.sort(key=lambda label: (["memory", "sqlite", "postgres"].index(kinds[label]), not label.startswith(OURS)))
    notes = [
        "Whole runs, from one call to the next:",
        table(rows, kinds, whole, "session.run"),
        "What makes the step durable, alone (ratios to callbox's journal):",
        table(rows, kinds, parts, "journal"),
    ]
    if peers is not None:
        notes.append(DBOS_NOTE)
    if settings:
        notes.append("SQLite as the peers open it by themselves: " + "; ".join(sorted(settings)) + " (2 is FULL).")
    return "\n\n".join(notes)


def _is_graph(label: str) -> bool:
    return label.startswith("langgraph") and "put" not in label


if __name__ == "__main__":
    alone(measure, __doc__)
