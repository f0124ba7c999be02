"""Wake those who follow a session: at once for this process's appends, after a look for those of others."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable

LOOK_S = 0.05
"""How often the file is asked whether another process wrote, while somebody follows."""

_LAST_SEQ = "SELECT last_seq FROM sessions WHERE id = ?"


class Follower:
    """One who follows.

    Attributes:
        row_id: Of the session.
        after: What it has seen.
        woken: Set when there may be more.
    """

    def __init__(self, row_id: int, after: int) -> None:
        self.row_id = row_id
        self.after = after
        self.woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Have it look; from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self.woken.set)


class Followers:
    """Who follows what, and the thread that looks at the file while anybody does.

    Args:
        connect: Opens a connection to look with.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._by_row: dict[int, set[Follower]] = {}
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def join(self, row_id: int, after: int) -> Follower:
        """Follow a session from here on; whoever joins must leave."""
        follower = Follower(row_id, after)
        with self._lock:
            self._by_row.setdefault(row_id, set()).add(follower)
            if self._stop is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._look, args=(self._stop,), name="callbox-sqlite-follow", daemon=True
                )
                self._thread.start()
        return follower

    def leave(self, follower: Follower) -> None:
        """Follow no more; with the last one the looking ends."""
        with self._lock:
            followers = self._by_row.get(follower.row_id, set())
            followers.discard(follower)
            if not followers:
                self._by_row.pop(follower.row_id, None)
            if not self._by_row and self._stop is not None:
                self._stop.set()
                self._stop = None

    def appended(self, row_ids: Iterable[int]) -> None:
        """Something was committed in these sessions, by this process."""
        if self._by_row:
            with self._lock:
                for row_id in row_ids:
                    for follower in self._by_row.get(row_id, ()):
                        follower.wake()

    def close(self) -> None:
        """Wake everybody, and end the thread. Blocks."""
        with self._lock:
            thread = self._thread
            if self._stop is not None:
                self._stop.set()
                self._stop = None
            self.wake_all()
        if thread is not None:
            thread.join()

    def wake_all(self) -> None:
        """Have everybody look."""
        for followers in self._by_row.values():
            for follower in followers:
                follower.wake()

    def _look(self, stop: threading.Event) -> None:
        """Wake whoever has less than the file. A file that cannot be read wakes all: their own reading says why."""
        db: sqlite3.Connection | None = None
        seen: int | None = None
        try:
            while not stop.is_set():
                try:
                    db = db or self._connect()
                    version = int(db.execute("PRAGMA data_version").fetchone()[0])
                    if version != seen:
                        self._wake_behind(db)
                        seen = version
                except Exception:  # noqa: BLE001  whatever it is, the followers meet it themselves
                    with self._lock:
                        self.wake_all()
                stop.wait(LOOK_S)
        finally:
            if db is not None:
                db.close()

    def _wake_behind(self, db: sqlite3.Connection) -> None:
        with self._lock:
            followed = [(row_id, list(followers)) for row_id, followers in self._by_row.items()]
        for row_id, followers in followed:
            row = db.execute(_LAST_SEQ, (row_id,)).fetchone()
            for follower in followers:
                if row is None or row[0] > follower.after:
                    follower.wake()
