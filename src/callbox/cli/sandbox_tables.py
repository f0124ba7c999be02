"""How sandboxes look in a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from callbox.cli.terminal import clean, console, shorten
from callbox.sandboxes.results import Receipt, SandboxInfo, SandboxStats

_STYLES = {
    "running": "green",
    "hot": "cyan",
    "warm": "blue",
    "cold": "blue",
    "creating": "yellow",
    "stopping": "yellow",
    "failed": "bold red",
    "gone": "dim",
}
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def show_sandboxes(infos: Sequence[SandboxInfo]) -> None:
    """One line each."""
    if not infos:
        console.print(Text("No sandboxes. Make one: callbox sandbox create python --name mine", "dim"))
        return
    table = Table("name", "state", "image", "driver", "created", "used", "labels", box=None, pad_edge=False)
    now = time.time()
    for info in infos:
        labels = " ".join(f"{key}={value}" for key, value in info.labels.items())
        table.add_row(
            Text(info.name, "bold"),
            _state(info.state),
            Text(clean(info.image)),
            Text(driver_of(info)),
            Text(ago(now - info.created_at)),
            Text(ago(now - info.last_used_at)),
            Text(shorten(labels, 60), "dim"),
        )
    console.print(table)


def show_info(info: SandboxInfo) -> None:
    """All of one."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    limits: Mapping[str, Any] = info.spec.get("limits", {})
    lifetime: Mapping[str, Any] = info.spec.get("lifetime", {})
    rows = {
        "id": info.id,
        "name": info.name,
        "state": info.state + (f": {info.reason}" if info.reason else ""),
        "image": info.image,
        "driver": driver_of(info),
        "created": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.created_at)),
        "last used": ago(time.time() - info.last_used_at),
        "restored": f"{info.generation} times",
        **{f"label {key}": value for key, value in info.labels.items()},
        **{name: str(value) for name, value in limits.items()},
        **{name: str(value) for name, value in lifetime.items() if value is not None},
    }
    for name, value in rows.items():
        table.add_row(Text(clean(name)), Text(shorten(str(value), 400)))
    console.print(table)


def show_receipt(name: str, receipt: Receipt) -> None:
    """What a resume took."""
    how = {"new": "made", "running": "was awake", "reboot": "booted again: its memory was lost"}
    did = how.get(receipt.tier, f"woken from {receipt.tier} standby")
    repairs = ", ".join(str(repair.get("name")) for repair in receipt.repairs)
    note = f"  repaired: {repairs}" if repairs else ""
    console.print(Text.assemble((name, "bold"), f"  {did} in {receipt.ms:.1f} ms", (clean(note), "dim")))


def show_stats(rows: Sequence[SandboxStats]) -> None:
    """What each uses on this host."""
    if not rows:
        console.print(Text("No sandboxes.", "dim"))
        return
    table = Table("name", "state", box=None, pad_edge=False)
    for title in ("memory", "processor", "disk", "processes"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            Text(row.name, "bold"),
            _state(row.state),
            Text(size(row.memory_bytes)),
            Text(f"{row.cpu_s:.1f} s"),
            Text(size(row.disk_bytes)),
            Text(str(row.processes)),
        )
    console.print(table)


def driver_of(info: SandboxInfo) -> str:
    """Like ``gvisor (ptrace)``."""
    return clean(f"{info.driver} ({info.how})" if info.how else info.driver)


def ago(seconds: float) -> str:
    """A span of time, roughly."""
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def size(bytes_: int) -> str:
    """A number of bytes, roughly."""
    for length, unit in _SIZES:
        if bytes_ >= length:
            return f"{bytes_ / length:.1f} {unit}"
    return f"{bytes_} B"


def _state(state: str) -> Text:
    return Text(clean(state), _STYLES.get(state, ""))
