"""Copies of the agents that machines were started with, one per build, named by their content.

A saved gVisor machine needs the very file that it was started with: its program text is read from there. So machines
never run the file of the installation, which an upgrade replaces, but a copy that stays::

    <folder>/<16 hex of its sha256>/agent

Copies are never removed: each takes some 4 MB, and only the homes that share the folder know together which are needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from pathlib import Path

from callbox.errors import HostUnsuited, SandboxError, SnapshotRefused
from callbox.sandboxes.agent.binary import agent_binary, agent_digest

_DIGEST = re.compile(r"[0-9a-f]{16}")
_MODE = 0o755


class AgentStore:
    """The copies in one folder; it may be shared by several homes. All methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._verified: dict[str, tuple[int, int, int]] = {}

    def today(self) -> str:
        """The digest of the agent of this installation, of which there is a copy when this returns.

        Raises:
            HostUnsuited: It is not built.
            SandboxError: It cannot be copied.
        """
        digest = agent_digest()
        with self._lock:
            if self._is_whole(digest):
                return digest
            try:
                # An upgrade may replace it between the two looks: what was read is what counts.
                content = agent_binary().read_bytes()
                digest = hashlib.sha256(content).hexdigest()[: len(digest)]
                self._write(digest, content)
            except OSError as error:
                raise SandboxError(f"The agent cannot be copied to {self._folder}: {error.strerror}.") from error
            return digest

    def path(self, digest: str) -> Path:
        """Where the agent with this digest is, undamaged.

        Raises:
            SnapshotRefused: It is not here.
        """
        if not _DIGEST.fullmatch(digest):
            raise SnapshotRefused(f"The saved memory names {digest[:40]!r} as its agent, which is no digest.")
        with contextlib.suppress(HostUnsuited):
            if digest == agent_digest():
                self.today()
        with self._lock:
            if self._is_whole(digest):
                return self._at(digest)
        raise SnapshotRefused(
            f"The saved memory needs the agent {digest}, of which {self._folder} has no undamaged copy.",
            hint="Restore it where it was made; a sandbox can be booted from its disk with resume.",
        )

    def _at(self, digest: str) -> Path:
        return self._folder / digest / "agent"

    def _is_whole(self, digest: str) -> bool:
        path = self._at(digest)
        try:
            found = path.lstat()
            marks = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._verified.get(digest) != marks:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest()[: len(digest)] != digest:
                        return False
                self._verified[digest] = marks
        except OSError:
            return False
        return True

    def _write(self, digest: str, content: bytes) -> None:
        path = self._at(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under its name only when it is whole and on the disk: two processes may do this at once.
        part = path.with_name(f"agent.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), _MODE)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        found = path.stat()
        self._verified[digest] = (found.st_ino, found.st_mtime_ns, found.st_size)
