"""A supervisor on bare machines, whose time the test owns."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from callbox.errors import SandboxError
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.home import Home
from callbox.sandboxes.supervisor.keeper import Keeper
from callbox.sandboxes.supervisor.server import Supervisor
from callbox.sandboxes.supervisor.settings import Settings
from support_bare import BareDriver, make_supervisor, processes_of

SETTINGS = Settings(guest_timeout_s=5.0, retry_s=1.0)
DEADLINE_S = 30.0


class HandPacer:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._cancelled: set[int] = set()

    def monotonic(self) -> float:
        return self.passed

    def wall(self) -> float:
        return 1_800_000_000.0 + self.passed

    def call_later(self, seconds: float, ring: Callable[[], None]) -> HandAlarm:
        number = next(self._numbers)
        if seconds <= 0:
            asyncio.get_running_loop().call_soon(lambda: None if number in self._cancelled else ring())
        else:
            heapq.heappush(self._alarms, (self.passed + seconds, number, ring))
        return HandAlarm(self._cancelled, number)

    def advance(self, seconds: float) -> None:
        self.passed += seconds
        while self._alarms and self._alarms[0][0] <= self.passed:
            _, number, ring = heapq.heappop(self._alarms)
            if number not in self._cancelled:
                ring()


class HandAlarm:
    def __init__(self, cancelled: set[int], number: int) -> None:
        self._cancelled, self._number = cancelled, number

    def cancel(self) -> None:
        self._cancelled.add(self._number)


class Bench:
    """A supervisor in this process, a client of it, and what tests look at."""

    def __init__(self, supervisor: Supervisor, client: Channel, driver: BareDriver, pacer: HandPacer) -> None:
        self.supervisor, self.client, self.driver, self.pacer = supervisor, client, driver, pacer
        self.home = supervisor.host.home

    async def create(self, name: str = "a", **spec: object) -> dict:
        return (await self.client.call("sandbox.create", spec={"name": name, **spec}))["sandbox"]

    async def call(self, op: str, sandbox: str = "a", **fields: object) -> dict:
        return await self.client.call(op, sandbox=sandbox, **fields)

    async def standby(self, tier: str, sandbox: str = "a") -> None:
        await self.call("sandbox.standby", sandbox, tier=tier)

    async def resume(self, sandbox: str = "a") -> dict:
        return (await self.call("sandbox.resume", sandbox))["receipt"]

    async def start(self, sandbox: str = "a", **exec: object) -> None:
        await self.call("exec.start", sandbox, **{"id": "x", "argv": ["x"], **exec})

    async def execs(self, sandbox: str = "a") -> list[str]:
        return [each["id"] for each in (await self.call("exec.list", sandbox))["execs"]]

    async def write(self, path: str, data: bytes, sandbox: str = "a") -> None:
        stream = await self.client.open({"op": "fs.write", "sandbox": sandbox, "path": path})
        await stream.send(data)
        await stream.end()
        await stream.result()

    async def read(self, path: str, sandbox: str = "a") -> bytes:
        stream = await self.client.open({"op": "fs.read", "sandbox": sandbox, "path": path})
        return b"".join([item.data async for item in stream if hasattr(item, "data")])

    def keeper(self, sandbox: str = "a") -> Keeper:
        return self.supervisor.fleet.find(sandbox)

    def misbehave(self, *words: str) -> None:
        (self.home.root / "misbehave").write_text(" ".join(words))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.002)

    async def until_state(self, state: str, sandbox: str = "a") -> None:
        keeper = self.keeper(sandbox)
        await self.until(lambda: keeper.state == state and not keeper._busy)

    async def until_no_spare_boots(self) -> None:
        await self.until(lambda: any(kind["ready"] for kind in self.supervisor.fleet.spares.counts()))


@contextlib.asynccontextmanager
async def running(
    home: Home, driver: BareDriver, pacer: HandPacer, settings: Settings = SETTINGS
) -> AsyncIterator[Bench]:
    supervisor = make_supervisor(home, driver, pacer=pacer, settings=settings)
    task = asyncio.create_task(supervisor.run())
    listening = asyncio.create_task(supervisor.listening.wait())
    await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
    client = await Channel.connect(*await asyncio.open_unix_connection(str(home.socket)))
    try:
        yield Bench(supervisor, client, driver, pacer)
    finally:
        await client.aclose()
        supervisor.stopping.set()
        async with asyncio.timeout(DEADLINE_S):
            await task


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home", tmp_path / "images")
    home.root.mkdir()
    yield home
    for pid in processes_of(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def bench(home):
    async with running(home, BareDriver(), HandPacer()) as bench:
        yield bench
        (home.root / "misbehave").unlink(missing_ok=True)
        bench.driver.fail_restore = bench.driver.fail_boot = False
        for keeper in bench.supervisor.fleet.all():
            with contextlib.suppress(SandboxError):
                await keeper.delete()
    assert processes_of(home) == []
