"""Where the guest agent's binary is, and which build it is."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from callbox.errors import HostUnsuited

_NAME = "callbox-guest"
_DIGEST_CHARACTERS = 16


def agent_binary() -> Path:
    """The static executable that is bind-mounted into sandboxes or becomes `/init` of the initramfs.

    Raises:
        HostUnsuited: It was not built (a source checkout), or cannot be executed.
    """
    path = Path(__file__).with_name(_NAME)
    if not os.access(path, os.X_OK):
        raise HostUnsuited("The guest agent is not built.", hint="Run scripts/build_guest; it needs Go.")
    return path


def agent_digest() -> str:
    """The first 16 hex digits of its sha256, as its WELCOME says it: saved memory belongs to one build of the agent.

    Raises:
        HostUnsuited: It was not built.
    """
    path = agent_binary()
    found = path.stat()
    return _digest(path, found.st_ino, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _digest(path: Path, _inode: int, _mtime_ns: int, _size: int) -> str:
    with path.open("rb") as binary:
        return hashlib.file_digest(binary, "sha256").hexdigest()[:_DIGEST_CHARACTERS]
