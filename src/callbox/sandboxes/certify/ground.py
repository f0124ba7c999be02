"""Where the checks run: a home of their own with a supervisor of its own, so that everything in it may be killed."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from callbox.errors import SandboxError, SandboxLost
from callbox.sandboxes.client import Client
from callbox.sandboxes.home import Home
from callbox.sandboxes.host.disks import make_disk
from callbox.sandboxes.host.mounts import unmount
from callbox.sandboxes.host.processes import PROGRAMS, find_marked, find_using, tree_of
from callbox.sandboxes.sandbox import RunResult, Sandbox
from callbox.sandboxes.supervisor.record import machine_id_of

LOSSES_MAX = 3
"""How often one call may say that the machine was lost, after it was killed."""

_T = TypeVar("_T")
_SMALL_DISK_INODES = 10_000
_ANSWER_S = 30.0
"""How long a neighbour may take to answer while a bomb goes off next to it, on a busy host under emulation."""


class Ground:
    """What a check works with.

    Args:
        home: Its own; removed at the end.
        driver: The driver under test.
        image: An image with Python in it.
        scale: 1.0 is the full size of everything; smaller for a quick look.
    """

    def __init__(self, home: Home, driver: str, image: str, scale: float) -> None:
        self.home = home
        self.driver = driver
        self.image = image
        self.scale = scale

    @asynccontextmanager
    async def box(self, **options: Any) -> AsyncGenerator[Sandbox]:
        """Make a sandbox for one check; it is deleted afterwards, whatever happened to it."""
        box = await Sandbox.create(self.image, driver=self.driver, home=self.home, **options)
        try:
            yield box
        finally:
            await box.delete()

    async def python(self, box: Sandbox, script: str, *arguments: str, user: str = "box", **options: Any) -> RunResult:
        """Run one of the programs in `inside/` in a sandbox."""
        source = resources.files("callbox.sandboxes.certify.inside").joinpath(script).read_text("utf-8")
        return await box.run(["python3", "-c", source, *arguments], user=user, **options)

    @asynccontextmanager
    async def neighbour(self) -> AsyncGenerator[list[float]]:
        """Keep asking another sandbox for an answer. Yields the seconds that each answer took.

        Raises:
            SandboxError: It did not answer within 30 s, or answered something else.
        """
        took: list[float] = []
        async with self.box() as other:

            async def ask() -> None:
                while True:
                    word = secrets.token_hex(8)
                    begun = asyncio.get_running_loop().time()
                    async with asyncio.timeout(_ANSWER_S):
                        answer = await other.run(["echo", word])
                    if answer.stdout.strip() != word:
                        raise SandboxError(f"The neighbour answered {answer.stdout!r}.")
                    took.append(asyncio.get_running_loop().time() - begun)
                    await asyncio.sleep(0.5)

            asking = asyncio.create_task(ask())
            try:
                yield took
            finally:
                asking.cancel()
                ended = (await asyncio.gather(asking, return_exceptions=True))[0]
            if isinstance(ended, Exception):
                raise ended

    @asynccontextmanager
    async def on_small_disk(self, size_mb: int) -> AsyncGenerator[Ground]:
        """Another ground, on a file system of its own that has only `size_mb` MiB. Needs root."""
        root = Path(tempfile.mkdtemp(prefix="callbox-certify-"))
        file, point = root / "disk", root / "mounted"
        try:
            # Not tmpfs: what is written there counts as memory of whoever writes it.
            await asyncio.to_thread(make_disk, file, size_mb=size_mb, inodes_max=_SMALL_DISK_INODES)
            point.mkdir(mode=0o700)
            await _mount("-o", "loop", str(file), str(point))
            try:
                small = Ground(Home(point / "home", self.home.images), self.driver, self.image, self.scale)
                async with _ground_at(small) as ground:
                    yield ground
            finally:
                await asyncio.to_thread(unmount, point)
        finally:
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)

    async def record(self, box: Sandbox) -> dict[str, Any]:
        """Read what the supervisor wrote down about a sandbox."""
        path = self.home.sandboxes / box.id / "record.json"
        return json.loads(await asyncio.to_thread(path.read_text, "utf-8"))

    def machine_pids(self, box: Sandbox) -> list[int]:
        """The host's processes of a sandbox's machine: those that carry its mark or work in its folder, and theirs."""
        place = self.home.sandboxes / box.id
        return tree_of({*find_marked(machine_id_of(box.id)), *find_using(place, PROGRAMS)})

    def leftovers(self) -> list[str]:
        """Name everything on this host that still belongs to this home, the supervisor itself excepted."""
        mark = os.fsencode(self.home.root)
        found: list[str] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                told = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark in told and b"callbox.sandboxes.supervisor" not in told:
                found.append(f"process {entry.name}: {told[:120].decode(errors='replace')}")
        found += [
            f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if os.fsdecode(mark) in line
        ]
        for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
            if os.fsdecode(mark) in loop.read_text():
                found.append(f"loop device {loop.parent.parent.name}")
        return found

    async def supervisor_pid(self) -> int:
        """The process that serves this home."""
        return int((await Client.of(self.home).call("supervisor.status", repeat=True))["pid"])

    async def kill_supervisor(self) -> int:
        """Kill -9 the supervisor of this home. Returns the pid that it had."""
        pid = await self.supervisor_pid()
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            await asyncio.sleep(0.01)
        return pid


async def _mount(*words: str) -> None:
    process = await asyncio.create_subprocess_exec("mount", *words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode != 0:
        raise SandboxError(f"No file system for the test could be mounted: {said.decode(errors='replace').strip()}")


async def after_loss(action: Callable[[], Awaitable[_T]]) -> _T:
    """Do it, and again where a machine that was killed made the first attempts fail: that is allowed to be said."""
    for _ in range(LOSSES_MAX):
        try:
            return await action()
        except SandboxLost:
            continue
    return await action()


@asynccontextmanager
async def open_ground(images: Path, driver: str, image: str, scale: float) -> AsyncGenerator[Ground]:
    """Make a home for the checks, and take it away with everything in it."""
    home = Home(Path(tempfile.mkdtemp(prefix="callbox-certify-")), images)
    async with _ground_at(Ground(home, driver, image, scale)) as ground:
        yield ground


@asynccontextmanager
async def _ground_at(ground: Ground) -> AsyncGenerator[Ground]:
    home = ground.home
    try:
        yield ground
    finally:
        client = Client.of(home)
        try:
            for each in await Sandbox.list(home=home):
                await client.call("sandbox.delete", repeat=True, sandbox=each.id)
            await client.stop_supervisor()
        finally:
            await client.aclose()
        await asyncio.to_thread(shutil.rmtree, home.root, ignore_errors=True)
