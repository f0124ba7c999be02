"""One thread that writes, so that everything that waits shares one commit, and with it one wait for the disk."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from callbox.clock import Clock
from callbox.errors import CallboxError, StoreError, StoreUnavailable
from callbox.stores.sqlite.connection import connect, result_code, scrub_log, translated
from callbox.stores.sqlite.schema import MIGRATIONS

BATCH_WRITES_MAX = 1_000
"""Writes in one transaction."""

BATCH_BYTES_MAX = 32 << 20
"""Bytes of bodies in one transaction, as far as it is not a single write."""

WAITING_MAX = 100_000
"""Writes that wait; more are refused with `StoreUnavailable`."""

_BROKEN = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN)
"""After these the connection is made anew, so that nothing it remembers stands between us and a healthy disk."""


@dataclass(slots=True, eq=False)
class Write:
    """One write that waits.

    Attributes:
        run: Given the connection, inside a transaction, and the time; what it returns is the answer.
        size_bytes: Of its bodies.
        scrub: Answer only when the write-ahead log has been emptied.
        answer, loop: Who waits for it.
        result, error: How it went.
    """

    run: Callable[[sqlite3.Connection, float], Any]
    size_bytes: int
    scrub: bool
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Owns the connection that writes, in a thread of its own that starts with the first write.

    Args:
        path: The database.
        clock: Where writes read the time.
        busy_timeout_s: How long to wait for other processes' locks.
        create: Whether the file is made if it is not there.
    """

    def __init__(self, path: Path, clock: Clock, busy_timeout_s: float, *, create: bool = True) -> None:
        self._path = path
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._create = create
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._db: sqlite3.Connection | None = None

    def submit(
        self, run: Callable[[sqlite3.Connection, float], Any], *, size_bytes: int = 0, scrub: bool = False
    ) -> asyncio.Future[Any]:
        """Queue a write; the future has its answer when it is on disk.

        Raises:
            StoreUnavailable: The store was closed, or too many wait.
        """
        loop = asyncio.get_running_loop()
        write = Write(run, size_bytes, scrub, loop.create_future(), loop)
        if self._queue.qsize() >= WAITING_MAX:
            raise StoreUnavailable(f"{WAITING_MAX} writes wait for the disk already.", hint="Ask again later.")
        with self._lock:  # nothing may come after the end of the queue
            if self._closed:
                raise StoreUnavailable("The store was closed.", hint="Open it again.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="callbox-sqlite-writer", daemon=True)
                self._thread.start()
            self._queue.put(write)
        return write.answer

    def close(self) -> None:
        """Do what waits, and end. Blocks; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        held: Write | None = None
        while True:
            first = held or self._queue.get()
            if first is None:
                break
            batch, held, ended = self._collect(first)
            self._commit_or_tell(batch)
            _deliver(batch)
            del first, batch
            if ended:
                break
        self._disconnect()

    def _collect(self, first: Write) -> tuple[list[Write], Write | None, bool]:
        """Take what waits: a batch, a write that is too large to join it, whether the end was reached."""
        batch, size = [first], first.size_bytes
        while len(batch) < BATCH_WRITES_MAX:
            try:
                write = self._queue.get_nowait()
            except Empty:
                break
            if write is None:
                return batch, None, True
            size += write.size_bytes
            if size > BATCH_BYTES_MAX:
                return batch, write, False
            batch.append(write)
        return batch, None, False

    def _commit_or_tell(self, batch: list[Write]) -> None:
        """Commit a batch; what cannot be done together is tried one by one, so that only the culprit fails."""
        error = self._try(batch)
        if error is not None and len(batch) > 1 and self._is_one_to_blame(error):
            for write in batch:
                self._commit_or_tell([write])
        elif error is not None:
            for write in batch:
                write.error = translated(error)

    def _is_one_to_blame(self, error: BaseException) -> bool:
        """Whether the others could succeed: no lock to wait for (once is enough), and there is a database."""
        if isinstance(error, sqlite3.Error) and result_code(error) == sqlite3.SQLITE_BUSY:
            return False
        try:
            self._connected()
        except Exception:  # noqa: BLE001  all of them get the error that there was
            return False
        return True

    def _try(self, batch: list[Write]) -> BaseException | None:
        try:
            self._commit(self._connected(), batch)
        except Exception as error:  # noqa: BLE001  a writer that dies would leave everybody waiting: they are told
            if isinstance(error, sqlite3.Error) and result_code(error) in _BROKEN:
                self._disconnect()
            return error
        return None

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect(self._path, busy_timeout_s=self._busy_timeout_s, scrub=True, create=self._create)
        return self._db

    def _commit(self, db: sqlite3.Connection, batch: list[Write]) -> None:
        now = self._clock.wall()
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] != len(MIGRATIONS):
                raise StoreError("The file was migrated by a newer callbox meanwhile.", hint="Update callbox.")
            for write in batch:
                write.result = write.error = None
                try:
                    write.result = write.run(db, now)
                except CallboxError as error:  # it has written nothing (`writes`)
                    write.error = error
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if any(write.scrub for write in batch):
            self._scrub(db, batch)

    def _scrub(self, db: sqlite3.Connection, batch: list[Write]) -> None:
        try:
            done, why = scrub_log(db), "another process reads it"
        except sqlite3.Error as error:
            done, why = False, str(error)
        if done:
            return
        for write in batch:
            if write.scrub and write.error is None:
                write.error = StoreUnavailable(
                    f"The session is gone, but the write-ahead log could not be emptied: {why}.", hint="Erase it again."
                )

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()


def _deliver(batch: list[Write]) -> None:
    """Answer everybody, with one wake-up for each event loop."""
    for loop in {write.loop for write in batch}:
        with contextlib.suppress(RuntimeError):  # its loop has ended: nobody waits any more
            loop.call_soon_threadsafe(_answer, [write for write in batch if write.loop is loop])


def _answer(writes: list[Write]) -> None:
    for write in writes:
        if write.answer.done():
            continue  # cancelled
        if write.error is not None:
            write.answer.set_exception(write.error)
        else:
            write.answer.set_result(write.result)
