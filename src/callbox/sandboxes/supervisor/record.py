"""What the host remembers of a sandbox: one small file, replaced as a whole, written by its keeper only."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from base64 import b32decode, b32encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from callbox.errors import CallboxError, ConfigurationError, SandboxError
from callbox.sandboxes.driver import RootImage
from callbox.sandboxes.home import Home
from callbox.sandboxes.spec import Lifetime, SandboxLimits, SandboxSpec
from callbox.sandboxes.states import State
from callbox.sandboxes.supervisor.disk_writes import put_staged, rename_durably, stage_json, write_json

RECORD = "record.json"
FORMAT = 1
"""Version of the file. Another one is shown as failed, and left alone."""

_ID = re.compile(r"box_[a-z2-7]{26}\Z")


@dataclass(slots=True, kw_only=True)
class Record:
    """One sandbox.

    Attributes:
        id: ``box_`` and 26 characters, also the name of its folder.
        name: What it is called; its id where it got no name.
        image: The image of that moment: an image of the same name may be another one later.
        generation_reserved: Every generation up to this one may have been told to a guest.
        serial: How often memory was brought back. Saved memory of another serial is void.
        waking: A restore was begun; whether it ran is to be found out.
        reboot_allowed: A call may boot it again from its disk (state failed only).
        spare: A machine that belongs to no sandbox yet.
        fingerprint: What the machine's saved memory depends on.
    """

    id: str
    name: str
    state: State
    driver: str
    how: str
    spec: SandboxSpec
    image: RootImage
    created_at: float
    last_used_at: float
    generation: int = 0
    generation_reserved: int = 0
    serial: int = 0
    waking: bool = False
    reboot_allowed: bool = False
    spare: bool = False
    reason: str | None = None

    def info(self) -> dict[str, Any]:
        """What clients see."""
        return {
            "id": self.id,
            "name": self.name,
            "image": self.spec.image,
            "driver": self.driver,
            "how": self.how,
            "state": str(self.state),
            "created_at": self.created_at,
            "last_used_at": self.last_used_at,
            "labels": dict(self.spec.labels),
            "spec": spec_to_json(self.spec),
            "generation": self.generation,
            **({"reason": self.reason} if self.reason else {}),
        }

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        plain = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return plain | {
            "format": FORMAT,
            "state": str(self.state),
            "spec": spec_to_json(self.spec),
            "image": image_to_json(self.image),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Record:
        """Read the file's content.

        Raises:
            SandboxError: Another version, or not a record.
        """
        if value.get("format") != FORMAT:
            raise SandboxError(f"The record has format {value.get('format')!r}; this callbox reads {FORMAT}.")
        try:
            known = {each.name: value[each.name] for each in dataclasses.fields(cls)}
            known["state"] = State(known["state"])
            known["spec"] = spec_from_json(known["spec"])
            known["image"] = image_from_json(known["image"])
            return cls(**known)
        except (KeyError, TypeError, ValueError, CallboxError) as error:
            raise SandboxError(f"The record is damaged: {error!r}.") from error


def read_record(place: Path) -> Record | None:
    """Read the record in a sandbox's folder; None where there is none.

    Raises:
        SandboxError: It cannot be read, or belongs to another folder.
    """
    try:
        value = json.loads((place / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SandboxError(f"The record is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise SandboxError("The record is damaged: it is not an object.")
    record = Record.from_json(cast("dict[str, Any]", value))
    if record.id != place.name:
        raise SandboxError(f"The record is of {record.id}, not of this sandbox.")
    return record


def write_record(place: Path, record: Record) -> None:
    """Replace the record; it is on disk when this returns."""
    write_json(place / RECORD, record.to_json())


def stage_running(place: Path, record: Record) -> None:
    """Prepare the record of a sandbox whose machine is being set up, as it will be then; see `put_record`."""
    stage_json(place / RECORD, {**record.to_json(), "state": str(State.RUNNING), "generation": record.generation + 1})


def put_record(place: Path) -> None:
    """Replace the record by what was prepared; it is on disk when this returns."""
    put_staged(place / RECORD)


def strike_record(place: Path) -> None:
    """Make a sandbox one that was deleted, whatever happens now. Needs no room on the disk."""
    with contextlib.suppress(FileNotFoundError):
        rename_durably(place / RECORD, place / f"{RECORD}.struck")


def new_sandbox_id() -> str:
    """An id that no sandbox had."""
    return "box_" + b32encode(os.urandom(16)).decode("ascii").rstrip("=").lower()


def is_sandbox_id(text: str) -> bool:
    """Whether a folder of that name can be a sandbox's."""
    return _ID.match(text) is not None


