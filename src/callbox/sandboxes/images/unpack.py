"""Unpack archives that nobody vouches for into a folder, without leaving it.

What an attacker tries: names with ``..``; absolute names; a symlink to the host and then a file "beneath" it; hard
links to the host's files; devices; set-uid files for another user of the host; archives that unpack to terabytes, to
millions of files, or to one header of gigabytes. So nothing of `tarfile`'s own extraction is used: it only reads
headers, and every path is resolved here, inside the folder, as `chroot` would. The folder is private (mode 0700,
in the store's ``tmp/``) while it is written, so between looking and writing nobody changes it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import zlib
from pathlib import Path
from typing import IO, Protocol, cast

from callbox.errors import ConfigurationError, ImageError
from callbox.sandboxes.images.limits import LIMITS, ImageLimits

_CHUNK_BYTES = 1024 * 1024
_LINKS_MAX = 40
_ID_MAX = 2**31 - 1
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


class TreeWriter:
    """Writes archives, one over the other, into one folder. Call `finish` once, at the end.

    Attributes:
        skipped: Paths of devices, pipes and the like that were left out.
    """

    def __init__(self, root: Path, *, limits: ImageLimits = LIMITS) -> None:
        self.root = root
        self.skipped: list[str] = []
        self._limits = limits
        self._entries = 0
        self._bytes = 0
        self._privileged = os.geteuid() == 0
        self._owners: dict[str, tuple[int, int]] = {}
        self._folders: dict[str, tuple[int, float]] = {}
        self._parents: dict[tuple[str, ...], str] = {}
        self._written: set[str] = set()
        root.mkdir(exist_ok=True, mode=0o700)

    def add(self, archive: Path, *, whiteouts: bool = False) -> str:
        """Unpack one tar (plain, gzip or zstd) over what is there.

        Args:
            archive: The file.
            whiteouts: Whether it is a layer of an OCI image: ``.wh.name`` removes what lower layers had.

        Returns:
            sha256 of the tar, unpacked, hex (an OCI "diff id").

        Raises:
            ImageError: Damaged, hostile, or over a limit.
        """
        self._written = set()
        with archive.open("rb") as packed:
            source = _Source(unpacked(packed), self._limits)
            source.begin_header()  # opening reads the first one
            try:
                with tarfile.open(fileobj=cast("IO[bytes]", source), mode="r|", bufsize=64 * 1024) as tar:
                    while True:
                        source.begin_header()
                        member = tar.next()
                        if member is None:
                            break
                        source.begin_content()
                        self._put(tar, member, whiteouts=whiteouts)
                        tar.members = []  # type: ignore[attr-defined] # it would remember every entry
                return source.drain()
            except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, UnicodeError) as error:
                raise ImageError(f"{archive.name} is damaged: {error}.") from error
            except OSError as error:
                raise ImageError(f"{archive.name} cannot be unpacked: {error}.") from error

    def finish(self) -> dict[str, tuple[int, int]] | None:
        """Set modes and times of folders, deepest first.

        Returns:
            None as root; else who owns what, because on the host all is ours.
        """
        for path, (mode, mtime) in sorted(self._folders.items(), key=lambda item: item[0].count("/"), reverse=True):
            real = self.root / path
            if real.is_dir() and not real.is_symlink():
                real.chmod(mode)
                os.utime(real, (mtime, mtime))
        if self._privileged:
            return None
        return {path: owner for path, owner in self._owners.items() if os.path.lexists(self.root / path)}

    def place(self, path: str, *, follow: bool = False) -> Path:
        """Return where a path of the image is on the host; never outside the folder. Its parent need not exist.

        Args:
            path: In the image.
            follow: Whether a symlink at its end is followed, too.
        """
        parts = self._parts(path)
        return self.root / (self._resolve(parts) if follow or not parts else self._child(parts))

    def folder(self, path: str, *, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
        """Make a folder of the image if there is none."""
        parts = self._parts(path)
        place = self.root / self._resolve(parts)
        if not place.is_dir():
            self._make_folder(self._parent(parts) / parts[-1], mode, owner, 0.0)

    def file(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Write a file of the image that belongs to root, in place of what was there."""
        parts = self._parts(path)
        place = self._parent(parts) / parts[-1]
        self._clear(place)
        with place.open("xb") as out:
            out.write(content)
        self._set(place, mode, (0, 0), None)

    def _put(self, tar: tarfile.TarFile, member: tarfile.TarInfo, *, whiteouts: bool) -> None:
        self._entries += 1
        if self._entries > self._limits.entries_max:
            raise ImageError(f"The image has more than {self._limits.entries_max:,} entries.")
        parts = self._parts(member.name)
        if whiteouts and parts and parts[-1].startswith(_WHITEOUT):
            self._white_out(parts)
            return
        owner = (member.uid, member.gid)
        if not all(0 <= each <= _ID_MAX for each in owner):
            raise ImageError(f"{member.name!r} belongs to {owner[0]}:{owner[1]}, which cannot be.")
        if not parts:
            if member.isdir():
                self._make_folder(self.root, member.mode, owner, member.mtime)
            return
        if not (member.isdir() or member.isreg() or member.issym() or member.islnk()):
            self.skipped.append("/".join(parts))
            return
        place = self._parent(parts) / parts[-1]
        if member.isdir():
            self._make_folder(place, member.mode, owner, member.mtime)
        elif member.islnk():
            self._link(place, member)
        else:
            self._clear(place)
            if member.issym():
                place.symlink_to(member.linkname)
                self._set(place, None, owner, member.mtime)
            else:
                self._write(tar, member, place)
                self._set(place, member.mode, owner, member.mtime)
        self._note(self._relative(place))

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
        self._bytes += member.size
        if self._bytes > self._limits.unpacked_bytes_max:
            raise ImageError(f"The image unpacks to more than {self._limits.unpacked_bytes_max:,} bytes.")
        content = tar.extractfile(member)
        assert content is not None, "a regular file has content"
        with place.open("xb") as out:
            shutil.copyfileobj(content, out, _CHUNK_BYTES)
            if out.tell() != member.size:
                raise ImageError(f"{member.name!r} ends too early.")

    def _link(self, place: Path, member: tarfile.TarInfo) -> None:
        parts = self._parts(member.linkname)
        source = self.root / self._child(parts) if parts else self.root
        if source == place:
            return
        if not os.path.lexists(source) or (source.is_dir() and not source.is_symlink()):
            raise ImageError(f"{member.name!r} is a link to {member.linkname!r}, which is no file of the image.")
        self._clear(place)
        os.link(source, place, follow_symlinks=False)
        relative = self._relative(source)
        if relative in self._owners:
            self._owners[self._relative(place)] = self._owners[relative]

    def _make_folder(self, place: Path, mode: int, owner: tuple[int, int], mtime: float) -> None:
        if place.is_symlink() or not place.is_dir():
            self._clear(place)
            place.mkdir(mode=0o700)
        self._set(place, None, owner, None)
        # Modes wait until the end: a folder that nobody may write gets its files first.
        self._folders[self._relative(place)] = (mode & 0o7777, mtime)

    def _set(self, place: Path, mode: int | None, owner: tuple[int, int], mtime: float | None) -> None:
        if self._privileged:
            os.chown(place, *owner, follow_symlinks=False)
        elif owner != (0, 0):
            self._owners[self._relative(place)] = owner
        else:
            self._owners.pop(self._relative(place), None)
        if mode is not None:
            place.chmod(mode & 0o7777)  # after chown, which takes set-uid bits away
        if mtime is not None:
            os.utime(place, (mtime, mtime), follow_symlinks=False)

    def _white_out(self, parts: tuple[str, ...]) -> None:
        name = parts[-1]
        if name == _OPAQUE:
            place = self.root / self._resolve(parts[:-1])
            if place.is_dir():
                for each in list(place.iterdir()):
                    self._remove_lower(each)
            return
        if name.startswith(_WHITEOUT * 2):
            return  # notes of old storage drivers
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            raise ImageError(f"{'/'.join(parts)!r} hides nothing that could be there.")
        parent = self.root / self._resolve(parts[:-1])
        if os.path.lexists(parent / hidden):
            self._remove_lower(parent / hidden)

    def _remove_lower(self, place: Path) -> None:
        """Remove what other layers put there; what this one did stays, in whatever order it says so."""
        relative = self._relative(place)
        if relative not in self._written:
            self._clear(place)
        elif place.is_dir() and not place.is_symlink():
            for each in list(place.iterdir()):
                self._remove_lower(each)

    def _note(self, relative: str) -> None:
        """Remember what this layer wrote, with all folders above it."""
        while relative and relative not in self._written:
            self._written.add(relative)
            relative = relative.rpartition("/")[0]

    def _clear(self, place: Path) -> None:
        try:
            found = place.lstat()
        except FileNotFoundError:
            return
        self._parents.clear()
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(place)
        else:
            place.unlink()

    def _parts(self, path: str) -> tuple[str, ...]:
        if len(path) > self._limits.path_chars_max or "\0" in path:
            raise ImageError(f"{path[:80]!r}... cannot be a path.")
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        if ".." in parts:
            raise ImageError(f"The entry {path!r} leaves the image.", hint="Do not use this archive.")
        return parts

    def _parent(self, parts: tuple[str, ...]) -> Path:
        """Return the folder that a path is in; it is made where it is missing."""
        above = parts[:-1]
        if above not in self._parents:
            place = self.root
            for part in filter(None, self._resolve(above).split("/")):
                place = place / part
                if not place.is_dir():
                    # Not there, or a later layer turned a file into a folder without saying so.
                    self._make_folder(place, 0o755, (0, 0), 0.0)
            self._parents[above] = self._relative(place)
        return self.root / self._parents[above]

    def _child(self, parts: tuple[str, ...]) -> str:
        return "/".join(each for each in (self._resolve(parts[:-1]), parts[-1]) if each)

    def _resolve(self, parts: tuple[str, ...]) -> str:
        """Follow symlinks as a process would whose root is our folder; `..` at the top stays there."""
        pending = list(reversed(parts))
        done: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                done = done[:-1]
                continue
            place = self.root.joinpath(*done, part)
            if not place.is_symlink():
                done.append(part)
                continue
            links += 1
            if links > _LINKS_MAX:
                raise ImageError(f"{'/'.join(parts)!r} goes through too many symlinks.")
            target = os.readlink(place)  # noqa: PTH115 (a Path would drop what makes it absolute or leads up)
            if target.startswith("/"):
                done = []
            pending += [each for each in reversed(target.split("/")) if each not in ("", ".")]
        return "/".join(done)

    def _relative(self, place: Path) -> str:
        return "" if place == self.root else str(place.relative_to(self.root))


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Source:
    """The unpacked bytes of a tar: hashed, and bounded between entries, where `tarfile` reads headers into memory."""

    def __init__(self, inner: _Readable, limits: ImageLimits) -> None:
        self._inner = inner
        self._limits = limits
        self._hash = hashlib.sha256()
        self._budget: int | None = None
        self._total = 0

    def begin_header(self) -> None:
        """From now on, only headers may be read."""
        self._budget = self._limits.header_bytes_max

    def begin_content(self) -> None:
        """From now on, a file's content is read; its size was checked."""
        self._budget = None

    def read(self, size: int = -1, /) -> bytes:
        data = self._inner.read(min(size, _CHUNK_BYTES) if size >= 0 else _CHUNK_BYTES)
        self._account(data)
        return data

    def drain(self) -> str:
        """Read what is left after the tar's end, and return the hash of all."""
        self.begin_header()
        while self.read(_CHUNK_BYTES):
            continue
        return self._hash.hexdigest()

    def _account(self, data: bytes) -> None:
        self._hash.update(data)
        self._total += len(data)
        if self._budget is not None:
            self._budget -= len(data)
            if self._budget < -_CHUNK_BYTES:
                raise ImageError(f"The archive has a header of more than {self._limits.header_bytes_max:,} bytes.")
        if self._total > 2 * self._limits.unpacked_bytes_max:
            raise ImageError(f"The archive unpacks to more than {self._limits.unpacked_bytes_max:,} bytes.")


def unpacked(packed: IO[bytes]) -> _Readable:
    """Return the content of a file that may be packed with gzip or zstd, by its first bytes.

    Raises:
        ConfigurationError: It is zstd, and the package for it is not installed.
    """
    magic = packed.read(4)
    packed.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast("_Readable", gzip.GzipFile(fileobj=packed))
    if magic == b"\x28\xb5\x2f\xfd":
        try:
            import zstandard
        except ImportError:
            raise ConfigurationError(
                "This image is packed with zstd, which needs a package.", hint="Run: pip install zstandard"
            ) from None
        return cast("_Readable", zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True))
    return packed


def unpack_tar(archive: Path, target: Path, *, limits: ImageLimits = LIMITS) -> dict[str, tuple[int, int]] | None:
    """Unpack one tar into a folder, see `TreeWriter`."""
    writer = TreeWriter(target, limits=limits)
    writer.add(archive)
    return writer.finish()
