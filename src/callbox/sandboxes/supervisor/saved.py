"""Memory on disk: what is in it, what it depends on, and whether it may be restored.

A folder with `manifest.json` is complete: the manifest is written last. All of it is checked before a restore.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from callbox.errors import SnapshotRefused
from callbox.sandboxes.host.disks import content_digest
from callbox.sandboxes.supervisor.disk_writes import write_json

MANIFEST = "manifest.json"
MACHINE = "machine"
"""The driver's part of the folder."""

FORMAT = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def describe(folder: Path, *, fingerprint: Mapping[str, str], **about: Any) -> dict[str, Any]:
    """Make the manifest of what a driver has written to `folder`, still without checksums."""
    return {
        "format": FORMAT,
        "host_boot": host_boot(),
        "fingerprint": dict(fingerprint),
        "files": {name: _marks(path) | {"sha256": None} for name, path in _files(folder)},
        **about,
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Declare `folder` complete."""
    write_json(folder / MANIFEST, {**manifest, "seal": _seal(manifest)})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read a manifest; None where there is none, so that the folder was never finished.

    Raises:
        SnapshotRefused: It is not one of ours.
    """
    try:
        value = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SnapshotRefused(f"The manifest of the saved memory is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise SnapshotRefused("The manifest of the saved memory is damaged: it is not an object.")
    manifest = cast("dict[str, Any]", value)
    if manifest.get("format") != FORMAT:
        raise SnapshotRefused(f"The saved memory has format {manifest.get('format')!r}; this callbox reads {FORMAT}.")
    if manifest.pop("seal", None) != _seal(manifest):
        raise SnapshotRefused("The manifest of the saved memory was changed: it does not fit its own checksum.")
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("fingerprint"), dict):
        raise SnapshotRefused("The manifest of the saved memory is damaged: fields are missing.")
    return manifest


def _seal(manifest: Mapping[str, Any]) -> str:
    """The checksum of a manifest. It finds damage; whoever may write our folders can also make a new one."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def add_checksums(folder: Path, manifest: dict[str, Any], stop: threading.Event | None = None) -> bool:
    """Fill in the sha256 of every file. Returns False if `stop` was set before the end."""
    for name, entry in manifest["files"].items():
        digest = content_digest(folder / name, stop)
        if digest is None:
            return False
        entry["sha256"] = digest
    return True


def check_fingerprint(manifest: Mapping[str, Any], here: Mapping[str, str]) -> None:
    """Compare what the memory depends on with what is here.

    Raises:
        SnapshotRefused: Something differs; the message names it.
    """
    saved: dict[str, Any] = manifest["fingerprint"]
    different = sorted(name for name in saved.keys() | here.keys() if saved.get(name) != here.get(name))
    if different:
        first = different[0]
        raise SnapshotRefused(
            f"The saved memory depends on another {', '.join(different)}: "
            f"{first} was {saved.get(first)!r} and is {here.get(first)!r} here.",
            hint="Restore it where it was made; a sandbox can be booted from its disk with resume.",
        )


def check_files(folder: Path, manifest: Mapping[str, Any], *, thorough: bool) -> None:
    """Compare every file with the manifest.

    Args:
        folder: What `describe` described.
        manifest: Its manifest.
        thorough: Read everything and compare checksums. Otherwise that is done only where a file's marks (inode, size,
            time of change) are not those of the moment when it was written, or the host was restarted since:
            a file whose marks are the same has not been written to.

    Raises:
        SnapshotRefused: A file is missing, cut, changed or added.
    """
    files: dict[str, Any] = manifest["files"]
    found = dict(_files(folder))
    if found.keys() != files.keys():
        different = ", ".join(sorted(found.keys() ^ files.keys()))
        raise SnapshotRefused(f"The saved memory is damaged: {different} is missing or does not belong to it.")
    same_boot = manifest.get("host_boot") == host_boot()
    for name, entry in files.items():
        marks = _marks(found[name])
        if marks["size"] != entry["size"]:
            raise SnapshotRefused(
                f"The saved memory is damaged: {name} has {marks['size']} bytes, not {entry['size']}."
            )
        if not thorough and same_boot and all(marks[mark] == entry.get(mark) for mark in marks):
            continue
        if entry["sha256"] is None and not thorough:
            # The host was restarted before the checksums were made; size and time are synced with the content.
            if marks["mtime_ns"] == entry["mtime_ns"]:
                continue
            raise SnapshotRefused(f"The saved memory is damaged: {name} was changed.")
        if content_digest(found[name]) != entry["sha256"]:
            raise SnapshotRefused(f"The saved memory is damaged: {name} has another checksum.")


def disk_marks(disk: Path) -> dict[str, int] | None:
    """What changes when anything is written to a disk image. None where there is no such file."""
    try:
        found = disk.stat()
    except FileNotFoundError:
        return None
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def is_untouched(folder: Path, disk: Path) -> bool:
    """Whether saved memory and the disk that belongs to it are as they were saved: nothing ran on them since."""
    try:
        manifest = read_manifest(folder)
        if manifest is None or manifest.get("disk") != disk_marks(disk):
            return False
        # Some drivers take the memory in use where it is, and mark that by removing a part of it.
        check_files(folder, manifest, thorough=False)
    except SnapshotRefused:
        return False
    return True


def drop_from_page_cache(folders: list[Path]) -> None:
    """Ask the kernel to forget its copy of all files in `folders` (they are on disk)."""
    for folder in folders:
        for path in [folder] if folder.is_file() else [each for each in folder.rglob("*") if each.is_file()]:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise SnapshotRefused(f"The saved memory is damaged: {name} is neither file nor folder.")
        if path.is_file() and name not in (MANIFEST, f"{MANIFEST}.tmp"):
            yield name, path


def _marks(path: Path) -> dict[str, int]:
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}


def host_boot() -> str:
    """Which boot of the host this is; empty where it does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
