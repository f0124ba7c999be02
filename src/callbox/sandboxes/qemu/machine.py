"""One virtual machine that exists, running or frozen."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import errno
import json
import logging
import os
import time
import weakref
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from callbox.errors import GuestProtocolError, SandboxError, SandboxLost, SnapshotRefused
from callbox.sandboxes.driver import SAVED_MARK, MachineSpec, Usage
from callbox.sandboxes.host.cgroups import Cgroup
from callbox.sandboxes.host.disks import clone_file, sync_folder, sync_path, used_bytes
from callbox.sandboxes.host.launch import Launched, tail
from callbox.sandboxes.host.processes import ProcessIdentity
from callbox.sandboxes.host.reap import reap
from callbox.sandboxes.qemu.command import CONSOLE_BYTES
from callbox.sandboxes.qemu.memory import InstantCopy
from callbox.sandboxes.qemu.process import AGENT_SOCKET, CONTROL_SOCKET, LOG_FILE, MEMORY_FILE, Start, start
from callbox.sandboxes.qemu.qmp import EventData, Qmp, connect_unix

_log = logging.getLogger("callbox.sandboxes.qemu")

_Made = TypeVar("_Made")

DEVICE_FILE = "device"
RECORD_FILE = "machine.json"
CONSOLE_FILE = "console.log"
MIGRATION_TIMEOUT_S = 30.0
"""For some 200 KiB of device state. Milliseconds, unless the host swaps."""
QUIT_TIMEOUT_S = 10.0
STREAM_BYTES_MAX = 1 << 18
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_CONSOLE_SAID_BYTES = 600
_CAPABILITIES = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]


_held: weakref.WeakValueDictionary[str, QemuMachine] = weakref.WeakValueDictionary()
"""Who holds the control connection of a machine, in this process."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What `adopt` needs: written when the machine starts, believed only together with QEMU's own answer."""

    identity: ProcessIdentity
    accelerator: str


