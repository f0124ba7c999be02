"""Start a QEMU process: descriptors instead of paths, an own user, limits, a control group."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from callbox.errors import HostUnsuited, SandboxError
from callbox.sandboxes.driver import MachineSpec
from callbox.sandboxes.host.cgroups import Cgroup, CgroupLimits
from callbox.sandboxes.host.launch import Launch, Launched
from callbox.sandboxes.host.processes import MARKER
from callbox.sandboxes.images.kernel import GuestKernel
from callbox.sandboxes.qemu.command import Command, Descriptors
from callbox.sandboxes.qemu.qmp import listen_unix
from callbox.sandboxes.qemu.tsc import tsc_khz

PROGRAM = "qemu-system-x86_64"
CONTROL_SOCKET = "control.sock"
AGENT_SOCKET = "agent.sock"
MEMORY_FILE = "ram"
LOG_FILE = "qemu.log"

KVM = Path("/dev/kvm")
FIRST_UID = 1 << 20
"""Machines' users begin above what distributions give to people, services and most containers."""
UIDS = 1 << 30
OVERHEAD_MB = 256
"""What QEMU itself may use besides the guest's memory; measured: 60 MiB, with the translation cache 110."""
THREADS_MAX = 64
OPEN_FILES_MAX = 256
_SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What one process is started with.

    Attributes:
        kernel: What to boot; None: it waits for saved device state.
        bare: No disks and no agent's port: for probing the host.
    """

    spec: MachineSpec
    accelerator: str
    kernel: GuestKernel | None
    bare: bool = False


def machine_uid(machine_id: str) -> int | None:
    """The user that a machine's QEMU runs as: its own, nobody else's. None where we are not root and cannot choose.

    Two machines that share a user could signal and trace each other once their guests have taken QEMU over.
    """
    return FIRST_UID + int(machine_id[:16], 16) % UIDS if os.geteuid() == 0 else None


def program() -> str:
    """Find QEMU.

    Raises:
        HostUnsuited: It is not installed, or this host's processor is none that the machine type exists for.
    """
    if platform.machine() not in {"x86_64", "AMD64"}:
        raise HostUnsuited(f"The qemu driver runs on x86-64 only, not on {platform.machine()}.", hint="Use gvisor.")
    found = shutil.which(PROGRAM)
    if found is None:
        raise HostUnsuited(f"{PROGRAM} is not installed.", hint="Run: apt-get install qemu-system-x86")
    return found


@functools.lru_cache(maxsize=8)
def _version(executable: str, changed_ns: int) -> str:  # noqa: ARG001 - an upgrade makes another key
    try:
        done = subprocess.run(  # noqa: S603 - the host's QEMU
            [executable, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostUnsuited(
            f"{executable} does not run.", hint="Run: apt-get install --reinstall qemu-system-x86"
        ) from error
    found = re.search(r"version (.+)", done.stdout)
    return found.group(1).strip() if found else done.stdout.strip()[:100]


def version() -> str:
    """QEMU's version with the distribution's revision: saved memory does not survive either's change."""
    executable = program()
    return _version(executable, Path(executable).stat().st_mtime_ns)


