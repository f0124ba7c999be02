"""What dies, what is refused, and what is deleted."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from callbox.errors import SandboxError, SandboxLost, SandboxNotFound, SandboxStateError, SnapshotRefused
from support_bare import processes_of


def kill_machine(bench, sandbox="a"):
    for pid in bench.keeper(sandbox).body.machine.pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("tier", ["running", "hot"])
async def test_a_machine_that_dies_keeps_its_files_and_the_next_call_boots_it_again(bench, tier):
    await bench.create()
    await bench.write("kept.txt", b"kept")
    await bench.start()
    if tier == "hot":
        await bench.standby("hot")
    kill_machine(bench)
    await bench.until_state("failed")
    info = (await bench.call("sandbox.get"))["sandbox"]
    assert "died" in info["reason"]
    assert await bench.read("kept.txt") == b"kept"
    assert await bench.execs() == []
    assert bench.keeper().state == "running"


async def test_resume_after_a_death_says_that_it_booted_again(bench):
    await bench.create()
    kill_machine(bench)
    assert (await bench.resume())["tier"] == "reboot"


async def test_calls_under_way_end_with_sandbox_lost(bench):
    await bench.create()
    stream = await bench.client.open({"op": "fs.watch", "sandbox": "a", "path": "."})
    await bench.until(lambda: bench.keeper().users)
    kill_machine(bench)
    with pytest.raises(SandboxLost):
        await stream.result()


@pytest.mark.parametrize("fault", ["repair", "partial"])
@pytest.mark.parametrize("tier", ["hot", "warm"])
async def test_a_machine_that_is_not_repaired_is_killed_and_never_served(bench, tier, fault):
    await bench.create()
    await bench.write("kept.txt", b"kept")
    await bench.until_no_spare_boots()
    await bench.standby(tier)
    bench.misbehave(fault)
    with pytest.raises(SandboxError, match="repair"):
        await bench.call("ping")
    assert bench.keeper().body.machine is None
    assert bench.keeper().state == "failed"
    bench.misbehave()
    with pytest.raises(SandboxStateError, match="failed"):
        await bench.call("ping")
    assert (await bench.resume())["tier"] == "reboot"
    assert await bench.read("kept.txt") == b"kept"


async def test_a_create_that_fails_leaves_nothing(bench):
    bench.driver.fail_boot = True
    with pytest.raises(SandboxError, match="does not start"):
        await bench.create()
    # No spare is booted for what never ran: its folder, while that fails too, is why this failed under load once.
    assert bench.supervisor.fleet.spares.counts() == []
    assert list(bench.home.sandboxes.iterdir()) == []
    with pytest.raises(SandboxNotFound):
        await bench.call("ping")
    bench.driver.fail_boot = False
    await bench.create()


async def test_a_restore_that_does_not_start_is_tried_again_by_the_next_call(bench):
    await bench.create()
    await bench.start()
    await bench.standby("warm")
    bench.driver.fail_restore = True
    with pytest.raises(SandboxError, match="does not start"):
        await bench.call("ping")
    assert bench.keeper().state == "warm"
    bench.driver.fail_restore = False
    assert await bench.execs() == ["x"]


async def test_memory_is_void_once_the_disk_has_moved_on(bench):
    await bench.create()
    await bench.write("kept.txt", b"kept")
    await bench.standby("warm")
    disk = bench.keeper().body.place / "disk.img"
    os.utime(disk, ns=(1, 1))
    bench.driver.fail_restore = True
    with pytest.raises(SandboxError, match="does not start"):
        await bench.call("ping")
    assert bench.keeper().state == "failed"
    bench.driver.fail_restore = False
    assert (await bench.resume())["tier"] == "reboot"
    assert await bench.read("kept.txt") == b"kept"


async def test_a_damaged_disk_is_not_booted(bench):
    await bench.create()
    kill_machine(bench)
    await bench.until_state("failed")
    (bench.keeper().body.place / "disk.img").write_text("{not")
    with pytest.raises(SandboxError, match="damaged"):
        await bench.call("ping")
    assert bench.keeper().state == "failed"


@pytest.mark.parametrize("tier", ["warm", "cold"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "added", "manifest"])
async def test_damaged_memory_is_refused(bench, tier, damage):
    await bench.create()
    await bench.standby(tier)
    await bench.keeper()._chore.end(finish=True)
    folder = bench.keeper().body.saved_folder
    memory = folder / "machine" / "memory.json"
    content = memory.read_bytes()
    match damage:
        case "cut":
            memory.write_bytes(content[:10])
        case "changed":
            memory.write_bytes(content.replace(b"0", b"1"))
        case "missing":
            memory.unlink()
        case "added":
            (folder / "machine" / "more").write_bytes(b"")
        case "manifest":
            (folder / "manifest.json").write_text("{}")
    restores = bench.driver.restores
    with pytest.raises(SnapshotRefused):
        await bench.call("ping")
    assert bench.driver.restores == restores
    assert bench.keeper().state == "failed"


async def test_memory_of_another_driver_version_is_refused(bench):
    await bench.create()
    await bench.standby("warm")
    bench.driver.version = "2"
    with pytest.raises(SnapshotRefused, match="version was '1' and is '2'"):
        await bench.call("ping")


@pytest.mark.parametrize("state", ["running", "hot", "warm", "cold", "failed"])
async def test_delete_from_every_state_leaves_nothing(bench, state):
    await bench.create()
    keeper = bench.keeper()
    if state == "failed":
        kill_machine(bench)
        await bench.until_state("failed")
    elif state != "running":
        await bench.standby(state)
    await bench.call("sandbox.delete")
    assert keeper.state == "gone"
    assert not keeper.body.place.exists()
    with pytest.raises(SandboxNotFound):
        await bench.call("sandbox.get")
    await bench.create()


async def test_a_second_delete_returns_when_the_first_is_done(bench, monkeypatch):
    await bench.create()
    keeper, reap, go_on = bench.keeper(), bench.driver.reap, asyncio.Event()

    async def slow(place, machine_id):
        await go_on.wait()
        return await reap(place, machine_id)

    monkeypatch.setattr(bench.driver, "reap", slow)
    deleting = [asyncio.create_task(bench.call("sandbox.delete"))]
    await bench.until(lambda: keeper.state == "stopping")
    deleting.append(asyncio.create_task(bench.call("sandbox.delete")))
    await bench.client.call("supervisor.status")
    assert not any(each.done() for each in deleting)
    go_on.set()
    await asyncio.gather(*deleting)
    assert not keeper.body.place.exists()


@pytest.mark.parametrize("op", ["sandbox.resume", "sandbox.standby"])
async def test_delete_while_it_wakes_or_is_saved(bench, op):
    await bench.create()
    await bench.until_no_spare_boots()
    if op == "sandbox.resume":
        await bench.standby("warm")
        bench.misbehave("silent:repair")
        under_way = asyncio.create_task(bench.call(op))
        await bench.until(lambda: bench.keeper().body.channel)
    else:
        bench.misbehave("silent:expect_repair")
        under_way = asyncio.create_task(bench.call(op, tier="warm"))
        await bench.until(lambda: bench.keeper()._busy)
    place = bench.keeper().body.place
    await bench.call("sandbox.delete")
    with pytest.raises(SandboxNotFound):
        await under_way
    assert not place.exists()
    await bench.until(lambda: len(processes_of(bench.home)) <= 1)  # a spare


async def test_delete_while_it_is_created(bench):
    bench.misbehave("silent:repair")
    creating = asyncio.create_task(bench.create())
    await bench.until(lambda: bench.supervisor.fleet.all() and bench.keeper().body.channel)
    await bench.call("sandbox.delete")
    with pytest.raises(SandboxNotFound):
        await creating


async def test_a_client_that_leaves_while_it_creates_leaves_no_sandbox(bench):
    bench.misbehave("silent:repair")
    stream = await bench.client.open({"op": "sandbox.create", "spec": {"name": "a"}})
    await bench.until(lambda: bench.supervisor.fleet.all() and bench.keeper().body.channel)
    await stream.cancel()
    await bench.until(lambda: not bench.supervisor.fleet.all())
