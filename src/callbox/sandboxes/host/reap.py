"""Find and end everything that belongs to one machine's folder. Idempotent; believes the host, never a pid file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

from callbox.errors import SandboxError
from callbox.sandboxes.host.cgroups import LEVEL_TIMEOUT_S, Cgroup
from callbox.sandboxes.host.launch import collect
from callbox.sandboxes.host.mounts import loop_devices_below, mounts_below, release_loop, unmount
from callbox.sandboxes.host.processes import PROGRAMS, find_marked, find_using, state_of, tree_of

_log = logging.getLogger("callbox.sandboxes.reap")


async def reap(place: Path, machine_id: str) -> int:
    """End every process, mount, loop device and control group of a machine.

    Returns:
        How many things were found.

    Raises:
        SandboxError: Something is left; the message names it.
    """
    group = Cgroup(machine_id, place)
    found = await group.kill()
    strays = await asyncio.to_thread(_strays, place, machine_id)
    found += len(strays)
    await _end(strays)
    try:
        async with asyncio.timeout(LEVEL_TIMEOUT_S):
            await collect(machine_id)
    except TimeoutError:
        raise SandboxError("Processes that were started for the machine do not end.") from None
    for point in mounts_below(place):
        found += 1
        unmount(point)
    devices = loop_devices_below(place)
    if devices:
        # The namespace of a process that just ended is taken down after it; what is left then was leaked.
        await _gone(place, deadline_s=2.0)
        for device in loop_devices_below(place):
            found += 1
            release_loop(device)
        await _gone(place, deadline_s=LEVEL_TIMEOUT_S)
    if await group.remove():
        found += 1
    if left := [*mounts_below(place), *loop_devices_below(place)]:
        names = ", ".join(map(str, left))
        raise SandboxError(f"Still in use by the host: {names}.", hint="Find its user with fuser -vm.")
    return found


async def loop_released(place: Path) -> None:
    """Wait until no loop device holds a file in `place`: then its disk is complete and nobody writes to it.

    Raises:
        SandboxError: One is still there at the deadline.
    """
    if not await _gone(place, deadline_s=LEVEL_TIMEOUT_S):
        raise SandboxError("The machine's disk is still mounted.")


async def _gone(place: Path, *, deadline_s: float) -> bool:
    pause_s = 0.000_5
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            while loop_devices_below(place):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, 0.05)
            return True
    return False


def _strays(place: Path, machine_id: str) -> list[int]:
    return tree_of({*find_marked(machine_id), *find_using(place, PROGRAMS)} - {os.getpid()})


async def _end(pids: list[int]) -> None:
    for pid in pids:
        _log.info("ending process %d, left of a machine", pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGCONT)
    pause_s = 0.000_5
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEVEL_TIMEOUT_S):
            while any(state_of(pid) not in "ZX" for pid in pids):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, 0.05)
            return
    raise SandboxError(f"Processes do not end: {[pid for pid in pids if state_of(pid) not in 'ZX']}.")
