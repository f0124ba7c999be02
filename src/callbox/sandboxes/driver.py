"""What provides a machine: the Protocol that every driver implements, and the values that cross it.

A driver knows machines: folders, processes and bytes. It knows nothing about names, idleness, time to live, clients or
policies; the supervisor does. One contract suite (`tests/contracts/test_drivers.py`) runs on every driver.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from callbox.sandboxes.spec import SandboxLimits

SAVED_MARK = "complete"
"""The file that `Machine.save` adds when a machine's memory is whole: whoever finds it may go on without the saver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootImage:
    """An image as drivers need it. Read only, shared by all its sandboxes.

    Attributes:
        digest: sha256 of its content, hex.
        rootfs: Folder with the files (for gvisor).
        disk: ext4 file with the same files (for qemu), or None where it was not built.
        env: Environment that the image declares.
    """

    digest: str
    rootfs: Path
    disk: Path | None
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """One machine. `place` is a folder of its own, mode 0700, that the supervisor made; all of it is in there.

    Attributes:
        machine_id: 32 hex digits, unique; names its cgroup and its processes' marker.
        place: `place/disk.img` is the private writable layer (ext4, made or cloned by the driver);
            `place/state/` the saved memory; `place/run/` pid files, sockets, pipes, logs.
    """

    machine_id: str
    image: RootImage
    limits: SandboxLimits
    place: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a driver found out about this host.

    Attributes:
        usable: A real guest ran (or would run, see `how`).
        how: Like ``"kvm"``, ``"tcg"``, ``"ptrace"``.
        secure: Whether it is a security boundary by its own makers' word (TCG is not).
        why: One sentence for people.
        fix: The command that gives what is missing; empty if nothing is.
    """

    usable: bool
    how: str
    secure: bool
    why: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a machine uses now. Bytes on the host, seconds of the host's processors."""

    memory_bytes: int
    cpu_s: float
    disk_bytes: int
    processes: int


class Machine(Protocol):
    """One machine that exists: running or frozen. One task owns it; calls never overlap.

    When its processes died, every method but `kill` raises `SandboxLost`.
    """

    @property
    def pids(self) -> list[int]:
        """Host processes of this machine."""
        ...

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Open the byte channel to the guest agent. May be called again after the first one was closed.

        The caller speaks the guest protocol on it (`channel.py`) and begins with the resynchronising zeros and HELLO.
        """
        ...

    async def freeze(self) -> None:
        """Stop all its processors, keep everything in memory (hot standby)."""
        ...

    async def thaw(self) -> None:
        """Let it go on."""
        ...

    async def save(self, into: Path) -> None:
        """Write memory and devices to the folder `into` (made by the driver), and end the machine's processes.

        `place/disk.img` stays where it is and belongs to the saved state. Everything is written with fsync before
        this returns: afterwards the machine survives a restart of the host. On failure the machine runs as before.

        As soon as the memory is whole and the machine will not run again, `into` gets a file `SAVED_MARK`; see
        `Driver.saved_whole`.
        """
        ...

    async def capture(self, into: Path) -> float:
        """Like `save`, but the machine goes on, and `into/disk.img` gets a copy of its disk of the same instant.

        Returns:
            Seconds that the machine did not run.
        """
        ...

    async def kill(self) -> None:
        """End it at once and wait until its processes, mounts and cgroups are gone. Never fails on a dead machine."""
        ...

    async def wait_dead(self) -> str:
        """Return, when its processes have ended, why: one line for the log (exit status, out of memory, ...)."""
        ...

    def usage(self) -> Usage:
        """Read its cgroup and files; no call to the guest."""
        ...


class Driver(Protocol):
    """Makes machines. Stateless: what it needs later is in the machine's folder."""

    @property
    def name(self) -> str:
        """``"gvisor"`` or ``"qemu"``."""
        ...

    async def probe(self) -> Probe:
        """Find out whether it works here; a real guest must have run. Cached per host boot. Bounded by a deadline."""
        ...

    async def fingerprint(self, spec: MachineSpec) -> Mapping[str, str]:
        """Name everything that saved memory depends on: driver, versions, kernel, CPU model, agent, image, topology.

        Saved with every state; a state whose fingerprint differs is refused.
        """
        ...

    async def build(self) -> str:
        """Name what machines that are booted now run: one that was booted with another build is not like them."""
        ...

    async def boot(self, spec: MachineSpec) -> Machine:
        """Start a new machine with an empty writable layer.

        Raises:
            HostUnsuited: The driver does not run here.
            SandboxError: It did not start; nothing is left behind.
        """
        ...

    async def restore(self, spec: MachineSpec, saved: Path) -> Machine:
        """Start a machine from what `save` or `capture` wrote to `saved`. It runs at once; repair it before use.

        If `saved/disk.img` exists (a capture), the machine's disk becomes a private copy of it; otherwise
        `place/disk.img` is used as it is. `saved` itself is not changed and may be restored many times if it is a
        capture. The caller has verified checksums and fingerprint.
        """
        ...

    async def adopt(self, spec: MachineSpec) -> Machine | None:
        """Take over a machine whose supervisor died. None if its processes are gone."""
        ...

    async def saved_whole(self, spec: MachineSpec, into: Path) -> bool:
        """Find out whether a `save` to `into` whose caller was killed came to its end: waits for one that goes on.

        If so, `reap` ends what is left of the machine, and what is in `into` is good on this boot of the host (it may
        not have reached the disk). If not, the machine may still run, as before.
        """
        ...

    async def reap(self, place: Path, machine_id: str) -> int:
        """End every process, mount, loop device and cgroup that belongs to `place`. Returns how many things it found.

        Works from what the host shows (markers, cgroups, mount tables), not from what a pid file claims:
        a pid may have been reused.
        """
        ...
