"""Machines that have booted once for all: later boots continue from a copy.

A template is a capture (`ram`, `device`, `disk.img`) of a machine whose agent has just answered for the first time,
with `manifest.json` beside it. Guests made from it are repaired like any restored guest, so they share nothing secret.
One folder per key; building is exclusive; a damaged one is never used.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from callbox.sandboxes.host.disks import content_digest, sync_folder, sync_path
from callbox.sandboxes.qemu.machine import DEVICE_FILE
from callbox.sandboxes.qemu.process import MEMORY_FILE

_log = logging.getLogger("callbox.sandboxes.qemu")

FILES = (MEMORY_FILE, DEVICE_FILE, "disk.img")
KEPT_MAX = 8
"""Templates kept; each takes what its guest has touched, some 100 to 200 MiB. The least recently used goes."""
LOCK_TIMEOUT_S = 180.0
_LOOK_EVERY_S = 0.05


class Templates:
    """The templates in one folder, shared by all processes of this host's user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: dict[Path, tuple[tuple[int, int, int], ...]] = {}

    def place_of(self, fingerprint: Mapping[str, str]) -> Path:
        """The folder of the template for a fingerprint, whether there is one or not."""
        text = json.dumps(dict(fingerprint), sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    @asynccontextmanager
    async def exclusive(self, place: Path) -> AsyncGenerator[None]:
        """Hold the right to build or remove one template. It ends with the process at the latest.

        Raises:
            TimeoutError: Somebody else builds it for longer than `LOCK_TIMEOUT_S`.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(place.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            async with asyncio.timeout(LOCK_TIMEOUT_S):
                while not _locked(handle):  # noqa: ASYNC110 - another process holds it
                    await asyncio.sleep(_LOOK_EVERY_S)
            yield
        finally:
            os.close(handle)

    async def usable(self, place: Path) -> bool:
        """Whether a complete, undamaged template is there. Verified once per process; again if a file changed."""
        if not (place / "manifest.json").is_file():
            return False
        found = await asyncio.to_thread(self._verify, place)
        if found:
            with contextlib.suppress(OSError):
                os.utime(place)
        else:
            _log.warning("the template %s is damaged and will be made again", place.name)
        return found

    async def keep(self, part: Path, place: Path) -> None:
        """Make a capture in the folder `part` the template. Call within `exclusive`."""
        await asyncio.to_thread(self._keep, part, place)

    def _keep(self, part: Path, place: Path) -> None:
        manifest = {name: content_digest(part / name) for name in FILES}
        (part / "manifest.json").write_text(json.dumps(manifest))
        sync_path(part / "manifest.json")
        sync_folder(part)
        shutil.rmtree(place, ignore_errors=True)
        part.replace(place)
        sync_folder(self._folder)
        self._verified[place] = _identity(place)
        self._evict(place)

    def _evict(self, keep: Path) -> None:
        found = [path for path in self._folder.iterdir() if path.is_dir() and path.suffix == "" and path != keep]
        for path in sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)[KEPT_MAX - 1 :]:
            _log.info("template %s was not used for long and is removed", path.name)
            # A machine that is copying from it right now fails and is booted instead.
            shutil.rmtree(path, ignore_errors=True)

    def _verify(self, place: Path) -> bool:
        try:
            identity = _identity(place)
            if self._verified.get(place) == identity:
                return True
            wanted: Any = json.loads((place / "manifest.json").read_text())
            if any(cast("dict[str, Any]", wanted)[name] != content_digest(place / name) for name in FILES):
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._verified[place] = identity
        return True


def _identity(place: Path) -> tuple[tuple[int, int, int], ...]:
    found = [(place / name).stat() for name in FILES]
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
