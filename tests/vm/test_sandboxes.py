"""The promises of the public API on real machines, the same for every driver."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from callbox import Sandbox, errors
from support_host import kill_machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]
KEEPER = (
    Path(__file__).parent.parent.parent / "src" / "callbox" / "sandboxes" / "certify" / "inside" / "keeper.py"
).read_text()


@pytest.fixture(params=["gvisor", "qemu"])
def driver(request):
    return request.param


@pytest.fixture
async def box(home, driver):
    return await Sandbox.create("python", driver=driver, home=home, name="box")


async def said(process, count):
    seen = b""
    async with asyncio.timeout(60):
        async for chunk in process.chunks():
            seen += chunk.data
            if seen.count(b"\n") >= count:
                return seen.decode().splitlines()[:count]
    raise AssertionError(seen)


async def test_a_command_runs_with_its_output_and_its_exit_code(box):
    done = await box.run("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 3)
    assert (await box.run("python3 -c 'print(6*7)'")).stdout == "42\n"
    assert (await box.run("id -u; pwd")).stdout == "1000\n/work\n"
    slow = await box.run("sleep 60", timeout_s=1)
    assert slow.timed_out
    running = await box.run(["sh", "-c", "for each in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $each; done 2>/dev/null"])
    assert "sleep 60" not in running.stdout


async def test_files_go_in_and_out(box):
    await box.files.write("folder/a.bin", bytes(range(256)) * 4096)
    assert await box.files.read("folder/a.bin") == bytes(range(256)) * 4096
    assert (await box.run("stat -c '%U %s' folder/a.bin")).stdout == "box 1048576\n"
    with pytest.raises(errors.PathEscapes):
        await box.files.read("../etc/passwd")


async def test_memory_and_files_survive_every_tier(box):
    process = await box.spawn(["python3", "-uc", KEEPER], stdin=True)
    await process.write(b"\n")
    first = (await said(process, 1))[0].split()
    await box.files.write("a.txt", "a")
    for count, tier in enumerate(("hot", "warm", "cold"), start=2):
        await box.standby(tier=tier)
        receipt = await box.resume()
        assert receipt.tier == tier
        assert [each["name"] for each in receipt.repairs] == ["entropy", "clock", "network", "machine_id", "generation"]
        await process.write(b"\n")
        assert (await said(process, count))[-1].split() == [*first[:2], str(count)]
        assert await box.files.read("a.txt") == b"a"
    await process.kill()


async def test_it_falls_asleep_by_itself_and_any_call_wakes_it(home, driver):
    box = await Sandbox.create("python", driver=driver, home=home, idle_s=0.5)
    await box.run("true")
    async with asyncio.timeout(60):
        while (await box.info()).state != "hot":
            await asyncio.sleep(0.05)
    assert (await box.run("echo awake")).stdout == "awake\n"


async def test_forks_are_twins_until_they_are_not(box):
    await box.files.write("a.txt", "before")
    process = await box.spawn(["python3", "-uc", KEEPER], stdin=True)
    await process.write(b"\n")
    secret = (await said(process, 1))[0].split()[:2]
    kids = await box.fork(3)
    random = set()
    for each in (box, *kids):
        twin = each.process(process.id)
        await twin.write(b"\n")
        assert (await said(twin, 2))[-1].split()[:2] == secret
        random.add((await each.run("head -c 32 /dev/urandom | od -An -tx1; cat /etc/machine-id")).stdout)
    assert len(random) == 4
    await kids[0].files.write("a.txt", "child")
    assert [await each.files.read("a.txt") for each in (box, *kids)] == [b"before", b"child", b"before", b"before"]


async def test_a_snapshot_is_restored_by_name_also_when_the_sandbox_is_gone(home, box):
    await box.files.write("a.txt", "kept")
    await box.snapshot("point")
    await box.delete()
    again = await Sandbox.restore("point", name="again", home=home)
    assert await again.files.read("a.txt") == b"kept"


async def test_a_machine_that_was_killed_is_booted_again_with_its_files(home, box):
    await box.files.write("a.txt", "kept")
    await box.run("sync", user="root")
    kill_machine(home, box.id)
    async with asyncio.timeout(120):
        while True:
            try:
                assert await box.files.read("a.txt") == b"kept"
                break
            except errors.SandboxLost:
                await asyncio.sleep(0.05)


async def test_the_clock_is_right_after_standby(box):
    await box.run("date -s '+1 month' || true", user="root")
    await box.standby()
    await box.resume()
    assert abs(float((await box.run("date +%s.%N")).stdout) - time.time()) < 5


async def test_a_server_goes_on_listening_after_a_capture_and_a_restore(box):
    bind = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 8123)); print('bound')"
    await box.spawn("python3 -m http.server 8000", wait_port=8000, keep_alive=True)
    twin = (await box.fork(1))[0]
    await twin.standby("warm")
    for each in (box, twin):
        assert 8000 in [port.port for port in await each.ports()]
        assert (await each.run(["python3", "-c", bind])).stdout == "bound\n"
