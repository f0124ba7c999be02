"""Run the host's own programs (apt, dpkg-deb, mmdebstrap, mke2fs), and say which one failed and how."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from callbox.errors import HostUnsuited, ImageError

_log = logging.getLogger("callbox.images")

LAST_LINES = 20
"""Lines of output that an error carries."""

LINE_CHARS_MAX = 400
"""Characters of each of them."""

COMMAND_TIMEOUT_S = 1_800.0
"""Nothing that makes an image takes half an hour, unless its network hangs."""

_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def need(program: str, package: str) -> str:
    """Find a program of the host, also where an ordinary user's PATH does not look.

    Raises:
        HostUnsuited: It is not installed; the hint has the command.
    """
    path = os.environ.get("PATH", "") + os.pathsep + _SYSTEM_FOLDERS
    found = shutil.which(program, path=path)
    if found is None:
        raise HostUnsuited(f"{program} is not installed.", hint=f"Run: apt-get install {package}")
    return found


def run(
    argv: Sequence[str],
    *,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
    on_line: Callable[[str], None] | None = None,
) -> list[str]:
    """Run a program to its end. Its output is read as it comes; the process and all it started end with this call.

    Args:
        argv: Program and arguments; no shell.
        what: What it is for, in the error: "Installing packages".
        cwd: Where it runs.
        env: Its whole environment; None: ours, with the system's folders in PATH.
        timeout_s: After so many seconds it is killed.
        on_line: Gets each line of its output (stdout and stderr).

    Returns:
        The last lines of its output.

    Raises:
        ImageError: It failed, or took too long; the message has its last lines.
    """
    _log.debug("%s: %s", what, shlex.join(argv))
    if env is None:
        env = {**os.environ, "PATH": os.environ.get("PATH", "") + os.pathsep + _SYSTEM_FOLDERS, "LC_ALL": "C.UTF-8"}
    lines: deque[str] = deque(maxlen=LAST_LINES)
    process = subprocess.Popen(  # noqa: S603 (an argv, no shell)
        list(argv),
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    timed_out = threading.Event()

    def stop() -> None:
        timed_out.set()
        _kill_session(process)

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None
        with process.stdout:
            # A bound on each read: a program that prints one endless line must not fill our memory.
            while raw := process.stdout.readline(65_536):
                line = raw.decode(errors="replace").rstrip()
                if line:
                    lines.append(line[:LINE_CHARS_MAX])
                    if on_line is not None:
                        on_line(line)
        status = process.wait()
    finally:
        timer.cancel()
        _kill_session(process)
        process.wait()
    if timed_out.is_set():
        raise ImageError(f"{what} took more than {timeout_s:.0f} s.{_quoted(lines)}")
    if status != 0:
        how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
        raise ImageError(f"{what} failed ({how}).{_quoted(lines)}")
    return list(lines)


def capture(argv: Sequence[str], *, what: str, timeout_s: float = 60.0) -> str:
    """Return what a program prints on stdout.

    Raises:
        ImageError: It failed, or took too long.
    """
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(  # noqa: S603 (an argv, no shell)
            list(argv), env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"{what} took more than {timeout_s:.0f} s.") from None
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").splitlines()[-LAST_LINES:]
        raise ImageError(f"{what} failed (exit status {done.returncode}).{_quoted(tail)}")
    return done.stdout.decode(errors="replace")


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    # Also after an ordinary end: what it left running in its session must not outlive this call.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _quoted(lines: Sequence[str] | deque[str]) -> str:
    return " Its last lines:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
