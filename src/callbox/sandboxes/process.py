"""A process in a sandbox: its output, its input, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self, cast

from callbox.errors import (
    ConfigurationError,
    GuestError,
    SandboxError,
    SandboxInterrupted,
    SandboxLost,
    SandboxNotFound,
)
from callbox.sandboxes.client import Target
from callbox.sandboxes.guest import ExecRequest, Guest
from callbox.sandboxes.output import Attachment, Chunk, LineSplitter, OutputReader
from callbox.sandboxes.results import Exit

STDIN_PIECE_BYTES = 65_536
"""Largest piece of input in one frame."""

STDIN_TURN_S = 10.0
"""Seconds that a write waits for its turn, while the guest still has another write of the same process."""

STDIN_POLL_S = 0.05
"""Seconds between two attempts."""

KILL_DEADLINE_S = 5.0
"""Seconds that ending a process may take whose caller was cancelled."""


class Process:
    """A process that `Sandbox.spawn` started, or that `Sandbox.process` found again by its id.

    It runs in the sandbox, not in your program: when your program ends, it goes on (until the sandbox falls asleep:
    see ``keep_alive`` of `Sandbox.spawn`), and another program can read its output from any offset.

    Example::

        process = await box.spawn(["python3", "-u", "train.py"])
        async for line in process:
            print(line)
        print((await process.wait()).exit_code)

    As an async context manager it is killed at the end of the block if it still runs.
    """

    def __init__(self, target: Target, process_id: str, pid: int | None = None, *, is_new: bool = False) -> None:
        self.target = target
        """The sandbox that it is in."""
        self.id = process_id
        self.pid = pid
        """Inside the sandbox; None where it is not known."""
        self.stdout = OutputReader(target, process_id, "stdout")
        """Its standard output; of a terminal, everything."""
        self.stderr = OutputReader(target, process_id, "stderr")
        """Its error output."""
        # Nobody can have written to it before: that spares a question.
        self._stdin = _Stdin(target, process_id, written=0 if is_new else None)

    def __repr__(self) -> str:
        return f"<Process {self.id} pid={self.pid}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await kill_quietly(self.target, self.id)

    def __aiter__(self) -> AsyncIterator[str]:
        return self.lines()

    async def lines(self) -> AsyncGenerator[str]:
        """The lines of both outputs as text, in the order in which they came, from the first one to the end."""
        splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                for line in splitters[chunk.output].feed(chunk.data):
                    yield line
        for splitter in splitters.values():
            for line in splitter.finish():
                yield line

    def chunks(self, *, stdout_offset: int = 0, stderr_offset: int = 0) -> AsyncGenerator[Chunk]:
        """Both outputs as they come, with offsets: to go on later, give the end of the last chunk of each."""
        attachment = Attachment(self.target, self.id, stdout_offset=stdout_offset, stderr_offset=stderr_offset)
        return attachment.chunks()

    async def write(self, data: bytes | str) -> None:
        """Send input. Waits while the process does not read.

        Raises:
            GuestError: It has ended, or was started without ``stdin`` (``gone``); somebody else writes (``busy``).
        """
        await self._stdin.write(encoded(data))

    async def close_stdin(self) -> None:
        """Say that no more input follows, and wait until all of it was taken. Fine if it has ended already."""
        try:
            await self._stdin.write(b"", close=True)
        except GuestError as error:
            if error.guest_code != "gone":
                raise

    async def signal(self, signal: int, *, tree: bool = True) -> None:
        """Send a signal, like ``signal.SIGINT``; `tree`: to every descendant, also those that went their own way.

        Raises:
            GuestError: It has ended.
        """
        number = int(signal)
        # A second SIGKILL changes nothing; a second SIGINT or SIGHUP may.
        repeat = number == signals.SIGKILL
        await self.target.ask("exec.signal", lambda guest: guest.exec_signal(self.id, number, tree=tree), repeat=repeat)

    async def kill(self) -> None:
        """End it and all its descendants at once. Fine if it has ended already."""
        with suppress(SandboxNotFound):
            try:
                await self.signal(signals.SIGKILL)
            except GuestError as error:
                if error.guest_code != "gone":
                    raise

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal a new size."""
        await self.target.ask("exec.resize", lambda guest: guest.exec_resize(self.id, rows, columns), repeat=True)

    async def wait(self, timeout_s: float | None = None) -> Exit:
        """Wait until it has ended.

        Raises:
            TimeoutError: It still runs after `timeout_s`; it goes on.
        """
        try:
            async with asyncio.timeout(timeout_s):
                result = await self.target.ask("exec.wait", lambda guest: guest.exec_wait(self.id), repeat=True)
        except TimeoutError:
            raise TimeoutError(f"Process {self.id} still runs after {timeout_s:g} s.") from None
        return Exit.of(result)

    async def poll(self) -> Exit | None:
        """How it ended; None while it runs. Does not wait."""
        attachment = Attachment(self.target, self.id, stdout_offset=_END, stderr_offset=_END, follow=False)
        async with aclosing(attachment.chunks()) as chunks:
            async for _ in chunks:
                pass
        return attachment.end


_END = 2**53
"""An offset that no output reaches: attaching there gives the state and no output."""


