"""Where sessions are kept if nobody says where: one place for agents and for the command line."""

from __future__ import annotations

from callbox.sandboxes.home import Home
from callbox.stores.opening import Durability, open_store
from callbox.stores.store import Store

FILE_NAME = "sessions.db"


def open_sessions(
    where: str | Store | None = None, *, cache: str | None = None, durability: Durability = "sync"
) -> Store:
    """Open the store of sessions.

    Args:
        where: See `open_store`; None: SQLite, in ``sessions.db`` in callbox's folder (``$CALLBOX_HOME``, else
            ``~/.local/share/callbox``).
        cache, durability: See `open_store`.

    Raises:
        ConfigurationError: See `open_store`.
    """
    if where is None:
        from callbox.stores.sqlite.store import SqliteStore

        where = SqliteStore(Home.default().root / FILE_NAME)
    return open_store(where, cache=cache, durability=durability)
