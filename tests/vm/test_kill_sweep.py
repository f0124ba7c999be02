"""Kill -9 the supervisor at every named point of a sandbox's life: nothing is lost, nothing is left behind."""

from __future__ import annotations

import asyncio
import signal

import pytest

from callbox import Sandbox, errors
from callbox.sandboxes.client import Client
from callbox.sandboxes.starting import supervisor_command
from callbox.sandboxes.supervisor.points import POINTS
from support_host import kill_machine

pytestmark = [pytest.mark.vm, pytest.mark.sweep, pytest.mark.timeout(600)]
LIFE_S_MAX = 300.0


async def again(action, *harmless):
    """Do it; when the supervisor died under it, do it again. `harmless`: errors that mean that it was done already."""
    for _ in range(4):
        try:
            return await action()
        except errors.SandboxLost:
            continue
        except harmless:
            return None
    return await action()


async def a_life(home, driver):
    """Every step that a sandbox can take; each may be interrupted."""
    box = await again(lambda: make(home, driver, "kept"))
    await again(lambda: box.files.write("a.txt", "kept"))
    memory = await again(lambda: in_memory(box))
    for tier in ("hot", "warm", "cold"):
        await again(lambda tier=tier: box.standby(tier=tier))
        assert await again(lambda: box.files.read("a.txt")) == b"kept"
        assert await again(lambda: in_memory(box)) == memory
    await again(lambda: box.snapshot("point"), errors.SandboxExists)
    twin = await again(lambda: restore(home, "twin"))
    assert await again(lambda: twin.files.read("a.txt")) == b"kept"
    await again(lambda: twin.delete(), errors.SandboxNotFound)
    kids = await again(lambda: box.fork(2))
    for kid in kids:
        assert await again(lambda kid=kid: kid.files.read("a.txt")) == b"kept"
    await from_a_spare(home, driver)
    await again(lambda: box.run("sync", user="root"))
    kill_machine(home, box.id)
    assert await again(lambda: box.files.read("a.txt")) == b"kept"


async def in_memory(box):
    """What a boot makes anew: the same again means that it was resumed, not rebooted."""
    return (await box.run("cat /proc/sys/kernel/random/boot_id", user="root")).stdout


async def from_a_spare(home, driver):
    """A second sandbox, which takes the machine that was made ready after the first."""
    async with asyncio.timeout(120):
        while True:
            status = await again(lambda: Client.of(home).call("supervisor.status", repeat=True))
            if status["spares_ready"] >= status["spares_wanted"]:
                break
            await asyncio.sleep(0.05)
    second = await again(lambda: make(home, driver, "second"))
    assert (await again(lambda: second.run("echo two"))).stdout == "two\n"
    await again(lambda: second.delete(), errors.SandboxNotFound)


async def make(home, driver, name):
    try:
        return await Sandbox.create("python", driver=driver, home=home, name=name)
    except errors.SandboxExists:  # the one before was made, and its maker did not hear of it
        return await Sandbox.open(name, home=home)


async def restore(home, name):
    try:
        return await Sandbox.restore("point", name=name, home=home)
    except errors.SandboxExists:
        return await Sandbox.open(name, home=home)


async def start(home, *options):
    home.root.mkdir(parents=True, exist_ok=True)
    home.socket.unlink(missing_ok=True)  # of one that was killed
    with home.log.open("ab") as log:
        command = [*supervisor_command(home), *options]
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, start_new_session=True)
    async with asyncio.timeout(60):
        while process.returncode is None and not home.socket.exists():
            await asyncio.sleep(0.01)
    return process


async def ended(process):
    """Its exit status; None if it still runs, because it was never killed."""
    try:
        async with asyncio.timeout(5):
            return await process.wait()
    except TimeoutError:
        return None


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("driver", ["gvisor", "qemu"])
async def test_a_supervisor_killed_there_loses_nothing_and_leaves_nothing(home, driver, point):
    if point.startswith("adopt"):  # only one that follows another adopts anything
        one = await start(home)
        await make(home, driver, "kept")
        one.kill()
        await one.wait()
    victim = await start(home, "--die-at", point)
    async with asyncio.timeout(LIFE_S_MAX):
        await a_life(home, driver)
        assert await ended(victim) == -signal.SIGKILL, f"the life never came to {point}"
        survivor = await Sandbox.open("kept", home=home)
        assert await again(lambda: survivor.files.read("a.txt")) == b"kept"
