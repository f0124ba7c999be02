"""Create, sleep, resume, fork, run `true`: what each costs per driver and tier, with the peers in the same run."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

from measuring import fresh_home, spread
from peers import bare_runsc, bubblewrap, cold_qemu
from rich.console import Console
from rich.table import Table

from callbox import Sandbox
from callbox.sandboxes.client import Client
from callbox.sandboxes.home import Home
from callbox.sandboxes.images.kernel import guest_kernel
from callbox.sandboxes.images.store import ImageStore


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await action()
    return time.perf_counter() - begun


async def resumes(box: Sandbox, tier: str, count: int) -> tuple[list[float], list[float], list[float]]:
    """Standby, then resume: seconds of each, and what the receipts say of the way to the guest's first reply."""
    slept, woke, receipts = [], [], []
    for _ in range(count):
        slept.append(await timed(lambda: box.standby(tier=tier)))
        begun = time.perf_counter()
        receipt = await box.resume()
        woke.append(time.perf_counter() - begun)
        assert receipt.tier == tier
        receipts.append(receipt.ms / 1e3)
    return slept, woke, receipts


async def creates(home: Home, driver: str, image: str, count: int, warm: bool) -> list[float]:
    """Seconds until a new sandbox is there and answered. Warm: each time, its template is given time to get ready."""
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        box = await Sandbox.create(image, driver=driver, home=home)
        took.append(time.perf_counter() - begun)
        await box.delete()
        if warm:
            await ready(home)
    return took


async def ready(home: Home) -> None:
    """Wait until the supervisor has its spares again."""
    client = Client.of(home)
    while True:
        status = await client.call("supervisor.status", repeat=True)
        if status["spares_ready"] >= status["spares_wanted"]:
            return
        await asyncio.sleep(0.02)


async def forks(client: Client, box: Sandbox, number: int, count: int) -> tuple[list[float], list[float]]:
    took, paused = [], []
    for _ in range(count):
        begun = time.perf_counter()
        reply = await client.call("sandbox.fork", repeat=False, sandbox=box.id, count=number)
        kids = [await Sandbox.open(each["id"], home=client.home) for each in reply["sandboxes"]]
        await asyncio.gather(*(kid.run(["true"]) for kid in kids))
        took.append(time.perf_counter() - begun)
        paused.append(reply["pause_ms"] / 1e3)
        for kid in kids:
            await kid.delete()
    return took, paused


async def measure(driver: str, image: str, rounds: int) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    async with fresh_home() as home:
        first = await creates(home, driver, image, 1, warm=False)
        rows.append(("the first create of all (boots)", f"{first[0] * 1e3:,.0f}"))
        await ready(home)
        rows.append(
            (
                "create, from a warm template",
                spread(await creates(home, driver, image, max(10, rounds // 5), warm=True)),
            )
        )
        box = await Sandbox.create(image, driver=driver, home=home)
        await box.run(["true"])
        rows.append(("exec of `true`", spread([await timed(lambda: box.run(["true"])) for _ in range(rounds)])))
        for tier, count in (("hot", rounds), ("warm", max(10, rounds // 10)), ("cold", max(5, rounds // 20))):
            slept, woke, receipts = await resumes(box, tier, count)
            rows.append((f"standby, {tier}", spread(slept)))
            rows.append((f"resume, {tier}: to the guest's first reply", spread(receipts)))
            rows.append((f"resume, {tier}: the whole call, repairs included", spread(woke)))
        for number in (1, 8):
            took, paused = await forks(Client.of(home), box, number, max(3, rounds // 50))
            rows.append((f"fork of {number}, all answering", spread(took)))
            rows.append((f"fork of {number}: the parent's pause", spread(paused)))
        await box.delete()
    return rows


def peers(image: str, rounds: int) -> list[tuple[str, str]]:
    home = Home.default()
    root = ImageStore(home.images).get(image).root_image()
    count = max(5, rounds // 20)
    return [
        ("bare `runsc run` of `true`", spread([bare_runsc(root, ["/bin/true"]) for _ in range(count)])),
        (
            "bubblewrap process `true` (no kernel of its own)",
            spread([bubblewrap(root, ["/bin/true"]) for _ in range(count)]),
        ),
        (
            "cold QEMU boot (TCG) to the open channel",
            spread([cold_qemu(root, guest_kernel(home.images)) for _ in range(3)]),
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--image", default="python")
    parser.add_argument("--driver", action="append")
    options = parser.parse_args()
    drivers = options.driver or ["gvisor", "qemu"]
    columns = {driver: dict(asyncio.run(measure(driver, options.image, options.rounds))) for driver in drivers}
    table = Table("ms: p50 / p99 (n)", *drivers, box=None, pad_edge=False)
    for row in columns[drivers[0]]:
        table.add_row(row, *(columns[driver].get(row, "") for driver in drivers))
    for name, value in peers(options.image, options.rounds):
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    main()
