"""The qemu driver as tests use it: the guest kernel of this checkout's images, templates kept between tests."""

from __future__ import annotations

import os
from pathlib import Path

from callbox.sandboxes.images.kernel import guest_kernel
from callbox.sandboxes.qemu.driver import QemuDriver

REPOSITORY = Path(__file__).parent.parent


def images_folder() -> Path:
    """Where `callbox setup` put the kernel for tests."""
    return Path(os.environ.get("CALLBOX_IMAGES") or REPOSITORY / ".venv" / "images")


class ContractQemuDriver(QemuDriver):
    """Made without arguments, as the contract's suite makes drivers."""

    def __init__(self) -> None:
        super().__init__(lambda: guest_kernel(images_folder()), REPOSITORY / ".venv" / "qemu")
