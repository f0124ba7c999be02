"""Where one machine's files are, and what runsc is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from callbox.errors import SandboxLost
from callbox.sandboxes.host import launch
from callbox.sandboxes.host.processes import ProcessIdentity


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
    def captured(self) -> Path:
        """What a capture has written, until it is complete."""
        return self.run / "captured"

    @property
    def meminfo(self) -> Path:
        """What runsc believes about the host's memory."""
        return self.run / "meminfo"

    @property
    def record(self) -> Path:
        """What a successor needs to adopt it."""
        return self.run / "machine.json"


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
