"""Rows of a SQLite file that are not what was written: each method answers as before, or says `JournalDamaged`.

SQLite keeps any type in any column, so such rows can be made with SQL.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from callbox.errors import CallboxError, JournalDamaged, SessionBusy
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import Event, Lease, NewEvent, Parent, SessionKey, this_process
from support_stores import ManualClock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOW = 1_000_000.0
TRUNK, KEY = SessionKey("acme", "trunk"), SessionKey("acme", "branch")
THIRD = NewEvent("note", b"3", "three")


async def followed(store: SqliteStore) -> Event | None:
    async with aclosing(store.follow(KEY, after=2)) as events:
        return await anext(events, None)


READS: dict[str, Callable[[SqliteStore, Lease], Awaitable[Any]]] = {
    "info": lambda store, _: store.info(KEY),
    "load": lambda store, _: store.load(KEY),
    "read": lambda store, _: store.read(KEY),
    "follow": lambda store, _: followed(store),
    "sessions": lambda store, _: store.sessions("acme"),
    "forks": lambda store, _: store.forks(TRUNK),
    "expired": lambda store, _: store.expired(NOW),
}
WRITES: dict[str, Callable[[SqliteStore, Lease], Awaitable[Any]]] = {
    "create": lambda store, _: store.create(KEY, b"another"),
    "fork": lambda store, _: store.create(SessionKey("acme", "twig"), b"s", parent=Parent("branch", 3)),
    "renew": lambda store, lease: store.renew(lease),
    "expire_at": lambda store, lease: store.expire_at(lease, NOW),
    "append": lambda store, lease: store.append(lease, 3, [NewEvent("note", b"4")], status="idle"),
    "append again": lambda store, lease: store.append(lease, 2, [THIRD], status="idle"),
    "release": lambda store, lease: store.release(lease),
    "acquire": lambda store, _: store.acquire(KEY, "next", ttl_s=60.0),
    "erase": lambda store, _: store.erase(KEY),
}
VALUES = ["NULL", "'x'", "x'ff'", "CAST(x'ff' AS TEXT)", "1.5", "9223372036854775807", "9e999"]
TYPES = {
    "sessions": {
        "tenant": "text", "session": "text", "created_at": "real", "updated_at": "real", "last_seq": "integer",
        "status": "text", "parent": "text", "parent_seq": "integer", "expires_at": "real or null", "fence": "integer",
        "owner": "text or null", "ends_at": "real", "ttl_s": "real",
    },
    "events": {"kind": "text", "body": "blob", '"key"': "text or null", "at": "real"},
    "secrets": {"secret": "blob"},
    "counters": {"value": "integer"},
}  # fmt: skip
ROW = {"sessions": "id", "events": "id", "secrets": "id", "counters": "-length(name)"}  # of counters: the fences

# What is looked up by the damaged column is not found any more, and nothing cheap says that it was there.
# An append that is compared with a damaged event is not the same one, which is a conflict.
UNFOUND = {
    "tenant": {*READS, *WRITES},
    "session": {*READS, *WRITES},
    "parent": {"forks"},
    "expires_at": {"expired"},
    "kind": {"append again"},
    "body": {"append again"},
    '"key"': {"append again"},
}


@pytest.fixture
async def whole(tmp_path: Path) -> tuple[Path, Lease]:
    """A file with a session and a fork of it, and the fork's lease, which has run out."""
    store = SqliteStore(tmp_path / "whole.db", clock=ManualClock(NOW - 1_000))
    await store.create(TRUNK, b"s" * 32)
    trunk = await store.acquire(TRUNK, "writer", ttl_s=60.0)
    await store.append(trunk, 0, [NewEvent("note", b"1")], status="idle")
    await store.create(KEY, b"s" * 32, parent=Parent("trunk", 1), expires_at=NOW - 1)
    lease = await store.acquire(KEY, "writer", ttl_s=60.0)
    await store.append(lease, 1, [NewEvent("note", b"2")], status="waiting")
    await store.append(lease, 2, [THIRD], status="waiting")
    await store.aclose()
    return tmp_path / "whole.db", lease


