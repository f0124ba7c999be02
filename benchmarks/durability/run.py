"""Durable sessions, all promises in one run: prints Markdown. ``python run.py [--peers PYTHON] [--rounds N]``

Peers run in an environment of their own (`scripts/bench` makes ``.venv-peers``). The Postgres server is a real one that
starts with the run and ends with it; SQLite's files are on the same disk.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import appends
import load
import size
import step
from measuring import absolute
from server import disk

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
NAMES = ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "dbos")
PROMISES = (
    ("Durable step: intent and outcome of one call of 100 + 300 bytes", step.measure),
    ("Bytes per call", size.measure),
    ("Loading a session", load.measure),
    ("Appends at the same time", appends.measure),
)


def facts(postgres: Path, peers: str | None) -> str:
    """The machine, the versions, and whether it was busy with something else."""
    version = subprocess.run([postgres / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)*", version)
    cores = os.cpu_count() or 1
    busy = os.getloadavg()[0]
    beside = f"; beside other work (load {busy:.1f} before it began)" if busy > cores / 2 else ""
    told = (
        f"{cores} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()},"
        f" SQLite {sqlite3.sqlite_version}, Postgres {found[0] if found else '?'}{beside}."
    )
    if peers is None:
        return told
    code = f"from importlib.metadata import version; print(*(f'{{p}} {{version(p)}}' for p in {NAMES!r}), sep=', ')"
    return (
        f"{told} Peers: "
        + subprocess.run([peers, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        + "."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=str(PEERS) if PEERS.exists() else None, help="python that has the peers")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    peers = absolute(options.peers)
    began = time.monotonic()
    with disk() as there:
        print(facts(there.postgres.bin, peers))
        for title, measure in PROMISES:
            print(f"{title} ... ({time.monotonic() - began:.0f} s)", file=sys.stderr)
            print(f"\n### {title}\n\n{measure(there, peers, options.rounds)}", flush=True)
    print(f"done in {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
