"""The qemu driver: machines with a kernel of their own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from callbox.errors import HostUnsuited, ImageError, SandboxError, SnapshotRefused
from callbox.sandboxes.agent.binary import agent_digest
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.driver import SAVED_MARK, Machine, MachineSpec, Probe
from callbox.sandboxes.host.disks import clone_file, make_disk
from callbox.sandboxes.host.reap import reap
from callbox.sandboxes.images.kernel import GuestKernel
from callbox.sandboxes.qemu.command import MACHINE_TYPE, RECIPE
from callbox.sandboxes.qemu.machine import DEVICE_FILE, QemuMachine
from callbox.sandboxes.qemu.memory import check_room, make_memory
from callbox.sandboxes.qemu.probe import probe, unusable
from callbox.sandboxes.qemu.process import MEMORY_FILE, Start, machine_uid, version
from callbox.sandboxes.qemu.templates import Templates
from callbox.sandboxes.qemu.tsc import tsc_family

_log = logging.getLogger("callbox.sandboxes.qemu")

READY_TIMEOUT_S = {"kvm": 30.0, "tcg": 150.0}
"""From the first instruction to the agent. Measured: 3 s under TCG on an idle machine."""
GREETING_TIMEOUT_S = 30.0
DISK_FILE = "disk.img"
_DISK_MARK_BYTES = 65_536


class QemuDriver:
    """Makes virtual machines. See `callbox.sandboxes.driver.Driver`.

    Args:
        kernel: Returns what to boot; asked at every boot, so that a new agent is used at once.
        cache: Where what was found out about this host, and templates, are kept.
        templates: Boot each combination of image, kernel and limits once, and copy that machine for later boots.
    """

    def __init__(self, kernel: Callable[[], GuestKernel], cache: Path, *, templates: bool = True) -> None:
        self._kernel = kernel
        self._cache = cache
        self._templates = Templates(cache / "templates") if templates else None
        self._probing = asyncio.Lock()
        self._probe: Probe | None = None

    @property
    def name(self) -> str:
        """``"qemu"``."""
        return "qemu"

    async def probe(self) -> Probe:
        """Boot a guest, on KVM, else in software; or remember having done so since the host started."""
        async with self._probing:
            if self._probe is None:
                try:
                    kernel = await asyncio.to_thread(self._kernel)
                    found = await probe(kernel, self._cache)
                except SandboxError as error:
                    return unusable(error)
                if not found.usable:
                    return found
                self._probe = found
            return self._probe

    async def fingerprint(self, spec: MachineSpec) -> Mapping[str, str]:
        """Name everything that saved memory depends on. Not kernel and agent: both are in the memory itself."""
        accelerator = await self._accelerator()
        limits = spec.limits
        return {
            "driver": "qemu",
            "qemu": await asyncio.to_thread(version),
            "machine": f"{MACHINE_TYPE}/{RECIPE}",
            "accelerator": accelerator,
            "cpu": await asyncio.to_thread(_host_cpu) if accelerator == "kvm" else "max",
            "clock": await asyncio.to_thread(tsc_family) if accelerator == "tcg" else "kvm",
            "image": f"{spec.image.digest}/{await asyncio.to_thread(_disk_mark, spec.image.disk)}",
            "topology": f"memory_mb={limits.memory_mb} cpus={limits.cpus}",
            "disk": f"disk_mb={limits.disk_mb} inodes_max={limits.inodes_max}",
        }

    async def build(self) -> str:
        """Name what machines that are booted now run: one that was booted with another is not like them."""
        kernel = await asyncio.to_thread(self._kernel)
        return f"{kernel.version}/{kernel.digest}/{await asyncio.to_thread(agent_digest)}"

    async def boot(self, spec: MachineSpec) -> Machine:
        """Start a new machine: from a template if there is one, else by booting, which makes the template."""
        accelerator = await self._accelerator()
        # A template's memory knows only the template's disk: a machine that has a disk boots from that.
        if self._templates is None or (spec.place / DISK_FILE).exists():
            return await self._boot_cold(spec, accelerator)
        place = self._templates.place_of({**await self.fingerprint(spec), "build": await self.build()})
        machine = await self._boot_template(spec, place)
        if machine is not None:
            return machine
        try:
            async with self._templates.exclusive(place):
                # Whoever held it before us may have made it.
                machine = await self._boot_template(spec, place)
                if machine is None:
                    machine = await self._boot_cold(spec, accelerator)
                    await self._make_template(machine, place)
                return machine
        except TimeoutError:
            _log.warning("somebody else has been making the template %s for long; booting without", place.name)
        return await self._boot_cold(spec, accelerator)

    async def restore(self, spec: MachineSpec, saved: Path) -> Machine:
        """Continue from saved state, uncopied if it is a `save`, from private copies if it is a `capture`."""
        accelerator = await self._accelerator()
        if not (saved / DEVICE_FILE).is_file() or not (saved / MEMORY_FILE).is_file():
            raise SnapshotRefused("The saved state is not complete.", hint="It was continued already, or is damaged.")
        if (saved / MEMORY_FILE).stat().st_size != spec.limits.memory_mb << 20:
            raise SnapshotRefused("The saved memory is of another size than the machine's.")
        captured = (saved / DISK_FILE).exists()
        try:
            await asyncio.to_thread(_take_state, spec, saved, copy=captured)
        except OSError as error:
            raise SandboxError(f"The saved state cannot be taken: {error.strerror}.") from error

        async def consume() -> None:
            # From here on the guest writes into the file that `saved` names too. Whoever finds that without the device
            # state refuses it, instead of continuing a machine whose memory is from another time.
            if not captured:
                await asyncio.to_thread((saved / DEVICE_FILE).unlink)

        return await self._started(
            Start(spec=spec, accelerator=accelerator, kernel=None),
            lambda machine: machine.load(saved / DEVICE_FILE, before_running=consume),
        )

    async def adopt(self, spec: MachineSpec) -> Machine | None:
        """Take over a machine that runs."""
        return await QemuMachine.adopt(spec)

    async def saved_whole(self, spec: MachineSpec, into: Path) -> bool:
        """See `Driver.saved_whole`. QEMU stands until it is told to quit, which is after the mark."""
        del spec
        return (into / SAVED_MARK).exists()

    async def reap(self, place: Path, machine_id: str) -> int:
        """End everything that belongs to a machine."""
        return await reap(place, machine_id)

    async def _accelerator(self) -> str:
        found = await self.probe()
        if not found.usable:
            raise HostUnsuited(f"The qemu driver does not run here: {found.why}", hint=found.fix or None)
        return found.how

    async def _boot_cold(self, spec: MachineSpec, accelerator: str) -> QemuMachine:
        kernel = await asyncio.to_thread(self._kernel)
        await asyncio.to_thread(_make_state, spec)
        return await self._started(
            Start(spec=spec, accelerator=accelerator, kernel=kernel),
            lambda machine: machine.ready(timeout_s=READY_TIMEOUT_S[accelerator]),
        )

    async def _boot_template(self, spec: MachineSpec, place: Path) -> QemuMachine | None:
        if self._templates is None or not await self._templates.usable(place):
            return None
        try:
            machine = await self.restore(spec, place)
        except (SandboxError, OSError) as error:
            _log.warning("the template %s could not be used and will be made again: %s", place.name, error)
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
            (spec.place / DISK_FILE).unlink(missing_ok=True)
            return None
        assert isinstance(machine, QemuMachine)
        return machine

    async def _make_template(self, machine: QemuMachine, place: Path) -> None:
        """Copy a machine that has just booted. It is usable without: a failure is logged."""
        assert self._templates is not None
        part = place.with_suffix(".part")
        try:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
            await _greet(machine)
            await machine.capture(part)
            await self._templates.keep(part, place)
        except (SandboxError, OSError) as error:
            _log.warning("no template was made: %s", error)
        except BaseException:
            await asyncio.shield(machine.kill())
            raise
        finally:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)

    async def _started(self, what: Start, then: Callable[[QemuMachine], Awaitable[Any]]) -> QemuMachine:
        """Start QEMU and bring its guest to run; leave nothing behind if that fails."""
        machine = await QemuMachine.start(what)
        try:
            await then(machine)
        except BaseException:
            await asyncio.shield(machine.kill())
            raise
        return machine


async def _greet(machine: QemuMachine) -> None:
    """Let the agent answer once: what that needs is in memory then, for every copy."""
    reader, writer = await machine.connect()
    channel = await Channel.connect(reader, writer, timeout_s=GREETING_TIMEOUT_S)
    await channel.aclose()


def _make_state(spec: MachineSpec) -> None:
    """Empty memory, and an empty disk where there is none."""
    _prepare(spec)
    limits = spec.limits
    if not (spec.place / DISK_FILE).exists():
        make_disk(spec.place / DISK_FILE, size_mb=limits.disk_mb, inodes_max=limits.inodes_max, journal=True)
    memory = spec.place / "run" / MEMORY_FILE
    make_memory(memory, size_mb=limits.memory_mb, uid=machine_uid(spec.machine_id))
    check_room(memory)


def _take_state(spec: MachineSpec, saved: Path, *, copy: bool) -> None:
    """Bring saved memory, and a capture's disk, to where the machine has them."""
    _prepare(spec)
    memory = spec.place / "run" / MEMORY_FILE
    if copy:
        clone_file(saved / MEMORY_FILE, memory, durable=False)
        clone_file(saved / DISK_FILE, spec.place / DISK_FILE, durable=False)
    else:
        os.link(saved / MEMORY_FILE, memory, follow_symlinks=False)
    uid = machine_uid(spec.machine_id)
    if uid is not None:
        os.chown(memory, uid, uid, follow_symlinks=False)
    check_room(memory)


def _prepare(spec: MachineSpec) -> None:
    run = spec.place / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    (run / MEMORY_FILE).unlink(missing_ok=True)


def _disk_mark(disk: Path | None) -> str:
    """What tells two disks with the same files apart: a saved guest remembers at which blocks its files are.

    The superblock and the group descriptors: when it was made, its UUID, its seed, its layout.
    """
    if disk is None:
        return ""
    try:
        with disk.open("rb") as file:
            return hashlib.sha256(file.read(_DISK_MARK_BYTES)).hexdigest()[:16]
    except OSError as error:
        raise ImageError(f"The image's disk cannot be read: {error.strerror}.", hint="Run: callbox setup") from error


def _host_cpu() -> str:
    """What `-cpu host` means on this host: vendor, model, stepping, microcode's features."""
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in wanted:
            found.setdefault(name.strip(), value.strip())
        elif not line.strip() and found:
            break
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
