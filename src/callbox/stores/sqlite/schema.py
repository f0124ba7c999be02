"""The tables of a SQLite store, and how an older file is brought up to date.

A file says its version in `PRAGMA user_version`. Each migration takes it one further, and all that are due are one
transaction: a crash in between leaves the file as it was. A file of a newer callbox is refused, never guessed at.
"""

from __future__ import annotations

import sqlite3

from callbox.errors import StoreError

APPLICATION_ID = 0x63626A31
"""In the header of our files, so that we do not make tables in another program's database."""

# Two things here serve erasure. Rows of `secrets` and `events` go to the end of their table, never between others, so
# that no page is split and leaves a copy behind. And a row of `secrets` is never deleted but overwritten in place:
# deleting may join two pages, and moves other rows. That costs some 50 bytes for each session that ever was.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO counters VALUES ('fence', 0), ('unscrubbed', 0)",
        "CREATE TABLE secrets (id INTEGER PRIMARY KEY, secret BLOB NOT NULL)",
        """CREATE TABLE sessions (
            id INTEGER PRIMARY KEY,
            tenant TEXT NOT NULL,
            session TEXT NOT NULL,
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL,
            last_seq INTEGER NOT NULL,
            status TEXT NOT NULL,
            parent TEXT,
            parent_seq INTEGER,
            expires_at REAL,
            fence INTEGER NOT NULL DEFAULT 0,
            owner TEXT,
            ends_at REAL NOT NULL DEFAULT 0,
            ttl_s REAL NOT NULL DEFAULT 0,
            UNIQUE (tenant, session),
            FOREIGN KEY (tenant, parent) REFERENCES sessions (tenant, session)
        )""",
        "CREATE INDEX sessions_by_parent ON sessions (tenant, parent, session) WHERE parent IS NOT NULL",
        "CREATE INDEX sessions_by_end ON sessions (expires_at) WHERE expires_at IS NOT NULL",
        """CREATE TABLE events (
            id INTEGER PRIMARY KEY,
            owner_id INTEGER NOT NULL REFERENCES sessions (id),
            seq INTEGER NOT NULL,
            kind TEXT NOT NULL,
            body BLOB NOT NULL,
            "key" TEXT,
            at REAL NOT NULL,
            fence INTEGER NOT NULL
        )""",
        "CREATE UNIQUE INDEX events_by_seq ON events (owner_id, seq)",
        'CREATE UNIQUE INDEX events_by_key ON events (owner_id, "key") WHERE "key" IS NOT NULL',
    ),
)


def migrate(db: sqlite3.Connection) -> None:
    """Bring a file up to date, in one transaction; several processes may try at once.

    Raises:
        StoreError: A newer callbox wrote the file, or it is another program's database.
    """
    if version_of(db) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(db)
        if version == 0 and db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            raise StoreError("The file is the database of another program.", hint="Give a file of its own.")
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def version_of(db: sqlite3.Connection) -> int:
    """How far the file has been brought; 0 for an empty one.

    Raises:
        StoreError: Further than this callbox can read, or by another program.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version and int(db.execute("PRAGMA application_id").fetchone()[0]) != APPLICATION_ID:
        raise StoreError("The file is the database of another program.", hint="Give a file of its own.")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"The file has schema {version}, written by a newer callbox; this one reads up to {len(MIGRATIONS)}.",
            hint="Update callbox.",
        )
    return version
