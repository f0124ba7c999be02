"""What a newcomer does first, on a machine with a kernel of its own."""

from __future__ import annotations

import asyncio
import time

import pytest

from callbox import Sandbox
from callbox.sandboxes.blocking import Sandbox as BlockingSandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


async def test_the_first_minute(home, tmp_path):
    async with Sandbox.create("python", driver="gvisor", home=home) as box:
        assert box.receipt.tier == "new"
        result = await box.run("python3 -c 'print(6*7)'")
        assert (result.stdout, result.stderr, result.exit_code) == ("42\n", "", 0)

        await box.files.write("app.py", "import sys; print(sys.stdin.read().upper())")
        assert (await box.run(["python3", "app.py"], stdin="hello")).stdout == "HELLO\n"
        await box.files.download("app.py", tmp_path / "app.py")
        assert (tmp_path / "app.py").read_text().startswith("import sys")

        server = await box.spawn("python3 -u -m http.server 8000", wait_port=8000)
        async with box.forward(8000) as forward:
            reader, writer = await asyncio.open_connection("127.0.0.1", forward.host_port)
            writer.write(b"GET /app.py HTTP/1.0\r\n\r\n")
            assert b"import sys" in await reader.read()
            writer.close()

        for tier in ("hot", "warm"):
            assert (await box.standby(tier)).state == tier
            assert (await box.resume()).tier == tier
            assert await server.poll() is None
        await server.kill()
    assert await Sandbox.list(home=home) == []


@pytest.mark.parametrize("tier", ["hot", "warm"])
async def test_forks_of_a_sandbox_that_slept_have_its_files_and_their_own_chance(home, tier):
    async with Sandbox.create("python", driver="gvisor", home=home) as box:
        await box.files.write("kept.txt", "kept\n")
        await box.standby(tier)
        kids = await box.fork(2)
        said = await asyncio.gather(*(kid.run("cat kept.txt; head -c 16 /dev/urandom | base64") for kid in kids))
        assert all(result.stdout.startswith("kept\n") for result in said)
        assert len({result.stdout for result in said}) == 2
        for kid in kids:
            await kid.delete()


async def test_the_same_without_async(home):
    def first_minute() -> str:
        with BlockingSandbox.create("python", driver="gvisor", home=home) as box:
            return box.run("python3 -c 'print(6*7)'").stdout

    assert await asyncio.to_thread(first_minute) == "42\n"


async def test_a_nap_costs_milliseconds_not_a_boot(home):
    async with Sandbox.create("python", driver="gvisor", home=home) as box:
        await box.run("true")
        naps = []
        for _ in range(5):
            await box.standby()
            began = time.perf_counter()
            assert (await box.run(["true"])).ok
            naps.append((time.perf_counter() - began) * 1_000)
        assert (await box.resume()).generation >= 5, naps
