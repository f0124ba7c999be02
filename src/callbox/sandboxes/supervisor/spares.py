"""Machines that are booted before anybody asks: one of each kind in use, more where a pool says so."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from callbox.errors import SandboxError, SandboxStateError
from callbox.sandboxes.driver import Driver, RootImage
from callbox.sandboxes.spec import SandboxLimits, SandboxSpec
from callbox.sandboxes.states import State
from callbox.sandboxes.supervisor.body import Body
from callbox.sandboxes.supervisor.disk_writes import in_thread, remove_tree
from callbox.sandboxes.supervisor.record import Record, new_sandbox_id
from callbox.sandboxes.supervisor.sharing import Host

_LOG = logging.getLogger("callbox.sandboxes.supervisor.spares")


@dataclass(slots=True, kw_only=True)
class Kind:
    """What a spare must have been booted with to become a certain sandbox. Everything else is told to it later."""

    driver: Driver
    how: str
    build: str
    image_name: str
    image: RootImage
    limits: SandboxLimits
    pool: int = 0
    used_at: float = -math.inf
    retry_at: float = 0.0
    failure: str = ""
    ready: list[Body] = field(default_factory=list[Body])

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two kinds the same."""
        return (self.build, *self.key_of_any_build)

    @property
    def key_of_any_build(self) -> tuple[Any, ...]:
        """The same, whatever was upgraded meanwhile."""
        return (self.driver.name, self.image.digest, self.limits)


