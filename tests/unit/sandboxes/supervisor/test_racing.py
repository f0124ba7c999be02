"""What is asked at the same moment, and who is gone before the answer."""

from __future__ import annotations

import asyncio

import pytest

from callbox.errors import SandboxInterrupted


@pytest.mark.parametrize("tier", ["hot", "warm"])
async def test_a_call_that_wakes_it_right_before_a_standby_is_answered(bench, tier):
    await bench.create()
    await bench.standby("hot")
    async with asyncio.timeout(10):
        for _ in range(5):
            answers = await asyncio.gather(bench.call("info"), bench.standby(tier))
            assert answers[0]["generation"] > 0
            await bench.standby("hot")


async def test_a_long_call_that_wakes_it_right_before_a_standby_is_interrupted(bench):
    await bench.create()
    await bench.standby("hot")
    stream = await bench.client.open({"op": "fs.watch", "sandbox": "a", "path": "."})
    await bench.standby("hot")
    with pytest.raises(SandboxInterrupted):
        await stream.result()
    assert bench.keeper().state == "hot"


async def test_a_caller_who_leaves_while_it_wakes_is_not_waited_for(bench):
    await bench.create()
    await bench.standby("warm")
    waking = asyncio.create_task(bench.call("ping"))
    await bench.until(lambda: bench.keeper()._busy)
    waking.cancel()
    await asyncio.gather(waking, return_exceptions=True)
    async with asyncio.timeout(10):
        await bench.standby("hot")
    assert not bench.keeper()._calls._short


@pytest.mark.parametrize("what", ["snapshot", "fork"])
async def test_a_capture_whose_asker_leaves_ends_first_and_leaves_no_folder(bench, monkeypatch, what):
    await bench.create()
    await bench.start()
    machine = bench.keeper().body.machine
    capture, begun, go_on = machine.capture, asyncio.Event(), asyncio.Event()

    async def slow(into):
        begun.set()
        await go_on.wait()
        # The driver finds its folder, whoever is gone.
        assert into.parent.is_dir()
        return await capture(into)

    monkeypatch.setattr(machine, "capture", slow)
    asking = await bench.client.open({"op": f"sandbox.{what}", "sandbox": "a"})
    await begun.wait()
    await asking.cancel()
    await bench.client.call("supervisor.status")
    assert len(list(bench.home.snapshots.iterdir())) == 1
    go_on.set()
    await bench.until(lambda: not list(bench.home.snapshots.iterdir()))
    assert await bench.execs() == ["x"]
    assert len(bench.supervisor.fleet.all()) == 1


async def test_a_capture_that_was_not_begun_when_its_asker_left_never_begins(bench, monkeypatch):
    await bench.create()
    bench.misbehave("silent:expect_repair")
    standby = asyncio.create_task(bench.standby("hot"))
    await bench.until(lambda: bench.keeper()._busy)
    asking = await bench.client.open({"op": "sandbox.snapshot", "sandbox": "a"})
    await bench.until(lambda: bench.keeper()._jobs.qsize())
    await asking.cancel()
    await bench.until(lambda: not list(bench.home.snapshots.iterdir()))
    standby.cancel()
    bench.misbehave()
