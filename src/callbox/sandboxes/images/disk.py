"""Make the ext4 disk of an image: read only, no journal, no privileges needed."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from pathlib import Path

from callbox.errors import ImageError
from callbox.sandboxes.images.commands import need, run
from callbox.sandboxes.images.tree import BLOCK_BYTES, Measure, Owners, walk

INODE_BYTES = 256
SPARE_INODES = 64
SPARE_BYTES = 16 * 1024 * 1024
"""Room for directory blocks and group descriptors, beside a twentieth of the content."""


def make_disk(rootfs: Path, disk: Path, measure: Measure, *, owners: Owners | None = None) -> None:
    """Write an ext4 file system with what is in `rootfs`.

    Args:
        rootfs: The tree.
        disk: The file to make.
        measure: Of the tree: gives size, number of inodes, and the disk's UUID.
        owners: Owners of a tree that was made without root; None: as they are on disk.

    Raises:
        HostUnsuited: mke2fs is not installed.
        ImageError: It did not fit or could not be written.
    """
    inodes = measure.entries + SPARE_INODES
    size = measure.block_bytes + measure.entries * BLOCK_BYTES // 4 + inodes * INODE_BYTES
    size = size + size // 20 + SPARE_BYTES
    size = -(-size // (1024 * 1024)) * 1024 * 1024
    identity = str(uuid.UUID(measure.digest[:32]))
    argv = [need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-m", "0", "-N", str(inodes)]
    # A journal is of no use on a disk that nobody writes; without the reserve for growing, nothing is lost either.
    argv += ["-I", str(INODE_BYTES), "-O", "^has_journal,^resize_inode,^metadata_csum", "-U", identity]
    argv += ["-E", f"lazy_itable_init=1,root_owner=0:0,hash_seed={identity}", "-L", "callbox", "-d", str(rootfs)]
    argv += [str(disk), f"{size // 1024}k"]
    if owners is not None and os.geteuid() != 0:
        # All files are ours; seen as root of a user namespace, they are root's. The others are set one by one below.
        argv = [need("unshare", "util-linux"), "--map-root-user", "--", *argv]
    run(argv, what="Making the image's disk")
    if owners is not None:
        _set_owners(rootfs, disk, owners)


def disk_sha256(disk: Path) -> str:
    """Hash a disk's file."""
    with disk.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _set_owners(rootfs: Path, disk: Path, owners: Owners) -> None:
    lines: list[str] = []
    done: set[int] = set()
    for path, found in walk(rootfs):
        uid, gid = owners.get(path, (0, 0))
        if (uid, gid) == (0, 0) or found.st_ino in done:
            continue
        if any(char in path for char in '"\n\\'):
            raise ImageError(f"{path!r} belongs to {uid}:{gid}, and its name cannot be written.", hint="Run as root.")
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            done.add(found.st_ino)
        lines += [f'sif "/{path}" uid {uid}', f'sif "/{path}" gid {gid}']
    if not lines:
        return
    script = disk.with_name(disk.name + ".owners")
    script.write_text("\n".join(lines) + "\n")
    try:
        argv = [need("debugfs", "e2fsprogs"), "-w", "-f", str(script), str(disk)]
        said = run(argv, what="Setting owners on the image's disk")
    finally:
        script.unlink()
    # debugfs exits with 0 whatever its commands came to; it echoes them, and complains between the echoes.
    wrong = [line for line in said if line and not line.startswith("debugfs")]
    if wrong:
        raise ImageError(f"Setting owners on the image's disk failed: {wrong[0]}")
