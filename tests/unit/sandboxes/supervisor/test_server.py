"""What clients may ask, and who may be one; records that cannot be read; what a new supervisor takes over."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import stat
from dataclasses import replace

import pytest

from callbox.errors import (
    CallboxError,
    ConfigurationError,
    GuestError,
    HostUnsuited,
    SandboxError,
    SandboxExists,
    SandboxInterrupted,
    SandboxStateError,
)
from callbox.sandboxes.supervisor import process, server
from callbox.sandboxes.supervisor.drivers import Drivers
from callbox.sandboxes.supervisor.points import FaultPoints
from callbox.sandboxes.supervisor.record import images_in_use, is_sandbox_id, machine_id_of, new_sandbox_id
from support_bare import BareDriver, make_supervisor, processes_of

from .conftest import HandPacer, running


@pytest.mark.parametrize(
    "op", ["repair", "expect_repair", "configure", "shutdown", "quiesce", "nothing", "sandbox.nothing"]
)
async def test_what_changes_a_guests_identity_is_not_for_clients(bench, op):
    await bench.create()
    with pytest.raises(GuestError, match="no operation") as error:
        await bench.call(op)
    assert error.value.guest_code == "unknown_operation"


async def test_what_the_guest_refuses_reaches_the_client(bench):
    await bench.create()
    with pytest.raises(GuestError) as error:
        await bench.call("exec.attach", id="none")
    assert error.value.guest_code == "not_found"


@pytest.mark.parametrize(
    "spec",
    [{"image": 1}, {"nothing": 1}, {"limits": {"cpus": "2"}}, {"limits": {"nothing": 2}}, {"lifetime": {"idle_s": "x"}},
     {"lifetime": {"idle_s": True}}, {"labels": {"a": 1}}, {"env": [1]}, {"name": "/"}, {"name": 4}, {"driver": "x"}, 7,
     {"labels": {str(number): "" for number in range(65)}}, {"lifetime": {"ttl_s": -1}}],
)  # fmt: skip
async def test_a_spec_that_is_wrong_is_refused(bench, spec):
    with pytest.raises(ConfigurationError):
        await bench.client.call("sandbox.create", spec=spec)
    assert bench.supervisor.fleet.all() == []


async def test_names_are_unique_and_found_like_ids(bench):
    box = await bench.create()
    with pytest.raises(SandboxExists):
        await bench.create()
    assert (await bench.call("sandbox.get", box["id"]))["sandbox"] == (await bench.call("sandbox.get"))["sandbox"]


async def test_lists_are_filtered_by_label_and_state(bench):
    await bench.create("a", labels={"team": "x", "env": "test"})
    await bench.create("b", labels={"team": "y"})
    await bench.standby("warm", "b")

    async def names(**filters):
        return [each["name"] for each in (await bench.client.call("sandbox.list", **filters))["sandboxes"]]

    assert await names() == ["a", "b"]
    assert await names(labels={"team": "x"}) == ["a"]
    assert await names(states=["warm", "cold"]) == ["b"]
    with pytest.raises(ConfigurationError):
        await names(states=["asleep"])


async def test_logs_and_stats(bench):
    await bench.create()
    await bench.standby("hot")
    assert [line.split(" ", 1)[1] for line in (await bench.call("sandbox.logs"))["lines"]] == [
        "created (new)",
        "hot standby",
    ]
    [stats] = (await bench.client.call("sandbox.stats"))["stats"]
    assert (stats["name"], stats["processes"], stats["state"]) == ("a", 1, "hot")
    await bench.standby("warm")
    [stats] = (await bench.call("sandbox.stats"))["stats"]
    assert (stats["processes"], stats["memory_bytes"]) == (0, 0)
    status = await bench.client.call("supervisor.status")
    assert (status["pid"], status["states"], status["clients"]) == (os.getpid(), {"warm": 1}, 1)
    await bench.until_no_spare_boots()
    status = await bench.client.call("supervisor.status")
    assert (status["spares_ready"], status["spares_wanted"]) == (1, 1)


async def test_who_asks_while_everything_is_laid_down_is_told_to_ask_again(home, monkeypatch):
    async with running(home, BareDriver(), HandPacer()) as bench:
        await bench.create()
        fleet, go_on = bench.supervisor.fleet, asyncio.Event()
        lay_down = fleet._lay_down

        async def slow(keeper, turn):
            await go_on.wait()
            await lay_down(keeper, turn)

        monkeypatch.setattr(fleet, "_lay_down", slow)
        await bench.client.call("supervisor.stop")
        for ask in (bench.call("ping"), bench.create("b"), bench.resume(), bench.standby("hot")):
            with pytest.raises(SandboxInterrupted) as error:
                await ask
            assert error.value.retryable
        assert (await bench.call("sandbox.get"))["sandbox"]["state"] == "running"
        keeper = bench.keeper()
        go_on.set()
        await bench.until(lambda: keeper.state == "warm")
        with pytest.raises(SandboxInterrupted):
            await keeper._wake()
    async with running(home, BareDriver(), HandPacer()) as bench:
        assert (await bench.resume())["tier"] == "warm"
        await bench.call("sandbox.delete")


async def test_the_home_is_private_its_log_bounded_and_its_images_know_it(home):
    home.root.chmod(0o755)
    home.log.write_text("old")
    home.log.chmod(0o644)
    umask = os.umask(0o022)
    handlers = logging.getLogger().handlers[:]

    def make():
        supervisor = make_supervisor(home, BareDriver())
        supervisor.stopping.set()
        return supervisor

    try:
        assert await process.run_process(home, make) == 0
        [handler] = [each for each in logging.getLogger().handlers if each not in handlers]
        assert (handler.maxBytes, handler.backupCount) == (10 << 20, 1)
        handler.doRollover()
        logging.getLogger().removeHandler(handler)
        handler.close()
    finally:
        os.umask(umask)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (home.root, home.log)] == [0o700, 0o600]
    assert len(list(home.root.glob("supervisor.log*"))) == 2
    assert [each.read_bytes() for each in (home.images / "homes").iterdir()] == [os.fsencode(home.root)]


async def test_the_socket_is_ours_alone(bench):
    assert stat.S_IMODE(bench.home.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(bench.home.socket.parent.stat().st_mode) == 0o700


async def test_another_user_is_turned_away(bench, monkeypatch):
    monkeypatch.setattr(server, "_peer_uid", lambda writer: os.getuid() + 1)
    reader, writer = await asyncio.open_unix_connection(str(bench.home.socket))
    assert await reader.read() == b""
    writer.close()


async def test_a_record_that_cannot_be_read_is_listed_and_only_a_delete_removes_it(home):
    damaged, future = new_sandbox_id(), new_sandbox_id()
    for name, content in ((damaged, "{not"), (future, json.dumps({"format": 99, "id": future}))):
        (home.sandboxes / name).mkdir(parents=True)
        (home.sandboxes / name / "record.json").write_text(content)
    async with running(home, BareDriver(), HandPacer()) as bench:
        boxes = (await bench.client.call("sandbox.list"))["sandboxes"]
        assert {box["state"] for box in boxes} == {"failed"}
        assert {box["id"] for box in boxes} == {damaged, future}
        for op in ("ping", "sandbox.resume"):
            with pytest.raises(SandboxStateError):
                await bench.call(op, damaged)
        with pytest.raises(SandboxStateError):
            await bench.call("sandbox.update", damaged, labels={"a": "b"})
    assert (home.sandboxes / damaged / "record.json").read_text() == "{not"
    with pytest.raises(SandboxError):
        images_in_use(home)
    async with running(home, BareDriver(), HandPacer()) as bench:
        for box in (damaged, future):
            await bench.call("sandbox.delete", box)
    assert list(home.sandboxes.iterdir()) == []


async def test_machines_without_a_record_or_a_folder_are_reaped(home, monkeypatch):
    async with running(home, BareDriver(), HandPacer()) as bench:
        for name in ("a", "b", "c"):
            await bench.create(name)
        ids = [bench.keeper(name).body.record.id for name in ("a", "b", "c")]
        # As if this supervisor had died: nothing is saved at its end.
        monkeypatch.setattr(bench.supervisor.fleet, "_lay_down", lambda keeper, turn: _nothing())
    (home.sandboxes / ids[0] / "record.json").unlink()
    shutil.rmtree(home.sandboxes / ids[1])
    assert len(processes_of(home)) == 3
    async with running(home, BareDriver(), HandPacer()) as bench:
        await bench.call("ping", "c")
        assert len(processes_of(home)) == 1
        assert [keeper.body.record.name for keeper in bench.supervisor.fleet.all()] == ["c"]
        await bench.call("sandbox.delete", "c")
    assert processes_of(home) == []


async def test_a_snapshot_and_cold_memory_survive_a_restart(home):
    async with running(home, BareDriver(), HandPacer()) as bench:
        await bench.create()
        await bench.start()
        await bench.call("sandbox.snapshot", name="s")
        await bench.standby("cold")
    assert processes_of(home) == []
    async with running(home, BareDriver(), HandPacer()) as bench:
        assert (await bench.resume())["tier"] == "cold"
        assert await bench.execs() == ["x"]
        await bench.client.call("snapshot.restore", snapshot="s", spec={"name": "b"})
        assert await bench.execs("b") == ["x"]
        for name in ("a", "b"):
            await bench.call("sandbox.delete", name)


async def test_auto_prefers_kvm_then_gvisor_then_emulation():
    qemu, gvisor = BareDriver(), BareDriver()
    qemu.name = "qemu"
    found = {"kvm": "qemu", "tcg": "gvisor"}
    for how, expected in found.items():
        probe = await qemu.probe()

        async def answer(how=how, probe=probe):
            return type(probe)(usable=True, how=how, secure=how == "kvm", why="")

        qemu.probe = answer
        assert (await Drivers([qemu, gvisor]).choose("auto"))[0].name == expected
    assert (await Drivers([qemu]).choose("auto"))[0].name == "qemu"
    with pytest.raises(CallboxError, match="No driver runs here"):
        await Drivers([]).choose("auto")


async def test_what_both_drivers_lack_is_said_once():
    drivers = [BareDriver(), BareDriver()]
    fix = "Run scripts/build_guest; it needs Go."
    for driver in drivers:
        probe = replace(await driver.probe(), usable=False, fix=fix)

        async def answer(probe=probe):
            return probe

        driver.probe = answer
    drivers[0].name = "qemu"
    with pytest.raises(HostUnsuited) as error:
        await Drivers(drivers).choose("auto")
    assert error.value.hint == fix


def test_ids_carry_their_machines_id():
    new = new_sandbox_id()
    assert is_sandbox_id(new)
    assert len(machine_id_of(new)) == 32
    assert not is_sandbox_id("box_../../../../etc/passwd000")


def test_a_point_that_there_is_not_is_refused():
    with pytest.raises(ConfigurationError):
        FaultPoints("nowhere")


async def _nothing():
    return None
