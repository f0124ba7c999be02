"""Twins must not be twins: entropy, clock, machine id and generation after a fork and a resume."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from callbox.sandboxes.certify.check import Check, expect
from callbox.sandboxes.certify.ground import Ground
from callbox.sandboxes.sandbox import Sandbox

_FORKS = 4
_CLOCK_S_MAX = 2.0
_RANDOM = "import os,uuid,secrets; print(os.urandom(32).hex(), uuid.uuid4().hex, secrets.token_hex(16))"


async def entropy(ground: Ground) -> str:
    """Read random bytes in forks of one instant, from programs started after it."""
    async with ground.box() as box:
        await box.run("head -c 64 /dev/urandom > /dev/null")
        kids = await box.fork(_FORKS)
        try:
            lines = await asyncio.gather(*(_said(each, ["python3", "-c", _RANDOM]) for each in (box, *kids)))
        finally:
            await _delete(kids)
    words = [word for line in lines for word in line.split()]
    expect(len(words) == 3 * (_FORKS + 1), f"{len(words)} answers")
    expect(len(set(words)) == len(words), "two forks read the same random bytes")
    return f"{len(words)} readings in {_FORKS} forks and their parent, all different"


async def running_entropy(ground: Ground) -> str:
    """Read the kernel's random bytes in a process that was running when the fork was made."""
    program = "import os,sys\nfor _ in sys.stdin: print(os.urandom(32).hex(), flush=True)"
    async with ground.box() as box:
        process = await box.spawn(["python3", "-uc", program], stdin=True)
        await process.write(b"\n")
        kids = await box.fork(_FORKS)
        try:
            seen: list[str] = []
            for each in (box, *kids):
                twin = each.process(process.id)
                await twin.write(b"\n")
                seen += (await _lines(each, process.id, 2))[1:]
        finally:
            await _delete(kids)
        await process.kill()
    expect(len(set(seen)) == _FORKS + 1, f"the same bytes in two forks: {seen}")
    return f"one process, {_FORKS} twins, {len(seen)} different readings"


async def names(ground: Ground) -> str:
    """Compare machine ids, hostnames and generations of forks."""
    ask = "cat /etc/machine-id; hostname; cat /run/callbox/generation"
    async with ground.box() as box:
        kids = await box.fork(2)
        try:
            answers = [(await _said(each, ask)).split() for each in (box, *kids)]
        finally:
            await _delete(kids)
    machine_ids, hostnames, generations = zip(*answers, strict=True)
    expect(len(set(machine_ids)) == 3, f"machine ids: {machine_ids}")
    expect(len(set(hostnames)) == 3, f"hostnames: {hostnames}")
    expect(all(int(each) > 0 for each in generations), f"generations: {generations}")
    return f"3 machine ids, 3 hostnames, generations {', '.join(generations)}"


async def clock(ground: Ground) -> str:
    """Look at the clock after a standby, and after it was set a month ahead."""
    seen: list[float] = []
    async with ground.box() as box:
        for tier in ("hot", "warm"):
            await box.run("date -s '+1 month' || true", user="root")
            await box.standby(tier=tier)
            receipt = await box.resume()
            expect(
                [each["name"] for each in receipt.repairs][:2] == ["entropy", "clock"], f"repaired: {receipt.repairs}"
            )
            before = time.time()
            said = float(await _said(box, ["date", "+%s.%N"]))
            seen.append(max(before - said, said - time.time(), 0.0))
            expect(seen[-1] <= _CLOCK_S_MAX, f"the clock is {seen[-1]:.1f} s off after {tier} standby")
    return f"at most {max(seen) * 1000:.0f} ms off after a month ahead"


async def secret(ground: Ground) -> str:
    """Hold a secret in a process's memory, nowhere else, through every tier: resumed, not rebooted."""
    source = (Path(__file__).parent / "inside" / "keeper.py").read_text("utf-8")
    tiers: list[str] = []
    async with ground.box() as box:
        process = await box.spawn(["python3", "-uc", source], stdin=True)
        await process.write(b"\n")
        first = (await _lines(box, process.id, 1))[0].split()
        for count, tier in enumerate(("hot", "warm", "cold", "hot"), start=2):
            await box.standby(tier=tier)
            receipt = await box.resume()
            tiers.append(f"{receipt.tier} {receipt.ms:.0f} ms")
            expect(receipt.tier == tier, f"resumed from {receipt.tier}, not {tier}")
            await process.write(b"\n")
            now = (await _lines(box, process.id, count))[-1].split()
            expect(now[:2] == first[:2], f"another process or secret after {tier}: rebooted")
            expect(now[2] == str(count), f"it lost count after {tier}: {now[2]}, not {count}")
        snapshot = await box.snapshot()
        twin = await snapshot.restore()
        try:
            resumed = twin.process(process.id)
            await resumed.write(b"\n")
            now = (await _lines(twin, process.id, 6))[-1].split()
            expect(now == [*first[:2], "6"], f"the snapshot gave {now}")
        finally:
            await twin.delete()
            await snapshot.remove()
        await process.kill()
    return "the same secret after " + ", ".join(tiers) + ", and from a snapshot"


async def apart(ground: Ground) -> str:
    """Write in one fork; nobody else sees it, in files or in memory."""
    async with ground.box() as box:
        await box.files.write("shared.txt", "before")
        kids = await box.fork(2)
        try:
            await kids[0].files.write("shared.txt", "child")
            await box.files.write("shared.txt", "parent")
            contents = [await each.files.read("shared.txt") for each in (box, *kids)]
        finally:
            await _delete(kids)
    expect(contents == [b"parent", b"child", b"before"], f"they read {contents}")
    return "parent, child and sibling each read their own"


async def _said(box: Sandbox, command: str | list[str]) -> str:
    done = await box.run(command, timeout_s=60)
    expect(done.exit_code == 0, f"{command!r} ended with {done.exit_code}: {done.stderr[-200:]}")
    return done.stdout.strip()


async def _lines(box: Sandbox, process_id: str, count: int) -> list[str]:
    """Read the first `count` lines that a process has printed."""
    process = box.process(process_id)
    seen = b""
    async with asyncio.timeout(60):
        async for chunk in process.chunks():
            seen += chunk.data
            if seen.count(b"\n") >= count:
                break
    return seen.decode().splitlines()[:count]


async def _delete(boxes: list[Sandbox]) -> None:
    for each in boxes:
        await each.delete()


CHECKS = (
    Check("identity", "forks never read the same random bytes", entropy, 240),
    Check("identity", "nor does a process that was running at the fork", running_entropy, 240),
    Check("identity", "machine id, hostname and generation differ", names, 240),
    Check("identity", "the clock is right after every standby", clock, 240),
    Check("memory", "a secret in memory survives every tier: resumed, not rebooted", secret, 300),
    Check("memory", "forks are private from then on", apart, 240),
)
