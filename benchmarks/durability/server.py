"""A real Postgres server for the benchmarks, as the tests start it; SQLite files beside it, on the same disk.

fsync and synchronous_commit are on. The server runs as an unprivileged user in a temporary folder, on a free port of
127.0.0.1, and is stopped by its pid.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from support_postgres import PostgresServer

_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""
_SYNCS = "SELECT wal_sync FROM pg_stat_wal"


@dataclass
class Disk:
    """Where subjects keep things: fresh SQLite files and fresh databases of one Postgres server."""

    folder: Path
    postgres: Any
    _names: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        return int((self.postgres.data / "postmaster.pid").read_text().split()[0])

    def fresh(self, kind: str) -> str:
        """A URL of a new, empty database: ``"memory"``, ``"sqlite"`` or ``"postgres"``."""
        if kind == "memory":
            return "memory"
        if kind == "sqlite":
            return f"sqlite:///{self.folder}/{next(self._names)}.db"
        name = asyncio.run(self.postgres.fresh_database())
        return self.postgres.url(name, name)

    def bytes_of(self, url: str) -> int:
        """What a database takes on disk after a checkpoint, indexes included: SQLite's files, Postgres's relations."""
        if url.startswith("sqlite"):
            path = Path(url.removeprefix("sqlite:///"))
            db = sqlite3.connect(path)
            try:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                db.close()
            return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*") if not each.match("*-shm"))
        return int(self._value("CHECKPOINT", _BYTES, database=url.rpartition("/")[2]))

    def syncs(self) -> int:
        """How often the server has had its write-ahead log synced, as far as connections that have ended told."""
        return int(self._value(_SYNCS, database="postgres"))

    def _value(self, *queries: str, database: str) -> Any:
        return asyncio.run(self.postgres.execute(*queries, database=database))[0][0]


@contextmanager
def disk() -> Iterator[Disk]:
    """Both, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="callbox-durability-"))
    try:
        postgres = PostgresServer()
        try:
            yield Disk(folder, postgres)
        finally:
            postgres.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
