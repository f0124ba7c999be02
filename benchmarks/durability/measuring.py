"""What the durability benchmarks share: running subjects in processes of their own, medians, tables in Markdown."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from server import Disk, disk

HERE = Path(__file__).parent
SAVERS = {
    "SqliteSaver": "sqlite",
    "AsyncSqliteSaver": "sqlite",
    "PostgresSaver": "postgres",
    "AsyncPostgresSaver": "postgres",
}


def subject(python: str, script: str, *arguments: object) -> Any:
    """Run a subject; returns what it printed last, as JSON, or None."""
    command = [python, str(HERE / script), *[str(each) for each in arguments]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=HERE)
    if done.returncode:
        sys.exit(f"{script} {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith(("{", "[")) else None


def absolute(python: str | None) -> str | None:
    """Subjects run in this folder. Not resolved: the python of a virtual environment is a link."""
    return None if python is None else str(Path(python).absolute())


def median_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and half the distance between the least and the most."""
    return f"{statistics.median(values):,.{digits}f} ±{(max(values) - min(values)) / 2:,.{digits}f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are below (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def p50_p99(values: Sequence[float]) -> str:
    """Both, and how many there are."""
    return f"{percentile(values, 0.5):,.1f} / {percentile(values, 0.99):,.1f} ({len(values)})"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    table = Table(*columns, box=MARKDOWN)
    for row in rows:
        table.add_row(*row)
    console = Console(width=250, no_color=True)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().strip().splitlines())


def alone(measure: Callable[[Disk, str | None, int], str], about: str | None) -> None:
    """The main program of one promise."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--peers", help="python of an environment that has the peers; without it they are left out")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with disk() as there:
        print(measure(there, absolute(options.peers), options.rounds))
