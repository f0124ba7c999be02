"""A client for QEMU's machine protocol: one JSON object a line, commands one after another, events in between.

The peer runs a guest that may have taken it over: what it says is bounded and checked, and a peer that breaks the
protocol is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from callbox.errors import GuestProtocolError, SandboxError, SandboxLost

_log = logging.getLogger("callbox.sandboxes.qemu")

LINE_BYTES_MAX = 1 << 20
"""One answer. `query-*` of a microVM is some kilobytes; the console's ring, base64, is the largest."""
COMMAND_TIMEOUT_S = 20.0
"""QEMU answers in a millisecond; a host that swaps may take seconds."""
_READ_BYTES = 65_536

EventData = Mapping[str, Any]
"""The `data` of an event; empty where it has none."""


class Qmp:
    """One connection. A task of its own reads it; `aclose` ends both."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._numbers = 0
        self._waiters: list[tuple[Callable[[str, EventData], bool], asyncio.Future[EventData]]] = []
        self._greeting: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._broken: SandboxError | None = None
        self.closed = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="qmp")

    @classmethod
    async def connect(cls, path: Path, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Qmp:
        """Connect to a unix socket, take the greeting and leave the negotiation behind.

        Args:
            path: The socket; may be longer than `sun_path` allows.
            timeout_s: For everything together.

        Raises:
            SandboxLost: Nobody answers there.
            GuestProtocolError: What answers is not QEMU.
        """
        try:
            connection = connect_unix(path)
        except OSError as error:
            raise SandboxLost(f"QEMU's control socket does not answer: {error.strerror}.") from error
        client = cls(connection)
        try:
            async with asyncio.timeout(timeout_s):
                greeting = await client._greeting
                if not isinstance(greeting.get("QMP"), dict):
                    raise GuestProtocolError("The control socket did not greet as QEMU does.")
                await client.execute("qmp_capabilities")
        except TimeoutError as error:
            await client.aclose()
            raise SandboxLost(f"QEMU did not greet within {timeout_s:g} s.") from error
        except BaseException:
            await client.aclose()
            raise
        return client

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        handles: Sequence[int] = (),
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Any:
        """Run one command and return its answer.

        Args:
            command: Like ``"query-status"``.
            arguments: Its arguments.
            handles: File descriptors that travel with it (for `getfd`).
            timeout_s: A command that takes longer breaks the connection: its late answer could be taken for another's.

        Raises:
            SandboxError: QEMU refused; the message is QEMU's.
            SandboxLost: The connection ended before the answer.
        """
        async with self._turn:
            if self._broken is not None:
                raise self._broken
            self._numbers += 1
            number = self._numbers
            request: dict[str, Any] = {"execute": command, "id": number}
            if arguments is not None:
                request["arguments"] = arguments
            self._answer = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._send(json.dumps(request).encode() + b"\n", handles)
                    answer = await self._answer
            except TimeoutError as error:
                lost = SandboxLost(f"QEMU did not answer {command} within {timeout_s:g} s.")
                self._break(lost)
                raise lost from error
            except asyncio.CancelledError:
                # Whoever asks next must not get this command's answer.
                self._break(SandboxLost(f"QEMU's control connection was given up in the middle of {command}."))
                raise
            finally:
                self._answer = None
        if answer.get("id") != number:
            mismatch = GuestProtocolError("QEMU answered another command than the one it was asked.")
            self._break(mismatch)
            raise mismatch
        if "return" in answer:
            return answer["return"]
        raise SandboxError(f"QEMU refused {command}: {_description(answer)}")

    def expect(self, matches: Callable[[str, EventData], bool]) -> asyncio.Future[EventData]:
        """Return a future for the data of the next event for which `matches(name, data)` holds.

        Made before the command that causes the event, so that it cannot be missed. It fails when the connection ends.
        """
        waiter: asyncio.Future[EventData] = self._loop.create_future()
        # Whoever gave up waiting must not cause "exception was never retrieved".
        waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._broken is not None:
            waiter.set_exception(self._broken)
        else:
            self._waiters.append((matches, waiter))
        return waiter

    async def aclose(self) -> None:
        """End the connection. The machine goes on."""
        self._break(SandboxLost("QEMU's control connection is closed."))
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._socket.close()

    async def _send(self, line: bytes, handles: Sequence[int]) -> None:
        if not handles:
            try:
                await self._loop.sock_sendall(self._socket, line)
            except OSError as error:
                raise self._lost(error) from error
            return
        while True:
            try:
                sent = socket.send_fds(self._socket, [line], list(handles))
            except BlockingIOError:
                await _writable(self._loop, self._socket)
                continue
            except OSError as error:
                raise self._lost(error) from error
            break
        if sent < len(line):
            await self._loop.sock_sendall(self._socket, line[sent:])

    def _lost(self, error: OSError) -> SandboxError:
        lost = self._broken or SandboxLost(f"QEMU's control connection broke: {error.strerror}.")
        self._break(lost)
        return lost

    async def _read(self) -> None:
        buffer = bytearray()
        try:
            while True:
                data = await self._loop.sock_recv(self._socket, _READ_BYTES)
                if not data:
                    self._break(SandboxLost("QEMU has ended."))
                    return
                buffer += data
                *lines, rest = buffer.split(b"\n")
                if max(map(len, (*lines, rest))) > LINE_BYTES_MAX:
                    raise GuestProtocolError(f"QEMU sent a line of more than {LINE_BYTES_MAX} bytes.")
                buffer = rest
                for line in lines:
                    if line.strip():
                        self._take(_parse(bytes(line)))
        except GuestProtocolError as error:
            self._break(error)
        except OSError as error:
            self._break(SandboxLost(f"QEMU's control connection broke: {error.strerror}."))

    def _take(self, message: dict[str, Any]) -> None:
        if not self._greeting.done():
            self._greeting.set_result(message)
        elif "event" in message:
            self._event(str(message["event"]), message.get("data"))
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(message)
        else:
            raise GuestProtocolError("QEMU answered a command that nobody gave.")

    def _event(self, name: str, data: object) -> None:
        fields: EventData = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        _log.debug("QEMU: %s %s", name, fields)
        for entry in list(self._waiters):
            matches, waiter = entry
            if waiter.done():
                self._waiters.remove(entry)
            elif matches(name, fields):
                waiter.set_result(fields)
                self._waiters.remove(entry)

    def _break(self, error: SandboxError) -> None:
        if self._broken is not None:
            return
        self._broken = error
        self.closed.set()
        waiting = [self._greeting, *(waiter for _, waiter in self._waiters)]
        for future in [*waiting, *([self._answer] if self._answer is not None else [])]:
            if not future.done():
                future.set_exception(error)
        self._waiters.clear()
        # Nobody may be waiting for a greeting that never came.
        if not self._greeting.cancelled():
            self._greeting.exception()


def connect_unix(path: Path) -> socket.socket:
    """Connect to a socket however long its path is: through a descriptor of its folder."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # A unix socket either has room in its backlog or refuses: this never blocks.
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection


def listen_unix(path: Path) -> socket.socket:
    """Listen at a path of any length; what was there before is replaced."""
    path.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise GuestProtocolError("QEMU sent a line that is not JSON.") from error
    if not isinstance(message, dict):
        raise GuestProtocolError("QEMU sent a line that is not a JSON object.")
    return cast("dict[str, Any]", message)


def _description(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    text = str(cast("dict[str, Any]", error).get("desc", "")) if isinstance(error, dict) else ""
    return text[:400] or "no reason given."


async def _writable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready = asyncio.Event()
    loop.add_writer(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(connection)
