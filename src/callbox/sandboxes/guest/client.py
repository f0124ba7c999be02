"""The typed client of one guest: every operation of docs/guest-protocol.md as a method."""

from __future__ import annotations

import base64
import hashlib
from asyncio import to_thread
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any, Final

from callbox.errors import ConfigurationError, GuestError, GuestProtocolError, SandboxNotFound
from callbox.sandboxes.channel import Channel, Data, Event, Stream
from callbox.sandboxes.guest.reply import Reply
from callbox.sandboxes.guest.streams import ExecStream, StdinStream, Watch
from callbox.sandboxes.guest.values import (
    Entry,
    ExecRequest,
    ExecResult,
    ExecStatus,
    GuestInfo,
    Listing,
    Match,
    Matches,
    PortInfo,
    Repair,
    Written,
)

ENTRIES_MAX: Final = 100_000
"""Entries that one request may bring into the host's memory."""

MATCHES_MAX: Final = 100_000
"""Matches that one search may bring into the host's memory."""

_PATHS: Final = frozenset({"path", "from", "to"})
"""Fields of requests that name files."""

_LARGE_BYTES: Final = 1_048_576
"""From here on a checksum would hold up the event loop."""

# `Guest.list` would hide the builtin in the annotations below.
Entries = list[Entry]
Execs = list[ExecStatus]
Ports = list[PortInfo]
Repairs = list[Repair]
Replies = list[Reply]


