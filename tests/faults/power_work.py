"""The work during which the power is cut; runs as a process of its own, with the shim loaded.

Every promise is noted in the log when the store has made it, and every attempt before.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from callbox.stores.sqlite import connection, writer
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import Lease, NewEvent, SessionKey

PAGES_BEFORE_CHECKPOINT = 24
LARGE = 9_000  # bytes: goes on in pages of its own


def body_of(session: str, seq: int) -> bytes:
    """What event `seq` of a session has, the same in every process."""
    size = LARGE if seq % 7 == 0 else 120 + 13 * (seq % 11)
    return hashlib.shake_256(f"{session}/{seq}".encode()).digest(size)


def secret_of(session: str) -> bytes:
    """The secret that a session is made with."""
    return hashlib.shake_256(f"secret of {session}".encode()).digest(32)


def note(**what: Any) -> None:
    """Write a line in the same order as the writes."""
    ctypes.CDLL(None).power_note(json.dumps(what).encode())


async def begin(store: SqliteStore, session: str) -> Lease:
    """Make a session, and take it."""
    key = SessionKey("acme", session)
    note(try_create=session)
    await store.create(key, secret_of(session))
    note(created=session)
    lease = await store.acquire(key, "writer", ttl_s=60)
    note(fence=lease.fence)
    return lease


async def write(store: SqliteStore, lease: Lease, first: int, counts: tuple[int, ...]) -> None:
    """Append so many events at a time."""
    session, seq = lease.key.session, first
    for count in counts:
        events = [NewEvent("note", body_of(session, n), f"key-{n}") for n in range(seq + 1, seq + count + 1)]
        seq += count
        note(tried=session, seq=seq)
        await store.append(lease, seq - count, events, status="running")
        note(appended=session, seq=seq)


async def erase(store: SqliteStore, session: str) -> None:
    """Erase one."""
    note(try_erase=session)
    assert await store.erase(SessionKey("acme", session))
    note(erased=session)


async def work(path: Path) -> None:
    """All that a store does, with checkpoints, a second opening, and erasures."""
    store = SqliteStore(path)
    alone, doomed = await begin(store, "alone"), await begin(store, "doomed")
    await write(store, alone, 0, (1, 2, 1, 5, 1))
    await write(store, doomed, 0, (3, 5))
    leases = await asyncio.gather(*(begin(store, f"together-{n}") for n in range(6)))
    await asyncio.gather(*(write(store, lease, 0, (1, 1, 2, 1)) for lease in leases))
    await erase(store, "doomed")
    await write(store, alone, 10, (1, 4))
    await store.aclose()
    store = SqliteStore(path)
    await asyncio.gather(*(write(store, lease, 5, (1, 3)) for lease in leases[:3]))
    await erase(store, "together-5")
    await write(store, alone, 15, (1, 1, 1))
    await store.aclose()


def main() -> None:
    path, connection.SYNCHRONOUS = Path(sys.argv[1]), sys.argv[2]
    plain = writer.connect

    def connect(*values: Any, **options: Any) -> Any:
        db = plain(*values, **options)
        db.execute(f"PRAGMA wal_autocheckpoint = {PAGES_BEFORE_CHECKPOINT}").fetchone()
        return db

    writer.connect = connect
    asyncio.run(work(path))
    note(ended=True)


if __name__ == "__main__":
    main()
