"""Open a SQLite file as a store needs it, and tell its failures in callbox's words."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from callbox.errors import ConfigurationError, JournalDamaged, StoreError, StoreUnavailable
from callbox.stores.sqlite import rows
from callbox.stores.sqlite.schema import migrate

SYNCHRONOUS = "FULL"
"""What a commit waits for: the disk. Anything less loses acknowledged events with the power."""

WAL_BYTES_KEPT = 16 << 20
"""The write-ahead log is cut to this after a checkpoint."""

_RETRY_S = 0.01
_CONTRADICTS = (
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
)
"""What `writes` looks up before it writes: if SQLite finds it otherwise, tables and indexes do not agree."""

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "Another process holds the lock of the database; ask again.",
    sqlite3.SQLITE_LOCKED: "Another connection holds a lock of the database; ask again.",
    sqlite3.SQLITE_FULL: "The disk is full; make room, and the store goes on.",
    sqlite3.SQLITE_IOERR: "The disk failed or is full; look at it, and the store goes on.",
    sqlite3.SQLITE_CANTOPEN: "The file cannot be opened; look at its folder and permissions.",
    sqlite3.SQLITE_READONLY: "The file may not be written; look at its permissions.",
    sqlite3.SQLITE_PERM: "The file may not be used; look at its permissions.",
    sqlite3.SQLITE_NOMEM: "Memory is short; ask again.",
    sqlite3.SQLITE_INTERRUPT: "It was interrupted; ask again.",
    sqlite3.SQLITE_PROTOCOL: "Too many processes open the file at once; ask again.",
}


def connect(path: Path, *, busy_timeout_s: float, scrub: bool = False, create: bool = True) -> sqlite3.Connection:
    """Open or make a file, bring its schema up to date, and set what a store rests on.

    Args:
        path: The file. It is made with its folder, for this user alone: it holds the sessions' secrets.
        busy_timeout_s: How long to wait for other processes' locks.
        scrub: Finish an erasure that a crash cut short.
        create: False: it must be there.

    Raises:
        ConfigurationError: It must be there, and is not.
        StoreError: See `schema.migrate`.
        sqlite3.Error, OSError: See `translated`.
    """
    if create:
        _make(path)
    elif not path.exists():
        raise ConfigurationError(
            f"There is no file {path}.", hint="Look at the store's URL; an agent's first run makes it."
        )
    db = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("secure_delete = ON", "foreign_keys = ON", "temp_store = MEMORY"):
            db.execute(f"PRAGMA {pragma}").fetchone()
        _use_wal(db, time.monotonic() + busy_timeout_s)
        db.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}").fetchone()
        migrate(db)
        if scrub:
            scrub_log(db)
    except BaseException:
        db.close()
        raise
    return db


def scrub_log(db: sqlite3.Connection) -> bool:
    """Empty the write-ahead log if something was erased that it may still hold. False if others keep it busy."""
    if not rows.counter(db.execute("SELECT value FROM counters WHERE name = 'unscrubbed'").fetchone()):
        return True
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        return False
    db.execute("UPDATE counters SET value = 0 WHERE name = 'unscrubbed'")
    return True


def result_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if the error has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def translated(error: BaseException) -> BaseException:
    """A failure of SQLite or of the file system as a `StoreError`; any other exception as it is."""
    if isinstance(error, sqlite3.Error):
        code = result_code(error)
        if code in _UNAVAILABLE:
            return StoreUnavailable(f"SQLite: {error}.", hint=_UNAVAILABLE[code])
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return JournalDamaged(f"SQLite: {error}.", hint=rows.RESTORE)
        if getattr(error, "sqlite_errorcode", 0) in _CONTRADICTS:
            return JournalDamaged(f"SQLite: {error}.", hint=rows.RESTORE)
        if isinstance(error, sqlite3.OperationalError) and not code:  # Python's own: a text that is no UTF-8
            return JournalDamaged("SQLite: a text in the file is no text.", hint=rows.RESTORE)
        return StoreError(f"SQLite: {error}.")
    if isinstance(error, UnicodeDecodeError):  # Python fails to read SQLite's complaint about a damaged schema
        return JournalDamaged("SQLite: the file's schema is no text.", hint=rows.RESTORE)
    if isinstance(error, OSError):
        return StoreUnavailable(
            f"The store's file: {error.strerror or error}.", hint="Look at its folder and its disk."
        )
    return error


def _make(path: Path) -> None:
    """Make the file and its folders, and have the disk remember that they are there."""
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync(folder.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _use_wal(db: sqlite3.Connection, deadline: float) -> None:
    """Switch to write-ahead logging. SQLite does not wait for its own lock here, so we do."""
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if result_code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
            continue
        if mode != "wal":
            raise StoreError(
                f"The file system cannot do write-ahead logging (SQLite stays in mode {mode!r}).",
                hint="Keep the file on a local disk.",
            )
        return