class _Stdin:
    """Input to a process. Each write is a request of its own, so that the sandbox may fall asleep in between."""

    def __init__(self, target: Target, exec_id: str, *, written: int | None) -> None:
        self._target = target
        self._id = exec_id
        self._written = written
        """Bytes that it has; None: not known, because somebody else may have written, or a write was cut short."""
        self._writing = asyncio.Lock()

    async def write(self, data: bytes, *, close: bool = False) -> None:
        async with self._writing:
            if self._written is None:
                self._written = await _send(self._target, self._id, b"", None, close=False)
            offset, self._written = self._written, None
            self._written = await _send(self._target, self._id, data, offset, close=close)


async def _send(target: Target, exec_id: str, data: bytes, offset: int | None, *, close: bool) -> int:
    """Write from `offset` on, or nothing after all that was written; returns how much that is then."""

    async def send(guest: Guest) -> int:
        async with await guest.exec_stdin(exec_id, offset=offset, close=close) as stream:
            for start in range(0, len(data), STDIN_PIECE_BYTES):
                await stream.send(data[start : start + STDIN_PIECE_BYTES])
            await stream.end()
            return await stream.written()

    deadline: float | None = None
    while True:
        try:
            # From a known offset it may be repeated: the guest skips what it has.
            return await target.ask("exec.stdin", send, repeat=True)
        except SandboxInterrupted:
            # Who writes waits for it to be taken, and whoever wrote half of it could not know what to write again.
            await target.client.let_it_stop()
        except GuestError as error:
            if error.guest_code != "busy":
                raise
            # After a lost connection, until the guest has noticed that too, our own first attempt has the turn.
            now = asyncio.get_running_loop().time()
            deadline = deadline or now + STDIN_TURN_S
            if now > deadline:
                raise
            await asyncio.sleep(STDIN_POLL_S)


async def feed(target: Target, exec_id: str, data: bytes) -> None:
    """Send all input of a process and close it. One that ends, or closes its input, before that is fine.

    Raises:
        GuestError: Not all of it was sent, like ``busy``.
    """
    # Whoever follows the output is told if the machine was lost.
    with suppress(SandboxLost, SandboxNotFound):
        try:
            await _send(target, exec_id, data, 0, close=True)
        except GuestError as error:
            if error.guest_code != "gone":
                raise


async def kill_quietly(target: Target, exec_id: str) -> None:
    """End a process whose caller has gone. Nobody is left to be told that it did not work."""
    try:
        async with asyncio.timeout(KILL_DEADLINE_S):
            await Process(target, exec_id).kill()
    except (TimeoutError, SandboxError):
        return


def encoded(data: bytes | str) -> bytes:
    """Text as UTF-8."""
    return data.encode() if isinstance(data, str) else bytes(data)


def exec_request(
    exec_id: str,
    command: str | Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: str,
    stdin: bool,
    timeout_s: float | None = None,
    pty: tuple[int, int] | None = None,
    keep_alive: bool = False,
) -> ExecRequest:
    """What the guest is asked for.

    Raises:
        ConfigurationError: The command is empty, or a value makes no sense.
    """
    shell, argv = _command(command)
    if user not in ("box", "root"):
        raise ConfigurationError(f"There is no user {user!r} to run as.", hint='Use "box" or "root".')
    if timeout_s is not None and not timeout_s > 0:
        raise ConfigurationError(f"timeout_s={timeout_s!r} leaves no time.", hint="Use more than 0, or None.")
    return ExecRequest(
        id=exec_id,
        argv=argv,
        shell=shell,
        cwd=_sendable("cwd", cwd or "/work"),
        env=_environment(env or {}),
        user=user,
        stdin="pipe" if stdin else "none",
        pty=pty,
        timeout_s=timeout_s,
        keep_alive=keep_alive,
    )


def _command(command: object) -> tuple[str | None, list[str] | None]:
    """A line for a shell, or a program and its arguments."""
    hint = 'Give a shell line, or a list like ["ls", "-l"].'
    if not command:
        raise ConfigurationError("There is no command to run.", hint=hint)
    if isinstance(command, str):
        return _sendable("command", command), None
    if isinstance(command, bytes | bytearray) or not isinstance(command, Sequence):
        raise ConfigurationError(f"A command cannot be of type {type(command).__name__}.", hint=hint)
    words: list[str] = []
    for word in cast("Sequence[object]", command):
        if not isinstance(word, str | os.PathLike | int | float):
            raise ConfigurationError(f"{word!r} cannot be a word of a command.", hint=hint)
        words.append(_sendable("command", str(cast("object", word))))
    return None, words


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    for name, value in cast("Mapping[object, object]", env).items():
        if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name:
            raise ConfigurationError(
                f"{name!r}: {value!r} cannot be in an environment.", hint='Use text for both, like {"DEBUG": "1"}.'
            )
        _sendable("env", name)
        _sendable("env", value)
    return dict(env)


def _sendable(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"There is a lone surrogate in {what}, which no text can hold: {text[:80]!r}.",
            hint="Pass bytes that are no UTF-8 as standard input or as a file.",
        ) from None
    if "\0" in text:
        raise ConfigurationError(
            f"There is a NUL in {what}: {text[:80]!r}.", hint="Pass it as standard input or as a file."
        )
    return text
