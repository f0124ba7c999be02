"""Named snapshots: memory and disk of one instant in a folder of their own, restored as often as one likes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbox.errors import SandboxError, SandboxExists, SandboxNotFound, SandboxStateError, SnapshotRefused
from callbox.ids import new_id
from callbox.sandboxes.driver import Driver, MachineSpec
from callbox.sandboxes.spec import check_name
from callbox.sandboxes.supervisor import saved
from callbox.sandboxes.supervisor.disk_writes import in_thread, remove_tree, rename_durably
from callbox.sandboxes.supervisor.keeper import Keeper
from callbox.sandboxes.supervisor.record import image_to_json, spec_to_json
from callbox.sandboxes.supervisor.sharing import Host

NEW = ".new"
"""End of the name of a folder that is not complete: removed at the next start."""


class Snapshots:
    """The snapshots of one home."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._folder = host.home.snapshots
        self._taking: set[str] = set()
        self._users: dict[str, int] = {}
        self._going: set[str] = set()

    async def take(self, keeper: Keeper, name: str | None) -> dict[str, Any]:
        """Capture a sandbox under a name; it goes on.

        Raises:
            SandboxExists: The name is taken.
        """
        new = new_id("snap")
        name = new if name is None else check_name(name)
        if name in self._taking or any(each["name"] == name for each in await self.list()):
            raise SandboxExists(f"There is a snapshot {name!r} already.", hint="Remove it, or choose another name.")
        self._taking.add(name)
        part = self._folder / (new + NEW)
        try:
            manifest, pause_s = await self.capture(keeper, part, id=new, name=name)
            await in_thread(saved.add_checksums, part, manifest)
            await in_thread(saved.write_manifest, part, manifest)
            self._host.points.reach("snapshot.sealed")
            await in_thread(rename_durably, part, self._folder / new)
            self._host.points.reach("snapshot.named")
        finally:
            self._taking.discard(name)
            await in_thread(remove_tree, part)
        return _info(manifest) | {"pause_ms": pause_s * 1_000}

    async def capture(self, keeper: Keeper, folder: Path, **about: Any) -> tuple[dict[str, Any], float]:
        """Write memory and disk of a sandbox to the new `folder`. Returns manifest (not written) and pause, s."""
        record = keeper.body.record
        about |= {
            "created_at": self._host.pacer.wall(),
            "driver": record.driver,
            "how": record.how,
            "image": image_to_json(record.image),
            "spec": spec_to_json(record.spec),
            "sandbox": record.id,
        }
        await in_thread(lambda: folder.mkdir(parents=True, mode=0o700))
        return await keeper.capture(folder, about)

    async def list(self) -> list[dict[str, Any]]:
        """All of them, oldest first; one that cannot be read has a `reason` instead of a content."""
        return sorted(await in_thread(self._read_all), key=lambda each: (each["created_at"], each["id"]))

    async def get(self, name: str) -> dict[str, Any]:
        """One of them, by name or id.

        Raises:
            SandboxNotFound: There is none.
        """
        for each in await self.list():
            if name in (each["id"], each["name"]):
                return each
        raise _not_found(name)

    async def remove(self, name: str) -> None:
        """Remove one for good.

        Raises:
            SandboxStateError: It is being restored now.
        """
        found = (await self.get(name))["id"]
        if self._users.get(found):
            raise SandboxStateError("The snapshot is being restored.", hint="Remove it afterwards.")
        if found in self._going:
            raise _not_found(name)
        # Renamed first, so that it is there or not, never half.
        going = self._folder / (found + NEW)
        self._going.add(found)
        try:
            await in_thread(rename_durably, self._folder / found, going)
            await in_thread(remove_tree, going)
        except FileNotFoundError:
            raise _not_found(name) from None
        finally:
            self._going.discard(found)

    async def manifest_of(self, snapshot_id: str) -> dict[str, Any]:
        """Read the manifest of one.

        Raises:
            SnapshotRefused: It is damaged.
        """
        manifest = await in_thread(saved.read_manifest, self._folder / snapshot_id)
        if manifest is None:
            raise SnapshotRefused("The snapshot is damaged: it has no manifest.")
        return manifest

    async def verified(self, snapshot_id: str, manifest: Mapping[str, Any], driver: Driver, spec: MachineSpec) -> Path:
        """Read all of a snapshot; return its folder if a machine like `spec` may be restored from it.

        Raises:
            SnapshotRefused: It is damaged, or was made by something else.
        """
        folder = self._folder / snapshot_id
        if not await in_thread(spec.image.rootfs.is_dir):
            raise SnapshotRefused(
                f"The snapshot depends on the image {spec.image.digest[:12]}, which is not here.",
                hint="Import or build that image again; its digest must be the same.",
            )
        saved.check_fingerprint(manifest, await driver.fingerprint(spec))
        await in_thread(lambda: saved.check_files(folder, manifest, thorough=True))
        return folder

    async def hold(self, name: str) -> str:
        """Find one by name or id, that is not removed until `release`. Returns its id.

        Raises:
            SandboxNotFound: There is none, or not any more.
        """
        found = (await self.get(name))["id"]
        # It may have been removed since it was listed.
        if found in self._going or not (self._folder / found).is_dir():
            raise _not_found(name)
        self._users[found] = self._users.get(found, 0) + 1
        return found

    def release(self, snapshot_id: str) -> None:
        """Let it be removed: see `hold`."""
        self._users[snapshot_id] -= 1
        if not self._users[snapshot_id]:
            del self._users[snapshot_id]

    def fork_folder(self) -> Path:
        """A folder for a capture that lasts as long as a fork."""
        return self._folder / (new_id("fork") + NEW)

    def _read_all(self) -> list[dict[str, Any]]:
        infos: list[dict[str, Any]] = []
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.name.endswith(NEW) or not folder.is_dir():
                continue
            try:
                manifest = saved.read_manifest(folder)
                if manifest is None:
                    raise SnapshotRefused("The snapshot is damaged: it has no manifest.")
                infos.append(_info(manifest) | {"id": folder.name})
            except SandboxError as error:
                infos.append(_unreadable(folder.name, error.message))
            except (KeyError, TypeError, AttributeError):
                infos.append(_unreadable(folder.name, "The manifest of the snapshot is damaged: fields are missing."))
        return infos


def _not_found(name: str) -> SandboxNotFound:
    return SandboxNotFound(f"There is no snapshot {name!r}.", hint="List them: callbox sandbox ls --snapshots")


def _unreadable(name: str, reason: str) -> dict[str, Any]:
    return {
        "id": name, "name": name, "created_at": 0.0, "image": "", "driver": "", "sandbox": "", "size_bytes": 0,
        "spec": {}, "reason": reason,
    }  # fmt: skip


def _info(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": manifest["id"],
        "name": manifest["name"],
        "created_at": manifest["created_at"],
        "image": manifest["spec"]["image"],
        "driver": manifest["driver"],
        "sandbox": manifest["sandbox"],
        "size_bytes": sum(each["size"] for each in manifest["files"].values()),
        "spec": manifest["spec"],
    }
