"""Use up everything inside one sandbox while a neighbour must keep answering."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from callbox.errors import SandboxLost
from callbox.sandboxes.certify.check import Check, expect
from callbox.sandboxes.certify.ground import Ground
from callbox.sandboxes.process import Process
from callbox.sandboxes.spec import SandboxLimits

_HOST_GROWTH_BYTES_MAX = 256 << 20
_FEW_PROCESSES = 64
_BOMB_S = 400
"""Unpacking 1 GiB under emulation, beside others, takes minutes."""
_MANY_SMALL = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); sleep 30 & echo $i; done; wait"


def _bomb(kind: str, **limits: int) -> Callable[[Ground], Awaitable[str]]:
    async def run(ground: Ground) -> str:
        async with ground.neighbour() as took, ground.box(limits=SandboxLimits(**limits)) as box:
            await box.files.write("before.txt", "kept")
            try:
                done = await ground.python(box, "bombs.py", kind, timeout_s=_BOMB_S)
                expect(not done.timed_out, f"no limit ended it within {_BOMB_S} s")
                ended = done.stdout.strip() or (
                    f"killed for {done.killed_for}" if done.killed_for else f"signal {done.signal}"
                )
            except SandboxLost:
                ended = "the machine was ended by its limit, and booted again"
            expect(
                (await box.run("echo alive", timeout_s=60)).stdout == "alive\n", f"it does not answer after: {ended}"
            )
            expect(await box.files.read("before.txt") == b"kept", "a file from before the bomb is gone")
            expect(took, "the neighbour never answered")
            stats = await box.stats()
        limit = (SandboxLimits(**limits).disk_mb << 20) + _HOST_GROWTH_BYTES_MAX
        expect(stats.disk_bytes <= limit, f"it uses {stats.disk_bytes >> 20} MiB of the host's disk")
        return f"{ended}; the neighbour's slowest answer {max(took) * 1000:.0f} ms"

    return run


async def many_small(ground: Ground) -> str:
    """Start processes that use hardly any memory: only their number can end this."""
    limits = SandboxLimits(processes_max=_FEW_PROCESSES)
    async with ground.neighbour() as took, ground.box(limits=limits) as box:
        await box.files.write("before.txt", "kept")
        done = await box.run(_MANY_SMALL, timeout_s=120)
        refused = "fork" in done.stderr or "Resource temporarily unavailable" in done.stderr
        expect(done.killed_for == "processes" or refused, f"it ended with {done.exit_code}, {done.stderr[-200:]!r}")
        started = len(done.stdout.splitlines())
        expect(started < 8 * _FEW_PROCESSES, f"{started} processes were started")
        expect((await box.run("echo alive", timeout_s=60)).stdout == "alive\n", "it does not answer afterwards")
        expect(await box.files.read("before.txt") == b"kept", "a file from before is gone")
    ended = "killed for their number" if done.killed_for else "the next one was refused"
    return f"limit {_FEW_PROCESSES}: {started} started, then {ended}; the neighbour's slowest {max(took) * 1000:.0f} ms"


async def output(ground: Ground) -> str:
    """Print without end; the place in the output is kept, memory is not used."""
    total = int(10 * ground.scale * (1 << 30))
    async with ground.neighbour() as took, ground.box() as box:
        supervisor = await _supervisor_rss(ground)
        done = await box.run(f"head -c {total} /dev/zero", timeout_s=1_500, output_bytes_max=1 << 20)
        expect(done.exit_code == 0, f"it ended with {done.exit_code} {done.stderr[-200:]}")
        expect(done.truncated, "the cut is not said")
        expect(len(done.stdout) <= (1 << 20) + 400, f"{len(done.stdout)} characters were kept")
        grown = await _supervisor_rss(ground) - supervisor
        expect(grown < 64 << 20, f"the supervisor grew by {grown >> 20} MiB")
        expect((await box.run("echo alive")).stdout == "alive\n", "it does not answer afterwards")
    return (
        f"{total / (1 << 30):.1f} GiB, supervisor grew {max(grown, 0) >> 20} MiB, neighbour {max(took) * 1000:.0f} ms"
    )


async def endless_line(ground: Ground) -> str:
    """One line without an end."""
    total = int(512 * ground.scale) << 20
    async with ground.box() as box:
        done = await box.run(f"yes | tr -d '\\n' | head -c {total}", timeout_s=600, output_bytes_max=1 << 16)
        expect(done.truncated, "the cut is not said")
        expect(set(done.stdout[:100]) == {"y"}, "the beginning is not what was printed")
    return f"one line of {total >> 20} MiB"


async def output_place(ground: Ground) -> str:
    """A reader that goes away finds its place again, byte by byte."""
    async with ground.box() as box:
        process = await box.spawn("seq 1 200000")
        await process.wait(timeout_s=120)
        whole = await _read(process, 0)
        rest = await _read(process, 1000)
    expected = "".join(f"{number}\n" for number in range(1, 200001)).encode()
    expect(
        hashlib.sha256(whole).digest() == hashlib.sha256(expected).digest(), f"{len(whole)} bytes, not {len(expected)}"
    )
    expect(rest == expected[1000:], "reading from an offset gave other bytes")
    return f"{len(whole)} bytes, twice, the second time from byte 1,000"


async def busy(ground: Ground) -> str:
    """Burn every processor inside; a neighbour keeps answering."""
    async with ground.neighbour() as took, ground.box() as box:
        await box.run("for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; sleep 5", timeout_s=15)
        expect(took, "the neighbour never answered")
        await asyncio.sleep(0)
        expect((await box.run("echo alive")).stdout == "alive\n", "it does not answer afterwards")
    return f"8 busy loops; the neighbour's slowest answer {max(took) * 1000:.0f} ms"


async def _supervisor_rss(ground: Ground) -> int:
    pid = await ground.supervisor_pid()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def _read(process: Process, offset: int) -> bytes:
    return b"".join([chunk.data async for chunk in process.chunks(stdout_offset=offset)])


CHECKS = (
    Check("exhaustion", "a fork bomb ends at the limit of processes", _bomb("fork"), 240),
    Check("exhaustion", "processes without weight end at the limit of processes", many_small, 240),
    Check("exhaustion", "a memory bomb ends at the limit of memory", _bomb("memory"), 240),
    Check("exhaustion", "a full disk is ENOSPC inside, nothing outside", _bomb("disk", disk_mb=256), 240),
    Check("exhaustion", "inodes end at their limit", _bomb("inodes", inodes_max=20_000), 240),
    Check("exhaustion", "descriptors end at their limit", _bomb("descriptors"), 240),
    Check("exhaustion", "a zip bomb ends at the limit of the disk", _bomb("archive", disk_mb=256), 480),
    Check("exhaustion", "a sparse file of 1 TiB uses nothing of the host", _bomb("sparse"), 240),
    Check("exhaustion", "busy loops do not starve a neighbour", busy, 120),
    Check("exhaustion", "10 GiB of output cost no memory, and the cut is said", output, 1800),
    Check("exhaustion", "one endless line costs no memory", endless_line, 900),
    Check("exhaustion", "a reader that went away finds its place in the output", output_place, 240),
)
