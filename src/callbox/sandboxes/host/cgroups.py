"""One control group per machine: limits, freezing, usage, and a list of members that no process can leave.

Works with version 1 hierarchies, with version 2, and without any: then machines are stopped with SIGSTOP, nothing is
limited by the host, and `Cgroup.unlimited` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from callbox.errors import SandboxError
from callbox.sandboxes.host.processes import PROGRAMS, find_marked, find_using, is_traced, state_of, tree_of

_log = logging.getLogger("callbox.sandboxes.cgroups")

PARENT = "callbox"
CPU_PERIOD_US = 100_000
LEVEL_TIMEOUT_S = 10.0
"""How long to wait until a group is frozen, empty or removed."""

_FREEZE_PATIENCE_S = 0.004
_V1_WANTED = ("freezer", "memory", "pids", "cpu", "cpuacct")
_V2_WANTED = ("memory", "pids", "cpu")
_V1_LIMITS = {
    "memory": ("memory.limit_in_bytes", ("9223372036854771712",)),
    "pids": ("pids.max", ("max",)),
    "cpu": ("cpu.cfs_quota_us", ("-1",)),
}
_AHEAD = 8
"""How many times the usual weight a machine has while somebody waits for it to start, to be saved or to come back."""

_SPINS = 64
"""How often a level is read back to back before waiting: freezing mostly takes some ten microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """What the processes of one machine on the host may use together.

    Attributes:
        memory_bytes: Memory, with what the monitor itself needs. No swap on top of it.
        processes_max: Processes and threads on the host.
        cpus: Processors' worth of time; None: all there is.
    """

    memory_bytes: int
    processes_max: int
    cpus: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupUsage:
    """What a group uses now."""

    memory_bytes: int
    cpu_s: float
    processes: int


@dataclass(frozen=True, slots=True)
class HostGroups:
    """Where groups can be made here: controller -> folder of `callbox` groups. Version 0: nowhere."""

    version: int
    folders: dict[str, Path]


