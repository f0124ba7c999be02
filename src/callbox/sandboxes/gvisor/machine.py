"""One machine made by runsc: frozen by its control group, saved by a checkpoint, reached by two FIFOs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import logging
import os
import shutil
import signal
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator, Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from callbox.errors import SandboxError, SandboxLost
from callbox.sandboxes.driver import SAVED_MARK, MachineSpec, Usage
from callbox.sandboxes.gvisor import control
from callbox.sandboxes.gvisor.layout import Paths, container_name, restore_words, sandbox_identity
from callbox.sandboxes.gvisor.pipes import held, open_channel
from callbox.sandboxes.gvisor.runsc import Runsc
from callbox.sandboxes.host import disks, launch
from callbox.sandboxes.host.cgroups import Cgroup
from callbox.sandboxes.host.processes import ProcessIdentity
from callbox.sandboxes.host.reap import loop_released, reap

_log = logging.getLogger("callbox.sandboxes.gvisor")

START_TIMEOUT_S = 60.0
SAVE_TIMEOUT_S = 300.0
_SAVE_ROOM_BYTES = 64 << 20
"""Free space that must be left on the host beyond what the memory may take."""

CHECKPOINT = "checkpoint.img"
DISK = "disk.img"
AGENT = "agent.json"
"""In saved memory: which agent it runs."""

_Result = TypeVar("_Result")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Makings:
    """What a machine is made with.

    Attributes:
        runsc: The program.
        platform: How it runs the guest's programs.
        agent: Digest of the agent that it was started with, once for all: an upgrade does not change it.
    """

    runsc: Runsc
    platform: str
    agent: str


class GvisorMachine:
    """See `Machine`. Made by `GvisorDriver`."""

    def __init__(self, spec: MachineSpec, makings: Makings, sandbox: ProcessIdentity, serial: int) -> None:
        self.spec = spec
        self.paths = Paths(spec.place)
        self._makings = makings
        self._sandbox = sandbox
        self._serial = serial
        self._group = Cgroup(spec.machine_id, spec.place)
        self._serial_next = serial + 1
        self._killed = False
        self._steady = asyncio.Event()
        self._steady.set()

    @property
    def pids(self) -> list[int]:
        """Host processes of this machine."""
        return self._group.pids()

    @property
    def container(self) -> str:
        """Its name for runsc: another one after each capture."""
        return container_name(self.spec.machine_id, self._serial)

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Open the FIFOs."""
        self._must_live()
        return await open_channel(self.paths.from_agent, self.paths.to_agent)

    async def freeze(self) -> None:
        """Freeze its control group."""
        self._must_live()
        await self._group.freeze()

    async def thaw(self) -> None:
        """Thaw its control group."""
        self._must_live()
        await self._group.thaw()

    async def save(self, into: Path) -> None:
        """Checkpoint it, end what is left of it, and write everything to the disk."""
        self._must_live()
        async with self._changing():
            stood = self._group.is_frozen()
            try:
                await self._checkpoint(into)
                (into / SAVED_MARK).touch()  # at once: runsc is ending by itself
            except SandboxLost:
                raise
            except BaseException:
                if stood:
                    await self._group.freeze()
                raise
            await self._ended()
            self._killed = True
            async with asyncio.TaskGroup() as both:
                both.create_task(asyncio.to_thread(disks.sync_folder, into))
                both.create_task(reap(self.spec.place, self.spec.machine_id))
            await loop_released(self.spec.place)
            await asyncio.to_thread(disks.sync_path, self.paths.disk)

    async def capture(self, into: Path) -> float:
        """Checkpoint it, copy its disk while nobody can write to it, and let it go on from the checkpoint.

        All of that happens in the machine's own folder: whatever becomes of `into` meanwhile, the machine goes on.
        """
        self._must_live()
        await asyncio.to_thread(_empty_folder, into)
        captured = self.paths.captured
        try:
            async with self._changing():
                with held(self.paths.from_agent), held(self.paths.to_agent):
                    paused_s = await _to_the_end(self._pass_through(captured))
            await asyncio.to_thread(_hand_over, captured, into)
        finally:
            await asyncio.to_thread(shutil.rmtree, captured, ignore_errors=True)
        return paused_s

    async def kill(self) -> None:
        """End it at once."""
        self._killed = True
        await reap(self.spec.place, self.spec.machine_id)

    async def wait_dead(self) -> str:
        """Wait for the end of the sandbox process, whichever it is by then."""
        while True:
            await self._steady.wait()
            watched = self._sandbox
            await watched.ended()
            await self._steady.wait()
            if self._sandbox == watched:
                return self._why()

    def usage(self) -> Usage:
        """Read its control group and its disk's size."""
        used = self._group.usage()
        return Usage(
            memory_bytes=used.memory_bytes,
            cpu_s=used.cpu_s,
            disk_bytes=disks.used_bytes(self.paths.disk),
            processes=used.processes,
        )

    def write_record(self) -> None:
        """Write what `adopt` needs."""
        part = self.paths.record.with_suffix(".part")
        known = {"serial": self._serial, "platform": self._makings.platform, "agent": self._makings.agent}
        part.write_text(json.dumps(known | {"pid": self._sandbox.pid, "started": self._sandbox.started}))
        part.replace(self.paths.record)

    # --- steps ---

    async def _checkpoint(self, into: Path) -> None:
        """Write its memory. Then the sandbox ends; it runs as before if this raises `SandboxError`."""
        await asyncio.to_thread(self._make_room, into)
        await self._group.thaw()
        await self._write_memory(into)

    async def _pass_through(self, captured: Path) -> float:
        """Save it to `captured`, and go on from there. Returns how long it stood, s."""
        await asyncio.to_thread(self._make_room, captured)
        await self._group.thaw()
        self._group.limit_cpus(None)
        successor = await self._prepare_successor()
        try:
            await asyncio.to_thread(self._sync_layer)
            began = time.monotonic()
            await self._write_memory(captured)
        except BaseException:
            # It runs on; nobody needs this successor, and the next one needs another name.
            if successor is not None:
                successor.signal(signal.SIGKILL)
                self._serial_next += 1
            raise
        try:
            # The guest stands still for good; its monitor takes some time to fold up.
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ended())
                copying = both.create_task(asyncio.to_thread(self._copy_disk, captured))
            await self._succeed(captured, successor)
        except BaseException as error:
            _log.warning("machine %s did not survive its capture", self.spec.machine_id)
            await asyncio.shield(self.kill())
            if isinstance(error, Exception):
                raise SandboxLost("The machine did not come back from its capture.") from error
            raise
        paused_s = time.monotonic() - began
        if failure := copying.result():
            raise failure
        return paused_s

    def _make_room(self, into: Path) -> None:
        """Make the folder for a checkpoint."""
        _empty_folder(into)
        (into / AGENT).write_text(json.dumps({"agent": self._makings.agent}))
        # A checkpoint that fails half-way kills the sandbox (runsc exits after every save), so nothing may be missing.
        need = self._group.usage().memory_bytes + _SAVE_ROOM_BYTES
        free = shutil.disk_usage(into).free
        if free < need:
            raise SandboxError(
                f"Saving its memory may take {need >> 20} MiB; {free >> 20} MiB are free.",
                hint="Make room where callbox keeps its sandboxes.",
            )

    async def _write_memory(self, into: Path) -> None:
        try:
            await self._write_checkpoint(into)
        except BaseException as error:
            await asyncio.to_thread(shutil.rmtree, into, ignore_errors=True)
            if isinstance(error, SandboxError) and not self._sandbox.alive():
                raise SandboxLost(f"The machine ended when it was saved: {error.message}") from error
            raise

    async def _ended(self) -> None:
        """Wait until a sandbox that was saved has ended."""
        async with asyncio.timeout(SAVE_TIMEOUT_S):
            await self._sandbox.ended()

    async def _write_checkpoint(self, into: Path) -> None:
        if await asyncio.to_thread(control.reachable, self.container, self._group.pids):
            target = into / CHECKPOINT
            members = self._group.pids
            await asyncio.to_thread(control.checkpoint, self.container, target, members, timeout_s=SAVE_TIMEOUT_S)
            return
        words = ["checkpoint", f"--image-path={into}", self.container]
        if await self._run(words, timeout_s=SAVE_TIMEOUT_S) != 0:
            raise SandboxError(f"The machine could not be saved: {launch.tail(self.paths.log)}")

    async def _prepare_successor(self) -> ProcessIdentity | None:
        """Create, but do not start, the sandbox that goes on after a capture. None where that cannot be done ahead."""
        if not await asyncio.to_thread(control.reachable, self.container, self._group.pids):
            return None
        self.paths.sandbox.unlink(missing_ok=True)
        name = container_name(self.spec.machine_id, self._serial_next)
        words = ["create", f"--bundle={self.paths.bundle}", f"--pid-file={self.paths.sandbox}", name]
        if await self._run_inside(words) != 0:
            raise SandboxError(f"No successor could be made: {launch.tail(self.paths.log)}")
        return sandbox_identity(self.paths)

    async def _succeed(self, saved: Path, successor: ProcessIdentity | None) -> None:
        """Go on from `saved`, on the mounts of the sandbox before."""
        serial = self._serial_next
        name = container_name(self.spec.machine_id, serial)
        if successor is not None:
            source, members = saved / CHECKPOINT, self._group.pids
            await asyncio.to_thread(control.restore, name, source, members, timeout_s=START_TIMEOUT_S)
        else:
            self.paths.sandbox.unlink(missing_ok=True)
            if await self._run_inside(restore_words(self.paths, saved, name)) != 0:
                raise SandboxLost(f"The machine did not come back: {launch.tail(self.paths.log)}")
            successor = sandbox_identity(self.paths)
        self._sandbox, self._serial, self._serial_next = successor, serial, serial + 1
        self.write_record()

    async def _run(self, words: list[str], *, timeout_s: float) -> int:
        """Have runsc do something with a sandbox that there is."""
        return await launch.run(self._launch(words), timeout_s=timeout_s)

    async def _run_inside(self, words: list[str]) -> int:
        """Have runsc make a sandbox on this machine's mounts."""
        # Not held longer than this: whoever has the namespace open keeps the disk mounted.
        with self._namespace() as namespace:
            return await launch.run(self._launch(words, namespace=namespace), timeout_s=START_TIMEOUT_S)

    def _launch(self, words: list[str], *, namespace: int | None = None) -> launch.Launch:
        makings, inside = self._makings, namespace is not None
        return launch.Launch(
            machine_id=self.spec.machine_id,
            argv=makings.runsc.command(self.paths.root, makings.platform, self.paths.log, words),
            join=self._group.join_files if inside else (),
            stdin=self.paths.to_agent if inside else None,
            stdout=self.paths.from_agent if inside else None,
            stderr=self.paths.log,
            namespace=namespace,
        )

    def _sync_layer(self) -> None:
        """Write the private file system out to `disk.img`."""
        handle = os.open(f"/proc/{self._keeper()}/root{self.paths.layer}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(handle) != 0:
                raise SandboxError(f"Its disk cannot be written out: {os.strerror(ctypes.get_errno())}.")
        finally:
            os.close(handle)

    def _copy_disk(self, into: Path) -> SandboxError | None:
        """Copy the disk while nobody writes to it. A failure is no reason to end the machine: it is returned."""
        try:
            self._sync_layer()
            disks.clone_file(self.paths.disk, into / DISK, durable=False)
        except (SandboxError, OSError) as error:
            return SandboxError(f"The machine goes on, but its disk could not be copied: {error}")
        return None

    def _keeper(self) -> int:
        text = self.paths.keeper.read_text().strip()
        if not text.isdigit() or int(text) not in self._group.pids():
            raise SandboxLost("The machine's mounts are gone.")
        return int(text)

    @contextlib.contextmanager
    def _namespace(self) -> Generator[int, None, None]:
        handle = os.open(f"/proc/{self._keeper()}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncGenerator[None, None]:
        self._steady.clear()
        try:
            yield
        finally:
            if self._group.exists():
                self._group.limit_cpus(self.spec.limits.cpus)
            self._steady.set()

    def _must_live(self) -> None:
        if self._killed or not self._sandbox.alive():
            raise SandboxLost(f"The machine has ended: {self._why()}.")

    def _why(self) -> str:
        if self._killed:
            return "it was ended"
        if self._group.oom_kills():
            return f"out of memory: the host's limit for a machine of {self.spec.limits.memory_mb} MiB was reached"
        said = launch.tail(self.paths.log, 400).splitlines()
        return f"its sandbox process ended{f' ({said[-1]})' if said else ''}"


def _empty_folder(into: Path) -> None:
    """Make the folder, without an earlier checkpoint: runsc refuses to write over one."""
    into.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in (CHECKPOINT, DISK, AGENT, SAVED_MARK):
        (into / name).unlink(missing_ok=True)


def _hand_over(captured: Path, into: Path) -> None:
    """Move what was captured to where it was asked for, and have it on the disk."""
    try:
        for each in sorted(captured.iterdir()):
            try:
                each.replace(into / each.name)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                disks.clone_file(each, into / each.name, durable=False)
        disks.sync_folder(into)
    except OSError as error:
        raise SandboxError(f"The machine goes on, but its copy cannot be kept: {error.strerror}.") from error


async def _to_the_end(work: Coroutine[None, None, _Result]) -> _Result:
    """Do what must not stop half-way, also when we are cancelled meanwhile; then that is raised afterwards."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("cancelled, and then failed: %s", error)
        raise
