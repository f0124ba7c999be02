"""Trees of files: their digest, their size, and how they get from one folder to another."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from callbox.errors import ImageError
from callbox.sandboxes.images.commands import need, run

Owners: TypeAlias = Mapping[str, tuple[int, int]]
"""Who owns what where we may not chown: path in the image -> uid, gid; what is not in it belongs to root."""

BLOCK_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Measure:
    """What a tree holds. `block_bytes`: its files rounded up to blocks."""

    digest: str
    entries: int
    size_bytes: int
    block_bytes: int


def measure(root: Path, owners: Owners | None = None) -> Measure:
    """Compute a tree's digest: every path with mode, owner, size, content (sha256), link target, device.

    Times, extended attributes and which names are links to the same file do not count.

    Args:
        root: The tree.
        owners: Owners of a tree that was made without root; None: as they are on disk.

    Raises:
        ImageError: The tree changed while it was read, or cannot be read.
    """
    whole = hashlib.sha256()
    entries = size_bytes = block_bytes = 0
    seen: dict[tuple[int, int], bytes] = {}
    try:
        for path, found in walk(root):
            inode = (found.st_dev, found.st_ino)
            linked = inode in seen
            content = b""
            size = 0
            if stat.S_ISREG(found.st_mode):
                size = found.st_size
                content = seen[inode] if linked else _sha256(root / path)
            elif stat.S_ISLNK(found.st_mode):
                content = os.fsencode((root / path).readlink())
            elif stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
                content = str(found.st_rdev).encode()
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                seen[inode] = content
            uid, gid = (found.st_uid, found.st_gid) if owners is None else owners.get(path, (0, 0))
            # Names cannot hold NUL, so no two trees give the same bytes.
            whole.update(b"%s\0%o\0%d\0%d\0%d\0%s\0\n" % (os.fsencode(path), found.st_mode, uid, gid, size, content))
            entries += 1
            if not linked:
                size_bytes += size
                block_bytes += -(-size // BLOCK_BYTES) * BLOCK_BYTES
    except OSError as error:
        raise ImageError(f"The tree {root} cannot be read: {error}.") from error
    return Measure(whole.hexdigest(), entries, size_bytes, block_bytes)


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every path beneath a folder (relative, ``""`` for itself), sorted, folders before what is in them."""
    yield "", root.lstat()
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as found:
            inside = sorted(found, key=lambda entry: os.fsencode(entry.name))
        folders: list[str] = []
        for entry in inside:
            path = f"{prefix}{entry.name}"
            yield path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{path}/")
        pending += reversed(folders)


def copy(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy what is in a folder into another one, with owners, modes, times and links between its files.

    Args:
        source: The folder whose content is taken.
        target: The folder that gets it; it is made where it is missing. What has the same name is replaced.
        link: Share the files (hard links) instead of copying them: only where nobody will write to either.
    """
    target.mkdir(exist_ok=True)
    how = ["--link"] if link else ["--reflink=auto"]
    argv = [need("cp", "coreutils"), "--archive", "--remove-destination", *how, f"{source}/.", f"{target}/"]
    run(argv, what=f"Copying {source.name}")


def _sha256(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()
