"""Where sessions are kept if nobody says where: one place for agents and for the command line."""

from __future__ import annotations

from callbox.sandboxes.home import Home
from callbox.stores.opening import Durability, open_store
from callbox.stores.store import Store

FILE_NAME = "sessions.db"


def open_sessions(
    where: str | Store | None = None,
    *,
    cache: str | None = None,
    durability: Durability = "sync",
    create: bool = True,
) -> Store:
    """Open the store of sessions.

    Args:
        where: See `open_store`; None: SQLite, in ``sessions.db`` in callbox's folder (``$CALLBOX_HOME``, else
            ``~/.local/share/callbox``).
        cache, durability: See `open_store`.
        create: See `open_store`. Where nobody said where, and nothing was ever kept, False opens an empty store.

    Raises:
        ConfigurationError: See `open_store`.
    """
    if where is None:
        from callbox.stores.sqlite.store import SqliteStore

        path = Home.default().root / FILE_NAME
        if not create and not path.exists():
            return open_store("memory")  # without the cache: it would flush into nothing what it still has
        where = SqliteStore(path, create=create)
    return open_store(where, cache=cache, durability=durability, create=create)
