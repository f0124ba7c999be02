"""What a new supervisor finds: machines that ran on, work that was half done, and things that belong to nobody."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from callbox.errors import SandboxError, SandboxStateError
from callbox.sandboxes.driver import Driver, Machine, MachineSpec, Probe, RootImage
from callbox.sandboxes.home import Home
from callbox.sandboxes.host.disks import sync_path
from callbox.sandboxes.spec import SandboxSpec
from callbox.sandboxes.states import State
from callbox.sandboxes.supervisor import saved
from callbox.sandboxes.supervisor.body import Body
from callbox.sandboxes.supervisor.disk_writes import in_thread, remove_tree, rename_durably, sync_tree
from callbox.sandboxes.supervisor.drivers import Drivers
from callbox.sandboxes.supervisor.record import Record, is_sandbox_id, machine_id_of, read_record
from callbox.sandboxes.supervisor.saving import commit, intended
from callbox.sandboxes.supervisor.sharing import Host, Receipt
from callbox.sandboxes.supervisor.snapshots import NEW

_LOG = logging.getLogger("callbox.sandboxes.supervisor.reaper")

_UNFINISHED = (State.CREATING, State.STOPPING, State.GONE)
"""Nobody was ever told of these, or somebody was told that they are gone."""


class Remains(Body):
    """A sandbox whose record cannot be read, or whose driver is not here: it is listed and can be deleted, no more."""

    async def write(self) -> None:
        """Keep the record as it was found, whoever may still read it."""
        raise SandboxStateError(f"The sandbox failed: {self.record.reason}", hint="Delete it, or repair its record.")

    async def reboot(self, started: float) -> Receipt:  # noqa: ARG002
        """Refuse: nobody knows what to boot."""
        raise SandboxStateError(f"The sandbox failed: {self.record.reason}", hint="Delete it, or repair its record.")


class EveryDriver:
    """Reaps with all drivers, for a machine of which nobody knows whose it is. Makes none."""

    name = "unknown"

    def __init__(self, drivers: list[Driver]) -> None:
        self._drivers = drivers

    async def reap(self, place: Path, machine_id: str) -> int:
        """See `Driver.reap`."""
        return sum([await driver.reap(place, machine_id) for driver in self._drivers])

    async def probe(self) -> Probe:
        """See `Driver.probe`."""
        return Probe(usable=False, how="", secure=False, why="Nobody knows its driver.")

    async def fingerprint(self, spec: MachineSpec) -> Mapping[str, str]:  # noqa: ARG002
        """See `Driver.fingerprint`."""
        raise SandboxStateError("Nobody knows the driver of this sandbox.")

    async def build(self) -> str:
        """See `Driver.build`."""
        raise SandboxStateError("Nobody knows the driver of this sandbox.")

    async def boot(self, spec: MachineSpec) -> Machine:  # noqa: ARG002
        """See `Driver.boot`."""
        raise SandboxStateError("Nobody knows the driver of this sandbox.")

    async def restore(self, spec: MachineSpec, saved: Path) -> Machine:  # noqa: ARG002
        """See `Driver.restore`."""
        raise SandboxStateError("Nobody knows the driver of this sandbox.")

    async def adopt(self, spec: MachineSpec) -> Machine | None:  # noqa: ARG002
        """See `Driver.adopt`."""
        return None

    async def saved_whole(self, spec: MachineSpec, into: Path) -> bool:  # noqa: ARG002
        """See `Driver.saved_whole`."""
        return False


async def sweep(host: Host, drivers: Drivers) -> list[Body]:
    """Free what belongs to nobody, and return the sandboxes that there are. They still have to be recovered."""
    await in_thread(_clean_snapshots, host.home.snapshots)
    everybody = EveryDriver(drivers.all())
    bodies: list[Body] = []
    for place in await in_thread(_places, host.home.sandboxes):
        body = await in_thread(_read, host, drivers, everybody, place)
        if body is None:
            await _free(everybody, place)
        else:
            bodies.append(body)
    known = {body.record.id for body in bodies}
    for stray in await in_thread(_strays, host.home) - known:
        await _free(everybody, host.home.sandboxes / stray)
    return bodies


async def _free(everybody: EveryDriver, place: Path) -> None:
    try:
        found = await everybody.reap(place, machine_id_of(place.name))
        await in_thread(remove_tree, place)
    except Exception:  # noqa: BLE001 - whatever a driver fails with
        # The others are not to wait for it; the next start tries again.
        _LOG.exception("%s could not be freed", place.name)
    else:
        _LOG.info("freed %s and %d things of it: nobody was told of it, or it was deleted", place.name, found)


async def recover(body: Body) -> None:
    """Find out what a sandbox is now, and make its record say so. Its machine is taken over if it runs."""
    record = body.record
    if isinstance(body, Remains) or record.state is State.FAILED:
        await body.kill()
        return
    asleep = record.state in (State.WARM, State.COLD) and not record.waking
    if asleep:
        await body.kill()
        await in_thread(remove_tree, body.place / "state.new")
        return
    # The last use was not written each time either: nobody's time to live is over because of that.
    record.last_used_at = max(record.last_used_at, body.host.pacer.wall())
    # Numbers up to the reserved one may have been told to the guest; the record was not written each time.
    record.generation = record.generation_reserved
    failure = "Its machine ended while there was no supervisor."
    try:
        # Before anything is adopted: a machine whose memory is whole may still stand there, and must not run again.
        adopted = not await _commit_whole(body) and await body.adopt()
    except (SandboxError, OSError) as error:
        if body.record.reason is not None:
            return  # it has failed, and its record says why
        adopted, failure = False, f"Its machine could not be taken over: {error}"
    if adopted:
        body.note("taken over by a new supervisor")
        await in_thread(remove_tree, body.place / "state.new")
        await body.clear_saved()
        return
    await body.kill()
    await in_thread(_finish_save, body)
    if not await in_thread(_has_saved, body):
        await body.break_down(failure, reboot_allowed=True)
    elif record.waking:
        await body.settle_doubt(failure)
    else:
        record.state = State.WARM
        body.note("was being saved when the supervisor died; that is complete")
        await body.write()


def _read(host: Host, drivers: Drivers, everybody: EveryDriver, place: Path) -> Body | None:
    try:
        record = read_record(place)
    except SandboxError as error:
        return Remains(host, _epitaph(place, error.message), everybody)
    if record is None or record.state in _UNFINISHED or record.spare:
        return None
    driver = drivers.get(record.driver)
    if driver is None:
        record.state, record.reason = State.FAILED, f"There is no driver {record.driver!r} here."
        return Remains(host, record, everybody)
    return Body(host, record, driver)


def _epitaph(place: Path, reason: str) -> Record:
    when = place.stat().st_mtime
    return Record(
        id=place.name, name=place.name, state=State.FAILED, driver="unknown", how="", spec=SandboxSpec(),
        image=RootImage(digest="", rootfs=place, disk=None), created_at=when, last_used_at=when, reason=reason,
    )  # fmt: skip


def _places(sandboxes: Path) -> list[Path]:
    if not sandboxes.is_dir():
        return []
    return sorted(each for each in sandboxes.iterdir() if is_sandbox_id(each.name) and each.is_dir())


def _clean_snapshots(folder: Path) -> None:
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.name.endswith(NEW):
            remove_tree(each)


async def _commit_whole(body: Body) -> bool:
    """Complete a save whose supervisor died while, or after, the driver wrote the memory. False if there is none."""
    folder = body.place / "state.new"
    fingerprint = await in_thread(intended, folder, body.record)
    if fingerprint is None or not await body.driver.saved_whole(body.machine_spec, folder / saved.MACHINE):
        return False
    await body.kill()
    await in_thread(sync_tree, folder)
    await in_thread(sync_path, body.place / "disk.img")
    await in_thread(commit, body.place, folder, body.record, fingerprint, body.host.points.reach)
    return True


def _finish_save(body: Body) -> None:
    """Complete a save whose memory is on disk with its manifest; remove one that is not."""
    new = body.place / "state.new"
    try:
        manifest = saved.read_manifest(new)
    except SandboxError:
        manifest = None
    if manifest is not None and manifest.get("serial") == body.record.serial:
        remove_tree(body.saved_folder)
        rename_durably(new, body.saved_folder)
    else:
        remove_tree(new)


def _has_saved(body: Body) -> bool:
    """Whether its memory is on disk, of the moment that the record speaks of."""
    try:
        manifest = saved.read_manifest(body.saved_folder)
    except SandboxError:
        return False
    return manifest is not None and manifest.get("serial") == body.record.serial


def _strays(home: Home) -> set[str]:
    """Ids of sandboxes that processes or mounts of this host mention, below this home."""
    pattern = re.compile(re.escape(bytes(home.sandboxes)) + rb"/(box_[a-z2-7]{26})(?![a-z2-7])")
    found: set[str] = set()
    sources = [Path("/proc/self/mounts")]
    sources += [
        each / name for each in Path("/proc").iterdir() if each.name.isdigit() for name in ("cmdline", "environ")
    ]
    for source in sources:
        try:
            text = source.read_bytes()
        except OSError:
            continue  # it ended, or is not ours
        found.update(match.decode() for match in pattern.findall(text))
    return found
