"""Processes as the host shows them: identity that survives reuse of pids, markers, trees, and waiting for an end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MARKER = "CALLBOX_MACHINE"
"""Environment variable that names the machine that a process belongs to."""

PROGRAMS = ("runsc", "qemu-system", "unshare", "nsenter")
"""Programs that are a machine's when an argument of theirs is in its folder."""

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, not merely a number: pids are reused, a pid with its start time is not.

    Attributes:
        pid: Its number.
        started: Clock ticks after boot, field 22 of ``/proc/<pid>/stat``.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Identify a living process; None if it is gone or a zombie."""
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        return ProcessIdentity.of(self.pid) == self

    def signal(self, number: int) -> bool:
        """Send a signal to this process and no other. False if it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except (ProcessLookupError, OSError):
            return False
        try:
            # Checked after opening: the handle stays with the process that it was opened for.
            if not self.alive():
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)

    async def ended(self) -> None:
        """Return when this process has ended; it need not be our child."""
        try:
            handle = os.pidfd_open(self.pid)
        except (ProcessLookupError, OSError):
            return
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        try:
            if not self.alive():
                return
            loop.add_reader(handle, over.set)
            try:
                await over.wait()
            finally:
                loop.remove_reader(handle)
        finally:
            os.close(handle)


def state_of(pid: int) -> str:
    """The letter of a process's state (`ps`); ``"X"`` if it is gone."""
    fields = _stat(pid)
    return "X" if fields is None else fields[0]


def is_traced(pid: int) -> bool:
    """Whether another process traces it."""
    try:
        lines = _bytes(pid, "status").splitlines()
    except OSError:
        return False
    return any(line.startswith(b"TracerPid:") and line.split()[1] != b"0" for line in lines)


def living() -> list[int]:
    """Every pid in /proc."""
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def find_marked(machine_id: str) -> list[int]:
    """Processes whose environment carries the machine's marker."""
    wanted = f"{MARKER}={machine_id}".encode()
    return _find(lambda pid: wanted in _bytes(pid, "environ").split(b"\0"))


def find_using(folder: Path, programs: Iterable[str]) -> list[int]:
    """Processes of `programs` (parts of their first argument's file name) with an argument that is in `folder`.

    Only named programs: somebody who reads a log in that folder is nobody's machine.
    """
    prefix, names = os.fsencode(folder), [name.encode() for name in programs]

    def matches(pid: int) -> bool:
        words = _bytes(pid, "cmdline").split(b"\0")
        program = words[0].rpartition(b"/")[2]
        if not any(name in program for name in names):
            return False
        return any(prefix + b"/" in word or word.endswith(prefix) for word in words)

    return _find(matches)


def tree_of(roots: Iterable[int]) -> list[int]:
    """The processes and all their living descendants."""
    waiting = list(roots)
    if not waiting:
        # Mostly so: everything of a machine was in its control group. Looking at every process takes milliseconds.
        return []
    children: dict[int, list[int]] = {}
    for pid in living():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return sorted(found)


def _find(matches: Callable[[int], bool]) -> list[int]:
    own = os.getpid()
    found: list[int] = []
    for pid in living():
        if pid != own:
            with contextlib.suppress(OSError):
                if matches(pid):
                    found.append(pid)
    return found


def _bytes(pid: int, name: str) -> bytes:
    return (_PROC / str(pid) / name).read_bytes()


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/<pid>/stat`` from the state on: the name before them may hold spaces and parentheses."""
    try:
        text = _bytes(pid, "stat").decode("ascii", "replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split() or None