def machine_id_of(sandbox_id: str) -> str:
    """The 32 hex digits that mark the machine of a sandbox: known from the folder's name, record or not."""
    return b32decode(sandbox_id.removeprefix("box_").upper() + "======").hex()


def spec_to_json(spec: SandboxSpec) -> dict[str, Any]:
    """A spec as it travels."""
    return {
        "image": spec.image,
        "driver": spec.driver,
        "name": spec.name,
        "limits": dataclasses.asdict(spec.limits),
        "lifetime": dataclasses.asdict(spec.lifetime),
        "env": dict(spec.env),
        "labels": dict(spec.labels),
        "network": spec.network,
    }


def spec_from_json(value: Any) -> SandboxSpec:
    """Read a spec that travelled; what is not given has its default.

    Raises:
        ConfigurationError: An unknown field, or a value that does not fit.
    """
    fields = _object(value, "spec", {each.name for each in dataclasses.fields(SandboxSpec)})
    limits = _object(fields.pop("limits", {}), "limits", {each.name for each in dataclasses.fields(SandboxLimits)})
    for name, each in limits.items():
        if type(each) is not int:
            raise ConfigurationError(f"{name} must be a whole number.")
    lifetime = lifetime_from_json(fields.pop("lifetime", {}))
    for name in ("env", "labels"):
        pairs = _object(fields.get(name, {}), name, None)
        if not all(isinstance(each, str) for each in pairs.values()):
            raise ConfigurationError(f"{name} must hold text only.")
        fields[name] = pairs
    for name in ("image", "driver"):
        if not isinstance(fields.get(name, ""), str):
            raise ConfigurationError(f"{name} must be text.")
    if not isinstance(fields.get("name"), str | None):
        raise ConfigurationError("name must be text.")
    return SandboxSpec(limits=SandboxLimits(**limits), lifetime=lifetime, **fields)


def lifetime_from_json(value: Any) -> Lifetime:
    """Read a lifetime that travelled.

    Raises:
        ConfigurationError: An unknown field, or a value that is not a number above 0.
    """
    fields = _object(value, "lifetime", {each.name for each in dataclasses.fields(Lifetime)})
    for name, each in fields.items():
        if isinstance(each, bool) or not isinstance(each, int | float | None):
            raise ConfigurationError(f"{name} must be a number of seconds.")
    return Lifetime(**fields)


def image_to_json(image: RootImage) -> dict[str, Any]:
    """An image as records and manifests keep it."""
    return {
        "digest": image.digest,
        "rootfs": str(image.rootfs),
        "disk": None if image.disk is None else str(image.disk),
        "env": dict(image.env),
    }


def image_from_json(value: Mapping[str, Any]) -> RootImage:
    """Read an image from a record or manifest."""
    disk = value["disk"]
    return RootImage(
        digest=str(value["digest"]),
        rootfs=Path(value["rootfs"]),
        disk=None if disk is None else Path(disk),
        env=dict(value["env"]),
    )


def images_in_use(home: Home) -> set[str]:
    """Digests of the images that sandboxes, spares and snapshots of a home depend on. Needs no running supervisor.

    Raises:
        SandboxError: A record or manifest cannot be read, so that nobody can say; then no image should be removed.
    """
    digests: set[str] = set()
    for place in _folders(home.sandboxes):
        record = read_record(place)
        if record is not None:
            digests.add(record.image.digest)
    for folder in _folders(home.snapshots):
        manifest = folder / "manifest.json"
        try:
            digests.add(str(json.loads(manifest.read_bytes())["image"]["digest"]))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SandboxError(f"{manifest} cannot be read: {error!r}.", hint="Remove that snapshot.") from error
    return digests


def _folders(parent: Path) -> list[Path]:
    return sorted(each for each in parent.iterdir() if each.is_dir()) if parent.is_dir() else []


def _object(value: Any, what: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} must be an object.")
    fields = dict(cast("Mapping[str, Any]", value))
    unknown = set(fields) - (set(fields) if known is None else known)
    if unknown:
        raise ConfigurationError(f"{what} has no {', '.join(sorted(unknown))}.")
    return fields
