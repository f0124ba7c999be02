"""The files of a sandbox: `box.files`."""

from __future__ import annotations

import asyncio
import builtins
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, cast

from callbox.errors import GuestError, SandboxLost
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.client import REPEATS_MAX, Target, was_cut
from callbox.sandboxes.guest import Change, Entry, Listing, Matches, Watch
from callbox.sandboxes.process import encoded

CHUNK_BYTES = 65_536
"""Pieces in which files travel: the largest frame."""

READ_BYTES_MAX = 256 * 1_048_576
"""What `Files.read` returns at most: a bigger file is downloaded, or read in parts."""

ENTRIES_MAX = 10_000
"""Entries that a tree or a glob returns unless told otherwise."""

MATCHES_MAX = 1_000
"""Lines that a search returns unless told otherwise."""

Progress = Callable[[int, int], None]
"""Told how many bytes are through, and of how many."""


class Files:
    """Reads and writes files of a sandbox, as its unprivileged user, beneath ``/work`` and ``/tmp``.

    Relative paths begin in ``/work``. A path that leaves the two folders is refused (`PathEscapes`), whatever links
    there are. Writes are atomic: a reader sees the old file or the new one, and a failure leaves the old one.
    Names that are no UTF-8 are told, and taken, as `os.fsdecode` makes them.

    Example::

        await box.files.write("src/a.py", "print(6*7)")
        source = await box.files.read_text("src/a.py")
        async for change in box.files.watch("src"):
            print(change.kind, change.path)
    """

    def __init__(self, target: Target) -> None:
        self._target = target

    async def read(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The content of a file, or `length` bytes from `offset` on.

        Raises:
            GuestError: There is no such file, it is a folder, or it is larger than 256 MiB.
            PathEscapes: The path leaves the folders that files are confined to.
        """
        content = bytearray()
        async with aclosing(self._read(path, offset, length)) as pieces:
            async for piece in pieces:
                content += piece
                if len(content) > READ_BYTES_MAX:
                    raise GuestError(
                        f"{path} has more than {READ_BYTES_MAX:,} bytes.",
                        guest_code="too_large",
                        hint="Use files.download, or read it in parts with offset and length.",
                    )
        return bytes(content)

    async def read_text(self, path: str, *, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The content of a text file. Raises what `read` does, and UnicodeDecodeError."""
        return (await self.read(path)).decode(encoding, errors)

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644, exclusive: bool = False) -> None:
        """Make or replace a file, at once and durably; folders on the way are made.

        Args:
            path: Where.
            data: Its content; text becomes UTF-8.
            mode: Its permission bits.
            exclusive: Refuse (`exists`) where there is a file already.
        """
        content = encoded(data)
        await self._target.ask(
            "fs.write",
            lambda guest: guest.write(path, content, mode=mode, exclusive=exclusive),
            repeat=not exclusive,
        )

    async def append(self, path: str, data: bytes | str) -> None:
        """Add to the end of a file; it is made where there is none."""
        content = encoded(data)
        await self._target.ask("fs.write", lambda guest: guest.write(path, content, append=True), repeat=False)

    async def stat(self, path: str, *, follow: bool = True) -> Entry:
        """What is at a path; `follow`: of a link, what it points to."""
        return await self._target.ask("fs.stat", lambda guest: guest.stat(path, follow=follow), repeat=True)

    async def exists(self, path: str) -> bool:
        """Whether something is at a path."""
        try:
            await self.stat(path, follow=False)
        except GuestError as error:
            if error.guest_code in ("not_found", "not_a_directory"):
                return False
            raise
        return True

    async def list(self, path: str = ".") -> builtins.list[Entry]:
        """What is in a folder, not in its subfolders."""
        return await self._target.ask("fs.list", lambda guest: guest.list(path), repeat=True)

    async def tree(self, path: str = ".", *, depth_max: int = 8, entries_max: int = ENTRIES_MAX) -> Listing:
        """What is in a folder and beneath."""
        return await self._target.ask(
            "fs.tree", lambda guest: guest.tree(path, depth_max=depth_max, entries_max=entries_max), repeat=True
        )

    async def glob(self, pattern: str, path: str = ".", *, entries_max: int = ENTRIES_MAX) -> Listing:
        """What matches a pattern like ``"**/*.py"`` beneath a folder."""
        return await self._target.ask(
            "fs.glob", lambda guest: guest.glob(path, pattern, entries_max=entries_max), repeat=True
        )

    async def search(
        self, pattern: str, path: str = ".", *, glob: str | None = None, matches_max: int = MATCHES_MAX
    ) -> Matches:
        """Lines that match a regular expression (RE2), in the files beneath a folder whose paths match `glob`."""
        return await self._target.ask(
            "fs.search", lambda guest: guest.search(path, pattern, glob=glob, matches_max=matches_max), repeat=True
        )

    async def mkdir(self, path: str, *, mode: int = 0o755, parents: bool = True) -> None:
        """Make a folder. With `parents`, those on the way too, and one that is there already is fine."""
        await self._target.ask("fs.mkdir", lambda guest: guest.mkdir(path, mode=mode, parents=parents), repeat=parents)

    async def move(self, source: str, to: str, *, overwrite: bool = False) -> None:
        """Rename a file or folder."""
        await self._target.ask("fs.move", lambda guest: guest.move(source, to, overwrite=overwrite), repeat=False)

    async def remove(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> int:
        """Delete a file, an empty folder, or with `recursive` a folder and what is in it; returns how many things."""
        return await self._target.ask(
            "fs.remove",
            lambda guest: guest.remove(path, recursive=recursive, missing_ok=missing_ok),
            repeat=missing_ok,
        )

    async def watch(self, path: str = ".", *, recursive: bool = True) -> AsyncGenerator[Change]:
        """Changes beneath a folder, as they happen, until you leave the loop.

        An open watch keeps the sandbox awake. ``kind="overflow"``: some were lost, or the supervisor died in between:
        look again at everything. To know when it has begun to watch, use `watching`.
        """
        async with self.watching(path, recursive=recursive) as changes:
            async for change in changes:
                yield change

    @asynccontextmanager
    async def watching(self, path: str = ".", *, recursive: bool = True) -> AsyncGenerator[AsyncGenerator[Change]]:
        """Watch a folder while the block runs; what happens from its first line on is seen.

        Example::

            async with box.files.watching("src") as changes:
                await box.run("make")
                async for change in changes:
                    ...
        """
        channel, watch = await self._watch(path, recursive)
        async with aclosing(self._changes(channel, watch, path, recursive)) as changes:
            try:
                yield changes
            finally:
                # A generator that was never begun does not run its own end.
                await watch.cancel()

    async def _watch(self, path: str, recursive: bool) -> tuple[Channel, Watch]:
        async def begin(channel: Channel) -> tuple[Channel, Watch]:
            return channel, await self._target.guest(channel).watch(path, recursive=recursive)

        return await self._target.client.attempt("fs.watch", begin, repeat=True)

    async def _changes(self, channel: Channel, watch: Watch, path: str, recursive: bool) -> AsyncGenerator[Change]:
        while True:
            try:
                async with watch:
                    async for change in watch:
                        yield change
                return
            except SandboxLost:
                if not was_cut(channel):
                    raise
            channel, watch = await self._watch(path, recursive)
            yield Change(kind="overflow", path=path)

    async def upload(self, local: Path | str, remote: str, *, progress: Progress | None = None) -> None:
        """Copy a file of this host into the sandbox: in pieces, checked by sha256, replaced at once when complete."""
        source = Path(local)
        size, mode = await asyncio.to_thread(_measure, source)
        await self._target.ask(
            "fs.write",
            lambda guest: guest.write(remote, _file_pieces(source, size, progress), mode=mode),
            repeat=True,
        )

    async def download(self, remote: str, local: Path | str, *, progress: Progress | None = None) -> None:
        """Copy a file of the sandbox to this host: in pieces, checked by sha256, replaced at once when complete.

        Raises:
            GuestError: ``checksum_mismatch``, and what `read` raises. The local file is then as before.
        """
        target = Path(local)
        entry = await self.stat(remote)
        # A name of our own choosing: what the sandbox says never becomes a path here.
        number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        partial = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                done = 0
                async with aclosing(self._read(remote, 0, None)) as pieces:
                    async for piece in pieces:
                        await asyncio.to_thread(file.write, piece)
                        done += len(piece)
                        if progress is not None:
                            progress(done, max(entry.size, done))
                await asyncio.to_thread(_settle, file, entry.mode)
            await asyncio.to_thread(partial.replace, target)
        except BaseException:
            await asyncio.to_thread(partial.unlink, missing_ok=True)
            raise

    async def _read(self, path: str, offset: int, length: int | None) -> AsyncGenerator[bytes]:
        """The bytes of a file, compared with the guest's checksum at the end."""
        for repeats_left in reversed(range(REPEATS_MAX + 1)):
            channel = await self._target.client.channel()
            given = False
            try:
                reading = self._target.guest(channel).read(path, offset=offset, length=length)
                async with aclosing(cast("AsyncGenerator[bytes]", reading)) as pieces:
                    async for piece in pieces:
                        given = True
                        yield piece
                return
            except SandboxLost:
                # Only the whole has a checksum, and the file may have changed: what was given out stays unproven.
                if not was_cut(channel) or given or not repeats_left:
                    raise


async def _file_pieces(path: Path, size: int, progress: Progress | None) -> AsyncIterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield piece
            done += len(piece)
            if progress is not None:
                progress(done, max(size, done))


def _measure(path: Path) -> tuple[int, int]:
    """Its size and permission bits."""
    found = path.stat()
    return found.st_size, found.st_mode & 0o777


def _settle(file: BinaryIO, mode: int) -> None:
    """Make a file durable before it gets its name. Set-user-id bits do not travel out of a sandbox."""
    file.flush()
    os.fchmod(file.fileno(), mode & 0o777)
    os.fsync(file.fileno())
