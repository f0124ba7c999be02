"""The saved memory of one sandbox: declared complete, given its checksums, and checked before it is used."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from callbox.errors import SnapshotRefused
from callbox.sandboxes.supervisor import saved
from callbox.sandboxes.supervisor.disk_writes import remove_tree, rename_durably, write_json
from callbox.sandboxes.supervisor.record import Record
from callbox.sandboxes.supervisor.room import give_room_back

INTENT = "intent.json"
"""Written before a driver saves: with it the next supervisor completes what this one began."""


def intend(new: Path, record: Record, fingerprint: Mapping[str, str]) -> None:
    """Say in `new` what a driver is about to write there."""
    about = {"serial": record.serial, "fingerprint": dict(fingerprint), "host_boot": saved.host_boot()}
    write_json(new / INTENT, about)


def intended(new: Path, record: Record) -> Mapping[str, str] | None:
    """Return the fingerprint of memory that a driver was told to write to `new`, but that nobody has committed.

    None unless it is of this moment of the sandbox, and of this boot of the host: it was not synced to the disk.
    """
    try:
        about: Any = json.loads((new / INTENT).read_bytes())
        moment = (about["serial"], about["host_boot"])
        return about["fingerprint"] if moment == (record.serial, saved.host_boot()) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


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