class Guest:
    """The agent inside one sandbox. No state of its own but the channel: make as many as you like.

    Every reply is checked: a guest that answers nonsense raises `GuestProtocolError`, never anything stranger.
    Nothing here has a deadline of its own; put `asyncio.timeout` around it. Cancelling a call cancels it in the guest.

    Args:
        channel: To the guest itself, or to the supervisor.
        fields: Added to every request, like ``{"sandbox": id}`` for the supervisor.
    """

    def __init__(self, channel: Channel, fields: Mapping[str, Any] | None = None) -> None:
        self._channel = channel
        self._fields = dict(fields or {})

    @property
    def channel(self) -> Channel:
        """What it talks through."""
        return self._channel

    # The machine

    async def ping(self) -> int:
        """The guest's clock, nanoseconds since the epoch."""
        return (await self._call("ping")).integer("now_ns")

    async def info(self) -> GuestInfo:
        """What the machine has and uses."""
        return GuestInfo.read(await self._call("info"))

    async def configure(
        self,
        *,
        hostname: str,
        env: Mapping[str, str],
        processes_max: int,
        memory_bytes: int,
        open_files_max: int,
    ) -> None:
        """Make a booted machine into this sandbox: once per create."""
        await self._call(
            "configure",
            hostname=hostname,
            env=dict(env),
            processes_max=processes_max,
            memory_bytes=memory_bytes,
            open_files_max=open_files_max,
        )

    async def repair(
        self, *, entropy: bytes, realtime_ns: int, hostname: str, machine_id: str, generation: int
    ) -> Repairs:
        """Put right what is wrong after a boot or a restore. Nothing else works before this.

        Raises:
            GuestError: ``repair_failed``: the machine must not be used.
        """
        reply = await self._call(
            "repair",
            entropy=base64.b64encode(entropy).decode(),
            realtime_ns=realtime_ns,
            hostname=hostname,
            machine_id=machine_id,
            generation=generation,
        )
        return Repair.read_all(reply)

    async def expect_repair(self) -> None:
        """Refuse everything until the next repair (before a save)."""
        await self._call("expect_repair")

    async def quiesce(self) -> None:
        """Write everything to the disk (before a snapshot)."""
        await self._call("quiesce")

    async def shutdown(self) -> None:
        """Write everything to the disk, end all processes, power off."""
        await self._call("shutdown")

    # Processes

    async def exec_start(self, request: ExecRequest) -> int:
        """Start a process (or find it, if this id was started before). Returns its pid inside."""
        return (await self._call("exec.start", **request.to_json())).integer("pid")

    async def exec_run(self, request: ExecRequest, *, stdout_offset: int = 0, stderr_offset: int = 0) -> ExecStream:
        """Start a process and listen to it. May be repeated as it is after a lost connection."""
        return await self._listen("exec.run", request.to_json(), stdout_offset, stderr_offset)

    async def exec_attach(
        self, exec_id: str, *, stdout_offset: int = 0, stderr_offset: int = 0, follow: bool = True
    ) -> ExecStream:
        """Listen to a process from an offset on; without `follow` only to what it has written up to now."""
        return await self._listen("exec.attach", {"id": exec_id, "follow": follow}, stdout_offset, stderr_offset)

    async def exec_stdin(self, exec_id: str, *, offset: int | None = 0, close: bool = True) -> StdinStream:
        """Write to a process's standard input.

        Args:
            exec_id: Which.
            offset: Bytes that were sent before; what it has of what follows is skipped. None: after all that it has.
            close: Whether the end of this stream is the end of its input.
        """
        return StdinStream(await self._open("exec.stdin", id=exec_id, offset=offset, close=close))

    async def exec_signal(self, exec_id: str, signal: int, *, tree: bool = True) -> None:
        """Send a signal to a process and, with `tree`, to all its descendants."""
        await self._call_exec("exec.signal", exec_id, signal=signal, tree=tree)

    async def exec_resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Tell a process the new size of its terminal."""
        await self._call_exec("exec.resize", exec_id, rows=rows, columns=columns)

    async def exec_wait(self, exec_id: str, *, timeout_s: float | None = None) -> ExecResult:
        """Wait until a process has ended, or `timeout_s` is over: see `ExecResult.running`."""
        limit = {} if timeout_s is None else {"timeout_s": timeout_s}
        return ExecResult.read(await self._call_exec("exec.wait", exec_id, **limit))

    async def exec_list(self) -> Execs:
        """All processes that were asked for, running and finished."""
        return [ExecStatus.read(each) for each in (await self._call("exec.list")).objects("execs")]

    async def exec_forget(self, exec_id: str) -> None:
        """Drop a finished process and its output. GuestError ``busy`` if it runs."""
        await self._call_exec("exec.forget", exec_id)

    # Files

    async def read(
        self, path: str, *, offset: int = 0, length: int | None = None, as_root: bool = False
    ) -> AsyncIterator[bytes]:
        """Read a file, piece by piece. The checksum was right only when the last piece was taken without an error."""
        sha256, size = hashlib.sha256(), 0
        async with await self._open_file("fs.read", as_root, path=path, offset=offset, length=length) as stream:
            async for item in stream:
                if isinstance(item, Data):
                    size += len(item.data)
                    if length is not None and size > length:
                        raise GuestProtocolError("The guest sent more of a file than was asked for.")
                    sha256.update(item.data)  # 64 KiB at a time: cheaper here than the way to a thread
                    yield item.data
            reply = Reply("fs.read", await stream.result())
        if reply.sha256("sha256") != sha256.hexdigest():
            raise reply.wrong("sha256")

    async def write(
        self,
        path: str,
        content: bytes | Iterable[bytes] | AsyncIterable[bytes],
        *,
        mode: int = 0o644,
        append: bool = False,
        make_parents: bool = True,
        exclusive: bool = False,
        as_root: bool = False,
    ) -> Written:
        """Write a file: all of it or nothing. The guest's checksum is compared with ours."""
        fields: dict[str, Any] = {"path": path, "mode": mode, "append": append}
        fields |= {"make_parents": make_parents, "exclusive": exclusive}
        if isinstance(content, bytes):
            return await self._write_whole(content, fields, as_root)
        sha256, size = hashlib.sha256(), 0
        async with await self._open_file("fs.write", as_root, **fields) as stream:
            async for piece in _pieces(content):
                sha256.update(piece)
                size += len(piece)
                await stream.send(piece)
            await stream.end()
            reply = Reply("fs.write", await stream.result())
        return _written(reply, None if append else Written(size=size, sha256=sha256.hexdigest()))

    async def stat(self, path: str, *, follow: bool = True, as_root: bool = False) -> Entry:
        """One file, folder or link."""
        async with await self._open_file("fs.stat", as_root, path=path, follow=follow) as stream:
            return Entry.read(Reply("fs.stat", await stream.result()).object("entry"))

    async def tree(self, path: str, *, depth_max: int = 8, entries_max: int = 10_000, as_root: bool = False) -> Listing:
        """Everything below a folder, to a depth."""
        return await self._listing("fs.tree", as_root, entries_max, path=path, depth_max=depth_max)

    async def glob(self, path: str, pattern: str, *, entries_max: int = 10_000, as_root: bool = False) -> Listing:
        """Everything below a folder whose path fits a pattern; ``**`` is any number of folders."""
        return await self._listing("fs.glob", as_root, entries_max, path=path, pattern=pattern)

    async def search(
        self,
        path: str,
        pattern: str,
        *,
        glob: str | None = None,
        matches_max: int = 1_000,
        line_bytes_max: int = 400,
        as_root: bool = False,
    ) -> Matches:
        """Lines below a folder that fit a regular expression (RE2)."""
        fields = {"path": path, "pattern": pattern, "glob": glob, "line_bytes_max": line_bytes_max}
        async with await self._open_file("fs.search", as_root, matches_max=matches_max, **fields) as stream:
            found = await _collect(stream, "fs.search", "matches", min(matches_max, MATCHES_MAX))
            reply = Reply("fs.search", await stream.result())
        matches = [Match.read(each) for each in found]
        return Matches(matches=matches, files=reply.integer("files"), truncated=reply.flag("truncated"))

    async def mkdir(self, path: str, *, mode: int = 0o755, parents: bool = True, as_root: bool = False) -> None:
        """Make a folder."""
        await self._call("fs.mkdir", path=path, mode=mode, parents=parents, **_as(as_root))

    async def move(self, source: str, target: str, *, overwrite: bool = False, as_root: bool = False) -> None:
        """Give a file or folder another path."""
        await self._call("fs.move", **{"from": source, "to": target, "overwrite": overwrite, **_as(as_root)})

    async def remove(
        self, path: str, *, recursive: bool = False, missing_ok: bool = False, as_root: bool = False
    ) -> int:
        """Remove a file or folder. Returns how many things that were."""
        reply = await self._call("fs.remove", path=path, recursive=recursive, missing_ok=missing_ok, **_as(as_root))
        return reply.integer("removed")

    async def watch(self, path: str, *, recursive: bool = True, as_root: bool = False) -> Watch:
        """Watch a path. When this returns, the guest watches."""
        watch = Watch(await self._open_file("fs.watch", as_root, path=path, recursive=recursive), path)
        try:
            await watch.armed()
        except StopAsyncIteration:
            raise GuestProtocolError("The guest ended fs.watch before it watched.") from None
        except BaseException:
            await watch.cancel()
            raise
        return watch

    async def list(self, path: str, *, as_root: bool = False) -> Entries:
        """What is in a folder.

        Raises:
            GuestError: ``too_large``: more than 100,000 entries; use `tree` or `glob` with a limit.
        """
        async with await self._open_file("fs.list", as_root, path=path) as stream:
            found = await _collect(stream, "fs.list", "entries", ENTRIES_MAX)
            await stream.result()
        return [Entry.read(each) for each in found]

    # Ports

    async def port_list(self) -> Ports:
        """TCP ports that something inside listens on."""
        return [PortInfo.read(each) for each in (await self._call("port.list")).objects("ports")]

    async def port_wait(self, port: int, *, timeout_s: float = 30.0) -> None:
        """Wait until a connection to a port is accepted. GuestError ``timeout`` if it never is."""
        await self._call("port.wait", port=port, timeout_s=timeout_s)

    async def port_forward(self, port: int) -> Stream:
        """A connection to a port inside: `send`, `end` and iterate for `Data`."""
        return await self._open("port.forward", port=port)

    # What the above is made of

    async def _open(self, op: str, **fields: Any) -> Stream:
        return await self._channel.open({**self._fields, "op": op, **_sendable_paths(fields)})

    async def _open_file(self, op: str, as_root: bool, **fields: Any) -> Stream:
        return await self._open(op, **fields, **_as(as_root))

    async def _write_whole(self, content: bytes, fields: dict[str, Any], as_root: bool) -> Written:
        expected = None
        if not fields["append"]:
            # Known beforehand, so the guest refuses what it received wrong before it replaces the file.
            digest = (
                hashlib.sha256(content) if len(content) < _LARGE_BYTES else await to_thread(hashlib.sha256, content)
            )
            expected = Written(size=len(content), sha256=digest.hexdigest())
            fields = {**fields, "sha256": expected.sha256}
        async with await self._open_file("fs.write", as_root, **fields) as stream:
            await stream.send(content)
            await stream.end()
            return _written(Reply("fs.write", await stream.result()), expected)

    async def _call(self, op: str, **fields: Any) -> Reply:
        stream = await self._open(op, **fields)
        return Reply(op, await stream.result())

    async def _call_exec(self, op: str, exec_id: str, **fields: Any) -> Reply:
        try:
            return await self._call(op, id=exec_id, **fields)
        except GuestError as exc:
            if exc.guest_code == "not_found":
                raise SandboxNotFound(f"There is no exec {exec_id!r} in this sandbox.") from None
            raise

    async def _listen(self, op: str, fields: Mapping[str, Any], stdout_offset: int, stderr_offset: int) -> ExecStream:
        stream = await self._open(op, **fields, stdout_offset=stdout_offset, stderr_offset=stderr_offset)
        return ExecStream(stream, op, stdout_offset=stdout_offset, stderr_offset=stderr_offset)

    async def _listing(self, op: str, as_root: bool, entries_max: int, **fields: Any) -> Listing:
        async with await self._open_file(op, as_root, entries_max=entries_max, **fields) as stream:
            found = await _collect(stream, op, "entries", min(entries_max, ENTRIES_MAX))
            reply = Reply(op, await stream.result())
        return Listing(entries=[Entry.read(each) for each in found], truncated=reply.flag("truncated"))


