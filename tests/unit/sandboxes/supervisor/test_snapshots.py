"""Named snapshots, forks and spares."""

from __future__ import annotations

import asyncio
import json

import pytest

from callbox.errors import (
    ConfigurationError,
    SandboxError,
    SandboxExists,
    SandboxNotFound,
    SandboxStateError,
    SnapshotRefused,
)
from callbox.sandboxes.supervisor.record import images_in_use, read_record
from support_bare import IMAGE, processes_of


async def snapshot(bench, name="s"):
    return (await bench.call("sandbox.snapshot", name=name))["snapshot"]


async def restore(bench, name="b", of="s", **spec):
    return await bench.client.call("snapshot.restore", snapshot=of, spec={"name": name, **spec})


async def test_a_snapshot_is_restored_with_memory_and_files_and_the_original_goes_on(bench):
    await bench.create(labels={"team": "x"})
    await bench.write("f", b"then")
    await bench.start()
    taken = await snapshot(bench)
    await bench.write("f", b"now")
    await bench.call("sandbox.delete")
    answer = await restore(bench)
    assert answer["sandbox"]["labels"] == {"team": "x"}
    assert answer["receipt"]["generation"] > 1
    assert (await bench.read("f", "b"), await bench.execs("b")) == (b"then", ["x"])
    assert taken["size_bytes"] > 0
    assert [each["name"] for each in (await bench.client.call("snapshot.list"))["snapshots"]] == ["s"]
    await bench.client.call("snapshot.remove", snapshot="s")
    with pytest.raises(SandboxNotFound):
        await bench.client.call("snapshot.get", snapshot=taken["id"])
    assert list(bench.home.snapshots.iterdir()) == []


async def test_a_sleeping_sandbox_is_woken_for_its_snapshot(bench):
    await bench.create()
    await bench.start()
    await bench.standby("warm")
    await snapshot(bench)
    await restore(bench)
    assert await bench.execs("b") == ["x"]


async def test_a_snapshot_without_a_name_has_its_id(bench):
    await bench.create()
    taken = (await bench.call("sandbox.snapshot"))["snapshot"]
    assert taken["name"] == taken["id"]


async def test_of_two_who_remove_it_one_is_told_that_it_is_not_there(bench):
    await bench.create()
    await snapshot(bench)
    removing = (bench.client.call("snapshot.remove", snapshot="s") for _ in range(2))
    results = await asyncio.gather(*removing, return_exceptions=True)
    assert sorted(type(each).__name__ for each in results) == ["SandboxNotFound", "dict"]


async def test_a_restore_of_what_is_removed_meanwhile_finds_none(bench, monkeypatch):
    await bench.create()
    await snapshot(bench)
    snapshots = bench.supervisor.fleet.snapshots
    get = snapshots.get

    async def get_and_lose(name):
        found = await get(name)
        monkeypatch.setattr(snapshots, "get", get)
        await snapshots.remove(name)
        return found

    monkeypatch.setattr(snapshots, "get", get_and_lose)
    with pytest.raises(SandboxNotFound):
        await restore(bench)


async def test_the_end_that_was_meant_for_the_original_does_not_end_its_children(bench):
    end = bench.pacer.wall() + 100
    await bench.create(lifetime={"expires_at": end})
    await snapshot(bench)
    assert (await restore(bench, "b"))["sandbox"]["spec"]["lifetime"]["expires_at"] == end
    bench.pacer.advance(101)
    await bench.until(lambda: not bench.supervisor.fleet.all())
    assert (await restore(bench, "c"))["sandbox"]["spec"]["lifetime"]["expires_at"] is None
    bench.pacer.advance(1)
    assert await bench.call("ping", "c") is not None


async def test_names_of_snapshots_are_unique(bench):
    await bench.create()
    await snapshot(bench)
    with pytest.raises(SandboxExists):
        await snapshot(bench)


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "added", "manifest", "disk", "foreign"])
async def test_a_damaged_or_foreign_snapshot_is_refused_and_leaves_nothing(bench, damage):
    await bench.create()
    folder = bench.home.snapshots / (await snapshot(bench))["id"]
    memory, disk, manifest = folder / "machine/memory.json", folder / "machine/disk.img", folder / "manifest.json"
    match damage:
        case "cut":
            memory.write_bytes(memory.read_bytes()[:20])
        case "changed":
            memory.write_bytes(memory.read_bytes().replace(b"1", b"2"))
        case "missing":
            memory.unlink()
        case "added":
            (folder / "machine/more").write_bytes(b"")
        case "manifest":
            manifest.write_text(manifest.read_text()[:50])
        case "disk":
            disk.write_bytes(b"[]")
        case "foreign":
            value = json.loads(manifest.read_text())
            value["fingerprint"]["version"] = "0"
            manifest.write_text(json.dumps(value))
    restores = bench.driver.restores
    with pytest.raises(SandboxError):
        await restore(bench)
    assert bench.driver.restores == restores
    assert len(bench.supervisor.fleet.all()) == 1
    with pytest.raises(SandboxNotFound):
        await bench.call("ping", "b")


async def test_a_flipped_bit_is_refused_as_such(bench):
    await bench.create()
    folder = bench.home.snapshots / (await snapshot(bench))["id"]
    disk = folder / "machine/disk.img"
    disk.write_bytes(b"[]")
    with pytest.raises(SnapshotRefused, match=r"disk\.img has another checksum"):
        await restore(bench)


