"""A driver without isolation, for the supervisor's logic: each machine is a `bare_agent` process, frozen with SIGSTOP.

Run as a program it is a supervisor with that driver: ``python support_bare.py HOME [--die-at POINT]``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from pathlib import Path

from callbox.errors import SandboxError, SandboxLost
from callbox.sandboxes.driver import SAVED_MARK, MachineSpec, Probe, RootImage, Usage
from callbox.sandboxes.home import Home
from callbox.sandboxes.host.launch import Launch, collect, start
from callbox.sandboxes.host.processes import ProcessIdentity, find_marked
from callbox.sandboxes.supervisor.points import FaultPoints
from callbox.sandboxes.supervisor.process import run_process
from callbox.sandboxes.supervisor.server import Supervisor
from callbox.sandboxes.supervisor.settings import Settings

AGENT = Path(__file__).with_name("bare_agent.py")
START_S = 20.0
IMAGE = RootImage(digest="d" * 64, rootfs=Path("/"), disk=None, env={"FROM_IMAGE": "1"})


class BareMachine:
    def __init__(self, spec: MachineSpec, identity: ProcessIdentity) -> None:
        self.spec = spec
        self.identity = identity

    @property
    def pids(self) -> list[int]:
        return [self.identity.pid] if self.identity.alive() else []

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        return await self._dial("agent")

    async def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    async def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def save(self, into: Path) -> None:
        writer = await self._order({"into": str(into), "copy": False})
        (into / SAVED_MARK).touch()
        writer.write(b"!")
        await self.identity.ended()
        await collect(self.spec.machine_id)
        writer.close()

    async def capture(self, into: Path) -> float:
        started = time.perf_counter()
        (await self._order({"into": str(into), "copy": True})).close()
        return time.perf_counter() - started

    async def kill(self) -> None:
        self.identity.signal(signal.SIGKILL)
        await self.identity.ended()
        await collect(self.spec.machine_id)

    async def wait_dead(self) -> str:
        await self.identity.ended()
        return "the process ended"

    def usage(self) -> Usage:
        return Usage(memory_bytes=1, cpu_s=0.0, disk_bytes=1, processes=len(self.pids))

    def _signal(self, number: int) -> None:
        if not self.identity.signal(number):
            raise SandboxLost("The process is gone.")

    async def _order(self, order: Mapping[str, object]) -> StreamWriter:
        reader, writer = await self._dial("control")
        writer.write(json.dumps(order).encode())
        if await reader.read(4) != b"done":
            raise SandboxError("The machine did not do it.")
        return writer

    async def _dial(self, kind: str) -> tuple[StreamReader, StreamWriter]:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    return await asyncio.open_unix_connection(f"\0callbox-bare-{kind}-{self.spec.machine_id}")
                except ConnectionRefusedError:
                    if not self.identity.alive():
                        raise SandboxLost("The process is gone.") from None
                    await asyncio.sleep(0.002)


class BareDriver:
    """Attributes are knobs: what the next calls do."""

    name = "gvisor"

    def __init__(self) -> None:
        self.version = self.built = "1"
        self.boots = 0
        self.restores = 0
        self.fail_restore = False
        self.fail_boot = False

    async def probe(self) -> Probe:
        return Probe(usable=True, how="bare", secure=False, why="It is for tests.")

    async def fingerprint(self, spec: MachineSpec) -> Mapping[str, str]:
        return {"driver": "bare", "version": self.version, "image": spec.image.digest}

    async def build(self) -> str:
        return self.built

    async def boot(self, spec: MachineSpec) -> BareMachine:
        if self.fail_boot:
            raise SandboxError("It does not start.")
        self.boots += 1
        disk = spec.place / "disk.img"
        if not disk.exists():
            disk.write_text("{}")
        return self._start(spec)

    async def saved_whole(self, spec: MachineSpec, into: Path) -> bool:
        return (into / SAVED_MARK).exists()

    async def restore(self, spec: MachineSpec, saved: Path) -> BareMachine:
        if self.fail_restore:
            raise SandboxError("It does not start.")
        self.restores += 1
        if (saved / "disk.img").exists():
            await asyncio.to_thread(shutil.copy, saved / "disk.img", spec.place / "disk.img")
        return self._start(spec, str(saved / "memory.json"))

    async def adopt(self, spec: MachineSpec) -> BareMachine | None:
        for pid in find_marked(spec.machine_id):
            identity = ProcessIdentity.of(pid)
            if identity is not None:
                return BareMachine(spec, identity)
        return None

    async def reap(self, place: Path, machine_id: str) -> int:
        found = 0
        for pid in find_marked(machine_id):
            identity = ProcessIdentity.of(pid)
            if identity is not None and identity.signal(signal.SIGKILL):
                await identity.ended()
                found += 1
        await collect(machine_id)
        return found

    def _start(self, spec: MachineSpec, *memory: str) -> BareMachine:
        misbehave = spec.place.parent.parent / "misbehave"
        argv = [sys.executable, "-I", "-S", str(AGENT), spec.machine_id, str(spec.place / "disk.img"), str(misbehave)]
        launched = start(Launch(machine_id=spec.machine_id, argv=[*argv, *memory], stderr=spec.place / "agent.log"))
        return BareMachine(spec, launched.identity)


async def no_check(disk: Path) -> None:
    """The disks here are JSON files: damaged if they are not."""
    try:
        json.loads(disk.read_bytes())
    except ValueError:
        raise SandboxError("Its disk is damaged.") from None


def make_supervisor(home: Home, driver: BareDriver, **options: object) -> Supervisor:
    def image(name: str) -> RootImage:
        return IMAGE

    return Supervisor(home, [driver], image, disk_checker=no_check, **options)


def processes_of(home: Home) -> list[int]:
    """Machines of a home that run, or stand still."""
    found = []
    for each in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if each.name.isdigit() and os.fsencode(home.sandboxes) in (each / "cmdline").read_bytes():
                found.append(int(each.name))
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--die-at")
    parser.add_argument("--exit-idle-s", type=float, default=60.0)
    options = parser.parse_args()
    home = Home(options.home, options.home / "images")
    settings = Settings(exit_idle_s=options.exit_idle_s)
    return asyncio.run(
        run_process(
            home,
            lambda: make_supervisor(home, BareDriver(), points=FaultPoints(options.die_at), settings=settings),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
