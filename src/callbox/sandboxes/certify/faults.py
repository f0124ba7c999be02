"""Kill, cut and fill; nothing saved is lost, and nothing damaged is booted."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

from callbox.errors import SandboxError, SnapshotRefused
from callbox.sandboxes.certify.check import Broken, Check, NotOffered, expect
from callbox.sandboxes.certify.ground import Ground, after_loss
from callbox.sandboxes.sandbox import Sandbox
from callbox.sandboxes.supervisor import saved

_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
_DEPENDENCIES_LEAST = 4
_SMALL_DISK_MB = 2_048


async def machine_killed(ground: Ground) -> str:
    """Kill -9 every process of a running machine: files stay, the next call says that it booted again."""
    async with ground.box() as box:
        await box.files.write("kept.txt", "kept")
        await box.run("sync", user="root")
        pids = ground.machine_pids(box)
        expect(pids, "no process of the machine was found")
        _kill(pids)
        content = await after_loss(lambda: box.files.read("kept.txt"))
        expect(content == b"kept", "the file is gone")
    return f"{len(pids)} processes killed, files kept"


async def supervisor_killed(ground: Ground) -> str:
    """Kill -9 the supervisor under a running process: another one adopts the machine, memory and all."""
    async with ground.box(name="orphan") as box:
        boot = (await box.run(_BOOT_ID)).stdout
        process = await box.spawn("i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done", keep_alive=True)
        await ground.kill_supervisor()
        again = await Sandbox.open("orphan", home=ground.home)
        expect((await again.run(_BOOT_ID)).stdout == boot, "it was booted again")
        alive = again.process(process.id)
        async with asyncio.timeout(60):
            seen = b""
            async for chunk in alive.chunks():
                seen += chunk.data
                if seen.count(b"\n") > 10:
                    break
        expect(seen.startswith(b"1\n2\n3\n"), f"output was lost: {seen[:40]!r}")
        await alive.kill()
    return "adopted; the process and its whole output were there"


async def killed_while_saving(ground: Ground) -> str:
    """Kill -9 the supervisor and the machine at random moments of falling asleep and waking; nothing saved is lost."""
    rounds = max(4, int(12 * ground.scale))
    dice = random.Random(1)  # noqa: S311  # reproducible moments, not secrets
    async with ground.box(name="sleeper") as box:
        await box.files.write("kept.txt", "kept")
        await box.run("sync", user="root")
        for _ in range(rounds):
            going = asyncio.create_task(_cycle(box))
            await asyncio.sleep(dice.uniform(0.0, 0.6))
            if dice.random() < 0.5:
                await ground.kill_supervisor()
            else:
                _kill(ground.machine_pids(box))
            await asyncio.gather(going, return_exceptions=True)
            box = await Sandbox.open("sleeper", home=ground.home)
            content = await after_loss(lambda box=box: box.files.read("kept.txt"))
            expect(content == b"kept", "the file is gone")
    return f"{rounds} kills, 0 lost"


async def truncated(ground: Ground) -> str:
    """Cut a file of a snapshot, change a byte of another: refused, never booted."""
    async with ground.box() as box:
        for damage in (_cut, _flip):
            snapshot = await box.snapshot()
            folder = ground.home.snapshots / snapshot.id
            files = [each for each in folder.rglob("*") if each.is_file() and each.suffix != ".json"]
            for path in files:
                kept = await asyncio.to_thread(path.read_bytes) if path.stat().st_size < 64 << 20 else None
                if kept is None:
                    continue
                await asyncio.to_thread(damage, path)
                try:
                    twin = await snapshot.restore()
                except SnapshotRefused:
                    await asyncio.to_thread(path.write_bytes, kept)
                else:
                    await twin.delete()
                    raise Broken(f"{path.name} was damaged, and booted")
            await snapshot.remove()
    return "every file cut and changed: refused"


async def foreign(ground: Ground) -> str:
    """Change, one after the other, everything that a snapshot says it depends on: refused, and the message names it."""
    async with ground.box() as box:
        snapshot = await box.snapshot()
        folder = ground.home.snapshots / snapshot.id
        original = saved.read_manifest(folder) or {}
        names = sorted(original["fingerprint"])
        expect(len(names) >= _DEPENDENCIES_LEAST, f"it depends on {', '.join(names)} only")
        for name in names:
            # With a seal that fits: as if it had been made on a host where only this differs.
            other = original["fingerprint"] | {name: "another"}
            saved.write_manifest(folder, original | {"fingerprint": other})
            try:
                twin = await snapshot.restore()
            except SnapshotRefused as error:
                expect(name in error.message, f"{name} differed, but it said: {error.message}")
            else:
                await twin.delete()
                raise Broken(f"a snapshot that depends on another {name} was booted")
        saved.write_manifest(folder, original)
        await (await snapshot.restore()).delete()
        await snapshot.remove()
    return f"refused for each of {', '.join(names)}"


async def double_resume(ground: Ground) -> str:
    """Wake one sandbox from eight clients at once: one wake, eight answers."""
    async with ground.box(name="twice") as box:
        await box.standby(tier="warm")
        handles = [await Sandbox.open("twice", home=ground.home) for _ in range(8)]
        answers = await asyncio.gather(*(each.run(["echo", str(number)]) for number, each in enumerate(handles)))
        expect([each.stdout for each in answers] == [f"{number}\n" for number in range(8)], "an answer was wrong")
        record = await ground.record(box)
    return f"8 answers; generation {record['generation']}"


async def full_disk(ground: Ground) -> str:
    """Put it to sleep on a host whose disk is full: it is told, and goes on as before; with room again it sleeps."""
    if os.geteuid() != 0:
        raise NotOffered("needs root, to mount a small file system for the test")
    async with ground.on_small_disk(_SMALL_DISK_MB) as small, small.box() as box:
        await box.files.write("kept.txt", "kept")
        await box.run("sync", user="root")
        boot = (await box.run(_BOOT_ID)).stdout
        filler = small.home.root / "filler"
        written = await asyncio.to_thread(_fill, filler)
        try:
            await box.standby(tier="warm")
        except SandboxError as error:
            said = error.message
        else:
            raise Broken("it was saved in spite of it")
        try:
            goes_on = (await box.run(_BOOT_ID)).stdout == boot
        except SandboxError:
            goes_on = False
        await asyncio.to_thread(filler.unlink)
        if not goes_on:
            await box.resume()  # it could not be booted again while there was no room
        expect(await after_loss(lambda: box.files.read("kept.txt")) == b"kept", "the file is gone")
        if not goes_on and ground.driver == "qemu":
            raise NotOffered(
                "on a full disk of the host the kernel kills a guest that touches memory for the first time, because "
                "that memory is a file; its files were kept, and it was booted again"
            )
        expect(goes_on, "it was booted again")
        await box.standby(tier="warm")
        expect((await box.run(_BOOT_ID)).stdout == boot, "with room again, it was booted again")
    return f"{written >> 20} MiB filled the disk; it said: {said}"


async def swept(ground: Ground) -> str:
    """Kill everything at once; the next start reaps what nobody owns."""
    box = await Sandbox.create(ground.image, driver=ground.driver, home=ground.home)
    await ground.kill_supervisor()
    _kill(ground.machine_pids(box))
    again = await Sandbox.open(box.id, home=ground.home)
    await again.delete()
    async with asyncio.timeout(60):
        for each in await Sandbox.list(home=ground.home):
            await (await Sandbox.open(each.id, home=ground.home)).delete()
    path = ground.home.sandboxes / box.id
    expect(not await asyncio.to_thread(path.exists), "its folder is still there")
    expect(not ground.machine_pids(box), "its processes are still there")
    mounts = Path("/proc/self/mounts").read_text()
    expect(str(path) not in mounts, "a mount is still there")
    return "no process, mount or folder left"


async def _cycle(box: Sandbox) -> None:
    for tier in ("warm", "hot"):
        await box.standby(tier=tier)
        await box.resume()


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _fill(path: Path) -> int:
    """Write until nothing fits any more. Returns how many bytes did."""
    written = 0
    block = os.urandom(1 << 20)
    with path.open("wb", buffering=0) as file:
        while block:
            try:
                written += file.write(block)
            except OSError:
                block = block[: len(block) // 2]  # down to the last byte
    return written


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 3)
        byte = file.read(1) or b"\0"
        file.seek(path.stat().st_size // 3)
        file.write(bytes([byte[0] ^ 1]))


CHECKS = (
    Check("faults", "kill -9 of the machine keeps its files", machine_killed, 240),
    Check("faults", "kill -9 of the supervisor loses nothing, not even memory", supervisor_killed, 240),
    Check("faults", "kills while falling asleep and waking lose nothing", killed_while_saving, 600),
    Check("faults", "a damaged snapshot is refused, never booted", truncated, 400),
    Check("faults", "a foreign snapshot is refused, never booted", foreign, 240),
    Check("faults", "eight wakers at once get one wake", double_resume, 240),
    Check("faults", "a save that fails leaves the sandbox as it was", full_disk, 240),
    Check("faults", "nothing is left when everything was killed", swept, 240),
)
