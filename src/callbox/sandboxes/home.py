"""Where sandboxes and images live on this host."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from callbox.errors import ConfigurationError

_SOCKET_PATH_BYTES_MAX = 90
"""Linux allows 107 bytes in `sun_path`; the rest is for file names."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one installation. `root` may be anywhere; `run` is short enough for sockets.

    Attributes:
        root: Sandboxes and snapshots: ``sandboxes/<id>/``, ``snapshots/<id>/``.
        images: Images and guest kernels; may be shared by several homes.
    """

    root: Path
    images: Path

    @classmethod
    def default(cls) -> Home:
        """``$CALLBOX_HOME``, else ``~/.local/share/callbox``; ``$CALLBOX_IMAGES``, else ``images/`` of it."""
        root = Path(os.environ.get("CALLBOX_HOME") or Path.home() / ".local" / "share" / "callbox").absolute()
        return cls(root, Path(os.environ.get("CALLBOX_IMAGES") or root / "images").absolute())

    @property
    def sandboxes(self) -> Path:
        """One folder per sandbox."""
        return self.root / "sandboxes"

    @property
    def snapshots(self) -> Path:
        """One folder per snapshot."""
        return self.root / "snapshots"

    @property
    def socket(self) -> Path:
        """Where the supervisor listens."""
        return self._run() / "supervisor.sock"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor of this home."""
        return self.root / "supervisor.lock"

    @property
    def log(self) -> Path:
        """What the supervisor says."""
        return self.root / "supervisor.log"

    def _run(self) -> Path:
        direct = self.root / "run"
        if len(os.fsencode(direct)) > _SOCKET_PATH_BYTES_MAX:
            mark = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
            direct = Path(tempfile.gettempdir()) / f"callbox-{os.getuid()}-{mark}"
        direct.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The name in a shared folder can be guessed: another user who made it first would be served our requests.
        found = direct.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ConfigurationError(
                f"{direct} is not a private folder of ours.", hint="Remove it, or set CALLBOX_HOME."
            )
        return direct
