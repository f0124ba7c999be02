"""The qemu driver with real guests, where it differs from others: templates, states that are used up, consoles."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from callbox.errors import SandboxError, SnapshotRefused
from callbox.sandboxes.driver import MachineSpec, RootImage
from callbox.sandboxes.host.disks import content_digest
from callbox.sandboxes.host.processes import find_marked
from callbox.sandboxes.images.kernel import guest_kernel
from callbox.sandboxes.images.store import ImageStore
from callbox.sandboxes.qemu.driver import QemuDriver
from callbox.sandboxes.qemu.machine import QemuMachine
from callbox.sandboxes.qemu.process import FIRST_UID
from callbox.sandboxes.spec import SandboxLimits
from support_machines import ANSWER_S, MachineRoom, left_of

pytestmark = [pytest.mark.vm, pytest.mark.slow]
LIMITS = {"memory_mb": 256, "disk_mb": 64, "inodes_max": 4_000}


@pytest.fixture
def image(images: Path) -> RootImage:
    return ImageStore(images).get("python").root_image()


@pytest.fixture
def new_spec(image: RootImage, tmp_path: Path) -> Callable[..., MachineSpec]:
    def make(**limits: int) -> MachineSpec:
        machine_id = os.urandom(16).hex()
        place = tmp_path / machine_id
        place.mkdir(mode=0o700)
        return MachineSpec(machine_id=machine_id, image=image, limits=SandboxLimits(**(LIMITS | limits)), place=place)

    return make


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qemu")


@pytest.fixture
async def room(images: Path, cache: Path, new_spec: Callable[..., MachineSpec]) -> AsyncIterator[MachineRoom]:
    driver = QemuDriver(lambda: guest_kernel(images), cache)
    if not (found := await driver.probe()).usable:
        pytest.skip(f"{found.why} {found.fix}")
    room = MachineRoom(driver, new_spec)
    try:
        yield room
    finally:
        await room.close()


async def test_later_boots_come_from_a_template_and_a_damaged_one_is_made_again(
    room: MachineRoom, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = await room.boot()
    second = await room.boot()
    # From one boot, and repaired into two machines.
    assert second.channel.welcome["boot_id"] == first.channel.welcome["boot_id"]
    random = "head -c 16 /dev/urandom | od -An -tx1"
    assert (await first.sh(random)).stdout != (await second.sh(random)).stdout
    [template] = [path for path in (cache / "templates").iterdir() if path.is_dir()]
    os.truncate(template / "device", 1_000)
    third = await room.boot()
    assert third.channel.welcome["boot_id"] != first.channel.welcome["boot_id"]
    assert "damaged" in caplog.text
    assert (template / "device").stat().st_size > 1_000


async def test_qemu_runs_as_a_user_of_its_own_without_capabilities(room: MachineRoom) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can choose another user")
    guests = [await room.boot() for _ in range(2)]
    uids: set[int] = set()
    for guest in guests:
        [pid] = guest.machine.pids
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        uids.update(map(int, status["Uid"].split()))
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert len(uids) == 2
    assert all(uid >= FIRST_UID for uid in uids)


async def test_standby_state_is_used_up_by_its_restore_and_whole_until_then(room: MachineRoom) -> None:
    guest = await room.boot()
    state = guest.spec.place / "state"
    await guest.machine.save(state)
    digest = content_digest(state / "ram")
    broken = state / "device"
    content = broken.read_bytes()
    broken.write_bytes(content[:20_000])
    with pytest.raises(SnapshotRefused):
        await room.driver.restore(guest.spec, state)
    assert left_of(guest.spec) == []
    assert content_digest(state / "ram") == digest
    broken.write_bytes(content)
    back = await room.meet(guest.spec, await room.driver.restore(guest.spec, state))
    assert (await back.sh("echo back")).stdout == b"back\n"
    with pytest.raises(SnapshotRefused, match="not complete"):
        await room.driver.restore(guest.spec, state)
    assert (await back.sh("echo unharmed")).stdout == b"unharmed\n"


async def test_frozen_machine_stays_frozen_through_a_capture_and_can_be_saved_afterwards(
    room: MachineRoom, tmp_path: Path
) -> None:
    guest = await room.boot()
    await guest.machine.freeze()
    await guest.machine.capture(tmp_path / "captured")
    assert isinstance(guest.machine, QemuMachine)
    assert (await guest.machine.control.execute("query-status"))["status"] == "paused"
    await guest.machine.save(guest.spec.place / "state")
    back = await room.meet(guest.spec, await room.driver.restore(guest.spec, guest.spec.place / "state"))
    assert (await back.sh("echo back")).stdout == b"back\n"


async def test_guest_that_powers_off_is_noticed_with_the_reason(room: MachineRoom) -> None:
    guest = await room.boot()
    ended = asyncio.create_task(guest.machine.wait_dead())
    stopping = asyncio.create_task(guest.channel.call("shutdown"))
    async with asyncio.timeout(ANSWER_S):
        assert "the guest ended" in await ended
    await asyncio.wait([stopping])
    stopping.exception()
    assert find_marked(guest.spec.machine_id) == []


async def test_capture_into_a_folder_that_is_used_fails_and_changes_nothing(room: MachineRoom, tmp_path: Path) -> None:
    guest = await room.boot()
    (tmp_path / "ram").write_text("somebody's")
    with pytest.raises((SandboxError, OSError)):
        await guest.machine.capture(tmp_path)
    assert (tmp_path / "ram").read_text() == "somebody's"
    assert (await guest.sh("echo alive")).stdout == b"alive\n"