def _sendable_paths(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with paths that are no UTF-8 as base64: JSON cannot hold them.

    Raises:
        ConfigurationError: No file can have that name.
    """
    sendable = dict(fields)
    for name in _PATHS & fields.keys():
        path = fields[name]
        if isinstance(path, str) and not path.isascii():
            try:
                raw = path.encode(errors="surrogateescape")
            except UnicodeEncodeError:
                raise ConfigurationError(
                    f"{path!r} is no path.",
                    hint="Lone surrogates stand for nothing but what os.fsdecode made of bytes.",
                ) from None
            if raw != path.encode(errors="replace"):
                del sendable[name]
                sendable[f"{name}_base64"] = base64.b64encode(raw).decode()
    return sendable


def _as(as_root: bool) -> dict[str, Any]:
    return {"as": "root"} if as_root else {}


def _written(reply: Reply, expected: Written | None) -> Written:
    written = Written(size=reply.integer("size"), sha256=reply.sha256("sha256"))
    if expected is not None and written != expected:
        raise reply.wrong("sha256")
    return written


async def _pieces(content: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
    else:
        for piece in content:
            yield piece


async def _collect(stream: Stream, op: str, kind: str, most: int) -> Replies:
    """The objects of all events of one kind. A guest that never stops to send is stopped here."""
    found: Replies = []
    async for item in stream:
        if isinstance(item, Event):
            event = Reply(op, item.value)
            if event.text("event") != kind:
                raise event.wrong("event")
            found += event.objects(kind)
            if len(found) > most:
                raise GuestError(f"The guest answers {op} with more than {most} {kind}.", guest_code="too_large")
    return found
