"""Find out what runs guests here, by running one.

`/dev/kvm` that opens proves nothing: in many rented machines it opens, a virtual machine can be made, and its first
instruction never returns. So a real kernel is booted, with a deadline, and the answer is remembered until the host
reboots or QEMU or the kernel changes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from callbox.errors import HostUnsuited, SandboxError
from callbox.sandboxes.driver import MachineSpec, Probe, RootImage
from callbox.sandboxes.images.kernel import GuestKernel
from callbox.sandboxes.qemu.machine import QemuMachine
from callbox.sandboxes.qemu.memory import make_memory
from callbox.sandboxes.qemu.process import KVM, MEMORY_FILE, Start, machine_uid, version
from callbox.sandboxes.spec import SandboxLimits

_log = logging.getLogger("callbox.sandboxes.qemu")

KVM_TIMEOUT_S = 5.0
"""A guest that runs gets this far in 0.2 s."""
TCG_TIMEOUT_S = 60.0
"""2 s on an idle machine."""
CACHE_FILE = "qemu-probe.json"
_USER_SPACE = "Run /init as init process"
_LOOK_EVERY_S = 0.02
_TCG_WARNING = (
    "sandboxes run on software emulation (TCG): slow, and by QEMU's own policy no security boundary; "
    "use the gvisor driver, or a host with working KVM, for code that you do not trust"
)


@dataclass(frozen=True, slots=True)
class Trial:
    """How one accelerator did: the reason if no guest ran."""

    ran: bool
    why: str


async def probe(kernel: GuestKernel, cache: Path) -> Probe:
    """Say what runs guests here; boots at most two, and none if the answer is remembered.

    Raises:
        HostUnsuited: QEMU is not there.
    """
    key = {
        "host_boot": await asyncio.to_thread(_host_boot),
        "qemu": await asyncio.to_thread(version),
        "kernel": kernel.version,
        "kvm": _kvm_access(),
    }
    remembered = await asyncio.to_thread(_remembered, cache / CACHE_FILE, key)
    found = remembered or await _probe(kernel)
    if found.usable and not found.secure:
        _log.warning("%s (%s)", _TCG_WARNING, found.why)
    if remembered is None and found.usable:
        await asyncio.to_thread(_remember, cache / CACHE_FILE, key, found)
    return found


async def _probe(kernel: GuestKernel) -> Probe:
    access = _kvm_access()
    if access == "ok":
        trial = await boots(kernel, "kvm", KVM_TIMEOUT_S)
        if trial.ran:
            return Probe(usable=True, how="kvm", secure=True, why="A guest ran on KVM.")
        kvm = f"kvm: opened, but {trial.why}"
        fix = ""
    else:
        kvm = f"kvm: {access}"
        fix = "sudo usermod -aG kvm $USER" if "denied" in access else ""
    trial = await boots(kernel, "tcg", TCG_TIMEOUT_S)
    if not trial.ran:
        return Probe(usable=False, how="", secure=False, why=f"{kvm}; tcg: {trial.why}.", fix="callbox setup --force")
    return Probe(usable=True, how="tcg", secure=False, why=f"{kvm}; software emulation works.", fix=fix)


def _host_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _kvm_access() -> str:
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
        return "ok"
    except FileNotFoundError:
        return "this host has no /dev/kvm"
    except PermissionError:
        return "access to /dev/kvm denied"
    except OSError as error:
        return f"/dev/kvm does not open: {error.strerror}"


async def boots(kernel: GuestKernel, accelerator: str, timeout_s: float) -> Trial:
    """Boot the guest's kernel without disks until it starts a program: that is what "a guest ran" means here."""
    machine_id = secrets.token_hex(16)
    place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="callbox-probe-"))
    limits = SandboxLimits(memory_mb=256)
    spec = MachineSpec(
        machine_id=machine_id, image=RootImage(digest="", rootfs=place, disk=None), limits=limits, place=place
    )
    try:
        (place / "run").mkdir(mode=0o700)
        memory = place / "run" / MEMORY_FILE
        await asyncio.to_thread(make_memory, memory, size_mb=limits.memory_mb, uid=machine_uid(machine_id))
        machine: QemuMachine | None = None
        try:
            async with asyncio.timeout(timeout_s):
                machine = await QemuMachine.start(Start(spec=spec, accelerator=accelerator, kernel=kernel, bare=True))
                await machine.thaw()
                said = ""
                while _USER_SPACE not in said:
                    await asyncio.sleep(_LOOK_EVERY_S)
                    said += await machine.console_ring()
            return Trial(True, "")
        except TimeoutError:
            return Trial(False, f"no guest ran within {timeout_s:g} s")
        except SandboxError as error:
            return Trial(False, " ".join(error.message.split()).rstrip("."))
        finally:
            if machine is not None:
                await asyncio.shield(machine.kill())
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


def _remembered(file: Path, key: dict[str, str]) -> Probe | None:
    try:
        stored: Any = json.loads(file.read_text())
        fields = cast("dict[str, Any]", stored)
        if fields["key"] != key:
            return None
        how = {"kvm": True, "tcg": False}
        # Whether it is secure follows from what it is; a file is not asked about that.
        return Probe(
            usable=True,
            how=str(fields["how"]),
            secure=how[fields["how"]],
            why=str(fields["why"]),
            fix=str(fields["fix"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(file: Path, key: dict[str, str], found: Probe) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.write_text(json.dumps({"key": key, "how": found.how, "why": found.why, "fix": found.fix}))
        part.replace(file)
    except OSError as error:
        _log.warning("what was found out about this host cannot be remembered: %s", error.strerror)


def unusable(error: SandboxError) -> Probe:
    """What a probe says when it could not even begin."""
    missing = isinstance(error, HostUnsuited)
    return Probe(
        usable=False, how="", secure=False, why=error.message, fix=error.hint or ("" if missing else "callbox setup")
    )
