"""The drivers that callbox ships, made for one home."""

from __future__ import annotations

from callbox.sandboxes.driver import Driver
from callbox.sandboxes.gvisor.driver import GvisorDriver
from callbox.sandboxes.home import Home
from callbox.sandboxes.images.kernel import guest_kernel
from callbox.sandboxes.qemu.driver import QemuDriver


def host_drivers(home: Home) -> list[Driver]:
    """The drivers that callbox ships. What they find out about the host, and the machines that they keep booted on
    disk to start others from, depend on the images and the host, not on the home: they are kept beside the images."""
    return [
        QemuDriver(kernel=lambda: guest_kernel(home.images), cache=home.images / "qemu"),
        GvisorDriver(cache=home.images / "gvisor-probe.json", agents=home.images / "agents"),
    ]