class Spares:
    """The spares of one supervisor. `run` is the task that boots and drops them."""

    def __init__(self, host: Host, *, on_change: Callable[[], None] = lambda: None) -> None:
        self._host = host
        self._kinds: dict[tuple[Any, ...], Kind] = {}
        self._changed = asyncio.Event()
        self._counted = asyncio.Condition()
        self._on_change = on_change

    def take(self, kind: Kind) -> Body | None:
        """Have a spare of this kind, if one is ready. Call `replenish` when it is in use."""
        known = self._kinds.get(kind.key)
        return known.ready.pop(0) if known is not None and known.ready else None

    def replenish(self, kind: Kind) -> None:
        """See to it that a spare of this kind is ready the next time. Its boot competes with what runs now."""
        self._know(kind).used_at = self._host.pacer.monotonic()
        self._changed.set()

    async def set_pool(self, kind: Kind, size: int) -> int:
        """Keep `size` spares of this kind from now on; return how many are ready when that is done.

        Raises:
            SandboxStateError: More than a pool may have.
            SandboxError: They do not start.
        """
        if not 0 <= size <= self._host.settings.pool_max:
            raise SandboxStateError(
                f"A pool of {size} is not possible.", hint=f"Use 0 to {self._host.settings.pool_max}."
            )
        known = self._know(kind)
        known.pool, known.failure, known.retry_at = size, "", 0.0
        if not size:
            known.used_at = self._host.pacer.monotonic() - self._host.settings.spare_idle_s
        self._changed.set()
        async with self._counted:
            await self._counted.wait_for(
                lambda: known.pool != size or known.failure or len(known.ready) == self._wanted(known)
            )
        if known.failure:
            raise SandboxError(f"The pool could not be filled: {known.failure}")
        return len(known.ready)

    @property
    def ready(self) -> int:
        """How many stand by."""
        return sum(len(kind.ready) for kind in self._kinds.values())

    @property
    def wanted(self) -> int:
        """How many there will be when all have booted."""
        return sum(self._wanted(kind) for kind in self._kinds.values())

    def counts(self) -> list[dict[str, Any]]:
        """What is kept, for the status."""
        return [
            {"driver": kind.driver.name, "image": kind.image_name, "ready": len(kind.ready), "pool": kind.pool}
            for kind in self._kinds.values()
        ]

    async def run(self) -> None:
        """Boot what is missing and drop what nobody needs, until cancelled; then free all."""
        try:
            while True:
                self._changed.clear()
                for kind in list(self._kinds.values()):
                    await self._adjust(kind)
                try:
                    async with asyncio.timeout(self._host.settings.retry_s):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            for kind in self._kinds.values():
                while kind.ready:
                    await self._drop(kind.ready.pop())

    def _know(self, kind: Kind) -> Kind:
        if kind.key not in self._kinds:
            for other in self._kinds.values():
                if other.key_of_any_build == kind.key_of_any_build:
                    # The agent was upgraded: what was booted with the old one is of no use to anybody.
                    kind.pool, other.pool, other.used_at = max(kind.pool, other.pool), 0, -math.inf
        return self._kinds.setdefault(kind.key, kind)

    def _wanted(self, kind: Kind) -> int:
        now = self._host.pacer.monotonic()
        latest = sorted(self._kinds.values(), key=lambda each: each.used_at)[-self._host.settings.spare_kinds_max :]
        in_use = kind in latest and now - kind.used_at < self._host.settings.spare_idle_s
        return max(kind.pool, 1 if in_use else 0)

    async def _adjust(self, kind: Kind) -> None:
        wanted = self._wanted(kind)
        while len(kind.ready) > wanted:
            await self._drop(kind.ready.pop())
        missing = min(wanted - len(kind.ready), self._host.settings.boots_at_once)
        if missing > 0 and self._host.pacer.monotonic() >= kind.retry_at:
            await asyncio.gather(*(self._boot(kind) for _ in range(missing)))
            if wanted > len(kind.ready):
                self._changed.set()
        if not wanted and not kind.ready:
            self._kinds.pop(kind.key, None)
        async with self._counted:
            self._counted.notify_all()

    async def _boot(self, kind: Kind) -> None:
        now = self._host.pacer.wall()
        new = new_sandbox_id()
        record = Record(
            id=new, name=new, state=State.CREATING, driver=kind.driver.name, how=kind.how, image=kind.image,
            spec=SandboxSpec(image=kind.image_name, limits=kind.limits), created_at=now, last_used_at=now, spare=True,
        )  # fmt: skip
        body = Body(self._host, record, kind.driver)
        try:
            await body.place_anew()
            await body.boot()
            self._host.points.reach("spare.booted")
            await _stand_by(body)
            self._host.points.reach("spare.frozen")
        except Exception as error:  # noqa: BLE001 - a spare is a favour: its failure ends nothing
            known = isinstance(error, SandboxError | OSError)
            _LOG.warning(
                "no spare for %s on %s: %s", kind.image_name, kind.driver.name, error, exc_info=None if known else error
            )
            kind.failure = str(error) or repr(error)
            kind.retry_at = self._host.pacer.monotonic() + self._host.settings.retry_s
            await self._drop(body)
        except BaseException:
            await self._drop(body)
            raise
        else:
            kind.ready.append(body)
            self._on_change()

    async def _drop(self, body: Body) -> None:
        try:
            await body.kill()
            await in_thread(remove_tree, body.place)
        except Exception:  # noqa: BLE001 - whatever a driver fails with
            # Its record says that nobody uses it: the next start frees it.
            _LOG.exception("spare %s could not be freed", body.record.id)


async def _stand_by(body: Body) -> None:
    """Freeze a machine that has just booted, until somebody needs one. It awaits its repair since its boot."""
    assert body.machine is not None
    await body.machine.freeze()
    body.frozen = True


async def take_over(body: Body) -> None:
    """Let a machine that stood by go on; if it died meanwhile, boot another one in its place."""
    assert body.machine is not None
    try:
        await body.machine.thaw()
        body.frozen = False
        if body.channel is None or body.channel.closed.is_set():
            await body.connect()
    except (SandboxError, OSError) as error:
        body.note(f"the spare was dead: {error}")
        await body.kill()
        await in_thread(remove_tree, body.place)
        await body.place_anew()
        await body.boot()
    body.host.points.reach("spare.taken")
