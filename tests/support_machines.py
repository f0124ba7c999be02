"""Machines for the drivers' contract: made in a room that ends them all, spoken to like the supervisor does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbox.sandboxes.channel import Channel, Data
from callbox.sandboxes.driver import Driver, Machine, MachineSpec
from callbox.sandboxes.host.cgroups import Cgroup
from callbox.sandboxes.host.mounts import loop_devices_below, mounts_below
from callbox.sandboxes.host.processes import PROGRAMS, find_marked, find_using, state_of

ANSWER_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """What a command in a machine did."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None


@dataclass
class Guest:
    """One machine and the open channel to its agent."""

    spec: MachineSpec
    machine: Machine
    channel: Channel

    async def repair(self, generation: int) -> list[str]:
        """Do what must come first after each boot and restore."""
        request = {
            "entropy": base64.b64encode(os.urandom(64)).decode(),
            "realtime_ns": time.time_ns(),
            "hostname": f"guest-{generation}",
            "machine_id": uuid.uuid4().hex,
            "generation": generation,
        }
        done = await self.call("repair", **request)
        return [each["name"] for each in done["repairs"]]

    async def call(self, op: str, **fields: Any) -> dict[str, Any]:
        """One operation, with a deadline."""
        async with asyncio.timeout(ANSWER_S):
            return dict(await self.channel.call(op, **fields))

    async def sh(self, text: str, *, user: str = "box", **fields: Any) -> Outcome:
        """Run a line of shell to its end."""
        request = {"op": "exec.run", "id": uuid.uuid4().hex, "shell": text, "user": user, "env": {"PATH": "/bin"}}
        parts: dict[int, list[bytes]] = {1: [], 2: []}
        async with asyncio.timeout(ANSWER_S):
            stream = await self.channel.open(request | fields)
            async for item in stream:
                if isinstance(item, Data):
                    parts[item.channel].append(bytes(item.data))
            end = await stream.result()
        return Outcome(b"".join(parts[1]), b"".join(parts[2]), end["exit_code"])

    async def prepare(self) -> None:
        """Tell a repaired guest its limits."""
        limits = self.spec.limits
        await self.call(
            "configure",
            hostname="guest",
            env={},
            processes_max=limits.processes_max,
            memory_bytes=limits.memory_mb << 20,
            open_files_max=limits.open_files_max,
        )


class MachineRoom:
    """Makes machines, and ends them."""

    def __init__(self, driver: Driver, new_spec: Callable[..., MachineSpec]) -> None:
        self.driver = driver
        self.new_spec = new_spec
        self._specs: list[MachineSpec] = []
        self._channels: list[Channel] = []
        self._zombies = zombies()

    async def boot(self, **limits: int) -> Guest:
        """Boot one, repair it and tell it its limits."""
        spec = self.spec(**limits)
        guest = await self.meet(spec, await self.driver.boot(spec))
        await guest.repair(1)
        await guest.prepare()
        return guest

    def spec(self, **limits: int) -> MachineSpec:
        """A specification that is reaped at the end."""
        spec = self.new_spec(**limits)
        self._specs.append(spec)
        return spec

    async def meet(self, spec: MachineSpec, machine: Machine) -> Guest:
        """Connect with the agent of a machine."""
        async with asyncio.timeout(ANSWER_S):
            channel = await Channel.connect(*await machine.connect(), timeout_s=ANSWER_S)
        self._channels.append(channel)
        return Guest(spec, machine, channel)

    async def close(self) -> None:
        """End everything, and look that nothing is left on the host."""
        for channel in self._channels:
            with contextlib.suppress(Exception):
                await channel.aclose()
        for spec in self._specs:
            await self.driver.reap(spec.place, spec.machine_id)
        for spec in self._specs:
            assert left_of(spec) == []
        assert zombies() <= self._zombies


def zombies() -> set[int]:
    """Children of this process that have ended and that nobody has waited for."""
    children = [int(pid) for each in Path("/proc/self/task").glob("*/children") for pid in each.read_text().split()]
    return {pid for pid in children if state_of(pid) == "Z"}


def left_of(spec: MachineSpec) -> list[str]:
    """What a machine has left on the host besides its folder."""
    place: Path = spec.place
    pids = {*find_marked(spec.machine_id), *find_using(place, PROGRAMS), *Cgroup(spec.machine_id).pids()}
    left = [f"process {pid}" for pid in pids if state_of(pid) not in "ZX"]
    left += [f"mount {point}" for point in mounts_below(place)]
    left += [f"loop device {device}" for device in loop_devices_below(place)]
    if Cgroup(spec.machine_id).exists():
        left.append("a control group")
    return left
