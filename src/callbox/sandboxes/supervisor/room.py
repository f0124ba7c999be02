"""When the host's disk is full: what people are told, and room set aside for what must not fail then."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from callbox.errors import SandboxError

ROOM_BYTES = 1 << 20
"""Set aside before a machine is ended to be saved: its manifest and record will find room."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM = "room"


def host_refused(error: OSError, what: str) -> SandboxError:
    """Say that the host could not do `what`, and what helps."""
    if error.errno in _FULL:
        hint = "Free room on the disk of the sandboxes: delete some, remove snapshots, or run callbox images gc."
        return SandboxError(f"{what}: no room on the host's disk.", hint=hint)
    reason = error.strerror or str(error) or type(error).__name__
    about = f" ({error.filename})" if error.filename else ""
    return SandboxError(f"{what}: {reason}{about}.", hint="Look at the supervisor's log, and at the host's disk.")


def set_room_aside(folder: Path) -> None:
    """Take room in `folder`; OSError if there is none."""
    file = os.open(folder / _ROOM, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, ROOM_BYTES)
    finally:
        os.close(file)


def give_room_back(folder: Path) -> None:
    """Let others have what was set aside."""
    (folder / _ROOM).unlink(missing_ok=True)
