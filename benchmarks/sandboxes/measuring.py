"""What the sandbox benchmarks share: a home of their own, percentiles, the host's processes of a machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from callbox.sandboxes.client import Client
from callbox.sandboxes.home import Home


@asynccontextmanager
async def fresh_home(keep_images: bool = True) -> AsyncIterator[Home]:
    """A home with a supervisor of its own; everything in it is deleted at the end."""
    root = Path(tempfile.mkdtemp(prefix="callbox-bench-"))
    home = Home(root, Home.default().images if keep_images else root / "images")
    try:
        yield home
    finally:
        client = Client.of(home)
        for each in (await client.call("sandbox.list", repeat=True))["sandboxes"]:
            await client.call("sandbox.delete", repeat=True, sandbox=each["id"])
        await client.stop_supervisor()
        await client.aclose()
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are below (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> str:
    """Median and p99 in milliseconds, and how many."""
    return f"{percentile(values, 0.5) * 1e3:,.1f} / {percentile(values, 0.99) * 1e3:,.1f} ({len(values)})"


def processes_of(mark: str) -> list[int]:
    """Pids whose command line or folder names `mark`."""
    wanted, found = os.fsencode(mark), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "cmdline").read_bytes() or os.fsencode((entry / "cwd").readlink()).startswith(wanted):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def proportional_mb(pids: Sequence[int]) -> float:
    """Memory of processes, MiB, with shared pages counted in shares (PSS)."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024
