"""What tests of real machines look for on the host: processes, mounts and loop devices that name a folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from callbox.sandboxes.host.processes import PROGRAMS, find_marked, find_using, tree_of
from callbox.sandboxes.supervisor.record import machine_id_of


def processes_of(place):
    """Pids whose command line or working folder names `place`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                told = (entry / "cmdline").read_bytes() + os.fsencode((entry / "cwd").readlink())
            except OSError:
                continue
            if os.fsencode(place) in told:
                found.append(int(entry.name))
    return found


def kill_machine(home, sandbox_id):
    """Kill -9 every process of a sandbox's machine, as a host that is out of memory would."""
    place = home.sandboxes / sandbox_id
    pids = tree_of({*find_marked(machine_id_of(sandbox_id)), *find_using(place, PROGRAMS)})
    assert pids, "the machine has no process"
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def leftovers(root):
    """Everything on this host that still names the folder."""
    found = []
    for pid in processes_of(root):
        try:
            found.append(f"{pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}")
        except OSError:
            continue
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(root) in line]
    found += [str(each) for each in Path("/sys/block").glob("loop*/loop/backing_file") if str(root) in each.read_text()]
    return found
