"""A command in a sandbox, with this terminal as its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import IO

from callbox.cli.performing import print_json
from callbox.cli.terminal import clean
from callbox.errors import ConfigurationError, GuestError
from callbox.sandboxes.process import Process
from callbox.sandboxes.results import Exit
from callbox.sandboxes.sandbox import Sandbox

STDIN_BYTES = 65_536
"""What is taken from our standard input at once."""

SHELL = "command -v bash >/dev/null && exec bash || exec sh"
"""What `callbox sandbox shell` starts."""


async def execute(
    box: Sandbox,
    command: Sequence[str],
    *,
    cwd: str | None = None,
    env: dict[str, str] | None = None,
    user: str = "box",
    timeout_s: float | None = None,
    interactive: bool = False,
    raw: bool = False,
    tty: bool = False,
) -> int:
    """Run it with its output on ours, and return what we should exit with. Ctrl-C ends it; with `tty` it gets it."""
    # One word is a line for a shell, as in Sandbox.run; several are a program and its arguments.
    line = command[0] if len(command) == 1 else [*command]
    if tty:
        return await _with_terminal(box, line, cwd=cwd, env=env or {}, user=user, timeout_s=timeout_s)
    process = await box.spawn(line, cwd=cwd, env=env, user=user, timeout_s=timeout_s, stdin=interactive)
    async with process, _typed_into(process, wanted=interactive):
        await _show_output(process, raw=raw)
        end = await process.wait()
    return _exit_code(end)


async def execute_for_json(
    box: Sandbox, command: Sequence[str], *, cwd: str | None, env: dict[str, str], user: str, timeout_s: float | None
) -> int:
    """Run it, and print its result as JSON."""
    line = command[0] if len(command) == 1 else [*command]
    result = await box.run(line, cwd=cwd, env=env, user=user, timeout_s=timeout_s)
    print_json(asdict(result))
    return result.exit_code


async def shell(box: Sandbox, *, user: str = "box") -> int:
    """Give this terminal to a shell inside, and return its exit code."""
    return await _with_terminal(box, SHELL, cwd=None, env={}, user=user, timeout_s=None)


async def _with_terminal(
    box: Sandbox, line: str | Sequence[str], *, cwd: str | None, env: dict[str, str], user: str, timeout_s: float | None
) -> int:
    """Give this terminal to a command inside, and return what we should exit with."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigurationError("There is no terminal here.", hint="Use `callbox sandbox exec -i` in a pipe.")
    env = {"TERM": os.environ.get("TERM", "xterm"), **env}
    process = await box.spawn(line, pty=_window(), cwd=cwd, env=env, user=user, timeout_s=timeout_s)
    async with process:
        with _raw_terminal(sys.stdin.fileno()):
            async with _resized(process), _typed_into(process, wanted=True):
                await _show_output(process, raw=True)
        end = await process.wait()
    return _exit_code(end)


def _exit_code(end: Exit) -> int:
    return 124 if end.timed_out else end.exit_code  # as of timeout(1)


async def _show_output(process: Process, *, raw: bool) -> None:
    files: dict[str, IO[bytes]] = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    shown = {"stdout": sys.stdout.isatty() and not raw, "stderr": sys.stderr.isatty() and not raw}
    async with aclosing(process.chunks()) as chunks:
        async for chunk in chunks:
            data = chunk.data
            if shown[chunk.output]:
                # Code that nobody has read must not retitle the window or write the clipboard; a file gets it as it is.
                data = clean(data.decode(errors="replace")).encode()
            await asyncio.to_thread(_write, files[chunk.output], data)


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()


@asynccontextmanager
async def _typed_into(process: Process, *, wanted: bool) -> AsyncGenerator[None]:
    """Pass our standard input on while the block runs."""
    if not wanted:
        yield
        return
    typing = asyncio.create_task(_type_into(process))
    try:
        yield
    finally:
        typing.cancel()
        await asyncio.gather(typing, return_exceptions=True)


async def _type_into(process: Process) -> None:
    queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)
    loop = asyncio.get_running_loop()

    def read() -> None:
        # A thread that waits for a key cannot be cancelled: it is a daemon, and ends with the program.
        with contextlib.suppress(RuntimeError, OSError):  # the loop has gone, or the input has
            while True:
                data = os.read(sys.stdin.fileno(), STDIN_BYTES)
                asyncio.run_coroutine_threadsafe(queue.put(data), loop).result()
                if not data:
                    return

    threading.Thread(target=read, name="callbox-stdin", daemon=True).start()
    with contextlib.suppress(GuestError):  # it has ended, or does not want any more
        while data := await queue.get():
            await process.write(data)
        await process.close_stdin()


@asynccontextmanager
async def _resized(process: Process) -> AsyncGenerator[None]:
    """Tell the process when our window changes its size."""
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)

    async def follow() -> None:
        while await changed.wait():
            changed.clear()
            with contextlib.suppress(GuestError):
                await process.resize(*_window())

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _window() -> tuple[int, int]:
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    return rows or 24, columns or 80


@contextmanager
def _raw_terminal(number: int) -> Generator[None]:
    before = termios.tcgetattr(number)
    try:
        tty.setraw(number, termios.TCSADRAIN)  # what was typed ahead is for the shell
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
