"""Which images and kernels are still needed, by all homes that share a folder of images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from callbox.errors import ImageError
from callbox.sandboxes.home import Home

_DIGEST = re.compile(rb"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{16})(?![0-9a-f])")
_FILE_BYTES_MAX = 64 * 1024 * 1024


def register_home(home: Home) -> None:
    """Write down that a home uses its folder of images, so that another home's gc asks it, too."""
    folder = home.images / "homes"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(os.fsencode(home.root)).hexdigest()[:32]
    if not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_bytes(os.fsencode(home.root))
        beside.rename(path)


def digests_in_use(home: Home) -> set[str]:
    """Collect what sandboxes and snapshots name: every word in their records that could be a digest.

    Taking too many keeps a folder too long; knowing their formats here would lose an image when one changes.

    Raises:
        ImageError: A record cannot be read, so nobody knows what it needs.
    """
    found: set[str] = set()
    for root in {home.root, *_homes(home.images)}:
        for path in _records(root):
            try:
                if path.stat().st_size > _FILE_BYTES_MAX:
                    raise ImageError(f"{path} is too large to be a record.", hint="Look at it, then run this again.")
                found |= {word.decode() for word in _DIGEST.findall(path.read_bytes())}
            except FileNotFoundError:
                continue  # deleted meanwhile
            except OSError as error:
                raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
    return found


def _homes(images: Path) -> Iterator[Path]:
    folder = images / "homes"
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not path.name.startswith("."):
            yield Path(os.fsdecode(path.read_bytes()))


def _records(root: Path) -> Iterator[Path]:
    for kind in ("sandboxes", "snapshots"):
        folder = root / kind
        if not folder.exists():
            continue
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ImageError(f"{folder} cannot be read: it may need any image.", hint="Run as its owner, or as root.")
        # Records, manifests of snapshots, and those of saved states beneath them; never what a guest wrote.
        for pattern in ("*.json", "*/*.json", "*/*/*.json", "*/*/*/*.json"):
            yield from folder.glob(pattern)
