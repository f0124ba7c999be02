"""A real Postgres server for the tests: one for the whole run, made in a temporary folder, ended with the run."""

from __future__ import annotations

import asyncio
import atexit
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from pathlib import Path

import asyncpg

from callbox.stores.postgres.store import PostgresStore
from support_watch import Watch

PASSWORD = "a password that nothing may print"
BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))[-1:]
_numbers = count(1)


class PostgresServer:
    """Starts at once. `initdb` with passwords, fsync on, a port of its own on 127.0.0.1 and no unix socket.

    Attributes:
        host, port: Where it listens.
        data: Its files.
    """

    def __init__(self, *options: str) -> None:
        self.bin = BIN[0] if BIN else Path(shutil.which("postgres") or "postgres").parent
        self.folder = Path(tempfile.mkdtemp(prefix="callbox-postgres-"))
        self._watch = Watch(self.folder)
        atexit.register(self.end)
        self.data = self.folder / "data"
        self.host, self.port = "127.0.0.1", _free_port()
        self._user = _unprivileged()
        self._options = options
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        (self.folder / "password").write_text(PASSWORD)
        if self._user is not None:
            os.chown(self.folder / "password", self._user, -1)
        self._run("initdb", "-D", self.data, "-U", "root", "--pwfile", self.folder / "password", "-A", "scram-sha-256",
                  "-E", "UTF8", "--locale=C")  # fmt: skip
        self.start_again()

    def start_again(self) -> None:
        """Start, and wait until it answers."""
        options = [
            f"-p {self.port} -c listen_addresses={self.host} -c unix_socket_directories= -c max_connections=60",
            "-c shared_buffers=32MB -c log_min_messages=error",
            *self._options,
        ]
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self.data, "-w", "-t", "60", "-l", log, "-o", " ".join(options), "start")

    def stop_immediately(self) -> None:
        """As if the power went: no checkpoint, connections cut; it recovers when it is started again."""
        self._run("pg_ctl", "-D", self.data, "-w", "-t", "60", "-m", "immediate", "stop")

    def end(self) -> None:
        """Stop it and remove its files. Idempotent."""
        self._watch.end()

    def url(self, database: str = "postgres", user: str = "root", *, port: int | None = None) -> str:
        return f"postgresql://{user}:{PASSWORD.replace(' ', '%20')}@{self.host}:{port or self.port}/{database}"

    async def execute(self, *statements: str, database: str = "postgres") -> list[asyncpg.Record]:
        """Run SQL as the superuser; returns what the last statement found."""
        connection = await asyncpg.connect(self.url(database))
        try:
            rows: list[asyncpg.Record] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    async def fresh_database(self) -> str:
        """A new database with a plain role of the same name that may make schemas in it; returns the name."""
        name = f"test_{next(_numbers)}"
        await self.execute(
            f"CREATE ROLE {name} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '{PASSWORD}'",
            f"CREATE DATABASE {name} OWNER {name}",
        )
        return name

    async def drop(self, name: str) -> None:
        await self.execute(f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")

    def _run(self, program: str, *arguments: str | Path) -> None:
        output = self.folder / "commands.log"
        with output.open("ab") as into:  # a pipe would stay open in the server
            done = subprocess.run([self.bin / program, *arguments], stdin=subprocess.DEVNULL, stdout=into, stderr=into,
                                  user=self._user, extra_groups=[] if self._user is not None else None, cwd="/",
                                  check=False)  # fmt: skip
        assert done.returncode == 0, f"{program}: {output.read_text()[-2000:]}"


@cache
def server() -> PostgresServer:
    """The one of this test run."""
    return PostgresServer()


@asynccontextmanager
async def postgres_store(**options: object) -> AsyncGenerator[PostgresStore]:
    """A store on a fresh database, as a plain role."""
    there = await asyncio.to_thread(server)
    name = await there.fresh_database()
    store = PostgresStore(there.url(name, name), **options)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.aclose()
        await there.drop(name)


def _unprivileged() -> int | None:
    """Postgres refuses to run as root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise AssertionError("neither a user postgres nor nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
