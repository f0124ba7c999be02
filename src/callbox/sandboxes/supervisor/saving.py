"""The saved memory of one sandbox: declared complete, given its checksums, and checked before it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from callbox.errors import SnapshotRefused
from callbox.sandboxes.supervisor import saved
from callbox.sandboxes.supervisor.disk_writes import remove_tree, rename_durably
from callbox.sandboxes.supervisor.record import Record
from callbox.sandboxes.supervisor.room import give_room_back


def commit(
    place: Path, new: Path, record: Record, fingerprint: Mapping[str, str], reach: Callable[[str], None]
) -> None:
    """Declare what a driver has written to `new` the memory of the sandbox in `place`."""
    give_room_back(new)
    manifest = saved.describe(
        new,
        fingerprint=fingerprint,
        serial=record.serial,
        generation=record.generation,
        image={"digest": record.image.digest},
        disk=saved.disk_marks(place / "disk.img"),
    )
    saved.write_manifest(new, manifest)
    reach("save.sealed")
    remove_tree(place / "state")
    rename_durably(new, place / "state")
    reach("save.renamed")


def complete(folder: Path, stop: threading.Event) -> bool:
    """Add the checksums, if they are missing. False if `stop` was set before the end."""
    manifest = saved.read_manifest(folder)
    if manifest is None or all(entry["sha256"] is not None for entry in manifest["files"].values()):
        return True
    if not saved.add_checksums(folder, manifest, stop):
        return False
    saved.write_manifest(folder, manifest)
    return True


def check(folder: Path, serial: int, here: Mapping[str, str], *, thorough: bool) -> None:
    """Find out whether saved memory may be restored: see `saved.check_files`.

    Raises:
        SnapshotRefused: It is damaged, of another moment, or depends on what is not here.
    """
    manifest = saved.read_manifest(folder)
    if manifest is None:
        raise SnapshotRefused("The saved memory is gone.")
    if manifest.get("serial") != serial:
        raise SnapshotRefused("The saved memory is of an earlier moment than the disk.")
    saved.check_fingerprint(manifest, here)
    saved.check_files(folder, manifest, thorough=thorough)
