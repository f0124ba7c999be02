"""All sandboxes of one home: their names, their keepers, and how new ones come to be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from callbox.errors import (
    CallboxError,
    ConfigurationError,
    SandboxError,
    SandboxExists,
    SandboxNotFound,
    SandboxStateError,
)
from callbox.sandboxes.driver import Driver, RootImage
from callbox.sandboxes.spec import SandboxSpec, check_name
from callbox.sandboxes.states import State
from callbox.sandboxes.supervisor.body import Body
from callbox.sandboxes.supervisor.disk_writes import in_thread, remove_tree
from callbox.sandboxes.supervisor.drivers import Drivers
from callbox.sandboxes.supervisor.keeper import Keeper
from callbox.sandboxes.supervisor.reaper import recover, sweep
from callbox.sandboxes.supervisor.record import Record, image_from_json, new_sandbox_id, spec_from_json
from callbox.sandboxes.supervisor.sharing import Host, Receipt, supervisor_ends
from callbox.sandboxes.supervisor.snapshots import Snapshots
from callbox.sandboxes.supervisor.spares import Kind, Spares, take_over

_LOG = logging.getLogger("callbox.sandboxes.supervisor.fleet")


class Fleet:
    """The sandboxes of a supervisor. Its keepers are tasks of the group that `open` was given."""

    def __init__(self, host: Host, drivers: Drivers, images: Callable[[str], RootImage]) -> None:
        self.host = host
        self.drivers = drivers
        self.snapshots = Snapshots(host)
        self.spares = Spares(host)
        self._images = images
        self._keepers: dict[str, Keeper] = {}
        self._names: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._spares_task: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        """Take over what the last supervisor left, and begin to keep spares."""
        self._group = tasks
        for body in await sweep(self.host, self.drivers):
            if body.record.name in self._names:
                # Two records of one name: the older one keeps it, the other is found by its id.
                body.record.name = body.record.id
            self._keep(body, lambda body=body: recover(body))
        self._spares_task = tasks.create_task(self.spares.run())

    async def close(self) -> None:
        """Stop in good order: save what is awake, freeze what cannot be saved in time. Nothing begins from now on."""
        self._closing = True
        for keeper in self._keepers.values():
            keeper.closing = True
        if self._spares_task is not None:
            self._spares_task.cancel()
            await asyncio.wait({self._spares_task})
        awake = [keeper for keeper in self._keepers.values() if keeper.must_be_laid_down]
        try:
            async with asyncio.timeout(self.host.settings.stop_s):
                turn = asyncio.Semaphore(self.host.settings.restores_at_once)
                await asyncio.gather(*(self._lay_down(keeper, turn) for keeper in awake))
        except TimeoutError:
            _LOG.warning("not everything could be saved within %g s", self.host.settings.stop_s)
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def find(self, sandbox: Any, *, stopping: bool = False) -> Keeper:
        """The keeper of a sandbox, by id or name; with `stopping`, also of one that is being deleted.

        Raises:
            SandboxNotFound: There is none.
        """
        if isinstance(sandbox, str):
            keeper = self._keepers.get(self._names.get(sandbox, sandbox))
            if keeper is not None and (stopping or keeper.state not in (State.STOPPING, State.GONE)):
                return keeper
        raise SandboxNotFound(f"There is no sandbox {sandbox!r}.", hint="List them: callbox sandbox ls")

    def all(self) -> list[Keeper]:
        """Every sandbox, oldest first."""
        return sorted(self._keepers.values(), key=lambda keeper: keeper.body.record.created_at)

    @property
    def must_stay(self) -> bool:
        """Whether something is awake, or has a deadline that somebody must keep."""
        return any(keeper.counts_as_awake for keeper in self._keepers.values())

    async def kind_of(self, spec: SandboxSpec) -> Kind:
        """What a machine for `spec` must be booted with."""
        driver, probe = await self.drivers.choose(spec.driver)
        image = await in_thread(self._images, spec.image)
        return Kind(
            driver=driver, how=probe.how, build=await driver.build(), image_name=spec.image, image=image,
            limits=spec.limits,
        )  # fmt: skip

    async def create(self, spec: SandboxSpec) -> tuple[Keeper, Receipt]:
        """Make a new sandbox; from a spare where there is one."""
        started = time.perf_counter()
        with self._reserved(spec.name):
            kind = await self.kind_of(spec)
            self._check_open()
            spare = self.spares.take(kind)
            record = self._record(spec, kind.driver, kind.how, kind.image)
            if spare is not None:
                record.id = spare.record.id
                record.name = spec.name or record.id
                record.generation_reserved = spare.record.generation_reserved
                spare.record = record
            body = spare or Body(self.host, record, kind.driver)

            async def begin() -> Receipt:
                if spare is not None:
                    await take_over(body)
                else:
                    await body.place_anew()
                    await body.boot()
                    self.host.points.reach("create.booted")
                return await body.begin("new", started)

            keeper = self._keep(body, begin)
        receipt = await self._born(keeper)
        # Not earlier: what boots now would slow down what somebody waits for.
        self.spares.replenish(kind)
        return keeper, receipt

    async def fork(self, parent: Keeper, count: Any, names: Any) -> tuple[list[Keeper], float]:
        """Make `count` children of one instant of a sandbox. All of them or none. Returns them and the pause, ms."""
        most = self.host.settings.fork_max
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
            raise ConfigurationError(f"A fork of {count!r} is not possible.", hint=f"Use 1 to {most}.")
        if names is not None and not _are_names(names, count):
            raise ConfigurationError("names must be as many different names as children.")
        given = cast("list[str | None]", names or [None] * count)
        folder = self.snapshots.fork_folder()
        record = parent.body.record

        async def folder_ready() -> Path:
            return folder

        try:
            with ExitStack() as names_held:
                for name in given:
                    names_held.enter_context(self._reserved(None if name is None else check_name(name), count))
                manifest, pause_s = await self.snapshots.capture(parent, folder)
                specs = [replace(record.spec, name=name) for name in given]
                keepers = [
                    self._branch(spec, parent.body.driver, record.how, record.image, manifest, folder_ready)
                    for spec in specs
                ]
            await self._all_born(keepers)
        finally:
            await in_thread(remove_tree, folder)
        return keepers, pause_s * 1_000

    async def restore(self, snapshot: str, changes: Mapping[str, Any]) -> tuple[Keeper, Receipt]:
        """Make a new sandbox from a named snapshot.

        Raises:
            SnapshotRefused: It is damaged, or was made by something else.
        """
        snapshot_id = await self.snapshots.hold(snapshot)
        try:
            manifest = await self.snapshots.manifest_of(snapshot_id)
            unknown = set(changes) - {"name", "labels", "lifetime"}
            if unknown:
                raise ConfigurationError(
                    f"A restore cannot change {', '.join(sorted(unknown))}.", hint="name, labels and lifetime it can."
                )
            spec = spec_from_json({**manifest["spec"], "name": None, **changes})
            driver = self.drivers.get(manifest["driver"])
            if driver is None:
                raise SandboxError(f"The snapshot needs the driver {manifest['driver']!r}, which is not here.")
            ends = spec.lifetime.expires_at
            if "lifetime" not in changes and ends is not None and ends <= self.host.pacer.wall():
                # It was the original's. A child that has none of its own would be deleted at once.
                spec = replace(spec, lifetime=replace(spec.lifetime, expires_at=None))
            with self._reserved(spec.name):
                image = image_from_json(manifest["image"])
                keeper = self._branch(
                    spec, driver, manifest["how"], image, manifest,
                    lambda: self.snapshots.verified(snapshot_id, manifest, driver, keeper.body.machine_spec),
                )  # fmt: skip
            return keeper, await self._born(keeper)
        finally:
            self.snapshots.release(snapshot_id)

    # --- parts ---

    def _branch(
        self, spec: SandboxSpec, driver: Driver, how: str, image: RootImage, manifest: Mapping[str, Any],
        folder: Callable[[], Awaitable[Path]],
    ) -> Keeper:  # fmt: skip
        self._check_open()
        started = time.perf_counter()
        record = self._record(spec, driver, how, image)
        record.generation = record.generation_reserved = manifest["generation"]
        body = Body(self.host, record, driver)

        async def begin() -> Receipt:
            source = await folder()
            await body.place_anew()
            return await body.branch(source, started)

        return self._keep(body, begin)

    async def _born(self, keeper: Keeper) -> Receipt:
        """Wait until a new sandbox runs. If it does not, or nobody waits any more, nothing of it is left."""
        try:
            return await keeper.ready
        except asyncio.CancelledError:
            keeper.doom()
            raise
        except Exception:
            await keeper.delete()
            raise

    async def _all_born(self, keepers: Sequence[Keeper]) -> None:
        try:
            results = await asyncio.gather(*(keeper.ready for keeper in keepers), return_exceptions=True)
        except asyncio.CancelledError:
            for keeper in keepers:
                keeper.doom()
            raise
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await asyncio.gather(*(keeper.delete() for keeper in keepers))
            raise failures[0]

    def _keep(self, body: Body, first: Callable[[], Awaitable[Any]]) -> Keeper:
        keeper = Keeper(body, first, on_gone=self._forget)
        self._keepers[body.record.id] = keeper
        self._names[body.record.name] = body.record.id
        self._tasks[body.record.id] = self._group.create_task(_owned(keeper))
        return keeper

    def _forget(self, keeper: Keeper) -> None:
        record = keeper.body.record
        self._keepers.pop(record.id, None)
        self._tasks.pop(record.id, None)
        if self._names.get(record.name) == record.id:
            del self._names[record.name]

    def _record(self, spec: SandboxSpec, driver: Driver, how: str, image: RootImage) -> Record:
        now, new = self.host.pacer.wall(), new_sandbox_id()
        return Record(
            id=new, name=spec.name or new, state=State.CREATING, driver=driver.name, how=how, spec=spec, image=image,
            created_at=now, last_used_at=now,
        )  # fmt: skip

    def _check_open(self) -> None:
        if self._closing:
            raise supervisor_ends()

    def _check_free(self, name: str | None, count: int) -> None:
        if name is not None and (name in self._names or name in self._keepers):
            raise SandboxExists(
                f"There is a sandbox {name!r} already.", hint="Open it, delete it, or choose another name."
            )
        if len(self._keepers) + count > self.host.settings.sandboxes_max:
            raise SandboxStateError(
                f"There are {len(self._keepers)} sandboxes already, as many as there may be.", hint="Delete some."
            )

    def _reserved(self, name: str | None, count: int = 1) -> _Reservation:
        self._check_free(name, count)
        return _Reservation(self._names, name)

    async def _lay_down(self, keeper: Keeper, turn: asyncio.Semaphore) -> None:
        async with turn:
            if keeper.state is State.CREATING:
                keeper.doom()
                return
            for tier in (State.WARM, State.HOT):
                try:
                    await keeper.standby(tier)
                    return
                except CallboxError as error:
                    keeper.body.note(f"could not go to {tier} standby at the end of the supervisor: {error.message}")


async def _owned(keeper: Keeper) -> None:
    """Run a keeper; whatever it fails with, the others go on."""
    try:
        await keeper.run()
    except Exception:  # noqa: BLE001 - see above
        _LOG.exception("the keeper of %s ended", keeper.body.record.id)


def _are_names(names: Any, count: int) -> bool:
    if not isinstance(names, list):
        return False
    each = cast("list[Any]", names)
    return all(isinstance(name, str) for name in each) and len(each) == count == len(set(each))


class _Reservation:
    """Keeps a name from others while its sandbox is not there yet."""

    def __init__(self, names: dict[str, str], name: str | None) -> None:
        self._names = names
        self._name = name

    def __enter__(self) -> None:
        if self._name is not None:
            self._names[self._name] = ""

    def __exit__(self, *_: object) -> None:
        # By now the keeper has put its id there, or nobody has.
        if self._name is not None and self._names.get(self._name) == "":
            del self._names[self._name]
