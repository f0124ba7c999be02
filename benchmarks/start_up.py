"""What `import callbox` and the first use of its parts cost: CPU time and memory, each in a new process."""

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

PROBE = """
import time
before = time.process_time()
{code}
spent = time.process_time() - before
# Not ru_maxrss: that is inherited from the process that started this one.
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print([spent * 1000, peak / 1024])
"""

OWN = {
    "python alone": "pass",
    "import callbox": "import callbox",
    "from callbox import Agent, Gate, tool": "from callbox import Agent, Gate, tool",
    "the same, and one tool made": (
        "from callbox import Agent, Gate, tool\\n@tool\\ndef f(a: int) -> int:\\n    'Do one thing.'\\n    return a"
    ),
}
PEERS = {
    "import pydantic_ai": "import pydantic_ai",
    "import agents (openai-agents)": "import agents",
    "import langgraph.prebuilt": "import langgraph.prebuilt",
}


def measure(python: str, code: str) -> tuple[float, float]:
    """Milliseconds of CPU, and peak resident MiB of the whole process."""
    source = PROBE.replace("{code}", code.replace("\\n", "\n"))
    done = subprocess.run([python, "-c", source], capture_output=True, text=True, check=True, timeout=120)
    milliseconds, peak = json.loads(done.stdout.splitlines()[-1])
    return milliseconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="python of an environment that has the peers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    subjects = [(sys.executable, name, code) for name, code in OWN.items()]
    if options.peers:
        subjects += [(options.peers, name, code) for name, code in PEERS.items()]
    figures: dict[str, list[tuple[float, float]]] = {}
    jobs = [subject for _ in range(options.rounds) for subject in subjects]
    for python, name, code in track(jobs, "Start-up", console=Console(stderr=True)):
        figures.setdefault(name, []).append(measure(python, code))
    table = Table("start-up", "ms of CPU (median)", "least", "peak MiB", box=None, pad_edge=False)
    for name, values in figures.items():
        times = [value[0] for value in values]
        peak = statistics.median(value[1] for value in values)
        table.add_row(name, f"{statistics.median(times):,.0f}", f"{min(times):,.0f}", f"{peak:,.1f}")
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
