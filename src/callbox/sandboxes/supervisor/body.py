"""The machine of one sandbox, its connection and its record: each transition of the life cycle, once, step by step.

Nothing here waits for requests or decides when: the keeper does. Calls never overlap.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from callbox.errors import SandboxError, SandboxLost, SnapshotRefused
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.driver import Driver, Machine, MachineSpec
from callbox.sandboxes.states import Event, State, next_state
from callbox.sandboxes.supervisor import saved
from callbox.sandboxes.supervisor.disk_check import hold_disk, is_same_disk, take_back_disk
from callbox.sandboxes.supervisor.disk_writes import in_thread, make_anew, make_place, remove_tree
from callbox.sandboxes.supervisor.events import EventLog
from callbox.sandboxes.supervisor.record import Record, machine_id_of, put_record, stage_running, write_record
from callbox.sandboxes.supervisor.repairing import RepairFailed, configure, repair
from callbox.sandboxes.supervisor.room import host_refused, set_room_aside
from callbox.sandboxes.supervisor.saving import check, commit, complete, intend
from callbox.sandboxes.supervisor.sharing import Host, Receipt

_LOG = logging.getLogger("callbox.sandboxes.supervisor.body")


class Body:
    """One sandbox, as far as it is matter."""

    def __init__(self, host: Host, record: Record, driver: Driver) -> None:
        self.host = host
        self.record = record
        self.driver = driver
        self.place = host.home.sandboxes / record.id
        self.machine: Machine | None = None
        self.channel: Channel | None = None
        self.frozen = False
        self.events = EventLog(
            self.place / "events.log", kept=host.settings.events_kept, bytes_max=host.settings.events_bytes_max
        )

    @property
    def machine_spec(self) -> MachineSpec:
        """The machine as its driver knows it."""
        return MachineSpec(
            machine_id=machine_id_of(self.record.id),
            image=self.record.image,
            limits=self.record.spec.limits,
            place=self.place,
        )

    @property
    def saved_folder(self) -> Path:
        """Where its memory is while it is warm or cold."""
        return self.place / "state"

    @property
    def _reach(self) -> Callable[[str], None]:
        return self.host.points.reach

    # --- beginning ---

    async def place_anew(self) -> None:
        """Make the folder and the record of a sandbox that is being created."""
        await in_thread(make_place, self.place)
        self._reach("create.placed")
        await self.write()
        self._reach("create.recorded")

    async def boot(self) -> None:
        """Start a machine with an empty disk, up to its agent's first answer."""
        async with self._starting(self.host.boots, self.host.settings.boot_timeout_s):
            self.machine = await self.driver.boot(self.machine_spec)
            await self.connect()

    async def begin(self, tier: str, started: float) -> Receipt:
        """Repair and configure a new machine, and declare it running."""
        try:
            await self._reserved()
            # The disk takes about as long as the guest.
            staging = in_thread(stage_running, self.place, self.record)
            repairs, staged = await asyncio.gather(self._set_up(), staging, return_exceptions=True)
            if isinstance(repairs, BaseException):
                raise repairs
            self._reach("create.repaired")
            if staged is not None:
                raise staged
            await in_thread(put_record, self.place)
        except OSError as error:
            await self.kill()
            raise host_refused(error, "The record of the sandbox could not be written") from error
        except SandboxError:
            await self.kill()
            raise
        self._move(Event.STARTED, f"created ({tier})")
        self._reach("create.done")
        return self._receipt(tier, started, repairs)

    async def _set_up(self) -> list[Mapping[str, Any]]:
        repairs = await self._repaired()
        await self.configure()
        return repairs

    async def configure(self) -> None:
        """Tell the guest whose it is."""
        await configure(
            self._connected(),
            self.record.spec,
            name=self.record.name,
            env=self.record.image.env,
            timeout_s=self.host.settings.guest_timeout_s,
        )

    async def branch(self, folder: Path, started: float) -> Receipt:
        """Become a child of what was captured in `folder`: the same memory and files, another identity."""
        self._reach("branch.recorded")
        async with self._starting(self.host.restores, self.host.settings.restore_timeout_s):
            self.machine = await self.driver.restore(self.machine_spec, folder / saved.MACHINE)
            self._reach("branch.restored")
            await self.connect()
        receipt = await self.begin("new", started)
        self._reach("branch.done")
        return receipt

    async def adopt(self) -> bool:
        """Take over a machine that ran on without a supervisor. False if there is none.

        Raises:
            SandboxError: There is one, but it cannot be used; it was ended.
        """
        self.machine = await self.driver.adopt(self.machine_spec)
        if self.machine is None:
            return False
        self._reach("adopt.taken")
        async with self._starting(self.host.restores, self.host.settings.restore_timeout_s):
            # It may be frozen, waiting for a repair, or at work: after these two it is at work, whatever it was.
            await self.machine.thaw()
            await self.connect()
        await self._repaired_or_ended()
        self.record.waking = False
        self.record.serial += 1
        self.record.state = State.RUNNING
        self.record.reason = None
        await self.write()
        self._reach("adopt.done")
        return True

    # --- hot ---

    async def freeze(self) -> None:
        """Stop the machine in memory. Its connection stays. On failure it runs on."""
        assert self.machine is not None
        try:
            await self._expect_repair()
            self._reach("hot.expecting")
            await self.machine.freeze()
        except SandboxLost:
            raise
        except (SandboxError, OSError):
            # It may wait for its repair now, and would answer nobody.
            await self._repaired_or_ended()
            raise
        self.frozen = True
        self._reach("hot.frozen")
        self._move(Event.FROZEN, "hot standby")

    async def thaw(self, started: float) -> Receipt:
        """Let a hot machine go on. It writes nothing to disk, so that it takes no longer than the guest needs."""
        assert self.machine is not None
        await self._reserved()
        await self.machine.thaw()
        self.frozen = False
        self._reach("hot.thawed")
        if self._connected().closed.is_set():
            await self.connect()
        repairs = await self._repaired_or_ended()
        receipt = self._receipt("hot", started, repairs)  # its guest has answered
        self._move(Event.WOKEN, "woken from hot standby")
        return receipt

    # --- warm and cold ---

    async def save(self) -> None:
        """Put memory on disk and end the processes. On failure the sandbox runs as before."""
        assert self.machine is not None
        machine = self.machine
        folder = self.place / "state.new"
        fingerprint = await self.driver.fingerprint(self.machine_spec)
        if self.frozen:
            # It still expects its repair: only programs run now, for the moment until it is stopped to be saved.
            await machine.thaw()
            self.frozen = False
        else:
            await self._expect_repair()
        await self.disconnect()
        try:
            await in_thread(make_anew, folder)
            await in_thread(set_room_aside, folder)
            await in_thread(intend, folder, self.record, fingerprint)
            self._reach("save.begun")
            await machine.save(folder / saved.MACHINE)
        except OSError as error:
            await self._undo_save(folder)
            raise host_refused(error, "Its memory could not be saved") from error
        except SandboxError as error:
            await self._undo_save(folder)
            raise SandboxError(f"Its memory could not be saved: {error.message}", hint=error.hint) from error
        self._reach("save.written")
        self.machine = None
        await in_thread(commit, self.place, folder, self.record, fingerprint, self._reach)
        self._move(Event.SAVED, "warm standby")
        await self.write_if_possible()
        self._reach("save.recorded")

    async def evict(self) -> None:
        """Let the host forget its copy of the saved files: from warm to cold."""
        await in_thread(saved.drop_from_page_cache, [self.saved_folder, self.place / "disk.img"])
        self._move(Event.EVICTED, "cold standby")
        await self.write_if_possible()
        self._reach("cold.recorded")

    async def restore(self, started: float) -> Receipt:
        """Wake from warm or cold: once, and only what is complete, undamaged and made here.

        Raises:
            SnapshotRefused: Not so. The sandbox is failed.
            SandboxError: It did not work; the sandbox sleeps on if its disk was not touched, else it is failed.
        """
        tier = str(self.record.state)
        try:
            await self._check_saved(thorough=self.record.state is State.COLD)
        except SnapshotRefused as error:
            await self.break_down(error.message, reboot_allowed=False)
            raise
        self.record.waking = True
        try:
            await self.write()
        except SandboxError:
            self.record.waking = False
            raise
        self._reach("wake.recorded")
        try:
            async with self._starting(self.host.restores, self.host.settings.restore_timeout_s):
                self.machine = await self.driver.restore(self.machine_spec, self.saved_folder / saved.MACHINE)
                self._reach("wake.restored")
                await self.connect()
        except SandboxError as error:
            await self.settle_doubt(f"It could not be woken: {error.message}")
            raise
        repairs = await self._repaired_or_ended()
        self._reach("wake.repaired")
        self.record.waking = False
        self.record.serial += 1
        self._move(Event.WOKEN, f"woken from {tier} standby")
        await self.write_if_possible()
        self._reach("wake.done")
        return self._receipt(tier, started, repairs)

    async def clear_saved(self) -> None:
        """Remove memory that became void when it was brought back."""
        await in_thread(remove_tree, self.saved_folder)
        self._reach("wake.cleared")

    async def settle_doubt(self, why: str) -> None:
        """After a restore that may have run: the saved memory holds only if nothing was touched since."""
        await self.kill()
        if await in_thread(saved.is_untouched, self.saved_folder, self.place / "disk.img"):
            self.record.waking = False
            self.note(why)
            await self.write_if_possible()
        else:
            await self.break_down(f"{why} Its disk has moved on, so its memory is void.", reboot_allowed=True)

    async def checksum(self, stop: threading.Event) -> bool:
        """Add checksums to the saved memory, if it has none: it is not cold without. False if `stop` was set before."""
        return await in_thread(complete, self.saved_folder, stop)

    # --- failure ---

    async def break_down(self, why: str, *, reboot_allowed: bool) -> None:
        """End what is left of the machine; the sandbox is failed, its files are kept."""
        await self.kill()
        self.record.waking = False
        self.record.reboot_allowed = reboot_allowed
        self.record.reason = why
        self._move(Event.BROKE, f"failed: {why}")
        await self.write_if_possible()

    async def reboot(self, started: float) -> Receipt:
        """Boot a failed sandbox from its own disk. Memory is lost."""
        await self.kill()
        disk, kept = self.place / "disk.img", self.place / "disk.kept"
        if not (disk.exists() or kept.exists()):
            raise SandboxError("Its disk is gone.", hint="Delete the sandbox.")
        await in_thread(hold_disk, disk, kept)
        await self.host.check_disk(disk)
        self.record.serial += 1  # from now on its saved memory is void
        await self.write()
        self._reach("reboot.recorded")
        await in_thread(remove_tree, self.saved_folder)
        try:
            await self.boot()
            if not await in_thread(is_same_disk, disk, kept):
                raise SandboxError(f"The driver {self.driver.name} did not boot from the sandbox's own disk.")
        except SandboxError:
            await self.kill()
            await in_thread(take_back_disk, disk, kept)
            raise
        await in_thread(kept.unlink)
        self._reach("reboot.booted")
        repairs = await self._repaired_or_ended()
        await self.configure()
        self.record.reason = None
        self.record.reboot_allowed = False
        self._move(Event.REBOOTED, "booted again from its disk")
        await self.write_if_possible()
        self._reach("reboot.done")
        return self._receipt("reboot", started, repairs)

    async def kill(self) -> None:
        """End the machine and everything of it on the host, but not its files."""
        machine, self.machine = self.machine, None
        self.frozen = False
        await self.disconnect()
        if machine is not None:
            await machine.kill()
        await self.driver.reap(self.place, machine_id_of(self.record.id))

    # --- capture ---

    async def capture(self, folder: Path, about: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Copy memory and disk of this instant to `folder`. Returns its manifest, not written, and the pause, s."""
        assert self.machine is not None
        fingerprint = await self.driver.fingerprint(self.machine_spec)
        await self._ask("quiesce")
        await self._expect_repair()
        self._reach("capture.begun")
        try:
            pause_s = await self.machine.capture(folder / saved.MACHINE)
        except (SandboxError, OSError) as error:
            await self._reconnected()
            await self._repaired_or_ended()
            if isinstance(error, OSError):
                raise host_refused(error, "It could not be captured") from error
            raise SandboxError(f"It could not be captured: {error.message}", hint=error.hint) from error
        self._reach("capture.written")
        if self._connected().closed.is_set():
            await self._reconnected()
        await self._repaired_or_ended()
        self._reach("capture.repaired")
        manifest = await in_thread(
            lambda: saved.describe(folder, fingerprint=fingerprint, generation=self.record.generation, **about)
        )
        self.note(f"captured, paused for {pause_s * 1_000:.1f} ms")
        return manifest, pause_s

    # --- parts ---

    async def write(self) -> None:
        """Have the record on disk, with generations reserved ahead.

        Raises:
            SandboxError: The host could not: its disk is full, for example.
        """
        before = self.record.generation_reserved
        self._reserve()
        try:
            await in_thread(write_record, self.place, self.record)
        except OSError as error:
            self.record.generation_reserved = before
            raise host_refused(error, "The record of the sandbox could not be written") from error

    async def write_if_possible(self) -> None:
        """Have the record on disk, where what has happened can be found out without it, too."""
        try:
            await self.write()
        except SandboxError as error:
            self.note(error.message)

    async def connect(self) -> None:
        """Open the channel to the agent."""
        assert self.machine is not None
        await self.disconnect()
        reader, writer = await self.machine.connect()
        self.channel = await Channel.connect(reader, writer, timeout_s=self.host.settings.connect_timeout_s)

    async def disconnect(self) -> None:
        """Close the channel. What was under way on it ends with SandboxLost."""
        channel, self.channel = self.channel, None
        if channel is not None:
            await channel.aclose()

    def note(self, text: str) -> None:
        """Remember an event for `callbox sandbox logs`."""
        _LOG.info("%s (%s): %s", self.record.id, self.record.name, text)
        self.events.add(self.host.pacer.wall(), text)

    async def _undo_save(self, folder: Path) -> None:
        await in_thread(remove_tree, folder)
        await self._reconnected()
        await self._repaired_or_ended()
        if self.record.state is State.HOT:
            self._move(Event.WOKEN, "could not be saved, runs on")

    async def _reconnected(self) -> None:
        try:
            await self.connect()
        except (SandboxError, OSError) as error:
            await self.break_down(f"Its guest is gone: {error}", reboot_allowed=True)
            raise SandboxLost("The machine of the sandbox died.") from error

    async def _check_saved(self, *, thorough: bool) -> None:
        here = await self.driver.fingerprint(self.machine_spec)
        await in_thread(lambda: check(self.saved_folder, self.record.serial, here, thorough=thorough))

    async def _expect_repair(self) -> None:
        await self._ask("expect_repair")

    async def _ask(self, op: str) -> None:
        try:
            async with asyncio.timeout(self.host.settings.guest_timeout_s):
                await self._connected().call(op)
        except TimeoutError:
            raise SandboxError(f"The guest did not answer {op} in time.") from None

    async def _repaired(self) -> list[Mapping[str, Any]]:
        await self._reserved()
        self.record.generation += 1
        return await repair(
            self._connected(),
            name=self.record.name,
            machine_id=machine_id_of(self.record.id),
            generation=self.record.generation,
            timeout_s=self.host.settings.guest_timeout_s,
        )

    async def _repaired_or_ended(self) -> list[Mapping[str, Any]]:
        """Repair; a guest that cannot be repaired is ended before anybody can use it."""
        try:
            return await self._repaired()
        except RepairFailed as error:
            lost = self._connected().closed.is_set()
            await self.break_down(error.message, reboot_allowed=lost)
            if lost:
                raise SandboxLost("The machine of the sandbox died while it was woken.") from error
            raise

    async def _reserved(self) -> None:
        """Have one generation more on disk than was told: before a machine runs that has to be told one."""
        if self.record.generation >= self.record.generation_reserved:
            await self.write()

    def _reserve(self) -> None:
        if self.record.generation >= self.record.generation_reserved:
            self.record.generation_reserved = self.record.generation + self.host.settings.generations_reserved

    def _connected(self) -> Channel:
        if self.channel is None:
            raise SandboxLost("The sandbox has no connection to its guest.")
        return self.channel

    def _move(self, event: Event, text: str) -> None:
        self.record.state = next_state(self.record.state, event)
        self.note(text)

    def _receipt(self, tier: str, started: float, repairs: list[Mapping[str, Any]]) -> Receipt:
        ms = (time.perf_counter() - started) * 1_000
        return Receipt(tier=tier, ms=ms, generation=self.record.generation, repairs=repairs)

    @asynccontextmanager
    async def _starting(self, turn: asyncio.Semaphore, timeout_s: float) -> AsyncGenerator[None]:
        """Bound the start of a machine in number and time; a start that fails leaves no machine."""
        async with turn:
            try:
                async with asyncio.timeout(timeout_s):
                    yield
            except TimeoutError:
                await self.kill()
                raise SandboxError(f"The machine did not start within {timeout_s:g} s.") from None
            except OSError as error:
                await self.kill()
                raise host_refused(error, "The machine did not start") from error
            except SandboxError:
                await self.kill()
                raise
