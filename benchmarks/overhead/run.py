"""Per-call overhead: CPU time per call of callbox, its peers and a hand-written loop, side by side in one run.

Subjects take turns, so that a busy moment of the machine hits all of them; the table shows the median of the rounds and
their spread. Peers run in an environment of their own (``--peers``), because their dependencies are not ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

HERE = Path(__file__).parent
SUBJECTS = {
    "callbox": "with_callbox.py",
    "callbox, token budget": "with_callbox_budget.py",
    "hand-written loop": "with_nothing.py",
    "pydantic-ai": "with_pydantic_ai.py",
    "openai-agents": "with_openai_agents.py",
    "langgraph": "with_langgraph.py",
}
OWN = {"callbox", "callbox, token budget", "hand-written loop"}
LOADS = {"50 turns": (50, 1), "200 turns": (200, 1), "400 turns": (400, 1), "50 x 10 parallel": (50, 10)}


def measure(python: str, script: str, turns: int, parallel: int) -> float:
    """Microseconds of CPU per call, in a process of its own."""
    done = subprocess.run(
        [python, str(HERE / script), str(turns), str(parallel)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        cwd=HERE,
    )
    return json.loads(done.stdout.splitlines()[-1])["us_per_call"]


def collect(peers: str | None, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Microseconds per call, by subject and load, one figure for each round."""
    figures: dict[str, dict[str, list[float]]] = {}
    jobs = [
        (subject, load)
        for _ in range(rounds)
        for load in LOADS
        for subject in SUBJECTS
        if subject in OWN or peers is not None
    ]
    for subject, load in track(jobs, "Overhead", console=Console(stderr=True)):
        python = sys.executable if subject in OWN else str(peers)
        figure = measure(python, SUBJECTS[subject], *LOADS[load])
        figures.setdefault(subject, {}).setdefault(load, []).append(figure)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="python of an environment that has the peers; without it they are left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    figures = collect(options.peers, options.rounds)
    table = Table("us of CPU per call", *LOADS, "400 : 50 turns", "x callbox at 400", box=None, pad_edge=False)
    base = statistics.median(figures["callbox"]["400 turns"])
    for subject, loads in figures.items():
        medians = {load: statistics.median(values) for load, values in loads.items()}
        cells = [f"{medians[load]:,.0f} ±{(max(loads[load]) - min(loads[load])) / 2:,.0f}" for load in LOADS]
        growth = medians["400 turns"] / medians["50 turns"]
        table.add_row(subject, *cells, f"{growth:.2f}", f"{medians['400 turns'] / base:.1f}")
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
