"""What a SQLite store writes: functions that run inside the writer's transaction.

Each checks first and writes afterwards: one that raises an error of callbox has written nothing, so that it does not
spoil the others that share its transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from callbox.stores import rules
from callbox.stores.sqlite import rows
from callbox.stores.store import Lease, NewEvent, Parent, SessionKey, Status

_HEAD = f"{rows.HEAD} WHERE tenant = ? AND session = ?"
_HOLD = f"{rows.HOLD} WHERE tenant = ? AND session = ?"
_INSERT = 'INSERT INTO events (owner_id, seq, kind, body, "key", at, fence) VALUES (?, ?, ?, ?, ?, ?, ?)'
_ADVANCE = "UPDATE sessions SET last_seq = ?, status = ?, updated_at = ? WHERE id = ?"
_KEY_TAKEN = 'SELECT 1 FROM events WHERE owner_id = ? AND "key" = ?'
_STRETCH = 'SELECT kind, body, "key", fence FROM events WHERE owner_id = ? AND seq > ? AND seq <= ? ORDER BY seq'


def create(
    db: sqlite3.Connection, now: float, key: SessionKey, secret: bytes, parent: Parent | None, expires_at: float | None
) -> bool:
    """See `Store.create`."""
    if db.execute(_HEAD, (key.tenant, key.session)).fetchone():
        return False
    if parent is not None:
        origin = db.execute(_HEAD, (key.tenant, parent.session)).fetchone()
        if origin is None or not 0 <= parent.seq <= rows.head(origin)[2]:
            raise rules.no_parent(parent)
    row_id = db.execute("INSERT INTO secrets (secret) VALUES (?)", (secret,)).lastrowid
    name, seq = (parent.session, parent.seq) if parent else (None, None)
    db.execute(
        "INSERT INTO sessions (id, tenant, session, created_at, updated_at, last_seq, status, parent, parent_seq,"
        " expires_at) VALUES (?, ?, ?, ?, ?, ?, 'idle', ?, ?, ?)",
        (row_id, key.tenant, key.session, now, now, seq or 0, name, seq, expires_at),
    )
    return True


def acquire(db: sqlite3.Connection, now: float, key: SessionKey, owner: str, ttl_s: float) -> Lease:
    """See `Store.acquire`."""
    row = db.execute(_HOLD, (key.tenant, key.session)).fetchone()
    if row is None:
        raise rules.not_found(key)
    held = rows.hold(row)
    if rules.is_held(held.owner, held.ends_at, held.ttl_s, now):
        raise rules.busy(key, held.owner or "")
    fence = rows.next_fence(db.execute("SELECT value FROM counters WHERE name = 'fence'").fetchone(), held.fence)
    db.execute("UPDATE counters SET value = ? WHERE name = 'fence'", (fence,))
    db.execute(
        "UPDATE sessions SET fence = ?, owner = ?, ends_at = ?, ttl_s = ? WHERE id = ?",
        (fence, owner, now + ttl_s, ttl_s, held.row_id),
    )
    return Lease(key, fence, owner, ttl_s)


def renew(db: sqlite3.Connection, now: float, lease: Lease) -> None:
    """See `Store.renew`."""
    row_id, _ = _newest(db, lease)
    db.execute(
        "UPDATE sessions SET owner = ?, ends_at = ?, ttl_s = ? WHERE id = ?",
        (lease.owner, now + lease.ttl_s, lease.ttl_s, row_id),
    )


def release(db: sqlite3.Connection, _now: float, lease: Lease) -> None:
    """See `Store.release`."""
    db.execute(
        "UPDATE sessions SET owner = NULL, ends_at = 0 WHERE tenant = ? AND session = ? AND fence = ?",
        (lease.key.tenant, lease.key.session, lease.fence),
    )


def append(
    db: sqlite3.Connection, now: float, lease: Lease, after: int, events: Sequence[NewEvent], status: Status
) -> int:
    """See `Store.append`; returns the session's row, for those who follow it."""
    row_id, last_seq = _newest(db, lease)
    if last_seq != after:
        if last_seq > after and _was_done(db, row_id, lease.fence, after, events):
            return row_id
        raise rules.not_next(lease.key, after, last_seq)
    taken: set[str] = set()
    for event in events:
        if event.key is not None:
            if event.key in taken or db.execute(_KEY_TAKEN, (row_id, event.key)).fetchone():
                raise rules.key_taken(lease.key, event.key)
            taken.add(event.key)
    seq = after
    for event in events:
        seq += 1
        db.execute(_INSERT, (row_id, seq, event.kind, event.body, event.key, now, lease.fence))
    db.execute(_ADVANCE, (seq, status, now, row_id))
    return row_id


def expire_at(db: sqlite3.Connection, _now: float, lease: Lease, expires_at: float | None) -> None:
    """See `Store.expire_at`."""
    row_id, _ = _newest(db, lease)
    db.execute("UPDATE sessions SET expires_at = ? WHERE id = ?", (expires_at, row_id))


def erase(db: sqlite3.Connection, _now: float, key: SessionKey) -> int | None:
    """See `Store.erase`; returns the session's row, for those who follow it. The log is scrubbed after the commit."""
    row = db.execute(_HEAD, (key.tenant, key.session)).fetchone()
    if row is None:
        return None
    where = (key.tenant, key.session)
    if db.execute("SELECT 1 FROM sessions WHERE tenant = ? AND parent = ? LIMIT 1", where).fetchone():
        raise rules.has_forks(key)
    db.execute("UPDATE counters SET value = 1 WHERE name = 'unscrubbed'")
    db.execute("UPDATE secrets SET secret = zeroblob(length(secret)) WHERE id = ?", (row[0],))  # in place: schema.py
    db.execute("DELETE FROM events WHERE owner_id = ?", (row[0],))
    db.execute("DELETE FROM sessions WHERE id = ?", (row[0],))
    return int(row[0])


def _newest(db: sqlite3.Connection, lease: Lease) -> tuple[int, int]:
    """The session's row and its last number, if the lease is its newest."""
    row = db.execute(_HEAD, (lease.key.tenant, lease.key.session)).fetchone()
    if row is None:
        raise rules.fenced(lease.key)
    row_id, fence, last_seq = rows.head(row)
    if fence != lease.fence:
        raise rules.fenced(lease.key)
    return row_id, last_seq


def _was_done(db: sqlite3.Connection, row_id: int, fence: int, after: int, events: Sequence[NewEvent]) -> bool:
    """Whether this very append was committed before, and only its answer was lost."""
    there = db.execute(_STRETCH, (row_id, after, after + len(events))).fetchall()
    return there == [(event.kind, event.body, event.key, fence) for event in events]
