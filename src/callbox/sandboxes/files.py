"""The files of a sandbox: `box.files`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO

from callbox.errors import GuestError, SandboxLost
from callbox.sandboxes.channel import Data, Event, Stream
from callbox.sandboxes.client import REPEATS_MAX, Target, was_cut
from callbox.sandboxes.process import encoded
from callbox.sandboxes.results import Change, Entry, Found, Match

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
        fields = {"path": path, "mode": mode, "exclusive": exclusive, "sha256": hashlib.sha256(content).hexdigest()}
        await self._write(fields, lambda: _pieces(content), repeat=not exclusive)

    async def append(self, path: str, data: bytes | str) -> None:
        """Add to the end of a file; it is made where there is none."""
        content = encoded(data)
        await self._write({"path": path, "append": True}, lambda: _pieces(content), repeat=False)

    async def stat(self, path: str, *, follow: bool = True) -> Entry:
        """What is at a path; `follow`: of a link, what it points to."""
        reply = await self._target.call("fs.stat", repeat=True, path=path, follow=follow)
        return Entry.from_event(reply["entry"])

    async def exists(self, path: str) -> bool:
        """Whether something is at a path."""
        try:
            await self.stat(path, follow=False)
        except GuestError as error:
            if error.guest_code in ("not_found", "not_a_directory"):
                return False
            raise
        return True

    async def list(self, path: str = ".") -> list[Entry]:
        """What is in a folder, not in its subfolders."""
        return (await self._find("fs.list", path=path)).entries

    async def tree(self, path: str = ".", *, depth_max: int = 8, entries_max: int = ENTRIES_MAX) -> Found:
        """What is in a folder and beneath."""
        return await self._find("fs.tree", path=path, depth_max=depth_max, entries_max=entries_max)

    async def glob(self, pattern: str, path: str = ".", *, entries_max: int = ENTRIES_MAX) -> Found:
        """What matches a pattern like ``"**/*.py"`` beneath a folder."""
        return await self._find("fs.glob", path=path, pattern=pattern, entries_max=entries_max)

    async def search(
        self, pattern: str, path: str = ".", *, glob: str | None = None, matches_max: int = MATCHES_MAX
    ) -> Found:
        """Lines that match a regular expression (RE2), in the files beneath a folder whose paths match `glob`."""
        return await self._find("fs.search", path=path, pattern=pattern, glob=glob, matches_max=matches_max)

    async def mkdir(self, path: str, *, mode: int = 0o755, parents: bool = True) -> None:
        """Make a folder. With `parents`, those on the way too, and one that is there already is fine."""
        await self._target.call("fs.mkdir", repeat=parents, path=path, mode=mode, parents=parents)

    async def move(self, source: str, to: str, *, overwrite: bool = False) -> None:
        """Rename a file or folder."""
        fields = {"from": source, "to": to, "overwrite": overwrite}
        await self._target.call("fs.move", repeat=False, **fields)

    async def remove(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> int:
        """Delete a file, an empty folder, or with `recursive` a folder and what is in it; returns how many things."""
        fields = {"path": path, "recursive": recursive, "missing_ok": missing_ok}
        reply = await self._target.call("fs.remove", repeat=missing_ok, **fields)
        return reply["removed"]

    async def watch(self, path: str = ".", *, recursive: bool = True) -> AsyncGenerator[Change]:
        """Changes beneath a folder, as they happen, until you leave the loop.

        An open watch keeps the sandbox awake. ``kind="overflow"``: some were lost, or the supervisor died in between.
        """
        interrupted = False
        while True:
            channel = await self._target.client.channel()
            fields = {"sandbox": self._target.sandbox, "path": path, "recursive": recursive}
            try:
                async with await channel.open({"op": "fs.watch", **fields}) as stream:
                    async for item in stream:
                        event = item.value if isinstance(item, Event) else {}
                        if event.get("event") == "overflow" or (event.get("event") == "watching" and interrupted):
                            interrupted = False
                            yield Change(kind="overflow", path=path)
                        for change in event.get("changes", ()):
                            yield Change.from_event(change)
                    await stream.result()
                    return
            except SandboxLost:
                if not was_cut(channel):
                    raise
                interrupted = True

    async def upload(self, local: Path | str, remote: str, *, progress: Progress | None = None) -> None:
        """Copy a file of this host into the sandbox: in pieces, checked by sha256, replaced at once when complete."""
        source = Path(local)
        size, mode, digest = await asyncio.to_thread(_measure, source)
        fields = {"path": remote, "mode": mode, "sha256": digest}
        await self._write(fields, lambda: _file_pieces(source, size, progress), repeat=True)

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
        """The bytes of a file, checked against the guest's checksum at the end; goes on after a lost supervisor."""
        for repeats_left in reversed(range(REPEATS_MAX + 1)):
            channel = await self._target.client.channel()
            digest = hashlib.sha256()
            given = 0
            fields = {"sandbox": self._target.sandbox, "path": path, "offset": offset, "length": length}
            try:
                async with await channel.open({"op": "fs.read", **fields}) as stream:
                    async for item in stream:
                        if isinstance(item, Data):
                            digest.update(item.data)
                            given += len(item.data)
                            yield item.data
                    reply = await stream.result()
            except SandboxLost:
                # Only the whole has a checksum, and the file may change in between: what was given out stays unproven.
                if not was_cut(channel) or given or not repeats_left:
                    raise
                continue
            if reply["sha256"] != digest.hexdigest():
                raise GuestError(f"{path} did not arrive as it was sent.", guest_code="checksum_mismatch")
            return

    async def _write(self, fields: dict[str, Any], pieces: Callable[[], AsyncIterable[bytes]], *, repeat: bool) -> None:
        await self._target.exchange({"op": "fs.write", **fields}, lambda stream: _send(stream, pieces()), repeat=repeat)

    async def _find(self, op: str, **fields: Any) -> Found:
        return await self._target.exchange({"op": op, **fields}, _gather, repeat=True)


async def _gather(stream: Stream) -> Found:
    entries: list[Entry] = []
    matches: list[Match] = []
    async for item in stream:
        if isinstance(item, Event):
            entries += map(Entry.from_event, item.value.get("entries", ()))
            matches += map(Match.from_event, item.value.get("matches", ()))
    reply = await stream.result()
    return Found(entries=entries, matches=matches, truncated=bool(reply.get("truncated")))


async def _send(stream: Stream, pieces: AsyncIterable[bytes]) -> None:
    try:
        async for piece in pieces:
            await stream.send(piece)
        await stream.end()
    except GuestError:
        # Refused while we were sending: the answer is in CLOSE, which `result` raises.
        pass
    await stream.result()


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(content), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


async def _file_pieces(path: Path, size: int, progress: Progress | None) -> AsyncIterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield piece
            done += len(piece)
            if progress is not None:
                progress(done, max(size, done))


def _measure(path: Path) -> tuple[int, int, str]:
    """Its size, permission bits and sha256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), os.fstat(file.fileno()).st_mode & 0o777, digest


def _settle(file: BinaryIO, mode: int) -> None:
    """Make a file durable before it gets its name. Set-user-id bits do not travel out of a sandbox."""
    file.flush()
    os.fchmod(file.fileno(), mode & 0o777)
    os.fsync(file.fileno())
