"""The supervisor as a process: lock, log, signals."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import stat
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from typing import BinaryIO

from callbox.sandboxes.home import Home
from callbox.sandboxes.images.usage import register_home
from callbox.sandboxes.supervisor.server import Supervisor

_LOG = logging.getLogger("callbox.sandboxes.supervisor")

LOG_BYTES_MAX = 10 << 20
"""After which the log is put aside; one old one is kept."""

LOCK_WAIT_S = 90.0
"""How long a new supervisor waits for one that is ending: it may be saving what was awake."""

LOCK_POLL_S = 0.02


async def run_process(home: Home, make: Callable[[], Supervisor]) -> int:
    """Be the supervisor of `home`. Returns the exit status: 0, or 3 if another one does not let go of it."""
    os.umask(0o077)
    _make_private(home)
    _log_to(home)
    try:
        register_home(home)
    except OSError as error:
        _LOG.warning("the folder of images does not know this home, and may be cleaned of what it needs: %s", error)
    with home.lock.open("ab") as lock:
        if not await _locked(lock):
            _LOG.error("another supervisor holds %s", home.lock)
            return 3
        supervisor = make()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stopping.set)
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _LOG.info("supervisor of %s begins, pid %d", home.root, os.getpid())
        await supervisor.run()
        _LOG.info("supervisor of %s ends", home.root)
    return 0


async def _locked(lock: BinaryIO) -> bool:
    try:
        async with asyncio.timeout(LOCK_WAIT_S):
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                except BlockingIOError:
                    await asyncio.sleep(LOCK_POLL_S)
    except TimeoutError:
        return False


def _make_private(home: Home) -> None:
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = home.root.stat()
    # A shared folder like /tmp is not ours to close; what is in it has a mode of its own.
    if found.st_uid == os.getuid() and not found.st_mode & stat.S_ISVTX:
        home.root.chmod(0o700)
    for log in home.root.glob(f"{home.log.name}*"):
        log.chmod(0o600)


def _log_to(home: Home) -> None:
    handler = RotatingFileHandler(home.log, maxBytes=LOG_BYTES_MAX, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
