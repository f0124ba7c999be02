"""`callbox sandbox cp`: files and folders between this host and a sandbox."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from callbox.cli.terminal import errors, shorten
from callbox.errors import ConfigurationError, PathEscapes, SandboxError
from callbox.sandboxes.files import Files
from callbox.sandboxes.guest import Entry
from callbox.sandboxes.sandbox import Sandbox

ENTRIES_MAX = 100_000
"""Files and folders that one copy out of a sandbox takes."""

DEPTH_MAX = 64
"""Levels of folders that it goes down."""

_REMOTE = re.compile(r"([a-z0-9][a-z0-9._-]{0,62}):(.*)\Z", re.DOTALL)


@dataclass(slots=True)
class Copied:
    """What a copy did."""

    files: int = 0
    size_bytes: int = 0


async def copy(source: str, to: str) -> Copied:
    """Copy ``BOX:path`` to a local path, or back. Folders are copied with what is in them; links are left out."""
    from_box, to_box = _REMOTE.match(source), _REMOTE.match(to)
    if (from_box is None) == (to_box is None):
        raise ConfigurationError(
            "One of the two must be in a sandbox, like mine:data/a.csv, and the other one here.",
            hint="Write ./a:b for a local file with a colon in its name.",
        )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not sys.stderr.isatty()) as progress:
        if to_box is not None:
            return await _upload(Path(source), await Sandbox.open(to_box[1]), to_box[2] or ".", progress)
        assert from_box is not None
        return await _download(await Sandbox.open(from_box[1]), from_box[2] or ".", Path(to), progress)


async def _upload(source: Path, box: Sandbox, to: str, progress: Progress) -> Copied:
    name, found = _walk(source)
    target = PurePosixPath(to)
    if to.endswith(("/", ".")) or await _is_folder(box.files, to):
        target /= name
    copied = Copied()
    for each in found:
        inside = target / each.path.relative_to(source).as_posix()
        if each.is_folder:
            await box.files.mkdir(str(inside))
        else:
            await _upload_file(each, box.files, inside, progress, copied)
    return copied


@dataclass(slots=True, frozen=True)
class _Local:
    path: Path
    is_folder: bool
    size_bytes: int


def _walk(source: Path) -> tuple[str, list[_Local]]:
    """Its name, and what there is to copy, folders before what is in them. Links and special files are left out."""
    inner = sorted(path for path in source.rglob("*") if not path.is_symlink()) if source.is_dir() else []
    paths = [source, *inner]
    found = [_Local(path, path.is_dir(), path.stat().st_size) for path in paths if path.is_dir() or path.is_file()]
    if not found:
        raise ConfigurationError(f"{source} is not a file or a folder here.")
    return source.resolve().name, found


async def _upload_file(local: _Local, files: Files, to: PurePosixPath, progress: Progress, copied: Copied) -> None:
    task = progress.add_task(shorten(local.path.name, 40), total=local.size_bytes)
    await files.upload(
        local.path, str(to), progress=lambda done, total: progress.update(task, completed=done, total=total)
    )
    progress.remove_task(task)
    copied.files += 1
    copied.size_bytes += local.size_bytes


def _place(to: Path, name: str) -> Path:
    """Into a folder that is there, else by that name."""
    return to / _local_name(name) if to.is_dir() else to


async def _download(box: Sandbox, source: str, to: Path, progress: Progress) -> Copied:
    entry = await box.files.stat(source)
    target = _place(to, entry.name)
    copied = Copied()
    if entry.type != "directory":
        await _download_file(box.files, entry, target, progress, copied)
        return copied
    found = await box.files.tree(source, depth_max=DEPTH_MAX, entries_max=ENTRIES_MAX)
    if found.truncated:
        raise SandboxError(
            f"{source} has more than {ENTRIES_MAX:,} files, or is deeper than {DEPTH_MAX} folders.",
            hint="Pack it with tar inside, and copy that.",
        )
    target.mkdir(exist_ok=True)
    for each in sorted(found.entries, key=lambda each: each.path):
        local = target / local_path(entry.path, each.path)
        if each.type == "directory":
            local.mkdir(parents=True, exist_ok=True)
        elif each.type == "file":
            local.parent.mkdir(parents=True, exist_ok=True)
            await _download_file(box.files, each, local, progress, copied)
    return copied


async def _download_file(files: Files, entry: Entry, to: Path, progress: Progress, copied: Copied) -> None:
    task = progress.add_task(shorten(entry.name, 40), total=entry.size)
    await files.download(
        entry.path, to, progress=lambda done, total: progress.update(task, completed=done, total=total)
    )
    progress.remove_task(task)
    copied.files += 1
    copied.size_bytes += entry.size


def local_path(root: str, path: str) -> Path:
    """Where an entry of a copied folder goes, relative to the copy.

    Raises:
        PathEscapes: The sandbox named something outside: it may want our copy to overwrite a file of ours.
    """
    try:
        inside = PurePosixPath(path).relative_to(root)
    except ValueError:
        inside = PurePosixPath("..")
    if not inside.parts or ".." in inside.parts or "\0" in path:
        raise PathEscapes(f"The sandbox named {path!r} as something in {root!r}.")
    return Path(*inside.parts)


def _local_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise PathEscapes(f"The sandbox named a file {name!r}.")
    return name


async def _is_folder(files: Files, path: str) -> bool:
    return await files.exists(path) and (await files.stat(path)).type == "directory"
