"""Mounts: what a machine's private mount namespace holds, and what is left mounted below a folder."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

_MNT_DETACH = 2
_LOOP_CLR_FD = 0x4C01
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopMount:
    """A file with a file system, mounted by a loop device that goes away with the mount."""

    image: Path
    at: Path
    options: str = "loop,nosuid,nodev,noatime"

    def command(self) -> str:
        """The line of shell that mounts it."""
        return shlex.join(["mount", "-t", "ext4", "-o", self.options, str(self.image), str(self.at)])


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayMount:
    """A read-only folder with a writable layer on top. `layer` gets ``upper`` and ``work``."""

    lower: Path
    layer: Path
    at: Path

    def command(self) -> str:
        """The lines of shell that mount it."""
        upper, work = self.layer / "upper", self.layer / "work"
        # A colon or comma in a path would begin another layer or option.
        lower = str(self.lower).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
        options = f"lowerdir={lower},upperdir={_plain(upper)},workdir={_plain(work)},metacopy=off,index=off"
        above, beside = shlex.quote(str(upper)), shlex.quote(str(work))
        made = f"[ -d {above} ] && [ -d {beside} ] || mkdir -p -m 0755 {above} {beside}"
        return f"{made}\nmount -t overlay -o {shlex.quote(options)} callbox {shlex.quote(str(self.at))}"


MachineMount = LoopMount | OverlayMount


def mounts_below(folder: Path) -> list[Path]:
    """Mount points in our own namespace that are `folder` or below it, innermost first."""
    prefix = f"{folder}/"
    found: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode("latin-1", "replace").decode("unicode_escape")
        if point == str(folder) or point.startswith(prefix):
            found.append(Path(point))
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def unmount(point: Path) -> bool:
    """Detach a mount at once, even if it is busy. False if it cannot be."""
    return _libc.umount2(os.fsencode(point), _MNT_DETACH) == 0


def loop_devices_below(folder: Path) -> list[Path]:
    """Loop devices whose file is in `folder`."""
    prefix = f"{folder}/"
    found: list[Path] = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if file.read_text().strip().startswith(prefix):
                found.append(Path("/dev") / file.parent.parent.name)
    return found


def release_loop(device: Path) -> bool:
    """Let go of a loop device's file; it happens when the last user closes it. False if it cannot be."""
    try:
        handle = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(handle, _LOOP_CLR_FD, 0)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _plain(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(",", "\\,")
