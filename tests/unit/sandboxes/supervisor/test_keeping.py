"""Falling asleep and waking."""

from __future__ import annotations

import asyncio

import pytest

from callbox.errors import SandboxInterrupted, SandboxNotFound
from callbox.sandboxes.supervisor.record import read_record


async def test_an_idle_sandbox_sinks_to_hot_then_warm_then_cold_and_any_call_wakes_it(bench):
    await bench.create()
    await bench.start()
    bench.pacer.advance(14)
    await bench.until_state("running")
    bench.pacer.advance(1)
    await bench.until_state("hot")
    bench.pacer.advance(300)
    await bench.until_state("warm")
    bench.pacer.advance(3600)
    await bench.until_state("cold")
    assert bench.keeper().body.machine is None
    assert await bench.execs() == ["x"]
    assert bench.keeper().state == "running"


async def test_a_call_puts_the_idle_timer_back(bench):
    await bench.create()
    bench.pacer.advance(14)
    await bench.call("ping")
    bench.pacer.advance(14)
    await bench.call("ping")
    assert bench.keeper().state == "running"
    bench.pacer.advance(15)
    await bench.until_state("hot")


async def test_an_open_stream_keeps_it_awake(bench):
    await bench.create()
    stream = await bench.client.open({"op": "fs.watch", "sandbox": "a", "path": "."})
    await bench.until(lambda: bench.keeper().users)
    bench.pacer.advance(1000)
    await bench.until_state("running")
    await stream.cancel()
    await bench.until(lambda: not bench.keeper().users)
    bench.pacer.advance(15)
    await bench.until_state("hot")


async def test_a_kept_alive_process_keeps_it_awake(bench):
    await bench.create()
    await bench.start(keep_alive=True)
    for _ in range(3):
        bench.pacer.advance(15)
        await bench.until(lambda: not bench.keeper()._busy)
    assert bench.keeper().state == "running"


async def test_a_kept_alive_process_prolongs_the_idle_time_to_live(bench):
    await bench.create(lifetime={"ttl_idle_s": 20.0, "idle_s": 1000.0})
    await bench.start(keep_alive=True)
    bench.misbehave("full-list")
    for _ in range(3):
        bench.pacer.advance(21)
        await bench.until(lambda: not bench.keeper()._busy)
    assert bench.keeper().state == "running"


@pytest.mark.parametrize("tier", ["hot", "warm", "cold"])
async def test_wakers_at_once_get_one_wake(bench, tier):
    await bench.create()
    await bench.standby(tier)
    generation = bench.keeper().body.record.generation
    await asyncio.gather(*(bench.call("ping") for _ in range(8)), bench.resume(), bench.resume())
    assert bench.keeper().body.record.generation == generation + 1
    assert bench.driver.restores == (0 if tier == "hot" else 1)


@pytest.mark.parametrize("tier", ["hot", "warm", "cold"])
async def test_the_receipt_says_what_it_was_woken_from_and_what_was_repaired(bench, tier):
    await bench.create()
    await bench.standby(tier)
    receipt = await bench.resume()
    assert receipt["tier"] == tier
    assert [each["name"] for each in receipt["repairs"]] == ["entropy", "clock", "network", "machine_id", "generation"]
    assert receipt["generation"] == 2
    assert receipt["ms"] > 0


async def test_every_wake_has_other_entropy_and_a_higher_generation(bench):
    await bench.create()
    seen = []
    for tier in ("hot", "warm", "hot", "cold"):
        await bench.standby(tier)
        seen.append((await bench.call("info"))["identity"])
    assert len({each["entropy"] for each in seen}) == 4
    assert [each["generation"] for each in seen] == [2, 3, 4, 5]


async def test_hot_standby_writes_no_record(bench):
    await bench.create()
    record = bench.keeper().body.place / "record.json"
    before = record.stat()
    for _ in range(5):
        await bench.standby("hot")
        await bench.resume()
    assert record.stat() == before
    assert read_record(record.parent).generation_reserved >= bench.keeper().body.record.generation


async def test_generations_are_reserved_before_they_are_told(bench):
    await bench.create()
    for _ in range(70):
        await bench.standby("hot")
        await bench.resume()
        told = bench.keeper().body.record.generation
        assert read_record(bench.keeper().body.place).generation_reserved >= told


async def test_standby_goes_down_and_never_up(bench):
    await bench.create()
    await bench.standby("warm")
    await bench.standby("hot")
    assert bench.keeper().state == "warm"
    await bench.standby("cold")
    await bench.standby("warm")
    assert bench.keeper().state == "cold"


async def test_a_standby_that_is_asked_for_ends_long_calls_and_says_so(bench):
    await bench.create()
    await bench.start()
    stream = await bench.client.open({"op": "exec.attach", "sandbox": "a", "id": "x"})
    await bench.until(lambda: bench.keeper().users)
    await bench.standby("warm")
    with pytest.raises(SandboxInterrupted, match="put to standby"):
        await stream.result()
    assert bench.keeper().state == "warm"


async def test_a_standby_that_the_guest_refuses_leaves_it_running(bench):
    await bench.create()
    bench.misbehave("expect_repair")
    bench.pacer.advance(15)
    await bench.until(lambda: any("standby failed" in line for line in bench.keeper().body.events.lines))
    await bench.call("ping")
    bench.misbehave()
    bench.pacer.advance(16)
    await bench.until_state("hot")


async def test_a_save_that_fails_leaves_it_running(bench):
    await bench.create()
    await bench.start()
    blocker = bench.keeper().body.place / "state.new"
    blocker.write_bytes(b"")
    with pytest.raises(Exception, match="could not be saved"):
        await bench.standby("warm")
    assert await bench.execs() == ["x"]


@pytest.mark.parametrize(
    "lifetime",
    [{"ttl_s": 100.0}, {"ttl_idle_s": 100.0}, {"expires_at": 1_800_000_100.0}],
    ids=lambda each: next(iter(each)),
)
@pytest.mark.parametrize("tier", ["running", "hot", "cold"])
async def test_time_to_live_deletes_it_in_every_state(bench, lifetime, tier):
    await bench.create(lifetime={**lifetime, "idle_s": 1000.0})
    keeper = bench.keeper()
    if tier != "running":
        await bench.standby(tier)
    bench.pacer.advance(50)
    await bench.until(lambda: not keeper._busy)
    bench.pacer.advance(51)
    await bench.until(keeper.gone.is_set)
    with pytest.raises(SandboxNotFound):
        await bench.call("ping")
    assert not keeper.body.place.exists()


async def test_use_prolongs_the_idle_time_to_live_only(bench):
    await bench.create("idle", lifetime={"ttl_idle_s": 100.0})
    await bench.create("age", lifetime={"ttl_s": 100.0})
    age = bench.keeper("age")
    for _ in range(3):
        bench.pacer.advance(40)
        await bench.call("ping", "idle")
    await bench.until(age.gone.is_set)
    assert bench.keeper("idle").state == "running"


async def test_update_changes_labels_and_lifetime_durably(bench):
    await bench.create()
    await bench.call("sandbox.update", labels={"team": "x"}, lifetime={"idle_s": 3.0})
    record = read_record(bench.keeper().body.place)
    assert (record.spec.labels, record.spec.lifetime.idle_s) == ({"team": "x"}, 3.0)
    bench.pacer.advance(3)
    await bench.until_state("hot")
