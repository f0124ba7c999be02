"""What sandboxes need of this host: drivers, an image, a kernel, control groups, loop devices."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from callbox.cli.finding import Finding
from callbox.cli.sandbox_tables import size
from callbox.errors import CallboxError, HostUnsuited
from callbox.sandboxes.agent.binary import agent_digest
from callbox.sandboxes.driver import Driver, Probe
from callbox.sandboxes.home import Home

LOOP_CONTROL = Path("/dev/loop-control")
KVM = Path("/dev/kvm")
CPU_INFO = Path("/proc/cpuinfo")


def examine_sandboxes(home: Home | None = None) -> list[Finding]:
    """Look at this host as the supervisor will. Probes boot real guests; what they found is remembered until reboot."""
    # The drivers and the image store, which the rest of the command line does not need.
    from callbox.sandboxes.images.kernel import guest_kernel
    from callbox.sandboxes.images.store import ImageStore
    from callbox.sandboxes.supervisor.host_drivers import host_drivers

    home = home or Home.default()
    return [
        _thing("guest agent", agent_digest, "scripts/build_guest"),
        _thing("guest kernel (for qemu)", lambda: guest_kernel(home.images).version, "callbox setup"),
        _thing("image python", lambda: size(ImageStore(home.images).get("python").size_bytes), "callbox setup"),
        control_groups(),
        loop_devices(),
        *asyncio.run(examine_drivers(host_drivers(home))),
    ]


async def examine_drivers(drivers: list[Driver]) -> list[Finding]:
    """One line for each, and one for what ``driver="auto"`` takes, and why."""
    from callbox.sandboxes.supervisor.drivers import Drivers

    findings: list[Finding] = []
    for driver in drivers:
        try:
            probe = await driver.probe()
        except (CallboxError, OSError) as error:
            probe = Probe(usable=False, how="", secure=False, why=f"Its probe failed: {error}")
        how = f"{probe.how}: " if probe.how else ""
        boundary = "" if probe.secure or not probe.usable else " No security boundary by its makers' word."
        good = probe.usable and probe.secure
        fix = probe.fix or (kvm_fix() if probe.how == "tcg" else "")
        findings.append(Finding(f"driver {driver.name}", f"{how}{probe.why}{boundary}", good, fix))
    try:
        chosen, probe = await Drivers(drivers).choose("auto")
    except HostUnsuited as error:
        return [*findings, Finding("sandboxes", error.message, False, error.hint or "")]
    how = f" ({probe.how})" if probe.how else ""
    return [*findings, Finding("sandboxes", f'driver="auto" takes {chosen.name}{how}', True)]


def kvm_fix() -> str:
    """What gives this host virtual machines of hardware, or what does without them."""
    if os.access(KVM, os.R_OK | os.W_OK):
        way = "a host whose KVM runs guests: bare metal, or a virtual machine with nested virtualization switched on"
    elif KVM.exists():
        way = "sudo usermod -aG kvm $USER, and log in again"
    elif module := _kvm_module():
        way = f"sudo modprobe {module}; if that fails, switch on VT-x or AMD-V (SVM) in the BIOS"
    else:
        way = "switch on VT-x or AMD-V (SVM) in the BIOS; in a virtual machine, nested virtualization on its host"
    return f"use the gvisor driver, or: {way}"


def _kvm_module() -> str | None:
    """The kernel's module for what the processor says it can."""
    try:
        flags = CPU_INFO.read_text().split()
    except OSError:
        return None
    return "kvm_intel" if "vmx" in flags else "kvm_amd" if "svm" in flags else None


def control_groups() -> Finding:
    """Whether limits on memory, processor time and processes can be enforced here."""
    from callbox.sandboxes.host.cgroups import Cgroup

    missing = Cgroup(secrets.token_hex(16)).unlimited
    if not missing:
        return Finding("control groups", "limits on memory, processor and processes are enforced", True)
    said = f"not enforced on the host: {', '.join(missing)}"
    return Finding("control groups", said, False, "run as root, or in: systemd-run --user --scope -p Delegate=yes")


def loop_devices() -> Finding:
    """Whether gvisor's private disks can be mounted."""
    if not LOOP_CONTROL.exists():
        return Finding("loop devices", f"there is no {LOOP_CONTROL}", False, "modprobe loop")
    if not os.access(LOOP_CONTROL, os.R_OK | os.W_OK):
        return Finding("loop devices", f"{LOOP_CONTROL} cannot be opened", False, "run as root, or join the group disk")
    return Finding("loop devices", "usable", True)


def _thing(what: str, look: Callable[[], str], fix: str) -> Finding:
    try:
        return Finding(what, look(), True)
    except (CallboxError, OSError) as error:
        said = error.message if isinstance(error, CallboxError) else str(error)
        return Finding(what, said, False, fix)
