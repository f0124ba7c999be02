"""What one sandbox is made of and what it may use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from callbox.errors import ConfigurationError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")

DRIVERS = ("auto", "gvisor", "qemu")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What the machine of one sandbox may use.

    Attributes:
        memory_mb: Memory of the machine, MiB.
        cpus: Processors that it sees; it never gets more than that much time of the host.
        processes_max: Processes inside at once.
        disk_mb: Its private writable layer, MiB. Sparse: only what is written is used on the host.
        inodes_max: Files and folders in that layer.
        open_files_max: Descriptors of one process inside.
    """

    memory_mb: int = 512
    cpus: int = 1
    processes_max: int = 256
    disk_mb: int = 2_048
    inodes_max: int = 200_000
    open_files_max: int = 4_096

    def __post_init__(self) -> None:
        for name, least in (
            ("memory_mb", 128),
            ("cpus", 1),
            ("processes_max", 8),
            ("disk_mb", 32),
            ("inodes_max", 1_000),
        ):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} is too little.", hint=f"Use {least} or more.")
        for each in fields(self):
            if type(getattr(self, each.name)) is not int:
                raise ConfigurationError(f"{each.name} must be a whole number.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """When a sandbox falls asleep, and when it is deleted.

    Attributes:
        idle_s: Seconds without a call, an open stream or a `keep_alive` process until hot standby.
        warm_after_s: Seconds in hot standby until its memory goes to disk.
        cold_after_s: Seconds in warm standby until its files leave the page cache.
        ttl_s: Seconds after its creation until it is deleted; None: never.
        ttl_idle_s: Seconds without a call until it is deleted; None: never.
        expires_at: Wall clock, seconds since the epoch, at which it is deleted; None: never.
    """

    idle_s: float = 15.0
    warm_after_s: float = 300.0
    cold_after_s: float = 3_600.0
    ttl_s: float | None = None
    ttl_idle_s: float | None = None
    expires_at: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{each.name}={value!r} leaves nothing.", hint="Use more than 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """A request for a sandbox. Travels as JSON between client and supervisor (`to_json`, `from_json`).

    Attributes:
        image: Name of an image in the store, like ``"python"``.
        driver: ``"auto"``, ``"gvisor"`` or ``"qemu"``.
        name: Unique among the sandboxes of this home; None: the id is the name.
        env: Environment of every process in it.
        labels: For filtering; short strings.
        network: None. Only forwarded ports exist.
    """

    image: str = "python"
    driver: str = "auto"
    name: str | None = None
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    lifetime: Lifetime = field(default_factory=Lifetime)
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    network: None = None

    def __post_init__(self) -> None:
        if self.driver not in DRIVERS:
            raise ConfigurationError(f"There is no driver {self.driver!r}.", hint=f"Use one of {', '.join(DRIVERS)}.")
        if self.name is not None:
            check_name(self.name)
        if self.network is not None:
            raise ConfigurationError(
                "Sandboxes have no network yet.", hint="Leave network=None; forward ports instead."
            )


def check_name(name: str) -> str:
    """Return `name` if a sandbox, image or snapshot may be called so.

    Raises:
        ConfigurationError: Not 1 to 63 of ``a-z 0-9 . _ -``, beginning with a letter or digit.
    """
    if not _NAME.match(name):
        raise ConfigurationError(
            f"{name!r} cannot be a name.", hint="Use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit."
        )
    return name
