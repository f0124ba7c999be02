"""Real machines: the image is built once per checkout, every test has a home of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from callbox.sandboxes.client import Client
from callbox.sandboxes.home import Home
from support_host import leftovers

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def images() -> Path:
    """The folder with the image `python` and the guest kernel: in `$CALLBOX_IMAGES` or below .venv."""
    folder = Path(os.environ.get("CALLBOX_IMAGES") or REPOSITORY / ".venv" / "images")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "callbox", "setup"],
            env={**os.environ, "CALLBOX_IMAGES": str(folder)},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
async def home(images):
    """A home with a supervisor of its own. Afterwards nothing of it may be left on the host."""
    root = Path(tempfile.mkdtemp(prefix="callbox-test-"))
    home = Home(root, images)
    try:
        yield home
    finally:
        client = Client.of(home)
        for each in (await client.call("sandbox.list", repeat=True))["sandboxes"]:
            await client.call("sandbox.delete", repeat=True, sandbox=each["id"])
        await client.stop_supervisor()
        await client.aclose()
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
        assert leftovers(root) == []
