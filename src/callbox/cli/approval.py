"""Asking the person at the terminal whether a call may run."""

from __future__ import annotations

import asyncio
import os
import sys

from rich.text import Text

from callbox.calls.call import ToolCall
from callbox.cli.terminal import console, full_arguments, shorten
from callbox.policy.policy import Ask
from callbox.tools.tool import Tool

try:
    import termios
except ImportError:  # Windows
    termios = None

ARGUMENTS_CHARS_MAX = 20_000
"""Characters of arguments that one can be asked to read; a call with more is refused."""


class TerminalApprover:
    """An `Approver` that shows a call with all its arguments and asks; only "y" and "yes" are a yes.

    One for each conversation: calls that run side by side are asked about one after the other.
    """

    def __init__(self) -> None:
        self._asking = asyncio.Lock()

    async def __call__(self, call: ToolCall, tool: Tool, ask: Ask) -> bool:
        """Whether the person said yes."""
        # Whoever writes the arguments would like the part that matters to be cut off, or to look like something else.
        shown = full_arguments(call)
        async with self._asking:
            console.print(Text(f"\n{shorten(ask.reason)}\n  {tool.name}", "yellow"))
            chars = sum(map(len, shown))
            if chars > ARGUMENTS_CHARS_MAX:
                said = (
                    f"Refused: {chars:,} characters of arguments are more than one can read ({ARGUMENTS_CHARS_MAX:,})."
                )
                console.print(Text(f"  {said}", "red"))
                return False
            for line in shown:
                # Soft: the terminal wraps by itself, while rich would drop blanks at the ends of lines.
                console.print(Text(f"    {line}", "yellow"), soft_wrap=True)
            _forget_typed()
            console.print(Text("Run it? [y/N] "), end="")
            return (await read_line()).strip().lower() in ("y", "yes")


async def read_line() -> str:
    """One line of stdin, or what there is of it at its end. A cancellation stops the reading."""
    try:
        if sys.stdin.isatty():
            return await _read_terminal(sys.stdin.fileno())
    except (RuntimeError, PermissionError):  # a loop (on Windows) or a file that cannot be waited for
        pass
    # Not a terminal: the next line may be in Python's buffer already, where only `sys.stdin` finds it.
    return sys.stdin.readline()


async def _read_terminal(descriptor: int) -> str:
    # Not in a thread: a thread that reads cannot be stopped, eats the next line, and is waited for at exit.
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()
    read = bytearray()

    def more() -> None:
        try:
            piece = os.read(descriptor, 4_096)
        except OSError:  # the terminal was closed
            piece = b""
        read.extend(piece)
        if (not piece or b"\n" in piece) and not line.done():
            line.set_result(bytes(read))

    loop.add_reader(descriptor, more)
    try:
        return (await line).decode(errors="replace")
    finally:
        loop.remove_reader(descriptor)


def _forget_typed() -> None:
    """What was typed before the question was there is not an answer to it."""
    if termios is not None and sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