class Cgroup:
    """The group of one machine. Making the object touches nothing; `create` does.

    Args:
        machine_id: Its name.
        place: The machine's folder: where there are no groups, members are also known by working in it.
    """

    def __init__(self, machine_id: str, place: Path | None = None) -> None:
        self.machine_id = machine_id
        self._place = place
        host = _host()
        self.version = host.version
        self._by_controller = {name: folder / machine_id for name, folder in host.folders.items()}
        self._folders = list(dict.fromkeys(self._by_controller.values()))

    @property
    def unlimited(self) -> tuple[str, ...]:
        """Controllers of memory, pids and cpu that are missing here: what they limit is not enforced by the host."""
        return tuple(name for name in _V2_WANTED if name not in self._by_controller)

    @property
    def join_files(self) -> list[Path]:
        """A process that writes its pid to each of these is a member, and so is everything that it starts."""
        return [folder / "cgroup.procs" for folder in self._folders]

    def exists(self) -> bool:
        """Whether any part of the group exists."""
        return any(folder.is_dir() for folder in self._folders)

    def create(self, limits: CgroupLimits) -> None:
        """Make the group with its limits. An existing one gets the new limits.

        Raises:
            SandboxError: A limit could not be set although the controller is there.
        """
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        if self.version == 2:
            self._set("memory", "memory.max", str(limits.memory_bytes))
            self._set("memory", "memory.swap.max", "0", optional=True)
        elif self.version == 1:
            self._set("memory", "memory.limit_in_bytes", str(limits.memory_bytes))
            self._set("memory", "memory.memsw.limit_in_bytes", str(limits.memory_bytes), optional=True)
        self._set("pids", "pids.max", str(limits.processes_max))
        self.limit_cpus(limits.cpus)

    def limit_cpus(self, cpus: float | None) -> None:
        """Change how much time the members get together, in processors' worth; None: all there is.

        A monitor that starts works on several processors at once: with a quota of one it would stand still for most
        of each period. And somebody waits for it: until it has its limit it goes before the machines that are at work.
        """
        quota = None if cpus is None else max(1_000, round(cpus * CPU_PERIOD_US))
        times = _AHEAD if quota is None else 1
        if self.version == 2:
            self._set("cpu", "cpu.max", f"{'max' if quota is None else quota} {CPU_PERIOD_US}")
            self._set("cpu", "cpu.weight", str(100 * times), optional=True)
        elif self.version == 1:
            self._set("cpu", "cpu.shares", str(1_024 * times), optional=True)
            self._set("cpu", "cpu.cfs_period_us", str(CPU_PERIOD_US))
            self._set("cpu", "cpu.cfs_quota_us", str(-1 if quota is None else quota))

    def add(self, pid: int) -> None:
        """Make a process a member."""
        for file in self.join_files:
            file.write_text(str(pid))

    def pids(self) -> list[int]:
        """Members, in every part of the group. Without groups: what carries the marker, and its descendants."""
        if self.version == 0:
            using = [] if self._place is None else find_using(self._place, PROGRAMS)
            return tree_of([*find_marked(self.machine_id), *using])
        found: set[int] = set()
        for file in self.join_files:
            with contextlib.suppress(OSError):
                found.update(int(line) for line in file.read_text().split())
        return sorted(found)

    async def freeze(self) -> None:
        """Stop every member, and return when they all stand.

        Raises:
            SandboxError: They did not stand within `LEVEL_TIMEOUT_S`; they run again.
        """
        deadline, patience_s = time.monotonic() + LEVEL_TIMEOUT_S, _FREEZE_PATIENCE_S
        while time.monotonic() < deadline:
            self._ask(frozen=True)
            if await _level(self.is_frozen, timeout_s=patience_s):
                return
            # A version 1 freezer passes over a traced task that stops for its tracer in just that moment; the group
            # stays "freezing" for ever, although nothing in it runs. Asked once more, it stands.
            self._ask(frozen=False)
            patience_s *= 2
        raise SandboxError("The machine's processes did not stop.", hint="The host is overloaded; try again.")

    async def thaw(self) -> None:
        """Let every member go on.

        Raises:
            SandboxError: The group is gone or cannot be thawed.
        """
        try:
            self._ask(frozen=False)
        except OSError as error:
            raise SandboxError(f"The machine's processes cannot be continued: {error.strerror}.") from error
        if self.version == 1 and not await _level(lambda: not self.is_frozen()):
            raise SandboxError("The machine's processes did not continue.", hint="The host is overloaded; try again.")

    def is_frozen(self) -> bool:
        """Whether all members stand."""
        if self.version == 2:
            events = self._read("cgroup", "cgroup.events")
            return "frozen 1" in events
        if self.version == 1:
            return self._read("freezer", "freezer.state").strip() == "FROZEN"
        members = self._untraced()
        return bool(members) and all(state_of(pid) in "TtZX" for pid in members)

    def usage(self) -> CgroupUsage:
        """Read what the members use. What is missing is 0."""
        members = len(self.pids())
        if self.version == 2:
            memory = _number(self._read("memory", "memory.current")) - self._stat(
                "memory", "memory.stat", "inactive_file"
            )
            return CgroupUsage(
                memory_bytes=max(0, memory),
                cpu_s=self._stat("cgroup", "cpu.stat", "usage_usec") / 1e6,
                processes=members,
            )
        if self.version == 1:
            used = _number(self._read("memory", "memory.usage_in_bytes"))
            memory = used - self._stat("memory", "memory.stat", "total_inactive_file")
            cpu = _number(self._read("cpuacct", "cpuacct.usage")) / 1e9
            return CgroupUsage(memory_bytes=max(0, memory), cpu_s=cpu, processes=members)
        return CgroupUsage(memory_bytes=0, cpu_s=0.0, processes=members)

    def oom_kills(self) -> int:
        """How many members the kernel has killed because memory ran out."""
        if self.version == 2:
            return self._stat("memory", "memory.events", "oom_kill")
        return self._stat("memory", "memory.oom_control", "oom_kill") if self.version == 1 else 0

    async def kill(self) -> int:
        """Kill every member and wait until none is left. Returns how many there were.

        Raises:
            SandboxError: Some are left after `LEVEL_TIMEOUT_S`.
        """
        before = self.pids()
        if not before:
            return 0
        if not await _level(self._kill_once):
            raise SandboxError(f"{len(self.pids())} processes of the machine do not end.")
        return len(before)

    async def remove(self) -> bool:
        """Remove the group; its members must have ended. Returns whether there was one.

        Raises:
            SandboxError: It could not be removed within `LEVEL_TIMEOUT_S`.
        """
        existed = self.exists()
        if existed and not await _level(self._remove_once):
            raise SandboxError(f"The control group of machine {self.machine_id} cannot be removed.")
        return existed

    def _ask(self, *, frozen: bool) -> None:
        if self.version == 2:
            (self._by_controller["cgroup"] / "cgroup.freeze").write_text("1" if frozen else "0")
        elif self.version == 1:
            (self._by_controller["freezer"] / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
        else:
            for pid in self._untraced():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def _untraced(self) -> list[int]:
        """Members that a signal may stop. A traced one stands at its next system call, since its tracer stands;
        a stop of its own would look to the tracer like something that the guest did."""
        return [pid for pid in self.pids() if not is_traced(pid)]

    def _kill_once(self) -> bool:
        if self.version == 2:
            with contextlib.suppress(OSError):
                (self._by_controller["cgroup"] / "cgroup.kill").write_text("1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # A frozen member dies only when it is thawed; it has its SIGKILL by then and never returns to its program.
        with contextlib.suppress(OSError):
            self._ask(frozen=False)
        return not self.pids()

    def _remove_once(self) -> bool:
        for folder in self._folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
        return not self.exists()

    def _set(self, controller: str, file: str, value: str, *, optional: bool = False) -> None:
        folder = self._by_controller.get(controller)
        if folder is None:
            return
        try:
            (folder / file).write_text(value)
        except OSError as error:
            if not optional:
                raise SandboxError(f"The limit {file} cannot be set: {error.strerror}.") from error

    def _read(self, controller: str, file: str) -> str:
        folder = self._by_controller.get(controller)
        try:
            return (folder / file).read_text() if folder is not None else ""
        except OSError:
            return ""

    def _stat(self, controller: str, file: str, key: str) -> int:
        for line in self._read(controller, file).splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return _number(value)
        return 0


async def _level(check: Callable[[], bool], *, timeout_s: float = LEVEL_TIMEOUT_S) -> bool:
    """Wait until `check()` holds; False at the deadline."""
    for _ in range(_SPINS):
        if check():
            return True
    deadline = time.monotonic() + timeout_s
    pause_s = 0.000_2
    while time.monotonic() < deadline:
        await asyncio.sleep(pause_s)
        if check():
            return True
        pause_s = min(pause_s * 1.5, 0.02)
    return False


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdigit() else 0


@functools.cache
def _host() -> HostGroups:
    """Find out once per process where groups can be made."""
    v1: dict[str, Path] = {}
    v2: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        where = Path(left.split()[4].encode().decode("unicode_escape"))
        if kind == "cgroup":
            for name in options.split(","):
                if name in _V1_WANTED:
                    v1.setdefault(name, where)
        elif kind == "cgroup2":
            v2.append(where)
    first = {name: parent for name, mount in v1.items() if (parent := _parent(_v1_top(name, mount))) is not None}
    if "freezer" in first:
        return HostGroups(1, first)
    for mount in v2:
        parent = _parent_v2(mount)
        if parent is not None:
            found = {"cgroup": parent}
            enabled = (parent / "cgroup.subtree_control").read_text().split()
            return HostGroups(2, found | {name: parent for name in _V2_WANTED if name in enabled})
    _log.warning("no writable control group: machines are stopped with signals, and the host enforces no limit")
    return HostGroups(0, {})


def _v1_top(controller: str, mount: Path) -> Path:
    """The hierarchy's root, or our own group if that is limited: machines must not escape a limit that binds us."""
    limit_file, unlimited = _V1_LIMITS.get(controller, ("", ()))
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if limit_file and controller in controllers.split(","):
            own = mount / path.lstrip("/")
            with contextlib.suppress(OSError):
                if (own / limit_file).read_text().strip() not in unlimited:
                    return own
    return mount


def _parent(mount: Path) -> Path | None:
    """Make the `callbox` group below `mount`, or return None."""
    folder = mount / PARENT
    try:
        folder.mkdir(exist_ok=True)
        return folder if os.access(folder, os.W_OK | os.X_OK) else None
    except OSError:
        return None


def _parent_v2(mount: Path) -> Path | None:
    """Make `callbox` as high as we may: at the root, or below the nearest group that was delegated to us."""
    own = next((line[4:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/")), "")
    ancestors = [mount]
    for part in own.split("/"):
        ancestors.append(ancestors[-1] / part)
    for ancestor in ancestors:
        folder = _parent(ancestor)
        if folder is None:
            continue
        for place in (ancestor, folder):
            for name in _V2_WANTED:
                # Refused where the group has processes of its own, or where the controller is not delegated.
                with contextlib.suppress(OSError):
                    (place / "cgroup.subtree_control").write_text(f"+{name}")
        return folder
    return None
