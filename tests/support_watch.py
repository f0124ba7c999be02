"""A process beside the tests that ends a server they started, and removes its folder, also when they are killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 10.0


class Watch:
    """Starts at once, and ends with `end` or with this process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            # Isolated, in a session of its own: nothing that is meant for the tests reaches it.
            [sys.executable, "-I", "-S", Path(__file__).resolve(), folder],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip

    def end(self) -> None:
        """End what uses the folder, remove it, and wait for that. Idempotent."""
        if self._process.poll() is None:
            # A byte, not only the end of the pipe: a child that was forked may hold it open too.
            self._process.communicate(b".")


def users(folder: Path) -> list[int]:
    """Processes that name the folder in their arguments, or work in it: redis-server overwrites its arguments."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                told = (entry / "cmdline").read_bytes() + b"\0" + os.fsencode((entry / "cwd").readlink())
                if os.fsencode(folder) in told:
                    found.append(int(entry.name))
    return found


def free(folder: Path) -> None:
    """End every process of the folder, and remove it."""
    asked: set[int] = set()
    patience = time.monotonic() + PATIENCE_S
    while (pids := users(folder)) or folder.exists():
        for pid in pids:
            with contextlib.suppress(OSError):
                # Asked like this, Postgres takes its shared memory along, which it cannot when it is killed.
                gently = Path(f"/proc/{pid}/comm").read_text() == "postgres\n" and time.monotonic() < patience
                if not gently or pid not in asked:
                    os.kill(pid, signal.SIGQUIT if gently else signal.SIGKILL)
                    os.kill(pid, signal.SIGCONT)
                asked.add(pid)
        if not pids:
            shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > patience + PATIENCE_S:
            sys.exit(f"{folder} is still in use, by {pids}")
        time.sleep(0.01)


if __name__ == "__main__":
    sys.stdin.buffer.read(1)
    free(Path(sys.argv[1]))
