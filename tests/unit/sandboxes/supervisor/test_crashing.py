"""Kill -9 of the supervisor at every named point: the next one finds every sandbox and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import support_bare
from callbox.errors import CallboxError
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.home import Home
from callbox.sandboxes.supervisor.points import POINTS
from callbox.sandboxes.supervisor.record import read_record
from support_bare import processes_of

DEADLINE_S = 60.0


class Life:
    """One sandbox's life through a client, and what was acknowledged of it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.created = self.written = self.remembered = self.deleted = False
        self.rebooted = False

    async def connect(self) -> Channel:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    return await Channel.connect(*await asyncio.open_unix_connection(str(self.home.socket)))
                except (FileNotFoundError, ConnectionRefusedError, CallboxError, OSError):
                    await asyncio.sleep(0.01)

    async def live(self, stage: str) -> None:
        """Do what leads past the points of `stage`; whoever kills the supervisor ends this with an error."""
        client = await self.connect()
        try:
            if not self.created:
                await client.call("sandbox.create", spec={"name": "a"})
                self.created = True
                stream = await client.open({"op": "fs.write", "sandbox": "a", "path": "kept"})
                await stream.send(b"kept")
                await stream.end()
                await stream.result()
                self.written = True
                await client.call("exec.start", sandbox="a", id="x", argv=["x"])
                self.remembered = True
            await self.pass_stage(client, stage)
        finally:
            await client.aclose()

    async def pass_stage(self, client: Channel, stage: str) -> None:
        match stage:
            case "hot" | "save" | "wake" | "cold":
                for tier in ["hot"] if stage == "hot" else ["cold"]:
                    await client.call("sandbox.standby", sandbox="a", tier=tier)
                    await client.call("sandbox.resume", sandbox="a")
                await asyncio.sleep(DEADLINE_S if stage == "wake" else 0)
            case "capture" | "snapshot":
                await client.call("sandbox.snapshot", sandbox="a", name="s")
            case "branch":
                await client.call("sandbox.fork", sandbox="a", count=2)
            case "reboot":
                self.rebooted = True
                for pid in processes_of(self.home):
                    os.kill(pid, signal.SIGKILL)
                while (await client.call("sandbox.get", sandbox="a"))["sandbox"]["state"] == "running":
                    await asyncio.sleep(0.002)
                await client.call("sandbox.resume", sandbox="a")
            case "spare":
                while True:
                    await client.call("sandbox.create", spec={"name": f"n{os.urandom(4).hex()}"})
            case "delete":
                self.deleted = True
                await client.call("sandbox.delete", sandbox="a")

    async def check(self) -> None:
        """A supervisor that does not die finds everything that was acknowledged."""
        client = await self.connect()
        boxes = {box["name"]: box for box in (await client.call("sandbox.list"))["sandboxes"]}
        if self.deleted:
            assert "a" not in boxes
        elif self.created:
            assert "a" in boxes
            if self.remembered and not self.rebooted:
                execs = (await client.call("exec.list", sandbox="a"))["execs"]
                assert [each["id"] for each in execs] == ["x"]
            if self.written:
                stream = await client.open({"op": "fs.read", "sandbox": "a", "path": "kept"})
                assert b"".join([item.data async for item in stream if hasattr(item, "data")]) == b"kept"
        for box in boxes.values():
            await client.call("ping", sandbox=box["id"])
        known = {box["id"] for box in boxes.values()}
        for place in self.home.sandboxes.iterdir():
            record = read_record(place)
            assert place.name in known or (record is not None and record.spare), place
        assert not list(self.home.snapshots.glob("*.new"))
        assert not list(self.home.sandboxes.glob("*/state.new"))
        for box in known:
            await client.call("sandbox.delete", sandbox=box)
        await client.call("supervisor.stop")
        await client.aclose()


@contextlib.contextmanager
def supervisor(home: Home, *options: str):
    errors = (home.root / "stderr.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, support_bare.__file__, str(home.root), *options], stdout=errors, stderr=errors
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        errors.close()


async def ended(process: subprocess.Popen[bytes]) -> int:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.to_thread(process.wait)


async def die_at(home: Home, life: Life, point: str) -> None:
    with supervisor(home, "--die-at", point) as process:
        living = asyncio.create_task(life.live(point.partition(".")[0]))
        try:
            assert await ended(process) == -signal.SIGKILL, Path(home.log).read_text()
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_every_point_loses_nothing_and_leaks_nothing(home, point):
    life = Life(home)
    if point.startswith("adopt."):
        with supervisor(home) as process:
            await life.live("nothing more")
            process.kill()
    await die_at(home, life, point)
    with supervisor(home) as process:
        await life.check()
        assert await ended(process) == 0, Path(home.log).read_text()
    assert list(home.sandboxes.iterdir()) == []
    assert processes_of(home) == []


async def test_an_exec_is_attached_again_after_the_supervisor_was_killed(home):
    life = Life(home)
    with supervisor(home) as process:
        await life.live("nothing more")
        client = await life.connect()
        await client.call("exec.start", sandbox="a", id="y", argv=["y"], output="0123456789")
        boot_id = (await client.call("info", sandbox="a"))["boot_id"]
        process.kill()
        await ended(process)
        await client.aclose()
    with supervisor(home) as process:
        client = await life.connect()
        assert (await client.call("info", sandbox="a"))["boot_id"] == boot_id
        stream = await client.open(
            {"op": "exec.attach", "sandbox": "a", "id": "y", "stdout_offset": 4, "follow": False}
        )
        assert b"".join([item.data async for item in stream if hasattr(item, "data")]) == b"456789"
        await client.call("supervisor.stop")
        await client.aclose()
        assert await ended(process) == 0


async def test_a_stop_in_good_order_saves_what_is_awake(home):
    life = Life(home)
    with supervisor(home) as process:
        await life.live("nothing more")
        process.terminate()
        assert await ended(process) == 0
    assert processes_of(home) == []
    [place] = home.sandboxes.iterdir()
    assert read_record(place).state == "warm"
    with supervisor(home) as process:
        await life.check()
        assert await ended(process) == 0


async def test_a_machine_and_its_supervisor_killed_together_keep_the_files(home):
    life = Life(home)
    with supervisor(home) as process:
        await life.live("nothing more")
        process.kill()
    for pid in processes_of(home):
        os.kill(pid, signal.SIGKILL)
    life.rebooted = True
    with supervisor(home) as process:
        await life.check()
        assert await ended(process) == 0


async def test_a_second_supervisor_waits_for_the_first(home):
    life = Life(home)
    with supervisor(home) as first:
        client = await life.connect()
        with supervisor(home) as second:
            assert (await client.call("supervisor.status"))["pid"] == first.pid
            await client.call("supervisor.stop")
            await client.aclose()
            assert await ended(first) == 0
            other = await life.connect()
            assert (await other.call("supervisor.status"))["pid"] == second.pid
            await other.aclose()


async def test_it_ends_when_nobody_needs_it(home):
    with supervisor(home, "--exit-idle-s", "0.2") as process:
        assert await ended(process) == 0
    assert not home.socket.exists()
