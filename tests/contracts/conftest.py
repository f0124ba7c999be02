"""A tiny image made by hand, and one machine at a time on whatever driver is under test."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from callbox.errors import HostUnsuited
from callbox.sandboxes.driver import MachineSpec, RootImage
from callbox.sandboxes.spec import SandboxLimits
from support_machines import MachineRoom

_APPLETS = ("sh", "cat", "dd", "echo", "env", "id", "kill", "ls", "mkdir", "mount", "ps", "rm", "sleep", "sync",
            "tail", "test", "touch", "true", "wc", "yes", "seq", "df", "head", "hostname", "nproc")  # fmt: skip


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> RootImage:
    """A root with busybox and nothing else, as a folder and as an ext4 disk. No network, a tenth of a second."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed: apt-get install busybox-static")
    folder = tmp_path_factory.mktemp("image")
    rootfs = folder / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/lib", "work", ".callbox"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(busybox, rootfs / "bin" / "busybox")
    for name in _APPLETS:
        (rootfs / "bin" / name).symlink_to("busybox")
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / ".callbox" / "agent").touch()
    (rootfs / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbox:x:1000:1000:box:/work:/bin/sh\n")
    (rootfs / "etc" / "group").write_text("root:x:0:\nbox:x:1000:\n")
    if os.geteuid() == 0:
        os.chown(rootfs / "work", 1000, 1000)
    disk = folder / "root.img"
    mke2fs = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if mke2fs is not None:
        command = [mke2fs, "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(rootfs), str(disk), "16m"]
        subprocess.run(command, check=True, capture_output=True)
    return RootImage(digest="7" * 64, rootfs=rootfs, disk=disk if mke2fs else None, env={"IMAGE": "tiny"})


@pytest.fixture
def new_spec(tiny_image: RootImage, tmp_path: Path) -> Callable[..., MachineSpec]:
    """Make the specification of another machine, with a folder of its own."""

    def make(**limits: int) -> MachineSpec:
        machine_id = uuid.uuid4().hex
        place = tmp_path / machine_id
        place.mkdir(mode=0o700)
        chosen = SandboxLimits(**({"memory_mb": 256, "disk_mb": 64, "inodes_max": 4_000} | limits))
        return MachineSpec(machine_id=machine_id, image=tiny_image, limits=chosen, place=place)

    return make


@pytest.fixture
async def room(request: pytest.FixtureRequest, new_spec: Callable[..., MachineSpec]) -> AsyncIterator[MachineRoom]:
    """Where machines of the driver under test are made; every one is ended afterwards, and nothing may be left."""
    driver = request.param()
    try:
        probe = await driver.probe()
    except HostUnsuited as error:
        pytest.skip(str(error))
    if not probe.usable:
        pytest.skip(f"{driver.name}: {probe.why} {probe.fix}")
    room = MachineRoom(driver, new_spec)
    try:
        yield room
    finally:
        await room.close()
