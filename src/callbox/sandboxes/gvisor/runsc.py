"""The `runsc` program: which one is here, what it understands, and its command lines."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from callbox.errors import HostUnsuited

_ANSWER_TIMEOUT_S = 10.0
_SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/bin:/usr/local/sbin:/usr/sbin"


@dataclass(frozen=True, slots=True)
class Runsc:
    """One installed runsc.

    Attributes:
        program: Its path.
        version: As it says it.
        flags: Names of the global flags that it understands.
    """

    program: str
    version: str
    flags: frozenset[str]

    def command(self, root: Path, platform: str, log: Path, words: Sequence[str]) -> list[str]:
        """An argument vector.

        Args:
            root: Folder for its state: in the machine's own folder, since it leaves lock files behind.
            platform: ``"ptrace"``, ``"systrap"`` or ``"kvm"``.
            log: File that warnings and panics are appended to.
            words: Subcommand and its arguments.
        """
        # The control groups are ours: runsc's own handling of them costs 30 ms per start.
        options = [f"--root={root}", f"--platform={platform}", f"--log={log}", "--network=none", "--ignore-cgroups"]
        wanted = {
            # Nobody else writes to these folders, so the sandbox may cache what it knows of them.
            "file-access": "exclusive",
            "file-access-mounts": "exclusive",
            # Newer ones would put a writable layer of their own over ours, which no checkpoint holds.
            "overlay2": "none",
            "panic-log": str(log),
            # A machine that stood for minutes looks stuck to its kernel's watchdog when it goes on.
            "watchdog-action": "log",
        }
        options += [f"--{name}={value}" for name, value in wanted.items() if name in self.flags]
        return [self.program, *options, *words]


async def find_runsc() -> Runsc:
    """Ask the installed runsc who it is; remembered while the file stays the same.

    Raises:
        HostUnsuited: There is none, or it does not answer.
    """
    program = shutil.which("runsc", path=_SEARCH)
    if program is None:
        raise HostUnsuited("runsc is not installed.", hint="Run: apt-get install runsc")
    return await asyncio.to_thread(_ask_once, program)


def cpu_digest() -> str:
    """16 hex digits that name the host's processor as saved memory depends on it: its model and its features."""
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU part")
    lines: list[str] = []
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if not name.strip():
            break
        if name.strip() in wanted:
            lines.append(value.strip())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _ask_once(program: str) -> Runsc:
    found = Path(program).stat()
    return _ask(program, found.st_ino, found.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _ask(program: str, _inode: int, _mtime_ns: int) -> Runsc:
    version = _output(program, "--version").splitlines()
    flags = {line.split()[0].lstrip("-") for line in _output(program, "flags").splitlines() if line.startswith("  -")}
    return Runsc(program, version[0].removeprefix("runsc version").strip() if version else "unknown", frozenset(flags))


def _output(program: str, word: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the program that we were asked to find
            [program, word], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostUnsuited(
            f"{program} does not answer.", hint="Reinstall it: apt-get install --reinstall runsc"
        ) from error
    return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
