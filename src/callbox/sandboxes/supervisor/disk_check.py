"""The disk of a machine that died: whether it can be booted again, and that no boot can lose it."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from callbox.errors import SandboxError
from callbox.sandboxes.supervisor.disk_writes import rename_durably, sync_folder

CHECK_TIMEOUT_S = 300.0
"""For one check; it reads the used part of the disk's metadata."""

_UNCORRECTED = 4
"""Exit codes of e2fsck below this one: clean, or made so."""


async def check_disk(disk: Path) -> None:
    """Check the file system of a disk image that nothing uses, and complete what a crash left open.

    Raises:
        SandboxError: It is damaged beyond what can be mended without a loss, or it cannot be checked.
    """
    program = shutil.which("e2fsck", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise SandboxError("The disk cannot be checked: e2fsck is missing.", hint="Run: apt-get install e2fsprogs")
    running = await asyncio.create_subprocess_exec(
        program, "-p", str(disk), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            said, _ = await running.communicate()
    except TimeoutError:
        raise SandboxError(f"Its disk could not be checked within {CHECK_TIMEOUT_S:g} s.") from None
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    code = running.returncode
    if code is None or code >= _UNCORRECTED:
        last = said.decode(errors="replace").strip()[-300:]
        raise SandboxError(f"Its disk is damaged (e2fsck says {code}): {last}", hint="Delete the sandbox.")


def hold_disk(disk: Path, kept: Path) -> None:
    """Give the disk a second name for the time of a boot, so that nothing that a driver does can lose it."""
    if kept.exists():
        # We died in such a boot: what has the second name is the sandbox's disk.
        take_back_disk(disk, kept)
    kept.hardlink_to(disk)
    sync_folder(disk.parent)


def is_same_disk(disk: Path, kept: Path) -> bool:
    """Whether both names are still of one file."""
    return disk.exists() and disk.samefile(kept)


def take_back_disk(disk: Path, kept: Path) -> None:
    """Have the disk of before the boot under its first name again."""
    disk.unlink(missing_ok=True)
    rename_durably(kept, disk)
