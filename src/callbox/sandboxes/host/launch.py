"""Start processes that outlive us, and know when they end.

A launched process has a session of its own, carries the machine's marker, is in the machine's control group before it
runs its program, and holds none of our descriptors. Whoever adopts it later needs only its identity.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from callbox.errors import SandboxError
from callbox.sandboxes.host.mounts import MachineMount
from callbox.sandboxes.host.processes import MARKER, ProcessIdentity

_SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One process to start.

    Attributes:
        machine_id: Goes into its environment as `CALLBOX_MACHINE`.
        argv: The program and its arguments.
        join: Files that its pid is written to first (`Cgroup.join_files`).
        mounts: Made in a mount namespace of its own, in this order; they vanish with its last process.
        stdin, stdout, stderr: Files or FIFOs, opened for reading and writing (a FIFO never blocks then);
            None: /dev/null. `stderr` is appended to.
        env: More environment; nothing is inherited but PATH.
        rlimits: Words for `prlimit`, like ``{"nofile": 65536, "core": 0}``.
        uid, gid: Whom it runs as (with no capabilities and no-new-privileges), or None.
        cpus: Host processors that it may use while it starts, or None.
        prepare: More lines of shell, after the mounts.
        namespace: A file that is a mount namespace to enter, instead of making one, or None.
        keeper_file: Gets the pid of a sleeping process that keeps the mounts while the programs in there come and go.
    """

    machine_id: str
    argv: Sequence[str]
    join: Sequence[Path] = ()
    mounts: Sequence[MachineMount] = ()
    stdin: Path | None = None
    stdout: Path | None = None
    stderr: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    rlimits: Mapping[str, int] = field(default_factory=dict[str, int])
    uid: int | None = None
    gid: int | None = None
    cpus: Sequence[int] | None = None
    prepare: Sequence[str] = ()
    namespace: int | None = None
    keeper_file: Path | None = None

    def command(self) -> list[str]:
        """The whole argument vector: a tiny shell that prepares, then becomes the program."""
        # dash starts in a millisecond, an interpreter in thirty; nothing of ours runs between fork and exec.
        lines = [f"echo $$ > {shlex.quote(str(file))}" for file in self.join]
        lines += [mount.command() for mount in self.mounts]
        lines += self.prepare
        if self.keeper_file is not None:
            lines.append("sleep 2147483647 < /dev/null > /dev/null 2>&1 &")
            lines.append(f"echo $! > {shlex.quote(str(self.keeper_file))}")
        words: list[str] = []
        if self.cpus is not None:
            words += ["taskset", "--cpu-list", ",".join(map(str, self.cpus))]
        if self.rlimits:
            words += ["prlimit", *(f"--{name}={value}:{value}" for name, value in self.rlimits.items())]
        if self.uid is not None:
            gid = self.uid if self.gid is None else self.gid
            words += ["setpriv", f"--reuid={self.uid}", f"--regid={gid}", "--clear-groups"]
            words += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        lines.append(f'exec {shlex.join(words)} "$@"')
        inner = ["/bin/sh", "-euc", "\n".join(lines), "callbox", *self.argv]
        if self.namespace is not None:
            return ["nsenter", f"--mount=/proc/self/fd/{self.namespace}", "--", *inner]
        if self.mounts:
            return ["unshare", "--mount", "--propagation", "private", "--", *inner]
        return inner


class Launched:
    """A process that was started here and is still our child: never killed because we forget it.

    Its status is taken by `ended`, or by `collect` for whoever started it and was not there any more when it ended.
    """

    def __init__(self, child: subprocess.Popen[bytes], machine_id: str) -> None:
        self._child = child
        # Not reaped yet, so its pid cannot have been reused: a zombie, too, has its start time.
        self.identity = ProcessIdentity.of(child.pid) or ProcessIdentity(child.pid, -1)
        self.machine_id = machine_id
        _uncollected.add(self)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._child.pid

    async def ended(self) -> int:
        """Wait for its end. Returns its exit status, negative for a signal."""
        await self.identity.ended()
        # A zombie is "ended" already; the status is there.
        status = self._child.wait()
        _uncollected.discard(self)
        return status

    def kill(self) -> None:
        """Send SIGKILL; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()


_uncollected: set[Launched] = set()
"""Children whose status nobody has taken yet. Each keeps its pid, and counts as a process, until somebody does."""


async def collect(machine_id: str) -> None:
    """Take the status of a machine's processes that were started here. They must have been killed.

    Who kills a machine mostly did not start its processes, and the object of who did is not asked again: without this
    they would stay zombies for as long as we live.
    """
    for process in tuple(_uncollected):
        if process.machine_id == machine_id:
            await process.ended()


def start(launch: Launch) -> Launched:
    """Start it. Takes about two milliseconds and does not wait for the program.

    Raises:
        SandboxError: The process could not be made.
    """
    with contextlib.ExitStack() as files:
        stdin = _open(launch.stdin, os.O_RDWR, files)
        stdout = _open(launch.stdout, os.O_RDWR, files)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        stderr = _open(launch.stderr, flags, files)
        try:
            child = subprocess.Popen(  # noqa: S603 - arguments of ours, quoted where a shell reads them
                launch.command(),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd="/",
                env={"PATH": _SAFE_PATH, **launch.env, MARKER: launch.machine_id},
                start_new_session=True,
                pass_fds=() if launch.namespace is None else (launch.namespace,),
            )
        except OSError as error:
            raise SandboxError(f"{launch.argv[0]} cannot be started: {error.strerror}.") from error
    return Launched(child, launch.machine_id)


async def run(launch: Launch, *, timeout_s: float) -> int:
    """Start a process and wait for its end; it is killed at the deadline and when we are cancelled.

    Raises:
        SandboxError: It did not end in time.
    """
    process = start(launch)
    try:
        async with asyncio.timeout(timeout_s):
            return await process.ended()
    except TimeoutError as error:
        raise SandboxError(f"{Path(launch.argv[0]).name} did not end within {timeout_s:g} s.") from error
    finally:
        # Also where it has ended in the moment that we were cancelled.
        process.kill()
        await process.ended()


def tail(file: Path, size_bytes: int = 2_000) -> str:
    """The end of a log file, for an error message; empty if there is none."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - size_bytes))
            return opened.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _open(path: Path | None, flags: int, files: contextlib.ExitStack) -> int:
    if path is None:
        return subprocess.DEVNULL
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    files.callback(os.close, handle)
    return handle
