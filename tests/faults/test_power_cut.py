"""The power is cut between any two operations on the disk: nothing that SQLite FULL acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callbox.errors import CallboxError
from callbox.stores.sqlite import connection
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import NewEvent, SessionKey
from faults.power_disk import Disk, Operation, record
from faults.power_work import body_of, secret_of
from support_stores import kept_secret

pytestmark = pytest.mark.slow

VARIANTS = 4
"""Ways in which what was on its way at each cut arrives or does not."""

ENOUGH_LOSSES = 5
"""To know that the harness sees them."""


@pytest.fixture(autouse=True)
def _quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SYNCHRONOUS", "OFF")  # of the stores that look at what is left, in this process


def test_no_acknowledged_event_is_lost_whenever_the_power_goes(tmp_path: Path) -> None:
    operations = record(tmp_path, "FULL")
    cuts = tries = 0
    for disk, cut in _cuts(operations):
        cuts += 1
        for variant in range(VARIANTS):
            tries += 1
            lost = _violation(disk, tmp_path / "left", variant, cut)
            assert lost is None, f"cut after operation {cut} of {len(operations)}, variant {variant}: {lost}"
    kinds = {operation.op for operation in operations}
    print(f"\npower cuts: {cuts}, states of the disk: {tries}, acknowledged events lost: 0")
    assert kinds == set("CWTFDUN")  # everything that can be cut was cut
    assert disk.notes[-1] == {"ended": True}
    assert cuts > 200


def test_without_waiting_for_the_disk_the_harness_finds_losses(tmp_path: Path) -> None:
    operations = record(tmp_path, "OFF")
    losses: list[str] = []
    tries = 0
    for disk, cut in _cuts(operations):
        for variant in range(VARIANTS):
            tries += 1
            losses += filter(None, [_violation(disk, tmp_path / "left", variant, cut)])
        if len(losses) >= ENOUGH_LOSSES:
            break
    print(f"\nsynchronous=OFF: {len(losses)} losses in {tries} states of the disk; first: {losses[:1]}")
    assert len(losses) >= ENOUGH_LOSSES


def _cuts(operations: list[Operation]) -> Iterator[tuple[Disk, int]]:
    """The disk before each operation and after the last, with all that had been promised by then."""
    disk = Disk()
    for number, operation in enumerate(operations):
        if operation.op != "N":
            yield disk, number
        disk.apply(operation)
    yield disk, len(operations)


def _violation(disk: Disk, folder: Path, variant: int, cut: int) -> str | None:
    """What is wrong with what is left after a cut; None if every promise is kept."""
    files = disk.left(variant, cut)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if variant > 1:
        (folder / "store.db-shm").write_bytes(os.urandom(32_768))  # left by nobody knows whom
    for session in _noted(disk, "erased"):
        if any(secret_of(session) in content for content in files.values()):
            return f"the secret of {session}, which was erased, can be read"
    try:
        return asyncio.run(_check(folder / "store.db", disk))
    except (CallboxError, sqlite3.Error) as error:
        return repr(error)


async def _check(path: Path, disk: Disk) -> str | None:
    store = SqliteStore(path)
    try:
        return await _check_store(store, disk) or _check_file(path)
    finally:
        await store.aclose()


async def _check_store(store: SqliteStore, disk: Disk) -> str | None:
    promised, tried = _last(disk, "appended"), _last(disk, "tried")
    made, begun = _noted(disk, "created"), _noted(disk, "try_create")
    erased, doomed = _noted(disk, "erased"), _noted(disk, "try_erase")
    there = {info.key.session: info for info in await store.sessions("acme")}
    if missing := made - doomed - there.keys():
        return f"sessions lost: {missing}"
    if invented := (there.keys() - begun) | (there.keys() & erased):
        return f"sessions that should not be there: {invented}"
    for session, info in there.items():
        events = await store.read(info.key)
        if [event.seq for event in events] != list(range(1, info.last_seq + 1)):
            return f"{session} has gaps: {[event.seq for event in events]}"
        if not promised[session] <= info.last_seq <= tried[session]:
            return f"{session} ends at {info.last_seq}; {promised[session]} were acknowledged, {tried[session]} tried"
        if wrong := [event.seq for event in events if event.body != body_of(session, event.seq)]:
            return f"{session} has other bodies in {wrong}"
        if await kept_secret(store, info.key) != secret_of(session):
            return f"{session} has another secret"
    return await _check_going_on(store, disk)


async def _check_going_on(store: SqliteStore, disk: Disk) -> str | None:
    """A store that was recovered takes more, and its fences go on where they were."""
    key = SessionKey("acme", "afterwards")
    await store.create(key, b"s")
    lease = await store.acquire(key, "writer", ttl_s=60)
    fences = [note["fence"] for note in disk.notes if "fence" in note]
    if lease.fence <= max(fences, default=0):
        return f"fence {lease.fence} was given before"
    await store.append(lease, 0, [NewEvent("note", b"x")], status="idle")
    return None


def _check_file(path: Path) -> str | None:
    db = sqlite3.connect(path)
    try:
        said = db.execute("PRAGMA integrity_check").fetchone()[0]
        orphans = db.execute("PRAGMA foreign_key_check").fetchall()
    finally:
        db.close()
    return None if said == "ok" and not orphans else f"{said} {orphans}"


def _noted(disk: Disk, what: str) -> set[str]:
    return {note[what] for note in disk.notes if what in note}


def _last(disk: Disk, what: str) -> dict[str, Any]:
    last: defaultdict[str, int] = defaultdict(int)
    for note in disk.notes:
        if what in note:
            last[note[what]] = note["seq"]
    return last
