"""The contract of `Driver` and `Machine`, on every driver: real machines, real guests."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from callbox.errors import SandboxError, SandboxLost, SnapshotRefused
from callbox.sandboxes.agent import binary
from callbox.sandboxes.gvisor.driver import GvisorDriver
from callbox.sandboxes.host import cgroups
from callbox.sandboxes.host.processes import state_of
from support import until
from support_machines import ANSWER_S, MachineRoom, left_of
from support_qemu import ContractQemuDriver

pytestmark = pytest.mark.vm

GVISOR = pytest.param(GvisorDriver, id="gvisor")
QEMU = pytest.param(ContractQemuDriver, id="qemu")
every_driver = pytest.mark.parametrize("room", [GVISOR, QEMU], indirect=True)
only_gvisor = pytest.mark.parametrize("room", [GVISOR], indirect=True)


@every_driver
async def test_probe_says_how_and_why(room: MachineRoom) -> None:
    probe = await room.driver.probe()
    assert probe.usable
    assert probe.how
    assert probe.why.endswith(".")


@every_driver
async def test_boot_runs_commands_in_a_world_of_its_own(room: MachineRoom) -> None:
    guest = await room.boot()
    done = await guest.sh("echo out; echo err >&2; id -u; exit 3")
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n1000\n", b"err\n", 3)
    assert (await guest.sh("echo one > /work/a && cat /work/a")).stdout == b"one\n"
    listed = await guest.sh("ls /", user="root")
    assert b"bin" in listed.stdout.split()
    assert not (guest.spec.image.rootfs / "work" / "a").exists()


@every_driver
async def test_guest_sees_no_host_path(room: MachineRoom) -> None:
    guest = await room.boot()
    mounts = (await guest.sh("cat /proc/mounts", user="root")).stdout.decode()
    assert str(guest.spec.place) not in mounts
    assert str(guest.spec.image.rootfs) not in mounts


@every_driver
async def test_fingerprint_is_stable_and_names_what_memory_depends_on(room: MachineRoom) -> None:
    one, two = room.spec(), room.spec()
    assert await room.driver.fingerprint(one) == await room.driver.fingerprint(two)
    assert {"driver", "image"} <= set(await room.driver.fingerprint(one))
    assert await room.driver.fingerprint(one) != await room.driver.fingerprint(room.spec(memory_mb=320))


@every_driver
async def test_frozen_machine_does_not_answer_and_thawed_does(room: MachineRoom) -> None:
    guest = await room.boot()
    for _ in range(5):
        await guest.machine.freeze()
        late = asyncio.create_task(guest.channel.ping())
        done, _ = await asyncio.wait([late], timeout=0.05)
        assert not done
        await guest.machine.thaw()
        async with asyncio.timeout(ANSWER_S):
            await late
    assert (await guest.sh("echo still")).stdout == b"still\n"


@every_driver
async def test_channel_is_reopened_in_the_middle_of_a_frame(room: MachineRoom) -> None:
    guest = await room.boot()
    await guest.channel.aclose()
    _, writer = await guest.machine.connect()
    writer.write(bytes.fromhex("ca11b0c503"))  # a host that died after five bytes
    await writer.drain()
    writer.close()
    again = await room.meet(guest.spec, guest.machine)
    assert again.channel.welcome["boot_id"] == guest.channel.welcome["boot_id"]
    assert (await again.sh("echo again")).stdout == b"again\n"


@every_driver
async def test_saved_machine_goes_on_with_memory_and_files(room: MachineRoom) -> None:
    guest = await room.boot()
    await guest.sh("echo kept > /work/file")
    await guest.call("exec.start", id="secret", shell="read line; echo $line-$$", stdin="pipe", env={"PATH": "/bin"})
    await guest.call("expect_repair")
    saved = guest.spec.place / "state"
    await guest.machine.save(saved)
    assert await room.driver.saved_whole(guest.spec, saved)
    assert left_of(guest.spec) == []
    with pytest.raises(SandboxLost):
        await guest.machine.connect()

    back = await room.meet(guest.spec, await room.driver.restore(guest.spec, saved))
    assert back.channel.welcome["boot_id"] == guest.channel.welcome["boot_id"]
    assert await back.repair(2) == ["entropy", "clock", "network", "machine_id", "generation"]
    assert (await back.sh("cat /work/file")).stdout == b"kept\n"
    listed = await back.call("exec.list")
    assert [each["running"] for each in listed["execs"] if each["id"] == "secret"] == [True]


@every_driver
async def test_its_clock_is_as_fast_as_the_hosts(room: MachineRoom) -> None:
    guest = await room.boot()
    begun = time.monotonic()
    first = float((await guest.sh("cut -d' ' -f1 /proc/uptime; sleep 2")).stdout)
    ended = time.monotonic()
    second = float((await guest.sh("cut -d' ' -f1 /proc/uptime")).stdout)
    # However late an answer comes, the moment when it was read lies between two of ours.
    assert 0.95 * 2 <= second - first <= 1.05 * (time.monotonic() - begun)
    assert ended - begun >= 0.95 * 2


@every_driver
async def test_save_of_a_frozen_machine_works(room: MachineRoom) -> None:
    guest = await room.boot()
    await guest.machine.freeze()
    await guest.machine.save(guest.spec.place / "state")
    back = await room.meet(guest.spec, await room.driver.restore(guest.spec, guest.spec.place / "state"))
    assert (await back.sh("echo thawed")).stdout == b"thawed\n"


@every_driver
async def test_capture_lets_the_parent_go_on_and_makes_private_children(room: MachineRoom, tmp_path: Path) -> None:
    parent = await room.boot()
    await parent.sh("echo common > /work/file")
    captured = tmp_path / "captured"
    paused_s = await parent.machine.capture(captured)
    assert 0 < paused_s < ANSWER_S
    assert (captured / "disk.img").is_file()
    # The connection held through it all.
    assert (await parent.sh("cat /work/file; echo parent > /work/file; sync")).stdout == b"common\n"
    for number in range(2):
        spec = room.spec()
        child = await room.meet(spec, await room.driver.restore(spec, captured))
        assert (await child.sh("cat /work/file")).stdout == b"common\n"
        await child.sh(f"echo child{number} > /work/file")
        await child.machine.kill()
    assert (await parent.sh("cat /work/file")).stdout == b"parent\n"


@every_driver
async def test_saved_memory_survives_an_upgrade_of_the_agent(
    room: MachineRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = await room.boot()
    before, built = await room.driver.fingerprint(guest.spec), await room.driver.build()
    captured, saved = tmp_path / "captured", guest.spec.place / "state"
    await guest.machine.capture(captured)
    await guest.machine.save(saved)

    # What an upgrade does: another file under the same name. An ELF file is the same program with something behind it.
    (tmp_path / "upgrade").mkdir()
    upgraded = tmp_path / "upgrade" / "callbox-guest"
    upgraded.write_bytes(binary.agent_binary().read_bytes() + b"upgraded")
    upgraded.chmod(0o755)
    monkeypatch.setattr(binary, "__file__", str(upgraded.with_name("binary.py")))
    assert await room.driver.build() != built
    driver = type(room.driver)()
    assert await driver.fingerprint(guest.spec) == before

    again = await room.meet(guest.spec, await driver.restore(guest.spec, saved))
    assert again.channel.welcome["boot_id"] == guest.channel.welcome["boot_id"]
    assert (await again.sh("echo still")).stdout == b"still\n"
    # And once more: what is saved now still is the machine that it was.
    await again.machine.save(saved)
    again = await room.meet(guest.spec, await driver.restore(guest.spec, saved))
    child = room.spec()
    twin = await room.meet(child, await driver.restore(child, captured))
    for each in (again, twin):
        assert each.channel.welcome["agent"] == guest.channel.welcome["agent"]
        assert (await each.sh("echo old")).stdout == b"old\n"


@every_driver
async def test_capture_into_a_folder_that_vanishes_leaves_the_machine_running(
    room: MachineRoom, tmp_path: Path
) -> None:
    guest = await room.boot()
    captured = tmp_path / "captured"
    capturing = asyncio.create_task(guest.machine.capture(captured))
    await until(captured.is_dir)
    while not capturing.done():
        shutil.rmtree(captured, ignore_errors=True)
        await asyncio.wait([capturing], timeout=0.01)
    assert isinstance(capturing.exception(), SandboxError)
    assert not isinstance(capturing.exception(), SandboxLost)
    assert not captured.exists()
    assert (await guest.sh("echo alive")).stdout == b"alive\n"


@every_driver
async def test_cancelled_capture_leaves_the_machine_running(room: MachineRoom, tmp_path: Path) -> None:
    guest = await room.boot()
    for pause_s in (0.0, 0.05, 0.15, 0.3):
        capturing = asyncio.create_task(guest.machine.capture(tmp_path / "captured"))
        await asyncio.wait([capturing], timeout=pause_s)
        capturing.cancel()
        await asyncio.wait([capturing])
        assert (await guest.sh("echo alive")).stdout == b"alive\n"


@every_driver
async def test_failed_save_leaves_the_machine_running(room: MachineRoom, tmp_path: Path) -> None:
    guest = await room.boot()
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises((SandboxError, OSError)):
        await guest.machine.save(blocked / "state")
    assert (await guest.sh("echo alive")).stdout == b"alive\n"


@every_driver
async def test_machine_is_adopted_by_another_driver_object(room: MachineRoom) -> None:
    guest = await room.boot()
    await guest.channel.aclose()
    adopted = await type(room.driver)().adopt(guest.spec)
    assert adopted is not None
    again = await room.meet(guest.spec, adopted)
    assert again.channel.welcome["boot_id"] == guest.channel.welcome["boot_id"]
    assert (await again.sh("echo mine")).stdout == b"mine\n"
    await adopted.kill()
    assert await room.driver.adopt(guest.spec) is None


@every_driver
async def test_kill_leaves_nothing_and_may_be_repeated(room: MachineRoom) -> None:
    guest = await room.boot()
    ended = asyncio.create_task(guest.machine.wait_dead())
    await guest.machine.kill()
    await guest.machine.kill()
    async with asyncio.timeout(ANSWER_S):
        assert await ended
    assert left_of(guest.spec) == []
    for call in (guest.machine.freeze, guest.machine.thaw, guest.machine.connect):
        with pytest.raises(SandboxLost):
            await call()
    with pytest.raises(SandboxLost):
        await guest.machine.save(guest.spec.place / "state")


@every_driver
async def test_killed_host_processes_are_noticed_and_reaped(room: MachineRoom) -> None:
    guest = await room.boot()
    ended = asyncio.create_task(guest.machine.wait_dead())
    pids = guest.machine.pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(ANSWER_S):
        assert await ended
    await until(lambda: all(state_of(pid) in "ZX" for pid in pids))
    assert await room.driver.adopt(guest.spec) is None
    await room.driver.reap(guest.spec.place, guest.spec.machine_id)
    assert left_of(guest.spec) == []


@every_driver
async def test_machine_that_was_killed_boots_again_from_its_own_disk(room: MachineRoom) -> None:
    guest = await room.boot()
    await guest.sh("echo kept > /work/file; sync")
    before = (guest.spec.place / "disk.img").stat().st_ino
    await guest.machine.kill()
    again = await room.meet(guest.spec, await room.driver.boot(guest.spec))
    await again.repair(2)
    assert (await again.sh("cat /work/file")).stdout == b"kept\n"
    assert (guest.spec.place / "disk.img").stat().st_ino == before


@every_driver
async def test_reap_ends_a_frozen_machine_and_finds_nothing_the_second_time(room: MachineRoom) -> None:
    guest = await room.boot()
    await guest.machine.freeze()
    assert await room.driver.reap(guest.spec.place, guest.spec.machine_id) > 0
    assert await room.driver.reap(guest.spec.place, guest.spec.machine_id) == 0
    assert left_of(guest.spec) == []


@every_driver
async def test_usage_counts(room: MachineRoom) -> None:
    guest = await room.boot()
    before = guest.machine.usage()
    await guest.sh("dd if=/dev/zero of=/work/big bs=65536 count=160 && sync")
    after = guest.machine.usage()
    assert after.memory_bytes > 0
    assert after.processes > 0
    assert after.cpu_s >= before.cpu_s > 0
    assert after.disk_bytes > before.disk_bytes


@every_driver
async def test_full_disk_is_an_error_inside_and_the_machine_lives_on(room: MachineRoom) -> None:
    guest = await room.boot(disk_mb=32)
    done = await guest.sh("dd if=/dev/zero of=/work/big bs=1048576 count=64")
    assert done.exit_code != 0
    assert b"No space left" in done.stderr
    assert (await guest.sh("rm /work/big && echo room > /work/small && cat /work/small")).stdout == b"room\n"


@every_driver
async def test_failed_start_leaves_nothing(room: MachineRoom, tmp_path: Path) -> None:
    spec = room.spec()
    empty = tmp_path / "empty"
    empty.mkdir()
    (spec.place / "disk.img").write_bytes(b"not a file system")
    with pytest.raises(SandboxError):
        await room.driver.restore(spec, empty)
    assert left_of(spec) == []


@only_gvisor
async def test_cancelled_boot_leaves_nothing(room: MachineRoom) -> None:
    spec = room.spec()
    booting = asyncio.create_task(room.driver.boot(spec))
    await until(lambda: (spec.place / "run" / "keeper.pid").exists())
    booting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await booting
    assert left_of(spec) == []


@only_gvisor
async def test_guest_sees_its_share_of_processors(room: MachineRoom) -> None:
    guest = await room.boot(cpus=1)
    assert (await guest.sh("nproc")).stdout == b"1\n"
    await guest.machine.save(guest.spec.place / "state")
    again = await room.meet(guest.spec, await room.driver.restore(guest.spec, guest.spec.place / "state"))
    assert (await again.sh("nproc")).stdout == b"1\n"


@only_gvisor
async def test_guest_sees_its_share_of_memory(room: MachineRoom, tmp_path: Path) -> None:
    guest = await room.boot(memory_mb=320)
    await guest.machine.capture(tmp_path / "captured")
    await guest.machine.save(guest.spec.place / "state")
    for each in (guest.spec, room.spec(memory_mb=320)):
        saved = each.place / "state" if each is guest.spec else tmp_path / "captured"
        again = await room.meet(each, await room.driver.restore(each, saved))
        assert (await again.sh("head -n 1 /proc/meminfo")).stdout.split()[1] == str(320 << 10).encode()


@only_gvisor
async def test_memory_whose_agent_is_not_here_is_refused(room: MachineRoom) -> None:
    guest = await room.boot()
    saved = guest.spec.place / "state"
    await guest.machine.save(saved)
    (saved / "agent.json").write_text('{"agent": "0123456789abcdef"}')
    with pytest.raises(SnapshotRefused, match="0123456789abcdef"):
        await room.driver.restore(guest.spec, saved)
    assert left_of(guest.spec) == []


@only_gvisor
async def test_connection_survives_a_capture_with_an_open_stream(room: MachineRoom, tmp_path: Path) -> None:
    guest = await room.boot()
    lines = asyncio.create_task(guest.sh("for n in $(seq 40); do echo $n; sleep 0.02; done"))
    await guest.machine.capture(tmp_path / "captured")
    done = await lines
    assert done.stdout.split() == [str(n).encode() for n in range(1, 41)]


@only_gvisor
async def test_machine_stops_and_goes_on_where_there_are_no_groups(
    room: MachineRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "_host", lambda: cgroups.HostGroups(0, {}))
    guest = await room.boot()
    assert len(guest.machine.pids) >= 3
    await guest.machine.freeze()
    late = asyncio.create_task(guest.channel.ping())
    done, _ = await asyncio.wait([late], timeout=0.05)
    assert not done
    await guest.machine.thaw()
    async with asyncio.timeout(ANSWER_S):
        await late
    again = await room.driver.adopt(guest.spec)
    assert again is not None
    await again.kill()
    assert left_of(guest.spec) == []


@only_gvisor
async def test_memory_bomb_ends_its_process_and_not_the_machine(room: MachineRoom) -> None:
    guest = await room.boot(memory_mb=192)
    bomb = await guest.sh("tail /dev/zero")  # keeps one endless line in memory
    assert bomb.exit_code is None
    assert (await guest.sh("echo alive")).stdout == b"alive\n"