class QemuMachine:
    """A QEMU process with its control connection. See `callbox.sandboxes.driver.Machine`."""

    def __init__(self, spec: MachineSpec, control: Qmp, recognised: Recognised, child: Launched | None = None) -> None:
        self._spec = spec
        self._control = control
        self._identity = recognised.identity
        self._child = child
        self._group = Cgroup(spec.machine_id)
        self._reason = ""
        _held[spec.machine_id] = self
        shutdown = control.expect(lambda name, _: name == "SHUTDOWN")
        self._watch = asyncio.create_task(self._end_after(shutdown), name=f"qemu-{spec.machine_id[:8]}")

    @classmethod
    async def start(cls, what: Start) -> QemuMachine:
        """Start QEMU, its processors stopped. Nothing is left behind if that fails.

        Raises:
            SandboxError: It did not start; the message has what QEMU said.
        """
        place, machine_id = what.spec.place, what.spec.machine_id
        try:
            child = await _in_thread(lambda: start(what))
            try:
                control = await Qmp.connect(place / "run" / CONTROL_SOCKET)
            except SandboxError as error:
                said = tail(place / "run" / LOG_FILE, 600)
                raise SandboxError(f"QEMU did not start: {said or error.message}") from error
            recognised = Recognised(child.identity, what.accelerator)
            machine = cls(what.spec, control, recognised, child)
            try:
                await control.execute("migrate-set-capabilities", {"capabilities": _CAPABILITIES})
                await asyncio.to_thread(_write_record, place / "run" / RECORD_FILE, recognised)
            except BaseException:
                await machine.forget()
                raise
            return machine
        except BaseException:
            await asyncio.shield(reap(place, machine_id))
            raise

    @classmethod
    async def adopt(cls, spec: MachineSpec) -> QemuMachine | None:
        """Connect to the machine that runs in `spec.place`, or return None. A pid alone is never believed."""
        held = _held.get(spec.machine_id)
        if held is not None:
            # QEMU serves one control connection at a time, and another object of this process has it.
            await held.forget()
        recognised = await asyncio.to_thread(_read_record, spec.place / "run" / RECORD_FILE)
        if recognised is None or not recognised.identity.alive():
            return None
        try:
            control = await Qmp.connect(spec.place / "run" / CONTROL_SOCKET)
        except SandboxError as error:
            _log.warning("machine %s is not adopted: %s", spec.machine_id, error.message)
            return None
        machine = cls(spec, control, recognised)
        try:
            found = str((await control.execute("query-uuid")).get("UUID", "")).replace("-", "")
            status = str((await control.execute("query-status")).get("status", ""))
        except SandboxError as error:
            found, status = "", error.message
        # In `inmigrate` its saved state is not loaded yet and still whole; after `shutdown` there is nothing to go on.
        if found != spec.machine_id or status not in {"running", "paused", "postmigrate", "prelaunch"}:
            _log.warning("machine %s is not adopted: it says %r, status %s", spec.machine_id, found, status)
            await machine.forget()
            return None
        if status == "postmigrate":
            # Its supervisor died while it was saved; QEMU would refuse to be saved again.
            await machine._go_on(was_frozen=True)
        return machine

    @property
    def pids(self) -> list[int]:
        """QEMU's process."""
        return [self._identity.pid] if self._identity.alive() else []

    @property
    def control(self) -> Qmp:
        """The control connection."""
        return self._control

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Open the channel to the guest agent."""
        self._must_live()
        try:
            connection = connect_unix(self._spec.place / "run" / AGENT_SOCKET)
            return await asyncio.open_unix_connection(sock=connection, limit=STREAM_BYTES_MAX)
        except OSError as error:
            raise SandboxLost(f"The agent's channel does not answer: {error.strerror}.") from error

    async def freeze(self) -> None:
        """Stop the guest's processors."""
        await self._command("stop")

    async def thaw(self) -> None:
        """Let them go on."""
        await self._command("cont")

    async def ready(self, *, timeout_s: float) -> None:
        """Start a new machine's processors and return when the agent has opened its port.

        Raises:
            SandboxError: It did not within `timeout_s`, or the guest ended; the message has the end of its console.
        """
        opened = self._control.expect(lambda name, data: name == "VSERPORT_CHANGE" and data.get("open") is True)
        await self.thaw()
        try:
            async with asyncio.timeout(timeout_s):
                await opened
        except (TimeoutError, SandboxLost) as error:
            said = await self.console()
            why = f"within {timeout_s:g} s" if isinstance(error, TimeoutError) else "before it ended"
            raise SandboxError(f"The guest's agent did not start {why}. Its console: {said or 'empty'}") from error

    async def load(self, device: Path, *, before_running: Callable[[], Awaitable[None]]) -> None:
        """Load device state into a machine that was started without a kernel, and let it run.

        Args:
            device: What `save` or `capture` wrote.
            before_running: Awaited when the state is complete and memory is still unchanged.

        Raises:
            SnapshotRefused: QEMU does not accept the state.
        """
        try:
            handle = await asyncio.to_thread(os.open, device, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise SnapshotRefused(f"The saved state cannot be read: {error.strerror}.") from error
        try:
            await self._migrate("migrate-incoming", handle)
        except SandboxError as error:
            said = tail(self._spec.place / "run" / LOG_FILE, 400)
            raise SnapshotRefused(f"The saved state was not accepted: {said or error.message}") from error
        finally:
            os.close(handle)
        await before_running()
        await self.thaw()

    async def save(self, into: Path) -> None:
        """Write the state to `into` and end QEMU. The memory's file moves there, uncopied."""
        self._must_live()
        await asyncio.to_thread(into.mkdir, mode=0o700, parents=True, exist_ok=True)
        memory, target = self._spec.place / "run" / MEMORY_FILE, into / MEMORY_FILE
        was_frozen = await self._stop()
        try:
            await self._write_device(into / DEVICE_FILE)
            await asyncio.to_thread(_keep_memory, memory, target, self._spec.place / "disk.img")
        except BaseException as error:
            # As before, for whoever it is: cancelled, disk full, QEMU unwilling.
            await asyncio.shield(self._undo_save(into, was_frozen=was_frozen))
            if isinstance(error, OSError):
                raise SandboxError(f"The machine cannot be saved: {error.strerror}.") from error
            raise
        await asyncio.shield(self._quit())
        await asyncio.to_thread(memory.unlink, missing_ok=True)

    async def capture(self, into: Path) -> float:
        """Copy the state and the disk to `into`. Returns the seconds that the guest stood."""
        self._must_live()
        try:
            await asyncio.to_thread(into.mkdir, mode=0o700, parents=True, exist_ok=True)
            pause_s = await self._copy_instant(into)
        except OSError as error:
            raise SandboxError(f"The machine goes on, but it cannot be copied: {error.strerror}.") from error
        _log.info("machine %s captured, it stood for %.1f ms", self._spec.machine_id, pause_s * 1_000)
        return pause_s

    async def _copy_instant(self, into: Path) -> float:
        place = self._spec.place
        async with contextlib.AsyncExitStack() as stack:
            memory = await asyncio.to_thread(InstantCopy, place / "run" / MEMORY_FILE, into / MEMORY_FILE)
            stack.callback(memory.close)
            disk = await asyncio.to_thread(InstantCopy, place / "disk.img", into / "disk.img")
            stack.callback(disk.close)
            try:
                # What QEMU would otherwise flush while the guest stands.
                await asyncio.to_thread(sync_path, place / "disk.img")
                await _in_thread(memory.prepare)
                await _in_thread(disk.prepare)
                started = time.perf_counter()
                was_frozen = await self._stop()
                try:
                    await self._write_device(into / DEVICE_FILE, durable=False)
                    await _in_thread(lambda: memory.finish(mapped=True))
                    await _in_thread(lambda: disk.finish(mapped=False))
                finally:
                    await asyncio.shield(self._go_on(was_frozen=was_frozen))
                pause_s = time.perf_counter() - started
                await _in_thread(lambda: _sync_all(memory, disk, into))
            except BaseException:
                for name in (DEVICE_FILE, MEMORY_FILE, "disk.img"):
                    (into / name).unlink(missing_ok=True)
                raise
        return pause_s

    async def kill(self) -> None:
        """End everything of it."""
        await self.forget()
        await reap(self._spec.place, self._spec.machine_id)
        for name in (MEMORY_FILE, CONTROL_SOCKET, AGENT_SOCKET, RECORD_FILE):
            with contextlib.suppress(OSError):
                (self._spec.place / "run" / name).unlink()

    async def forget(self) -> None:
        """Close our connection; the machine goes on."""
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        await self._control.aclose()

    async def wait_dead(self) -> str:
        """Wait for the end and say why."""
        await self._identity.ended()
        if self._group.oom_kills():
            return "the host ended it: out of memory"
        if self._reason:
            return self._reason
        said = tail(self._spec.place / "run" / LOG_FILE, 300)
        status = f"status {await self._child.ended()}" if self._child is not None else "status unknown"
        return f"QEMU ended, {status}{': ' + said if said else ''}"

    def usage(self) -> Usage:
        """Read what it uses from /proc and its files."""
        self._must_live()
        memory, cpu_s = _process_usage(self._identity.pid)
        disk = self._spec.place / "disk.img"
        return Usage(
            memory_bytes=memory,
            cpu_s=cpu_s,
            disk_bytes=used_bytes(disk) if disk.exists() else 0,
            processes=len(self.pids),
        )

    async def console(self) -> str:
        """The end of what the guest printed on its serial console."""
        with contextlib.suppress(SandboxError):
            return (await self.console_ring())[-_CONSOLE_SAID_BYTES:].strip()
        return tail(self._spec.place / "run" / CONSOLE_FILE, _CONSOLE_SAID_BYTES)

    async def console_ring(self) -> str:
        """Take what the console's ring holds now; it is gone from there."""
        arguments = {"device": "console", "size": CONSOLE_BYTES, "format": "base64"}
        data: Any = await self._control.execute("ringbuf-read", arguments)
        try:
            return base64.b64decode(str(data), validate=True).decode(errors="replace")
        except binascii.Error as error:
            raise GuestProtocolError("QEMU sent a console that is not base64.") from error

    async def _command(self, name: str) -> None:
        self._must_live()
        await self._control.execute(name)

    def _must_live(self) -> None:
        if not self._identity.alive():
            raise SandboxLost(f"The machine has ended{': ' + self._reason if self._reason else ''}.")

    async def _write_device(self, target: Path, *, durable: bool = True) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = await asyncio.to_thread(os.open, target, flags, 0o600)
        try:
            await self._migrate("migrate", handle)
            if durable:
                await asyncio.to_thread(os.fsync, handle)
        finally:
            os.close(handle)

    async def _migrate(self, command: str, handle: int) -> None:
        """Move device state through a descriptor, either way."""
        control = self._control
        over = control.expect(lambda name, data: name == "MIGRATION" and data.get("status") in {"completed", "failed"})
        await control.execute("getfd", {"fdname": "state"}, handles=[handle])
        await control.execute(command, {"uri": "fd:state"})
        try:
            async with asyncio.timeout(MIGRATION_TIMEOUT_S):
                status = (await over).get("status")
        except TimeoutError as error:
            raise SandboxError(f"QEMU did not move its state within {MIGRATION_TIMEOUT_S:g} s.") from error
        if status != "completed":
            raise SandboxError(f"QEMU could not move its state: {await _migration_error(control)}")

    async def _undo_save(self, into: Path, *, was_frozen: bool) -> None:
        for name in (SAVED_MARK, DEVICE_FILE, MEMORY_FILE):
            (into / name).unlink(missing_ok=True)
        with contextlib.suppress(SandboxError):
            # A migration under way is ended first; where there is none this does nothing.
            await self._control.execute("migrate_cancel")
            await self._go_on(was_frozen=was_frozen)

    async def _stop(self) -> bool:
        """Stop the processors; returns whether they stood already."""
        self._must_live()
        running = (await self._control.execute("query-status")).get("running") is True
        await self._control.execute("stop")
        return not running

    async def _go_on(self, *, was_frozen: bool) -> None:
        """Be as before `_stop`. Out of the state after a migration the only way leads through running."""
        await self._control.execute("cont")
        if was_frozen:
            await self._control.execute("stop")

    async def _quit(self) -> None:
        await self.forget_watch()
        with contextlib.suppress(SandboxError):
            await self._control.execute("quit")
        try:
            async with asyncio.timeout(QUIT_TIMEOUT_S):
                await self._identity.ended()
        except TimeoutError:
            _log.warning("machine %s did not quit and is killed; its state is complete", self._spec.machine_id)
        await self._control.aclose()
        await reap(self._spec.place, self._spec.machine_id)

    async def forget_watch(self) -> None:
        """Stop waiting for the guest's own end."""
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch

    async def _end_after(self, shutdown: asyncio.Future[EventData]) -> None:
        """When the guest has ended by itself, QEMU waits: keep what the console said, then end QEMU too."""
        try:
            reason = str((await shutdown).get("reason", "unknown"))
        except SandboxError:
            return
        self._reason = f"the guest ended: {reason}"
        with contextlib.suppress(SandboxError, OSError):
            said = await self.console_ring()
            await asyncio.to_thread((self._spec.place / "run" / CONSOLE_FILE).write_text, said)
        with contextlib.suppress(SandboxError):
            await self._control.execute("quit")


async def _migration_error(control: Qmp) -> str:
    with contextlib.suppress(SandboxError):
        found: Any = await control.execute("query-migrate")
        return str(found.get("error-desc", "no reason given"))[:400]
    return "it ended"


async def _in_thread(work: Callable[[], _Made]) -> _Made:
    """Run blocking work to its end even if we are cancelled: what it uses is closed after it, what it makes known."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _sync_all(memory: InstantCopy, disk: InstantCopy, folder: Path) -> None:
    memory.sync()
    disk.sync()
    sync_path(folder / DEVICE_FILE)
    sync_folder(folder)


def _keep_memory(memory: Path, target: Path, disk: Path) -> None:
    """Give the RAM file its second name, durably. The guest stands."""
    target.unlink(missing_ok=True)
    try:
        os.link(memory, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        clone_file(memory, target)
    sync_path(target)
    sync_path(disk)
    sync_folder(target.parent)
    sync_folder(target.parent.parent)
    (target.parent / SAVED_MARK).touch()


def _write_record(path: Path, recognised: Recognised) -> None:
    part = path.with_name(path.name + ".part")
    identity = recognised.identity
    fields = {"pid": identity.pid, "started": identity.started, "accelerator": recognised.accelerator}
    part.write_text(json.dumps(fields))
    part.replace(path)


def _read_record(path: Path) -> Recognised | None:
    try:
        fields: Any = json.loads(path.read_text())
        found = cast("dict[str, Any]", fields)
        return Recognised(ProcessIdentity(int(found["pid"]), int(found["started"])), str(found["accelerator"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _process_usage(pid: int) -> tuple[int, float]:
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return resident, (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, IndexError, ValueError):
        return 0, 0.0
