"""One machine made by runsc: frozen by its control group, saved by a checkpoint, reached by two FIFOs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import shutil
import signal
import time
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

from callbox.errors import SandboxError, SandboxLost
from callbox.sandboxes.driver import MachineSpec, Usage
from callbox.sandboxes.gvisor import control
from callbox.sandboxes.gvisor.runsc import Runsc
from callbox.sandboxes.host import disks, launch
from callbox.sandboxes.host.cgroups import Cgroup
from callbox.sandboxes.host.processes import ProcessIdentity
from callbox.sandboxes.host.reap import loop_released, reap

_log = logging.getLogger("callbox.sandboxes.gvisor")

START_TIMEOUT_S = 60.0
SAVE_TIMEOUT_S = 300.0
_READ_LIMIT_BYTES = 1 << 20
_SAVE_ROOM_BYTES = 64 << 20
"""Free space that must be left on the host beyond what the memory may take."""

CHECKPOINT = "checkpoint.img"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Paths:
    """Files of one machine below its place."""

    place: Path

    @property
    def run(self) -> Path:
        """Everything that ends with the machine."""
        return self.place / "run"

    @property
    def disk(self) -> Path:
        """Its private writable layer."""
        return self.place / "disk.img"

    @property
    def layer(self) -> Path:
        """Where that is mounted, in its own namespace."""
        return self.run / "disk"

    @property
    def rootfs(self) -> Path:
        """Where its root is mounted, in its own namespace."""
        return self.run / "rootfs"

    @property
    def bundle(self) -> Path:
        """OCI bundle."""
        return self.run / "bundle"

    @property
    def root(self) -> Path:
        """State of runsc."""
        return self.run / "runsc"

    @property
    def log(self) -> Path:
        """What runsc says."""
        return self.run / "runsc.log"

    @property
    def to_agent(self) -> Path:
        """FIFO: the agent's standard input."""
        return self.run / "to-agent"

    @property
    def from_agent(self) -> Path:
        """FIFO: the agent's standard output."""
        return self.run / "from-agent"

    @property
    def keeper(self) -> Path:
        """Pid of the process that keeps the mounts."""
        return self.run / "keeper.pid"

    @property
    def sandbox(self) -> Path:
        """Pid of the sandbox process."""
        return self.run / "sandbox.pid"

    @property
    def record(self) -> Path:
        """What a successor needs to adopt it."""
        return self.run / "machine.json"


