"""A host whose disk is full, and what else fails that nobody thought of."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from callbox.errors import SandboxError, SandboxInterrupted, SandboxNotFound, SnapshotRefused
from callbox.sandboxes.supervisor import body, disk_writes, saving
from callbox.sandboxes.supervisor.record import read_record
from callbox.sandboxes.supervisor.saved import read_manifest
from support_bare import BareDriver, processes_of

from .conftest import HandPacer, running


@pytest.fixture
def full(monkeypatch):
    """A switch: while it is set, no record can be written."""
    write = body.write_record
    switch = threading.Event()

    def refuse(place, record):
        if switch.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(place, record)

    monkeypatch.setattr(body, "write_record", refuse)
    return switch


async def test_a_create_without_room_says_so_and_leaves_nothing(bench, full):
    full.set()
    with pytest.raises(SandboxError, match="no room") as error:
        await bench.create()
    assert "Free room" in error.value.hint
    full.clear()
    await bench.create()


@pytest.mark.parametrize("tier", ["warm", "cold"])
async def test_a_wake_without_room_says_so_and_the_sandbox_sleeps_on(bench, full, tier):
    await bench.create()
    await bench.start()
    await bench.standby(tier)
    full.set()
    with pytest.raises(SandboxError, match="no room"):
        await bench.call("ping")
    assert bench.keeper().state == tier
    full.clear()
    assert await bench.execs() == ["x"]


async def test_a_standby_without_room_says_so_and_the_sandbox_runs_on(bench, monkeypatch):
    await bench.create()
    await bench.start()

    def refuse(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(body, "set_room_aside", refuse)
    with pytest.raises(SandboxError, match="no room") as error:
        await bench.standby("warm")
    assert "Free room" in error.value.hint
    assert await bench.execs() == ["x"]


async def test_what_was_saved_when_the_record_found_no_room_is_whole(home, full):
    async with running(home, BareDriver(), HandPacer()) as bench:
        await bench.create()
        await bench.start()
        full.set()
        await bench.standby("warm")
        place = bench.keeper().body.place
        assert read_record(place).state == "running"
        assert not list(place.rglob("room"))
    full.clear()
    async with running(home, BareDriver(), HandPacer()) as bench:
        assert await bench.execs() == ["x"]
        await bench.call("sandbox.delete")


async def test_a_deletion_needs_no_room(bench, full, monkeypatch):
    await bench.create()
    place = bench.keeper().body.place
    full.set()

    def refuse(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk_writes, "write_json", refuse)
    async with asyncio.timeout(10):
        await bench.call("sandbox.delete")
    assert not place.exists()
    full.clear()


async def test_a_snapshot_without_room_says_so(bench, monkeypatch):
    await bench.create()

    async def refuse(keeper, folder, **about):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bench.supervisor.fleet.snapshots, "capture", refuse)
    with pytest.raises(SandboxError, match="no room"):
        await bench.call("sandbox.snapshot")


async def test_cold_memory_has_checksums_and_damage_to_it_is_refused(bench):
    await bench.create()
    await bench.standby("warm")
    await bench.standby("cold")
    folder = bench.keeper().body.saved_folder
    files = read_manifest(folder)["files"]
    assert all(each["sha256"] for each in files.values())
    memory = folder / "machine" / "memory.json"
    marks = memory.stat()
    memory.write_bytes(memory.read_bytes().replace(b"0", b"1"))
    os.utime(memory, ns=(marks.st_atime_ns, marks.st_mtime_ns))
    with pytest.raises(SnapshotRefused, match="checksum"):
        await bench.call("ping")


async def test_a_call_does_not_wait_for_checksums(bench, monkeypatch):
    await bench.create()
    await bench.start()
    reading = threading.Event()

    def slow(folder, manifest, stop):
        reading.set()
        assert stop.wait(10)
        return False

    monkeypatch.setattr(saving.saved, "add_checksums", slow)
    cooling = asyncio.create_task(bench.standby("cold"))
    await bench.until(reading.is_set)
    assert await bench.execs() == ["x"]
    with pytest.raises(SandboxInterrupted):
        await cooling


async def test_a_machine_that_cannot_be_watched_is_failed(bench, monkeypatch):
    await bench.create()
    await bench.until_no_spare_boots()

    async def odd():
        raise RuntimeError("odd")

    monkeypatch.setattr(bench.keeper().body.machine, "wait_dead", odd)
    bench.keeper()._watch.over(None)
    await bench.call("sandbox.update", labels={})
    await bench.until_state("failed")
    assert "odd" in bench.keeper().body.record.reason
    assert (await bench.resume())["tier"] == "reboot"


async def test_a_driver_that_fails_oddly_ends_neither_the_supervisor_nor_the_deletion(bench, monkeypatch):
    await bench.create()
    failures = [KeyError("odd"), SandboxError("known")]
    reap = bench.driver.reap

    async def odd(place, machine_id):
        if failures:
            raise failures.pop()
        return await reap(place, machine_id)

    monkeypatch.setattr(bench.driver, "reap", odd)
    await bench.call("sandbox.delete")
    assert not failures
    with pytest.raises(SandboxNotFound):
        await bench.call("ping")


async def test_a_spare_that_fails_oddly_is_given_up_and_tried_again(bench, monkeypatch):
    boot, odd_ones = bench.driver.boot, []

    async def odd(spec):
        if read_record(spec.place).spare and not odd_ones:
            odd_ones.append(spec)
            raise KeyError("odd")
        return await boot(spec)

    monkeypatch.setattr(bench.driver, "boot", odd)
    await bench.create()
    await bench.until(lambda: odd_ones)
    bench.pacer.advance(2)
    bench.supervisor.fleet.spares._changed.set()
    await bench.until_no_spare_boots()
    assert not odd_ones[0].place.exists()
    assert len(processes_of(bench.home)) == 2