def damage(path: Path, table: str, column: str, value: str) -> str:
    """Overwrite a column in the table's last row; returns the type of what is there now."""
    last = f"(SELECT max({ROW[table]}) FROM {table})"
    for statement in (
        f"UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '') WHERE name = '{table}'",
        f"UPDATE {table} SET {column} = {value} WHERE {ROW[table]} = {last}",
    ):
        db = sqlite3.connect(path)  # each time anew: it reads the schema as it is now
        db.execute("PRAGMA writable_schema = ON")
        assert db.execute(statement).rowcount == 1
        db.commit()
        kind: str = db.execute(f"SELECT typeof({column}) FROM {table} WHERE {ROW[table]} = {last}").fetchone()[0]
        db.close()
    return "no text" if value.startswith("CAST") else kind


async def told(store: SqliteStore, lease: Lease, ask: Callable[[SqliteStore, Lease], Awaitable[Any]]) -> Any:
    """The answer, or the kind of the error. Only errors of callbox are caught: another one fails the test."""
    try:
        return await ask(store, lease)
    except CallboxError as error:
        return type(error)


async def all_told(path: Path, lease: Lease) -> dict[str, Any]:
    """What each method says of a file; those that write, each of a copy of its own."""
    store = SqliteStore(path, clock=ManualClock(NOW))
    answers = {name: await told(store, lease, ask) for name, ask in READS.items()}
    await store.aclose()
    for name, ask in WRITES.items():
        copy = path.with_name("copy.db")
        shutil.copy(path, copy)
        store = SqliteStore(copy, clock=ManualClock(NOW))
        answers[name] = await told(store, lease, ask)
        await store.aclose()
    return answers


@pytest.mark.parametrize(("table", "column"), [(table, column) for table in TYPES for column in TYPES[table]])
async def test_a_row_that_was_not_written_is_told_by_every_method(
    whole: tuple[Path, Lease], table: str, column: str
) -> None:
    path, lease = whole
    right = await all_told(path, lease)
    assert not [name for name, answer in right.items() if isinstance(answer, type)], right
    damages = 0
    for value in VALUES:
        bad = path.with_name("bad.db")
        shutil.copy(path, bad)
        kind = damage(bad, table, column, value)
        answers = await all_told(bad, lease)
        if kind in TYPES[table][column]:
            continue  # it may have been written: an error of callbox, or an answer
        damages += 1
        others = {name for name in right if answers[name] not in (right[name], JournalDamaged)}
        assert others <= UNFOUND.get(column, set()), (value, {name: answers[name] for name in others})
        assert JournalDamaged in answers.values(), value
    assert damages >= 2


async def test_a_fence_is_never_given_out_again(whole: tuple[Path, Lease]) -> None:
    path, lease = whole
    damage(path, "counters", "value", "1")
    store = SqliteStore(path, clock=ManualClock(NOW))
    with pytest.raises(JournalDamaged):
        await store.acquire(KEY, "next", ttl_s=60.0)
    await store.renew(lease)
    await store.aclose()


async def test_a_session_whose_row_is_damaged_can_be_erased(whole: tuple[Path, Lease]) -> None:
    path, _ = whole
    for column in ("last_seq", "status", "fence", "ends_at"):
        damage(path, "sessions", column, "x'ff'")
    store = SqliteStore(path, clock=ManualClock(NOW))
    with pytest.raises(JournalDamaged):
        await store.sessions("acme")
    assert await store.erase(KEY)
    assert [info.key for info in await store.sessions("acme")] == [TRUNK]
    await store.aclose()


async def test_an_owner_whose_process_is_no_number_is_not_known_to_be_dead(whole: tuple[Path, Lease]) -> None:
    path, _ = whole
    host = this_process("writer").split(" ")[0]
    damage(path, "sessions", "owner", f"'{host} ² 1 writer', ends_at = {NOW + 10}")
    store = SqliteStore(path, clock=ManualClock(NOW))
    with pytest.raises(SessionBusy):
        await store.acquire(KEY, "next", ttl_s=60.0)
    await store.aclose()
