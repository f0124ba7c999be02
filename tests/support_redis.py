"""A real redis-server for the tests: in a temporary folder, on a free port of 127.0.0.1, ended with the run."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

from callbox.stores.memory import MemoryStore
from callbox.stores.redis.front import RedisStore
from callbox.stores.store import Store
from support_watch import Watch

PASSWORD = "a-password-that-nothing-may-print"
START_S = 30.0
_numbers = count(1)


class RedisServer:
    """Starts at once.

    Args:
        appendfsync: "always", "everysec" or "no"; None: no append-only file at all.
        command: In front of the program, like a tracer.
        options: More options of redis-server.

    Attributes:
        url: With its password.
        folder: Its files.
    """

    def __init__(
        self, appendfsync: str | None = "everysec", *, command: tuple[str, ...] = (), options: tuple[str, ...] = ()
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="callbox-redis-"))
        self._watch = Watch(self.folder)
        atexit.register(self.end)
        self.port = _free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        aof = ("--appendonly", "no") if appendfsync is None else ("--appendonly", "yes", "--appendfsync", appendfsync)
        self._command = (*command, shutil.which("redis-server") or "redis-server", "--port", str(self.port), "--bind",
                         "127.0.0.1", "--dir", str(self.folder), "--save", "", "--requirepass", PASSWORD, *aof,
                         *options)  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def aof(self) -> Path:
        """The file that grows."""
        return next((self.folder / "appendonlydir").glob("*.incr.aof"))

    @property
    def pid(self) -> int:
        """Of redis-server itself, also below a tracer."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if len(self._command) and "redis-server" not in self._command[0] else self.process.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.wait()

    def kill_and_restart(self) -> None:
        """kill -9, then start it on the same files."""
        self.kill()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Like SIGSTOP, after which it is there and does not answer, and SIGCONT."""
        os.kill(self.pid, number)

    def end(self) -> None:
        """End it and remove its files. Idempotent."""
        self._watch.end()
        if self.process is not None:
            self.process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {PASSWORD}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\n") < 2 and (more := connection.recv(100)):
                    answer += more
            return b"+PONG" in answer
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@cache
def redis_server() -> RedisServer:
    """The one that tests share which do it no harm."""
    return RedisServer("everysec")


class Shared:
    """A store that several others use: closing it through one of them does nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def aclose(self) -> None:
        """Left open."""


def new_namespace() -> str:
    """One that no other test has."""
    return f"test-{next(_numbers)}"


@asynccontextmanager
async def redis_store(
    durability: Literal["sync", "interval"],
    inner: Store | None = None,
    server: RedisServer | None = None,
    **options: Any,
) -> AsyncGenerator[RedisStore]:
    """A store of its own on a Redis that others use too; over a fresh memory store if no other is given."""
    options = {"namespace": new_namespace(), "flush_s": 0.05, "retry_s": 0.2, **options}
    store = RedisStore(inner or MemoryStore(), (server or redis_server()).url, durability=durability, **options)
    try:
        yield store
    finally:
        await store.aclose()
