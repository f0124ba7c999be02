"""A driver that runs the real guest agent beside the host's processes: everything but the isolation and saved memory.

The agent is not PID 1 there, so it leaves the host's clock, name and entropy alone. bubblewrap gives it ``/work``.
Run as a program it is a supervisor with that driver: ``python support_agent.py --home DIR --images DIR``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import Mapping
from pathlib import Path

from callbox.errors import SandboxError, SandboxLost
from callbox.sandboxes.agent.binary import agent_binary
from callbox.sandboxes.driver import MachineSpec, Probe, RootImage, Usage
from callbox.sandboxes.home import Home
from callbox.sandboxes.host.launch import Launch, collect, start
from callbox.sandboxes.host.processes import ProcessIdentity, find_marked, tree_of
from callbox.sandboxes.supervisor.process import run_process
from callbox.sandboxes.supervisor.server import Supervisor
from callbox.sandboxes.supervisor.settings import Settings

BWRAP = shutil.which("bwrap")
IMAGE = RootImage(digest="a" * 64, rootfs=Path("/"), disk=None, env={"FROM_IMAGE": "1"})


class AgentMachine:
    def __init__(self, spec: MachineSpec, identity: ProcessIdentity) -> None:
        self.spec = spec
        self.identity = identity

    @property
    def pids(self) -> list[int]:
        return tree_of(find_marked(self.spec.machine_id))

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        loop = asyncio.get_running_loop()
        run = self.spec.place / "run"
        reader = StreamReader()
        # The agent holds both FIFOs open for reading and writing, so neither open() waits.
        output = os.fdopen(os.open(run / "out", os.O_RDONLY | os.O_NONBLOCK), "rb", 0)
        await loop.connect_read_pipe(lambda: StreamReaderProtocol(reader), output)
        into = os.fdopen(os.open(run / "in", os.O_WRONLY | os.O_NONBLOCK), "wb", 0)
        transport, protocol = await loop.connect_write_pipe(lambda: StreamReaderProtocol(StreamReader()), into)
        return reader, StreamWriter(transport, protocol, None, loop)

    async def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    async def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def save(self, into: Path) -> None:
        raise SandboxError("This driver saves no memory.")

    async def capture(self, into: Path) -> float:
        raise SandboxError("This driver saves no memory.")

    async def kill(self) -> None:
        self._signal(signal.SIGKILL, must_live=False)
        await self.identity.ended()
        await collect(self.spec.machine_id)

    async def wait_dead(self) -> str:
        await self.identity.ended()
        return "the agent ended"

    def usage(self) -> Usage:
        return Usage(memory_bytes=1, cpu_s=0.0, disk_bytes=1, processes=len(self.pids))

    def _signal(self, number: int, *, must_live: bool = True) -> None:
        if must_live and not self.identity.alive():
            raise SandboxLost("The agent is gone.")
        for pid in self.pids:
            identity = ProcessIdentity.of(pid)
            if identity is not None:
                identity.signal(number)


class AgentDriver:
    name = "gvisor"

    async def probe(self) -> Probe:
        return Probe(usable=True, how="host", secure=False, why="It is for tests.")

    async def build(self) -> str:
        return "1"

    async def fingerprint(self, spec: MachineSpec) -> Mapping[str, str]:
        return {"driver": "host"}

    async def boot(self, spec: MachineSpec) -> AgentMachine:
        run = spec.place / "run"
        for folder in (run, spec.place / "work", spec.place / "state"):
            folder.mkdir(exist_ok=True)
            os.chown(folder, *user())
        (spec.place / "disk.img").write_text("{}")
        for name in ("in", "out"):
            os.mkfifo(run / name)
        root = [word for name in ("usr", "etc") for word in ("--ro-bind", f"/{name}", f"/{name}")]
        for name in ("bin", "sbin", "lib", "lib64"):
            root += ["--symlink", f"usr/{name}", f"/{name}"]
        argv = [BWRAP or "bwrap", *root, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        argv += ["--bind", str(spec.place / "work"), "/work", "--bind", str(spec.place / "state"), "/var/lib/callbox"]
        argv += ["--ro-bind", str(agent_binary()), "/.callbox/agent", "--", "/.callbox/agent", "stdio"]
        argv += ["--uid", str(user()[0]), "--gid", str(user()[1])]
        launched = start(
            Launch(
                machine_id=spec.machine_id,
                argv=argv,
                stdin=run / "in",
                stdout=run / "out",
                stderr=spec.place / "agent.log",
            )
        )
        return AgentMachine(spec, launched.identity)

    async def restore(self, spec: MachineSpec, saved: Path) -> AgentMachine:
        raise SandboxError("This driver saves no memory.")

    async def adopt(self, spec: MachineSpec) -> AgentMachine | None:
        for pid in find_marked(spec.machine_id):
            identity = ProcessIdentity.of(pid)
            if identity is not None:
                return AgentMachine(spec, identity)
        return None

    async def reap(self, place: Path, machine_id: str) -> int:
        found = 0
        for pid in tree_of(find_marked(machine_id)):
            identity = ProcessIdentity.of(pid)
            if identity is not None and identity.signal(signal.SIGKILL):
                await identity.ended()
                found += 1
        await collect(machine_id)
        return found


def user() -> tuple[int, int]:
    """Whom commands run as: as in a sandbox where we may, else ourselves."""
    return (1000, 1000) if os.getuid() == 0 else (os.getuid(), os.getgid())


async def no_check(disk: Path) -> None:
    """There is no disk image here."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    options = parser.parse_args()
    home = Home(options.home, options.images)

    def make() -> Supervisor:
        return Supervisor(home, [AgentDriver()], lambda name: IMAGE, settings=Settings(), disk_checker=no_check)

    return asyncio.run(run_process(home, make))


if __name__ == "__main__":
    sys.exit(main())
