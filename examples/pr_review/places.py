"""Where tests run: the session's own sandbox; or this host, only for who says so."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from signal import SIGKILL

from callbox import Sandbox
from callbox.errors import ConfigurationError, GuestError, SandboxExists, SandboxNotFound, ToolError
from callbox.sandboxes.home import Home
from pr_review.sandbox_tests import Ended

MEMORY_MB = 1_024
OUTPUT_BYTES = 20_000
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


class SandboxPlace:
    """A sandbox with a name: asleep when idle, found again by the next run, without network.

    Args:
        name: Of the sandbox.
        driver, home: See `Sandbox.create`.
    """

    folder = "/work"
    python = "python3"

    def __init__(self, name: str, *, driver: str = "auto", home: Home | None = None) -> None:
        self.name = name
        self.found = False
        """Whether it was there before, as of the last `open`."""
        self._driver = driver
        self._home = home
        self._box: Sandbox | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> Sandbox:
        """Find it or make it.

        Raises:
            HostUnsuited: This host can run no sandbox; the hint has the fix.
            SandboxNotFound: The image is missing: ``callbox setup``.
        """
        async with self._opening:
            if self._box is None:
                try:
                    self._box, self.found = await Sandbox.open(self.name, home=self._home), True
                except SandboxNotFound:
                    self._box, self.found = await self._make(), False
            return self._box

    async def _make(self) -> Sandbox:
        try:
            return await Sandbox.create(
                "python", name=self.name, driver=self._driver, memory_mb=MEMORY_MB, home=self._home
            )
        except SandboxExists:  # another process was faster
            return await Sandbox.open(self.name, home=self._home)

    async def run(self, script: str, env: Mapping[str, str], timeout_s: float) -> Ended:
        """See `Place.run`."""
        box = await self.open()
        try:
            done = await box.run(script, env=env, timeout_s=timeout_s, output_bytes_max=OUTPUT_BYTES)
        except SandboxNotFound:  # deleted since we found it: the next attempt makes another
            self._box = None
            raise
        said = f"{done.stdout}\n{done.stderr}".strip()
        if done.killed_for:
            said = f"{said}\nThe sandbox ended it: its limit of {done.killed_for} was reached."
        return Ended(done.exit_code, said, done.timed_out)

    async def write(self, path: str, content: bytes) -> None:
        """See `Place.write`."""
        await (await self.open()).files.write(path, content)

    async def read(self, path: str, bytes_max: int) -> bytes | None:
        """See `Place.read`."""
        files = (await self.open()).files
        try:
            if (size := (await files.stat(path)).size) > bytes_max:
                raise ToolError(f"{path} has {size:,} bytes; at most {bytes_max:,} are read.")
            return await files.read(path, length=bytes_max)
        except GuestError as error:
            if error.guest_code in ("not_found", "not_a_directory"):
                return None
            raise


class UnsafePlace:
    """A folder of this host, with this host's Python: whatever the tests do, they do here. No isolation at all.

    Args:
        folder: Kept between runs.
    """

    def __init__(self, folder: Path) -> None:
        missing = [name for name in ("pytest", "coverage") if find_spec(name) is None]
        if missing:
            raise ConfigurationError(
                f"Tests cannot run on this host: {' and '.join(missing)} not installed.",
                hint=f"{sys.executable} -m pip install {' '.join(missing)}",
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = str(folder)
        self.python = sys.executable

    async def run(self, script: str, env: Mapping[str, str], timeout_s: float) -> Ended:
        """See `Place.run`."""
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            script,
            cwd=self.folder,
            # Keys of model providers are none of the tests' business.
            env={**{name: os.environ[name] for name in _PASSED_ON if name in os.environ}, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        timed_out, output = False, b""
        try:
            async with asyncio.timeout(timeout_s):
                output, _ = await process.communicate()
        except TimeoutError:
            timed_out = True
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, SIGKILL)
            await process.wait()
        return Ended(process.returncode or 0, output[-OUTPUT_BYTES:].decode(errors="replace"), timed_out)

    async def write(self, path: str, content: bytes) -> None:
        """See `Place.write`."""
        await asyncio.to_thread(_write, Path(self.folder) / path, content)

    async def read(self, path: str, bytes_max: int) -> bytes | None:
        """See `Place.read`."""
        return await asyncio.to_thread(_read, Path(self.folder) / path, bytes_max)


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(number, "wb") as file:
        file.write(content)
    Path(name).replace(target)


def _read(path: Path, bytes_max: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    if len(content) > bytes_max:
        raise ToolError(f"{path} has more than {bytes_max:,} bytes.")
    return content