class GvisorMachine:
    """See `Machine`. Made by `GvisorDriver`."""

    def __init__(self, spec: MachineSpec, runsc: Runsc, platform: str, sandbox: ProcessIdentity, serial: int) -> None:
        self.spec = spec
        self.paths = Paths(spec.place)
        self._runsc = runsc
        self._platform = platform
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
            except SandboxLost:
                raise
            except BaseException:
                if stood:
                    await self._group.freeze()
                raise
            await self._ended()
            await asyncio.to_thread(disks.sync_folder, into)
            self._killed = True
            await reap(self.spec.place, self.spec.machine_id)
            await loop_released(self.spec.place)
            await asyncio.to_thread(disks.sync_path, self.paths.disk)

    async def capture(self, into: Path) -> float:
        """Checkpoint it, copy its disk while nobody can write to it, and let it go on from the checkpoint."""
        self._must_live()
        async with self._changing():
            # Whoever is connected stays so: while we hold both ends, nobody sees the agent's ends close.
            with _held(self.paths.from_agent), _held(self.paths.to_agent), self._namespace() as namespace:
                await self._group.thaw()
                self._group.limit_cpus(None)
                successor = await self._prepare_successor(namespace)
                try:
                    await asyncio.to_thread(self._sync_layer)
                    began = time.monotonic()
                    await self._checkpoint(into)
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
                        both.create_task(asyncio.to_thread(self._copy_disk, into))
                    await self._succeed(into, namespace, successor)
                except BaseException as error:
                    _log.warning("machine %s did not survive its capture", self.spec.machine_id)
                    await asyncio.shield(self.kill())
                    if isinstance(error, Exception):
                        raise SandboxLost("The machine did not come back from its capture.") from error
                    raise
                paused_s = time.monotonic() - began
            await asyncio.to_thread(disks.sync_folder, into)
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
        known = {"serial": self._serial, "platform": self._platform}
        part.write_text(json.dumps(known | {"pid": self._sandbox.pid, "started": self._sandbox.started}))
        part.replace(self.paths.record)

    # --- steps ---

    async def _checkpoint(self, into: Path) -> None:
        """Write its memory. Then the sandbox ends; it runs as before if this raises `SandboxError`."""
        await asyncio.to_thread(_empty_folder, into)
        # A checkpoint that fails half-way kills the sandbox (runsc exits after every save), so nothing may be missing.
        need = self._group.usage().memory_bytes + _SAVE_ROOM_BYTES
        free = shutil.disk_usage(into).free
        if free < need:
            raise SandboxError(f"Saving its memory may take {need >> 20} MiB; {free >> 20} MiB are free.")
        await self._group.thaw()
        try:
            await self._write_checkpoint(into)
        except BaseException as error:
            await asyncio.to_thread(_empty_folder, into)
            if isinstance(error, SandboxError) and not self._sandbox.alive():
                raise SandboxLost(f"The machine ended when it was saved: {error.message}") from error
            raise

    async def _ended(self) -> None:
        """Wait until a sandbox that was saved has ended."""
        async with asyncio.timeout(SAVE_TIMEOUT_S):
            await self._sandbox.ended()

    async def _write_checkpoint(self, into: Path) -> None:
        if await asyncio.to_thread(control.reachable, self.container):
            await asyncio.to_thread(control.checkpoint, self.container, into / CHECKPOINT, timeout_s=SAVE_TIMEOUT_S)
            return
        words = ["checkpoint", f"--image-path={into}", self.container]
        if await launch.run(self._launch(words), timeout_s=SAVE_TIMEOUT_S) != 0:
            raise SandboxError(f"The machine could not be saved: {launch.tail(self.paths.log)}")

    async def _prepare_successor(self, namespace: int) -> ProcessIdentity | None:
        """Create, but do not start, the sandbox that goes on after a capture. None where that cannot be done ahead."""
        if not await asyncio.to_thread(control.reachable, self.container):
            return None
        self.paths.sandbox.unlink(missing_ok=True)
        name = container_name(self.spec.machine_id, self._serial_next)
        words = ["create", f"--bundle={self.paths.bundle}", f"--pid-file={self.paths.sandbox}", name]
        if await launch.run(self._launch(words, namespace=namespace, channel=True), timeout_s=START_TIMEOUT_S) != 0:
            raise SandboxError(f"No successor could be made: {launch.tail(self.paths.log)}")
        return sandbox_identity(self.paths)

    async def _succeed(self, saved: Path, namespace: int, successor: ProcessIdentity | None) -> None:
        """Go on from `saved`, on the mounts of the sandbox before."""
        serial = self._serial_next
        name = container_name(self.spec.machine_id, serial)
        if successor is not None:
            await asyncio.to_thread(control.restore, name, saved / CHECKPOINT, timeout_s=START_TIMEOUT_S)
        else:
            self.paths.sandbox.unlink(missing_ok=True)
            started = self._launch(restore_words(self.paths, saved, name), namespace=namespace, channel=True)
            if await launch.run(started, timeout_s=START_TIMEOUT_S) != 0:
                raise SandboxLost(f"The machine did not come back: {launch.tail(self.paths.log)}")
            successor = sandbox_identity(self.paths)
        self._sandbox, self._serial, self._serial_next = successor, serial, serial + 1
        self.write_record()

    def _launch(self, words: list[str], *, namespace: int | None = None, channel: bool = False) -> launch.Launch:
        return launch.Launch(
            machine_id=self.spec.machine_id,
            argv=self._runsc.command(self.paths.root, self._platform, self.paths.log, words),
            join=self._group.join_files if channel else (),
            stdin=self.paths.to_agent if channel else None,
            stdout=self.paths.from_agent if channel else None,
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

    def _copy_disk(self, into: Path) -> None:
        self._sync_layer()
        disks.clone_file(self.paths.disk, into / "disk.img", durable=False)

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
    for name in (CHECKPOINT, "disk.img"):
        (into / name).unlink(missing_ok=True)


def container_name(machine_id: str, serial: int) -> str:
    """What runsc calls it."""
    return f"{machine_id}-{serial}"


def restore_words(paths: Paths, saved: Path, container: str) -> list[str]:
    """Subcommand and arguments that start `container` from `saved`."""
    return [
        "restore",
        "--detach",
        f"--bundle={paths.bundle}",
        f"--pid-file={paths.sandbox}",
        f"--image-path={saved}",
        container,
    ]


def sandbox_identity(paths: Paths) -> ProcessIdentity:
    """Identify the sandbox process that runsc has just started.

    Raises:
        SandboxLost: It has ended already.
    """
    text = paths.sandbox.read_text().strip() if paths.sandbox.exists() else ""
    identity = ProcessIdentity.of(int(text)) if text.isdigit() else None
    if identity is None:
        raise SandboxLost(f"The machine ended at once: {launch.tail(paths.log)}")
    return identity


async def open_channel(reading: Path, writing: Path) -> tuple[StreamReader, StreamWriter]:
    """Open two FIFOs as one connection; closing the writer closes both.

    Raises:
        SandboxLost: Nobody is at the other end.
    """
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit=_READ_LIMIT_BYTES, loop=loop)
    with contextlib.ExitStack() as cleanup:
        try:
            read = cleanup.enter_context(os.fdopen(os.open(reading, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0))
            write = cleanup.enter_context(os.fdopen(os.open(writing, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0))
        except OSError as error:
            raise SandboxLost(f"The machine's channel cannot be opened: {error.strerror}.") from error
        incoming, _ = await loop.connect_read_pipe(lambda: StreamReaderProtocol(reader, loop=loop), read)
        cleanup.callback(incoming.close)
        outgoing, protocol = await loop.connect_write_pipe(lambda: _Outgoing(incoming, loop), write)
        cleanup.pop_all()
    return reader, StreamWriter(outgoing, protocol, None, loop)


class _Outgoing(StreamReaderProtocol):
    """The writing half of a channel: flow control for `StreamWriter`, and the end of the reading half."""

    def __init__(self, incoming: asyncio.ReadTransport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(StreamReader(loop=loop), loop=loop)
        self._incoming = incoming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take no notice: there is nothing to read on this half."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the reading half, too."""
        super().connection_lost(exc)
        self._incoming.close()


@contextlib.contextmanager
def _held(fifo: Path) -> Generator[None, None, None]:
    handle = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(handle)
