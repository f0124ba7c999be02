"""One task per sandbox owns its machine and its state. Everybody else asks it, through a queue.

The one thing that others touch themselves is the count of who uses the sandbox now: it is read and changed without an
`await` in between, so a sandbox is never put to sleep under a call, and a call to a running one waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from callbox.errors import (
    CallboxError,
    SandboxError,
    SandboxInterrupted,
    SandboxLost,
    SandboxNotFound,
    SandboxStateError,
)
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.driver import Machine
from callbox.sandboxes.states import ASLEEP, AWAKE, HELD, Event, State, next_state
from callbox.sandboxes.supervisor.beside import Chore, Watch, begun_or_never, ended
from callbox.sandboxes.supervisor.body import Body
from callbox.sandboxes.supervisor.calls_under_way import Calls, keeps_alive
from callbox.sandboxes.supervisor.disk_writes import in_thread, remove_tree
from callbox.sandboxes.supervisor.pacing import Alarm
from callbox.sandboxes.supervisor.record import machine_id_of, strike_record
from callbox.sandboxes.supervisor.room import host_refused
from callbox.sandboxes.supervisor.sharing import Receipt, supervisor_ends

_LOG = logging.getLogger("callbox.sandboxes.supervisor.keeper")
T = TypeVar("T")

TIERS = (State.HOT, State.WARM, State.COLD)
"""The depths of standby, from light to deep."""

ALARM_S_MAX = 60.0
"""Alarms ring at least so often, because the wall clock may jump and deadlines are of both clocks."""

DRAIN_S = 2.0
"""How long a standby or snapshot that was asked for waits for short calls that are under way."""

DEATH_S = 5.0
"""How long a machine whose connection broke may take to be found dead before it is asked once more."""


class Keeper:
    """The owner of one sandbox. `run` is its task; it ends when nothing of the sandbox is left."""

    def __init__(self, body: Body, first: Callable[[], Awaitable[Any]], *, on_gone: Callable[[Keeper], None]) -> None:
        self.body = body
        self.gone = asyncio.Event()
        self.users = 0
        self.closing = False
        self._jobs: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = asyncio.Queue()
        self._doomed = asyncio.Event()
        self._left = False
        self._busy = True
        self._calls = Calls()
        self._on_gone = on_gone
        self._used_at = body.host.pacer.monotonic()
        self._slept_at = self._used_at
        self._alarm: Alarm | None = None
        self._watch = Watch(self._died)
        self._chore = Chore(body.note)
        self.ready: asyncio.Future[Any] = self._ask(first)
        # Whoever made the keeper may be gone before the first job ends; its outcome is in the record then.
        self.ready.add_done_callback(lambda done: done.cancelled() or done.exception())

    @property
    def state(self) -> State:
        """Where the sandbox is in its life."""
        return self.body.record.state

    @property
    def deadline(self) -> float | None:
        """Wall clock at which it is deleted, if nobody uses it before."""
        lifetime, record = self.body.record.spec.lifetime, self.body.record
        ends = [
            lifetime.expires_at,
            None if lifetime.ttl_s is None else record.created_at + lifetime.ttl_s,
            None if lifetime.ttl_idle_s is None or self.users else record.last_used_at + lifetime.ttl_idle_s,
        ]
        return min((end for end in ends if end is not None), default=None)

    # --- what others ask ---

    @asynccontextmanager
    async def use(self, *, long: bool = False) -> AsyncGenerator[Channel]:
        """Have it awake, and keep it awake, for the length of one call.

        Args:
            long: It may last for ever, like watching a folder: a standby that somebody asks for ends it.

        Raises:
            SandboxError: It could not be woken.
            SandboxStateError: Somebody put it to standby under the call.
        """
        self._begin_use()
        try:
            channel = self.body.channel
            with self._calls.entering(long=long) as call:
                if self._busy or self.state is not State.RUNNING or channel is None or channel.closed.is_set():

                    async def wake() -> None:
                        await self._wake()
                        call.begin()  # before the next job, which may be a standby

                    await self._ask(wake)
                    channel = self.body.channel
                    if channel is None:
                        raise SandboxLost("The machine of the sandbox died.")
                else:
                    call.begin()
                yield channel
        finally:
            self._end_use()

    async def resume(self) -> Receipt:
        """Wake it, or boot it again from its disk where it is failed: somebody said so."""
        self._begin_use()
        try:
            return await self._ask(lambda: self._wake(on_purpose=True))
        finally:
            self._end_use()

    async def standby(self, tier: State) -> None:
        """Put it to sleep at least so deep."""

        async def work() -> None:
            # A call that came before must not find a machine that stands still.
            await self._calls.short_ones_ended(DRAIN_S)
            await self._calls.interrupt()
            await self._sleep(tier)

        await self._ask(work)

    async def capture(self, folder: Path, about: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """Copy memory and disk of one instant to `folder`. Returns the manifest (not yet written) and the pause, s.

        When cancelled, nothing is written to `folder` any more, and the sandbox runs.
        """

        async def work() -> tuple[dict[str, Any], float]:
            await self._wake()
            await self._calls.short_ones_ended(DRAIN_S)
            return await self.body.capture(folder, about)

        self._begin_use()
        try:
            return await begun_or_never(self._ask, work)
        finally:
            self._end_use()

    async def update(self, change: Callable[[], None]) -> None:
        """Change the record, and have it on disk."""

        async def work() -> None:
            change()
            await self.body.write()

        await self._ask(work)

    async def delete(self) -> None:
        """Free everything, whatever is going on. Returns when nothing is left."""
        self.doom()
        await self.gone.wait()

    def doom(self) -> None:
        """Begin to free everything, and don't wait."""
        self._doomed.set()

    # --- the task ---

    async def run(self) -> None:
        """Own the sandbox until it is deleted. When cancelled (the supervisor ends), the machine is left as it is."""
        worker = asyncio.create_task(self._work())
        doom = asyncio.create_task(self._doomed.wait())
        try:
            while not self._doomed.is_set():
                await asyncio.wait({worker, doom}, return_when=asyncio.FIRST_COMPLETED)
                if worker.done():
                    _LOG.error("%s: its worker ended", self.body.record.id, exc_info=worker.exception())
                    worker = asyncio.create_task(self._work())
            await ended(worker)
            await self._leave()
            if self._doomed.is_set():
                await self._free_until_done()
        finally:
            await ended(worker, doom)
            await self._leave()
            await self.body.disconnect()

    async def _work(self) -> None:
        while True:
            if self._jobs.empty():
                self._busy = False
            job, answer = await self._jobs.get()
            self._busy = True
            if answer.cancelled():
                continue
            try:
                result = await job()
            except Exception as error:  # noqa: BLE001 - the asker gets it; the sandbox must stay owned
                told = error
                if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                    told = host_refused(error, "The host could not do it")
                    told.__cause__ = error
                if not isinstance(error, CallboxError):
                    _LOG.exception("%s: a step failed", self.body.record.id)
                if not answer.done():
                    answer.set_exception(told)
            else:
                if not answer.done():
                    answer.set_result(result)
            finally:
                # Nobody may wait for an answer that will not come.
                if not answer.done():
                    answer.set_exception(self._farewell())
                self._watch.over(self.body.machine)
            self._arm()

    def _farewell(self) -> CallboxError:
        return (
            SandboxNotFound("The sandbox was deleted.")
            if self._doomed.is_set()
            else SandboxLost("The supervisor ended.")
        )

    async def _leave(self) -> None:
        """End everything that runs on the keeper's behalf, and tell those who still wait."""
        self._left = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        await self._watch.end()
        await self._chore.end()
        while not self._jobs.empty():
            _, answer = self._jobs.get_nowait()
            if not answer.done():
                answer.set_exception(self._farewell())

    def _ask(self, job: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._doomed.is_set() or self._left:
            answer.set_exception(self._farewell())
        else:
            self._busy = True
            self._jobs.put_nowait((job, answer))
        return answer

    # --- waking ---

    async def _wake(self, *, on_purpose: bool = False) -> Receipt:
        """Have it run. Everybody who waits is served by the same wake: who comes later finds it running."""
        started = time.perf_counter()
        await self._chore.end()
        if self.state is State.RUNNING and await self._connection_holds(ask=on_purpose):
            return Receipt(
                tier="hot", ms=(time.perf_counter() - started) * 1_000, generation=self.body.record.generation
            )
        if self.closing:
            raise supervisor_ends()
        if self.state is State.HOT:
            try:
                return await self.body.thaw(started)
            except (SandboxLost, OSError) as error:
                await self._found_dead(str(error))
        if self.state in (State.WARM, State.COLD):
            receipt = await self.body.restore(started)
            self._chore.start(lambda _: self.body.clear_saved())
            return receipt
        if self.state is State.FAILED:
            return await self._reboot(started, on_purpose=on_purpose)
        raise SandboxStateError(f"The sandbox is {self.state}.", hint="Create another one.")

    async def _reboot(self, started: float, *, on_purpose: bool) -> Receipt:
        record = self.body.record
        if not (record.reboot_allowed or on_purpose):
            raise SandboxStateError(
                f"The sandbox failed: {record.reason}",
                hint="resume boots it from its disk, without its memory; delete frees it.",
            )
        try:
            return await self.body.reboot(started)
        except SandboxError as error:
            await self.body.break_down(f"It could not be booted again: {error.message}", reboot_allowed=False)
            raise

    async def _connection_holds(self, *, ask: bool) -> bool:
        """Whether a running sandbox can be talked to; makes the connection anew where only that was lost."""
        body = self.body
        if body.channel is not None and not body.channel.closed.is_set():
            if not ask:
                return True
            # The end of a machine is seen a moment after it: who resumes wants to know that it answers.
            with suppress(SandboxLost, TimeoutError):
                async with asyncio.timeout(body.host.settings.guest_timeout_s):
                    await body.channel.ping()
                return True
        if body.machine is not None:
            dead = asyncio.create_task(body.machine.wait_dead())
            try:
                if not await asyncio.wait_for(_as_bool(dead), DEATH_S if not body.machine.pids else 0.05):
                    return False
            except TimeoutError:
                with suppress(SandboxError, OSError):
                    await body.connect()
                    return True
            finally:
                await ended(dead)
        await self._found_dead("its connection broke")
        return False

    async def _found_dead(self, why: str) -> None:
        if self.state in (State.RUNNING, State.HOT):
            await self.body.break_down(f"The machine died: {why}", reboot_allowed=True)

    # --- falling asleep ---

    async def _sleep(self, tier: State) -> None:
        """Go down to `tier`, never up."""
        if self.state not in (State.RUNNING, *TIERS):
            raise SandboxStateError(f"A sandbox that is {self.state} cannot go to standby.", hint="Look at its state.")
        await self._chore.end(finish=self.state is State.WARM and tier is State.COLD and not self.users)
        try:
            if self.state is State.RUNNING and tier is State.HOT:
                await self.body.freeze()
            elif self.state in (State.RUNNING, State.HOT) and tier is not State.HOT:
                self.body.record.last_used_at = self._last_used_wall()
                await self.body.save()
                self._chore.start(self.body.checksum)
            if self.state is State.WARM and tier is State.COLD:
                await self._chore.end(finish=True)
                await self._complete()
                await self.body.evict()
        except SandboxLost as error:
            await self._found_dead(error.message)
            raise
        self._slept_at = self.body.host.pacer.monotonic()

    async def _complete(self) -> None:
        """Have checksums of what was saved. Who wants to use the sandbox need not wait for that."""
        stop = self._chore.stop
        stop.clear()
        if self.users or not await self.body.checksum(stop):
            raise SandboxInterrupted("A call woke the sandbox before it was cold.", hint="Ask again afterwards.")

    async def _rest(self) -> None:
        """The alarm rang: delete what has lived long enough, put to sleep what nobody uses."""
        host, lifetime = self.body.host, self.body.record.spec.lifetime
        deadline = self.deadline
        if deadline is not None and host.pacer.wall() >= deadline and self.state is State.RUNNING:
            # A process that is to be kept alive is a use, too.
            if lifetime.ttl_idle_s is not None and await self._has_kept_alive():
                self._touch()
            deadline = self.deadline
        if deadline is not None and host.pacer.wall() >= deadline:
            self.body.note("its time to live is over")
            self._doomed.set()
            return
        if self.state not in (State.RUNNING, State.HOT, State.WARM) or self.users:
            return
        now = host.pacer.monotonic()
        if self.state is State.RUNNING and now - self._used_at >= lifetime.idle_s:
            if await self._has_kept_alive():
                self._touch()
            elif not self.users:
                await self._sleep(State.HOT)
        elif self.state is State.HOT and now - self._slept_at >= lifetime.warm_after_s:
            await self._sleep(State.WARM)
        elif self.state is State.WARM and now - self._slept_at >= lifetime.cold_after_s:
            await self._sleep(State.COLD)

    async def _has_kept_alive(self) -> bool:
        channel = self.body.channel
        return channel is not None and await keeps_alive(channel, self.body.host.settings.guest_timeout_s)

    def _arm(self) -> None:
        """Order the next ring."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._doomed.is_set():
            return
        pacer, lifetime = self.body.host.pacer, self.body.record.spec.lifetime
        now, waits = pacer.monotonic(), [ALARM_S_MAX]
        if self.state is State.RUNNING and not self.users:
            waits.append(self._used_at + lifetime.idle_s - now)
        elif self.state is State.HOT:
            waits.append(self._slept_at + lifetime.warm_after_s - now)
        elif self.state is State.WARM:
            waits.append(self._slept_at + lifetime.cold_after_s - now)
        deadline = self.deadline
        if deadline is not None:
            waits.append(deadline - pacer.wall())
        elif self.state in (State.COLD, State.FAILED) or (self.state is State.RUNNING and self.users):
            return
        self._alarm = pacer.call_later(max(0.0, min(waits)), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        answer = self._ask(self._rest_or_retry)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _rest_or_retry(self) -> None:
        try:
            await self._rest()
        except (SandboxError, TimeoutError, OSError) as error:
            # A standby that failed is not urgent: the sandbox goes on, and is looked at again a little later.
            self.body.note(f"standby failed: {error}")
            retry_at = self.body.host.pacer.monotonic() + self.body.host.settings.retry_s
            lifetime = self.body.record.spec.lifetime
            self._used_at = max(self._used_at, retry_at - lifetime.idle_s)
            self._slept_at = max(self._slept_at, retry_at - lifetime.warm_after_s)

    def _begin_use(self) -> None:
        self.users += 1
        self._chore.stop.set()
        self._touch()

    def _end_use(self) -> None:
        self.users -= 1
        self._touch()
        if self._alarm is None and not self._busy:
            self._arm()

    def _touch(self) -> None:
        self._used_at = self.body.host.pacer.monotonic()
        self.body.record.last_used_at = self.body.host.pacer.wall()

    def _last_used_wall(self) -> float:
        pacer = self.body.host.pacer
        return pacer.wall() - (pacer.monotonic() - self._used_at)

    # --- what runs beside ---

    def _died(self, machine: Machine, why: str) -> None:
        async def work() -> None:
            if self.body.machine is machine:
                await self._found_dead(why)

        answer = self._ask(work)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    # --- the end ---

    async def _free_until_done(self) -> None:
        """Free everything. What fails is tried again, because nobody else would."""
        record = self.body.record
        record.state = State.STOPPING if record.state is State.STOPPING else next_state(record.state, Event.DELETED)
        while True:
            try:
                await self._free()
                break
            except Exception as error:  # noqa: BLE001 - others' sandboxes must go on
                known = isinstance(error, CallboxError | OSError)
                _LOG.warning("%s could not be freed yet: %s", record.id, error, exc_info=None if known else error)
                await asyncio.sleep(self.body.host.settings.retry_s)
        record.state = next_state(record.state, Event.FREED)
        self._on_gone(self)
        self.gone.set()

    async def _free(self) -> None:
        body, reach = self.body, self.body.host.points.reach
        try:
            await in_thread(strike_record, body.place)
        except OSError as error:
            # Then a next supervisor would find it again, if this one dies before the end.
            _LOG.warning("%s: its record could not be struck: %s", body.record.id, error)
        reach("delete.recorded")
        await body.kill()
        await body.driver.reap(body.place, machine_id_of(body.record.id))
        reach("delete.killed")
        await in_thread(remove_tree, body.place)
        reach("delete.removed")

    @property
    def must_be_laid_down(self) -> bool:
        """Whether it is awake, or may just be waking."""
        return self.state in HELD or (self._busy and self.state in ASLEEP)

    @property
    def counts_as_awake(self) -> bool:
        """Whether the supervisor must stay for it."""
        return self.state in HELD or self.state in AWAKE or self.deadline is not None


async def _as_bool(dead: asyncio.Task[str]) -> bool:
    await asyncio.wait({dead})
    return True
