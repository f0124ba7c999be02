"""What the agent promises about processes, where only a real machine can show it."""

from __future__ import annotations

import asyncio

import pytest

from callbox import Sandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

# Leaves its session, loses its parent, and forgets its environment: nothing but its control group tells whose it is.
ESCAPER = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execve("/bin/sleep", ["hidden", "4242"], {})
print("ready", flush=True)
time.sleep(float(sys.argv[1]))
"""
HIDDEN = "for each in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $each; echo; done 2>/dev/null | grep -c '^hidden'"


@pytest.fixture
async def machine(home):
    return await Sandbox.create("python", driver="qemu", home=home, name="machine")


async def hidden(box: Sandbox) -> int:
    return int((await box.run(HIDDEN)).stdout)


async def test_the_kernel_spares_the_agent_and_nobody_else(machine):
    for user in ("box", "root"):
        done = await machine.run("cat /proc/self/oom_score_adj; cat /proc/1/oom_score_adj", user=user)
        assert done.stdout == "0\n-1000\n"


async def test_whoever_hides_from_its_tree_dies_with_it(machine):
    other = await machine.spawn(["sleep", "600"])
    done = await machine.run(["python3", "-c", ESCAPER, "0"])
    assert done.stdout == "ready\n"
    assert await hidden(machine) == 0

    process = await machine.spawn(["python3", "-c", ESCAPER, "600"])
    async with asyncio.timeout(60):
        while await hidden(machine) == 0:
            pass
    await process.kill()
    await process.wait()
    assert await hidden(machine) == 0

    await machine.run(["python3", "-c", ESCAPER, "600"], timeout_s=3)
    assert await hidden(machine) == 0
    assert await other.poll() is None
    groups = (await machine.run("ls -d /sys/fs/cgroup/callbox.held/*/ | wc -l")).stdout
    assert groups == "2\n"  # of the sleeper and of who asks


async def test_processes_survive_a_save_in_their_groups(machine):
    sleepers = [await machine.spawn(["sleep", "600"]) for _ in range(5)]
    await machine.standby("warm")
    await machine.resume()
    assert [await each.poll() for each in sleepers] == [None] * 5
    await asyncio.gather(*(each.kill() for each in sleepers))
    assert all([(await each.wait()).signal == 9 for each in sleepers])


@pytest.mark.parametrize("driver", ["gvisor", "qemu"])
async def test_every_program_can_look_at_files(home, driver):
    box = await Sandbox.create("python", driver=driver, home=home, name="box")
    commands = (
        *("ls -la /", "ls /proc", "stat / /work", "find / -xdev -maxdepth 1", "cp -a /etc/passwd /tmp/copied"),
        *("du -s /work", "git init -q r && git -C r status", "python3 -c 'import os; os.listdir(\"/\")'"),
    )
    for again in range(2):
        for command in commands:
            done = await box.run(command)
            assert done.exit_code == 0, (command, done.stderr)
        installed = (await box.run("cat /etc/ld.so.preload")).stdout
        assert installed == ("/usr/lib/callbox/statx.so\n" if driver == "gvisor" else "")
        if not again:
            await box.standby("warm")
