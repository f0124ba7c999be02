"""Private disks: sparse files with ext4 in them. Made in ten milliseconds, copied at the cost of what was written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from callbox.errors import HostUnsuited, SandboxError

_FICLONE = 0x4004_9409
_COPY_BYTES = 8 << 20
_HASH_BYTES = 1 << 20
_MAKE_TIMEOUT_S = 60.0
_NOT_POSSIBLE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EPERM, errno.EBADF}


def make_disk(path: Path, *, size_mb: int, inodes_max: int, journal: bool = False) -> None:
    """Make a sparse file of `size_mb` MiB with an empty ext4 file system.

    Args:
        path: The new file; an existing one is replaced.
        size_mb: Its logical size, MiB.
        inodes_max: Files and folders that fit.
        journal: Needed where a guest's own kernel has it mounted: ending that guest is a power cut for the disk.
            A disk that the host mounts is unmounted in order whatever happens to the guest.

    Raises:
        HostUnsuited: There is no `mkfs.ext4`.
        SandboxError: It failed, for example because the host's disk is full.
    """
    program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise HostUnsuited("mkfs.ext4 is missing.", hint="Run: apt-get install e2fsprogs")
    part = path.with_name(path.name + ".part")
    features = ("^resize_inode" if journal else "^has_journal,^resize_inode") + ",^metadata_csum_seed"
    try:
        with part.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(size_mb << 20)
        done = subprocess.run(  # noqa: S603 - a program of the host, arguments of ours
            [program, "-q", "-F", "-m", "0", "-b", "4096", "-N", str(inodes_max), "-O", features,
             "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", str(part)],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_MAKE_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise SandboxError(f"mkfs.ext4 failed: {done.stderr.decode(errors='replace').strip()[-400:]}")
        part.replace(path)
    except OSError as error:
        raise SandboxError(f"The disk {path} cannot be made: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)


def clone_file(source: Path, target: Path, *, durable: bool = True) -> None:
    """Copy a sparse file: by reference where the file system can, else only the parts that hold data.

    Args:
        source: What to copy.
        target: The new file, mode 0600; it appears under its name only when it is complete.
        durable: Return only when it is on the disk.

    Raises:
        SandboxError: The copy could not be made; `target` is as before.
    """
    part = target.with_name(target.name + ".part")
    try:
        with source.open("rb", buffering=0) as read, part.open("wb", buffering=0) as write:
            os.fchmod(write.fileno(), 0o600)
            if not reflink(read.fileno(), write.fileno()):
                size = os.fstat(read.fileno()).st_size
                write.truncate(size)
                for start, end in data_ranges(read.fileno(), size):
                    _copy_range(read.fileno(), write.fileno(), start, end)
            if durable:
                os.fsync(write.fileno())
        part.replace(target)
        if durable:
            sync_path(target.parent)
    except OSError as error:
        raise SandboxError(f"{source.name} cannot be copied: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)


def content_digest(path: Path, stop: threading.Event | None = None) -> str | None:
    """Sha256 of a sparse file, hex: its size, and every block with its place; blocks of zeros count as holes.

    Args:
        path: Which. Reading it takes as long as its data, not as its size.
        stop: Set by another thread to give up; then None is returned.
    """
    total = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        total.update(size.to_bytes(8, "big"))
        at = 0
        while at < size:
            if stop is not None and stop.is_set():
                return None
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            at -= at % _HASH_BYTES
            block = os.pread(file.fileno(), _HASH_BYTES, at)
            if block.count(0) != len(block):
                total.update(at.to_bytes(8, "big"))
                total.update(block)
            at += _HASH_BYTES
    return total.hexdigest()


def sync_path(path: Path) -> None:
    """Fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Fsync every file directly in a folder, then the folder."""
    for each in folder.iterdir():
        if each.is_file() and not each.is_symlink():
            sync_path(each)
    sync_path(folder)


def logical_bytes(path: Path) -> int:
    """How large the file says it is."""
    return path.stat().st_size


def used_bytes(path: Path) -> int:
    """What it occupies on the host; 0 if it is not there."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def reflink(read: int, write: int) -> bool:
    """Make one open file share the other's blocks until either is written; False where the file system cannot."""
    try:
        fcntl.ioctl(write, _FICLONE, read)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        return False
    return True


def data_ranges(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """Where an open file of `size` bytes holds data: (start, end) of each range, in order."""
    position = 0
    while position < size:
        try:
            start = os.lseek(handle, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, position


def _copy_range(read: int, write: int, start: int, end: int) -> None:
    position = start
    while position < end:
        want = min(_COPY_BYTES, end - position)
        try:
            done = os.copy_file_range(read, write, want, position, position)
        except OSError as error:
            if error.errno not in _NOT_POSSIBLE:
                raise
            data = os.pread(read, want, position)
            done = os.pwrite(write, data, position) if data else 0
        if done == 0:
            raise OSError(errno.EIO, "the file became shorter")
        position += done
