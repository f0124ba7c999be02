"""A thousand times create, exec, delete: nothing may grow. Prints memory, descriptors and disk as they go."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from measuring import fresh_home, spread
from rich.console import Console
from rich.table import Table

from callbox import Sandbox
from callbox.sandboxes.client import Client
from callbox.sandboxes.home import Home


async def supervisor(home: Home) -> int:
    return int((await Client.of(home).call("supervisor.status", repeat=True))["pid"])


def sample(home: Home, pid: int) -> tuple[int, int, int, int, int]:
    """Supervisor's memory in KiB, its descriptors, ours, files in the home, loop devices of the host."""
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    ours = len(list(Path("/proc/self/fd").iterdir()))
    files = sum(1 for each in home.root.rglob("*") if each.is_file())
    loops = len(list(Path("/sys/block").glob("loop*/loop/backing_file")))
    return memory, descriptors, ours, files, loops


async def measure(driver: str, image: str, cycles: int) -> Table:
    table = Table(
        f"{driver}: cycles",
        "supervisor MiB",
        "its descriptors",
        "ours",
        "files in home",
        "loop devices",
        "ms p50 / p99 (n)",
        box=None,
    )
    async with fresh_home() as home:
        took: list[float] = []
        for number in range(cycles + 1):
            begun = time.perf_counter()
            async with Sandbox.create(image, driver=driver, home=home) as box:
                assert (await box.run(["echo", str(number)])).stdout == f"{number}\n"
            took.append(time.perf_counter() - begun)
            if number % max(1, cycles // 5) == 0:
                memory, *rest = sample(home, await supervisor(home))
                table.add_row(str(number), f"{memory / 1024:.1f}", *map(str, rest), spread(took))
                took.clear()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--image", default="python")
    parser.add_argument("--driver", action="append")
    options = parser.parse_args()
    for driver in options.driver or ["gvisor", "qemu"]:
        Console().print(asyncio.run(measure(driver, options.image, options.cycles)))


if __name__ == "__main__":
    main()