async def test_a_failed_capture_leaves_no_folder_and_the_sandbox_runs(bench, monkeypatch):
    await bench.create()

    async def full(into):
        raise SandboxError("No space left.")

    monkeypatch.setattr(bench.keeper().body.machine, "capture", full)
    with pytest.raises(SandboxError, match="No space left"):
        await snapshot(bench)
    assert list(bench.home.snapshots.iterdir()) == []
    await bench.call("ping")


async def test_forks_have_one_memory_and_identities_of_their_own(bench):
    await bench.create()
    await bench.start()
    await bench.write("f", b"shared")
    answer = await bench.call("sandbox.fork", count=8, names=[f"k{number}" for number in range(8)])
    assert answer["pause_ms"] > 0
    infos = [(await bench.call("info", box["id"]))["identity"] for box in answer["sandboxes"]]
    infos.append((await bench.call("info"))["identity"])
    for field in ("entropy", "machine_id", "hostname"):
        assert len({each[field] for each in infos}) == 9
    await bench.write("f", b"private", "k0")
    assert [await bench.read("f", name) for name in ("a", "k0", "k7")] == [b"shared", b"private", b"shared"]
    assert await bench.execs("k3") == ["x"]
    assert list(bench.home.snapshots.iterdir()) == []


@pytest.mark.parametrize("count", [0, 65, True, "2"])
async def test_impossible_forks_are_refused(bench, count):
    await bench.create()
    with pytest.raises(ConfigurationError):
        await bench.call("sandbox.fork", count=count)


async def test_a_fork_with_a_taken_name_makes_none(bench):
    await bench.create()
    with pytest.raises(SandboxExists):
        await bench.call("sandbox.fork", count=2, names=["new", "a"])
    assert len(bench.supervisor.fleet.all()) == 1
    await bench.create("new")


async def test_a_fork_of_which_one_child_fails_makes_none(bench):
    await bench.create()
    bench.driver.fail_restore = True
    with pytest.raises(SandboxError, match="does not start"):
        await bench.call("sandbox.fork", count=3)
    assert len(bench.supervisor.fleet.all()) == 1
    assert len(list(bench.home.snapshots.iterdir())) == 0


async def test_images_in_use_are_those_of_sandboxes_and_snapshots(bench):
    assert images_in_use(bench.home) == set()
    await bench.create()
    assert images_in_use(bench.home) == {IMAGE.digest}
    await snapshot(bench)
    await bench.call("sandbox.delete")
    assert images_in_use(bench.home) == {IMAGE.digest}


async def test_a_second_create_takes_the_spare_and_another_is_booted(bench):
    await bench.create()
    await bench.until_no_spare_boots()
    spare = bench.supervisor.fleet.spares._kinds.copy().popitem()[1].ready[0].record.id
    boots = bench.driver.boots
    assert (await bench.create("b"))["id"] == spare
    record = read_record(bench.keeper("b").body.place)
    assert (record.spare, record.name, record.state) == (False, "b", "running")
    await bench.until_no_spare_boots()
    assert bench.driver.boots == boots + 1


async def test_spares_of_an_older_agent_are_replaced(bench):
    await bench.client.call("pool.set", spec={}, size=2)
    spares = bench.supervisor.fleet.spares
    [old] = spares._kinds.values()
    ids = {each.record.id for each in old.ready}
    bench.driver.built = "2"
    box = await bench.create()
    await bench.until(lambda: list(spares._kinds.values()) != [old] and old.key not in spares._kinds)
    await bench.until(lambda: spares.ready == 2)
    [new] = spares._kinds.values()
    assert not ids & {box["id"], *(each.record.id for each in new.ready)}
    assert len(processes_of(bench.home)) == 3


async def test_a_dead_spare_is_replaced_in_place(bench):
    await bench.create()
    await bench.until_no_spare_boots()
    [spare] = bench.supervisor.fleet.spares._kinds.copy().popitem()[1].ready
    await spare.machine.kill()
    await bench.create("b")
    await bench.call("ping", "b")


async def test_a_spare_that_nobody_wants_is_given_up(bench):
    await bench.create()
    await bench.until_no_spare_boots()
    bench.pacer.advance(601)
    await bench.until(lambda: not bench.supervisor.fleet.spares.counts())
    assert len(processes_of(bench.home)) == 1


async def test_a_pool_keeps_as_many_ready_as_were_asked_for(bench):
    assert await bench.client.call("pool.set", spec={}, size=3) == {"ready": 3}
    assert len(processes_of(bench.home)) == 3
    for name in ("a", "b", "c"):
        await bench.create(name)
    assert await bench.client.call("pool.set", spec={}, size=3) == {"ready": 3}
    assert await bench.client.call("pool.set", spec={}, size=0) == {"ready": 0}
    await bench.until(lambda: len(processes_of(bench.home)) == 3)


async def test_a_pool_that_cannot_be_filled_says_why(bench):
    bench.driver.fail_boot = True
    with pytest.raises(SandboxError, match="does not start"):
        await bench.client.call("pool.set", spec={}, size=1)
    with pytest.raises(SandboxStateError):
        await bench.client.call("pool.set", spec={}, size=65)