def start(what: Start) -> Launched:
    """Start QEMU, stopped before its first instruction. The RAM file and, unless bare, the disk must exist.

    Its sockets listen before it runs, so that connecting needs no waiting. Takes some 5 ms; blocks.

    Raises:
        HostUnsuited: There is no QEMU.
        SandboxError: It could not be started.
    """
    run, spec = what.spec.place / "run", what.spec
    uid = machine_uid(spec.machine_id)
    group = Cgroup(spec.machine_id)
    group.create(limits_of(spec))
    with contextlib.ExitStack() as opened:
        files = _descriptors(what, run, opened)
        command = Command(
            program=program(),
            accelerator=what.accelerator,
            machine_id=spec.machine_id,
            memory_mb=spec.limits.memory_mb,
            cpus=spec.limits.cpus,
            descriptors=files,
            incoming=what.kernel is None,
            verbose=what.bare,
            tsc_khz=tsc_khz() if what.accelerator == "tcg" else None,
        )
        largest = max(spec.limits.memory_mb, spec.limits.disk_mb) << 20
        launch = Launch(
            machine_id=spec.machine_id,
            argv=command.argv(),
            join=group.join_files,
            rlimits={"fsize": largest, "core": 0, "nofile": OPEN_FILES_MAX},
            uid=uid,
        )
        passed = [number for number in _numbers(files) if number is not None]
        log = _open(run / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, opened)
        try:
            child = subprocess.Popen(  # noqa: S603 - arguments of ours, quoted where a shell reads them
                [*_with_kvm(what, run), *launch.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": _SAFE_PATH, MARKER: spec.machine_id},
                start_new_session=True,
                pass_fds=passed,
            )
        except OSError as error:
            raise SandboxError(f"QEMU cannot be started: {error.strerror}.") from error
        return Launched(child, spec.machine_id)


def _with_kvm(what: Start, run: Path) -> list[str]:
    """Words that make /dev/kvm open for the machine's own user, and for it alone: a device node of its own.

    QEMU opens the device by name. Its group is not ours to give (root's, on many hosts), its mode not ours to change.
    """
    uid = machine_uid(what.spec.machine_id)
    if what.accelerator != "kvm" or uid is None:
        return []
    node = run / "kvm"
    node.unlink(missing_ok=True)
    os.mknod(node, stat.S_IFCHR | 0o600, KVM.stat().st_rdev)
    os.chown(node, uid, uid)
    script = f'mount --bind "$0" {KVM}; exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-euc", script, str(node)]


def limits_of(spec: MachineSpec) -> CgroupLimits:
    """What the machine's processes may use on the host."""
    return CgroupLimits(
        memory_bytes=(spec.limits.memory_mb + OVERHEAD_MB) << 20,
        processes_max=THREADS_MAX + spec.limits.cpus,
        cpus=float(spec.limits.cpus),
    )


def _descriptors(what: Start, run: Path, opened: contextlib.ExitStack) -> Descriptors:
    image: int | None = None
    disk: int | None = None
    agent: int | None = None
    if not what.bare:
        root = what.spec.image.disk
        if root is None:
            raise SandboxError("The image has no disk for qemu.", hint="Build it again: callbox image build")
        image = _open(root, os.O_RDONLY, opened)
        disk = _open(what.spec.place / "disk.img", os.O_RDWR | os.O_NOFOLLOW, opened)
        agent = opened.enter_context(listen_unix(run / AGENT_SOCKET)).fileno()
    kernel, initramfs = (None, None) if what.kernel is None else (what.kernel.vmlinuz, what.kernel.initramfs)
    return Descriptors(
        control=opened.enter_context(listen_unix(run / CONTROL_SOCKET)).fileno(),
        memory=_open(run / MEMORY_FILE, os.O_RDWR | os.O_NOFOLLOW, opened),
        agent=agent,
        image=image,
        disk=disk,
        kernel=None if kernel is None else _readable(kernel, opened),
        initramfs=None if initramfs is None else _readable(initramfs, opened),
    )


def _readable(path: Path, opened: contextlib.ExitStack) -> int:
    """A copy in memory that anybody may open: QEMU opens these by name, and its user may read none of our folders."""
    handle = os.memfd_create(f"callbox-{path.name}", os.MFD_CLOEXEC)
    opened.callback(os.close, handle)
    with path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        at = 0
        while at < size:
            sent = os.sendfile(handle, source.fileno(), at, size - at)
            if sent == 0:
                break
            at += sent
    os.fchmod(handle, 0o444)
    return handle


def _open(path: Path, flags: int, opened: contextlib.ExitStack) -> int:
    try:
        handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SandboxError(f"{path} cannot be opened: {error.strerror}.") from error
    opened.callback(os.close, handle)
    return handle


def _numbers(files: Descriptors) -> tuple[int | None, ...]:
    return (files.control, files.memory, files.agent, files.image, files.disk, files.kernel, files.initramfs)
