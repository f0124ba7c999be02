"""Run the benchmarks one after another and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"

HEAD = """\
# Benchmarks

Written by `make bench` on {date}: {cores} cores, {machine}, Python {python}. Peers: {peers}.

Times are CPU time of the process. Subjects run side by side in one run, so that a busy moment of a shared machine hits
all of them; read the ratios before the microseconds. Each table is made by the script that is named above it.
"""

SECTIONS = (
    (
        "Overhead per call",
        "benchmarks/overhead/run.py",
        True,
        "What one call costs on top of the model and the tool.",
    ),
    (
        "Start-up",
        "benchmarks/start_up.py",
        True,
        "A new process each time; the peak is of the whole process.",
    ),
    ("Reading a call", "benchmarks/reading.py", False, "Parse, resolve, validate, explain."),
    (
        "Reading a stream",
        "benchmarks/streaming.py",
        False,
        "One call in pieces; a peer must know when it is complete.",
    ),
    ("Counting tokens", "benchmarks/counting.py", False, "The offline estimate against a real vocabulary."),
    ("Choosing tools", "benchmarks/selection.py", False, "All functions of BFCL in one pool."),
    (
        "Durable sessions",
        "benchmarks/durability/run.py",
        True,
        "What it costs that a call survives a crash: SQLite with synchronous=FULL, Postgres with fsync on.",
    ),
)
MARKDOWN = {"Durable sessions"}
"""Sections whose script writes Markdown, tables and words between them; the others print a plain table."""
SLOW = (
    (
        "The local model",
        "benchmarks/local_model.py",
        False,
        "SmolLM2-135M in process, with constraints and without: shares of schema-valid and of right calls.",
    ),
    (
        "Sandboxes: latency",
        "benchmarks/sandboxes/latency.py",
        False,
        "Wall clock, because that is what a waiting agent sees; peers in the same run.",
    ),
    ("Sandboxes: load", "benchmarks/sandboxes/load.py", False, "Throughput, memory of sleepers, Python's own speed."),
    ("Sandboxes: endurance", "benchmarks/sandboxes/endurance.py", False, "Create, run a command, delete; again."),
)
PEERS = ("pydantic-ai-slim", "openai-agents", "langgraph")


def versions(python: str) -> str:
    """What is compared with."""
    code = f"from importlib.metadata import version; print(*(f'{{p}} {{version(p)}}' for p in {PEERS!r}), sep=', ')"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def run(script: str, arguments: list[str]) -> str:
    """The table that a benchmark prints."""
    environment = {**os.environ, "COLUMNS": "140", "NO_COLOR": "1"}
    command = [sys.executable, str(ROOT / script), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=ROOT)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def section(title: str, script: str, has_peers: bool, about: str, peers: str) -> str:
    """A section of the page, measured now."""
    table = run(script, ["--peers", peers] if has_peers else [])
    body = table if title in MARKDOWN else f"```\n{table}\n```"
    return f"\n## {title}\n\n{about} `{script}`\n\n{body}\n"


def replace_one(title: str, peers: str) -> None:
    """Measure one section, and write it where it was, or else before those that are rarely measured."""
    found = [each for each in SECTIONS + SLOW if each[0] == title]
    if not found:
        sys.exit(f"no section {title!r}")
    new, old, page = section(*found[0], peers), kept(title), PAGE.read_text()
    dated = new.replace(f"`{found[0][1]}`", f"Measured on {datetime.now(UTC).date().isoformat()}. `{found[0][1]}`", 1)
    if old:
        page = page.replace(old, dated, 1)
    else:
        before = next(part for name, *_ in SLOW if (part := kept(name)))
        page = page.replace(before, dated + before, 1)
    PAGE.write_text(page)
    print(f"written: {title} in {PAGE.relative_to(ROOT)}", file=sys.stderr)


def kept(title: str) -> str:
    """A section of the page as it is: what takes an hour is not measured again every time."""
    old = PAGE.read_text() if PAGE.exists() else ""
    found = re.search(rf"\n## {re.escape(title)}\n.*?(?=\n## |\Z)", old, re.DOTALL)
    return found[0] if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", required=True, help="python of the environment that has the peers")
    parser.add_argument("--with-model", action="store_true", help="also the local model: an hour on one core")
    parser.add_argument("--only", metavar="TITLE", help="measure one section, and leave the rest of the page as it is")
    options = parser.parse_args()
    peers = str(Path(options.peers).absolute())  # not resolved: a venv's python is a link
    if options.only:
        replace_one(options.only, peers)
        return
    date = datetime.now(UTC).date().isoformat()
    machine = f"{platform.system()} {platform.machine()}"
    page = [
        HEAD.format(
            date=date,
            cores=os.cpu_count(),
            machine=machine,
            python=platform.python_version(),
            peers=f"{versions(peers)}; jsonschema {version('jsonschema')}",
        )
    ]
    for title, script, has_peers, about in SECTIONS + (SLOW if options.with_model else ()):
        print(f"{title} ...", file=sys.stderr)
        page.append(section(title, script, has_peers, about, peers))
    if not options.with_model:
        page += [kept(title) for title, *_ in SLOW]
    PAGE.write_text("".join(page))
    print(f"written: {PAGE.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
