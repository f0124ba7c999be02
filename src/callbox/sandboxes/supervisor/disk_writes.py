"""Writes that survive a power cut, and work in threads that a cancellation does not tear apart."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from callbox.sandboxes.host import disks

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Run blocking work in a thread. When cancelled, wait for its end first: nobody else may find it half done."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                continue
        if not running.cancelled():
            running.exception()
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace `path` by `value`: complete and on disk, or not at all."""
    stage_json(path, value)
    put_staged(path)


def stage_json(path: Path, value: Mapping[str, Any]) -> None:
    """Have what shall replace `path` on disk, beside it: `put_staged` is then half as long as `write_json`."""
    file = os.open(_staged(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        data = json.dumps(value, separators=(",", ":")).encode()
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    finally:
        os.close(file)


def put_staged(path: Path) -> None:
    """Replace `path` by what was staged; it is on disk when this returns."""
    _staged(path).replace(path)
    sync_folder(path.parent)


def _staged(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def rename_durably(source: Path, target: Path) -> None:
    """Rename within one folder, and have it on disk."""
    source.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_tree(folder: Path) -> None:
    """Have everything below `folder` on disk."""
    for base, _, _ in os.walk(folder):
        disks.sync_folder(Path(base))


def remove_tree(folder: Path) -> None:
    """Remove a folder of ours and everything in it; never follows a link. Nothing there is fine."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def make_place(place: Path) -> None:
    """Make the private folder of a new sandbox."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.mkdir(mode=0o700)


def make_anew(folder: Path) -> None:
    """Make an empty private folder, in place of one that was left there."""
    remove_tree(folder)
    folder.mkdir(mode=0o700)
