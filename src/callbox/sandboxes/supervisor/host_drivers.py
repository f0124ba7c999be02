"""The drivers that callbox ships, made for one home."""

from __future__ import annotations

from callbox.sandboxes.driver import Driver
from callbox.sandboxes.gvisor.driver import GvisorDriver
from callbox.sandboxes.home import Home
from callbox.sandboxes.images.kernel import guest_kernel
from callbox.sandboxes.qemu.driver import QemuDriver


def host_drivers(home: Home) -> list[Driver]:
    """The drivers that callbox ships."""
    return [QemuDriver(kernel=lambda: guest_kernel(home.images), cache=home.root / "probes"), GvisorDriver()]
