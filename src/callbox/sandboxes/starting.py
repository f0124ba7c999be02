"""Find the supervisor of a home, or start it: exactly one, however many programs want one at the same moment."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from callbox.errors import HostUnsuited, SandboxError, SandboxLost
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.home import Home

START_DEADLINE_S = 120.0
"""Seconds from the wish for a supervisor to its answer. One that ends may first save for a minute what was awake."""

POLL_S = 0.01
"""Seconds between two looks for the socket of a supervisor that is starting."""

LOG_LINES_SHOWN = 12
"""Last lines of the log that an error shows."""

LOG_TAIL_BYTES = 16_384
"""How much of the end of the log is looked at for them."""


async def connect_or_start(home: Home) -> Channel:
    """Connect to the home's supervisor; start one where nobody listens.

    Raises:
        SandboxError: It did not answer in time or ended at once; the message has the last lines of its log.
        HostUnsuited: The home cannot be written.
    """
    channel = await _connect(home)
    if channel is not None:
        return channel
    try:
        async with asyncio.timeout(START_DEADLINE_S), _start_lock(home):
            # Somebody else may have started it while we waited for the lock.
            channel = await _connect(home)
            if channel is not None:
                return channel
            pid = await _spawn(home)
            while channel is None:
                await asyncio.sleep(POLL_S)
                alive = is_alive(pid)
                channel = await _connect(home)
                if channel is None and not alive:
                    raise _failure(home, "ended before it answered")
            return channel
    except TimeoutError:
        raise _failure(home, f"did not answer within {START_DEADLINE_S:g} s") from None


def supervisor_command(home: Home) -> list[str]:
    """What starts the supervisor of a home. Our own interpreter, so that both sides are of one version."""
    module = "callbox.sandboxes.supervisor"
    return [sys.executable, "-P", "-m", module, "--home", str(home.root), "--images", str(home.images)]


async def _connect(home: Home) -> Channel | None:
    """A connection that answered, or None where nobody listens (any more)."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(home.socket))
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        return None
    except PermissionError as error:
        raise HostUnsuited(f"The supervisor's socket {home.socket} is not ours: {error.strerror}.") from error
    try:
        return await Channel.connect(reader, writer)
    except (SandboxLost, ConnectionError):
        # It was about to end when we came: its socket took us in, and then it was gone.
        return None


@asynccontextmanager
async def _start_lock(home: Home) -> AsyncGenerator[None]:
    """Hold the right to start a supervisor. Polled, because a thread that waits in flock() cannot be cancelled."""
    file = await asyncio.to_thread(_open_lock, home.root / "start.lock")
    try:
        while not _try_lock(file):  # noqa: ASYNC110 -- another process holds it
            await asyncio.sleep(POLL_S)
        yield
    finally:
        file.close()


def _open_lock(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path.open("ab")
    except OSError as error:
        raise HostUnsuited(
            f"{path.parent} cannot be used as home: {error.strerror}.", hint="Set CALLBOX_HOME to a folder of yours."
        ) from error


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _spawn(home: Home) -> int:
    """Start it in a session of its own, as nobody's child of ours, and return its pid."""
    # The shell in between ends at once. So the supervisor never becomes our zombie, ^C does not reach it, and its
    # standard files are the log and nothing of ours: whoever waits for the end of our output would wait for its end.
    with home.log.open("ab") as log:
        shell = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            '"$@" </dev/null >&2 & echo $!',
            "sh",
            *supervisor_command(home),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    answer, _ = await shell.communicate()
    return int(answer)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _failure(home: Home, what: str) -> SandboxError:
    lines = _last_lines(home.log)
    said = "\n".join(["Its last words:", *lines]) if lines else "It said nothing."
    return SandboxError(f"The supervisor of {home.root} {what}. {said}", hint=f"The log is {home.log}.")


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return list(deque(text.splitlines(), maxlen=LOG_LINES_SHOWN))
