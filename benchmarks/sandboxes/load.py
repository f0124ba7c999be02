"""Throughput, memory of sleepers, fifty asleep on one host, and Python's own speed inside against outside."""

from __future__ import annotations

import argparse
import asyncio
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import fresh_home, processes_of, proportional_mb, spread
from rich.console import Console
from rich.table import Table

from callbox import Sandbox
from callbox.sandboxes.home import Home

MB = 100
COMPUTE = "import time; t=time.process_time(); sum(i*i for i in range(3_000_000)); print(time.process_time()-t)"
CALLS = "import os,time; t=time.perf_counter(); [os.stat('/') for _ in range(20_000)]; print(time.perf_counter()-t)"


async def throughput(box: Sandbox) -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "data"
        local.write_bytes(bytes(range(256)) * (MB << 12))
        size = local.stat().st_size
        begun = time.perf_counter()
        await box.files.upload(local, "data")
        up = time.perf_counter() - begun
        begun = time.perf_counter()
        await box.files.download("data", Path(folder) / "back")
        down = time.perf_counter() - begun
        assert (Path(folder) / "back").read_bytes() == local.read_bytes()
    begun = time.perf_counter()
    done = await box.run("cat data", output_bytes_max=1 << 16)
    output = time.perf_counter() - begun
    assert done.exit_code == 0
    await box.files.remove("data")
    return [
        (f"{what}, MB/s", f"{size / took / 1e6:,.0f}")
        for what, took in (("upload", up), ("download", down), ("output", output))
    ]


async def speed(box: Sandbox) -> list[tuple[str, str]]:
    rows = []
    for name, code in (("CPU-bound Python, x native", COMPUTE), ("20,000 stat calls in Python, x native", CALLS)):
        inside = float((await box.run(["python3", "-c", code])).stdout)
        python = shutil.which("python3", path="/usr/bin") or sys.executable
        outside = float(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
        rows.append((name, f"{inside / outside:.2f}"))
    return rows


async def asleep(home: Home, driver: str, image: str, count: int) -> list[tuple[str, str]]:
    """Make many, let them sleep warm, wake a few of them again."""
    boxes = []
    begun = time.perf_counter()
    for number in range(count):
        box = await Sandbox.create(image, driver=driver, home=home, name=f"sleeper-{number}")
        await box.run(["true"])
        if number == 0:
            await box.standby(tier="hot")
            hot = proportional_mb(processes_of(str(home.sandboxes / box.id)))
        await box.standby(tier="warm")
        boxes.append(box)
    made = time.perf_counter() - begun
    disk = sum(each.stat().st_blocks * 512 for each in home.sandboxes.rglob("*") if each.is_file())
    processes = [pid for box in boxes for pid in processes_of(str(home.sandboxes / box.id))]
    woke = []
    for box in boxes[:: max(1, count // 10)]:
        begun = time.perf_counter()
        assert (await box.run(["echo", "awake"])).stdout == "awake\n"
        woke.append(time.perf_counter() - begun)
    for box in boxes:
        await box.delete()
    return [
        ("memory of one asleep hot, MiB (PSS)", f"{hot:,.0f}"),
        (f"{count} asleep warm: processes", str(len(processes))),
        (f"{count} asleep warm: disk of each, MiB", f"{disk / count / 2**20:,.0f}"),
        (f"{count} asleep warm: s to make and put to sleep", f"{made:,.1f}"),
        ("one of them wakes and answers, ms p50 / p99 (n)", spread(woke)),
    ]


async def measure(driver: str, image: str, count: int) -> list[tuple[str, str]]:
    async with fresh_home() as home:
        box = await Sandbox.create(image, driver=driver, home=home, name="load")
        rows = [*await throughput(box), *await speed(box)]
        await box.delete()
        rows += await asleep(home, driver, image, count)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="python")
    parser.add_argument("--asleep", type=int, default=50)
    parser.add_argument("--driver", action="append")
    options = parser.parse_args()
    drivers = options.driver or ["gvisor", "qemu"]
    columns = {driver: dict(asyncio.run(measure(driver, options.image, options.asleep))) for driver in drivers}
    table = Table("", *drivers, box=None, pad_edge=False)
    for row in columns[drivers[0]]:
        table.add_row(row, *(columns[driver].get(row, "") for driver in drivers))
    Console().print(table)
    Console(stderr=True).print(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
