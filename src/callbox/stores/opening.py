"""From a URL to a store."""

from __future__ import annotations

from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from callbox.errors import ConfigurationError
from callbox.stores.store import Store

Durability: TypeAlias = Literal["sync", "interval"]

_KNOWN = 'Use "memory", "sqlite:///file.db", "sqlite:////absolute/file.db" or "postgresql://user@host/database".'


def open_store(
    where: str | Store | None, *, cache: str | None = None, durability: Durability = "sync", create: bool = True
) -> Store:
    """Make the store that a URL names. It connects when it is first used.

    Args:
        where: ``"memory"`` (also None), ``"sqlite:///relative.db"``, ``"sqlite:////absolute.db"``, ``"postgresql://..."``,
            or a store, which is returned as it is.
        cache: ``"redis://..."``: a Redis server in front of it.
        durability: ``"sync"``: an append returns when the store has it. ``"interval"``: when Redis has it; the
            store has it a little later.
        create: False: for who only looks at what is there. A file or tables that are not there are not made, but a
            `ConfigurationError` at the first use.

    Raises:
        ConfigurationError: An unknown URL, a package that is not installed, options that do not go together. URLs are
            not repeated in messages: they may hold passwords.
    """
    if durability not in ("sync", "interval"):
        raise ConfigurationError(f"There is no durability {durability!r}.", hint='Use "sync" or "interval".')
    if durability == "interval" and cache is None:
        raise ConfigurationError(
            'durability="interval" needs Redis, which keeps events until the store has them.',
            hint='Give cache="redis://host:6379/0" too, or use durability="sync".',
        )
    if cache is not None and _scheme(cache) not in ("redis", "rediss", "unix"):
        raise ConfigurationError("A cache is a Redis server.", hint='Give cache="redis://host:6379/0".')
    store = _named(where, create=create) if where is None or isinstance(where, str) else where
    return store if cache is None else _cached(store, cache, durability)


def _named(where: str | None, *, create: bool) -> Store:
    if where is None or where in ("memory", "memory://"):
        from callbox.stores.memory import MemoryStore

        return MemoryStore()
    scheme = _scheme(where)
    if scheme == "sqlite":
        from callbox.stores.sqlite.store import SqliteStore

        return SqliteStore(_path(where), create=create)
    if scheme in ("postgresql", "postgres"):
        try:
            from callbox.stores.postgres.store import PostgresStore
        except ModuleNotFoundError as error:
            raise _missing(error, "asyncpg", "postgres") from error
        return PostgresStore(where, create=create)
    raise ConfigurationError(
        f"There is no store of kind {scheme!r}." if scheme else "The store's name is not a URL.", hint=_KNOWN
    )


def _cached(store: Store, url: str, durability: Durability) -> Store:
    try:
        from callbox.stores.redis.front import RedisStore
    except ModuleNotFoundError as error:
        raise _missing(error, "redis", "redis") from error
    return RedisStore(store, url, durability=durability)


def _scheme(url: str) -> str:
    """What is before ``://``, if that can be a scheme and so has no password in it."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found and scheme.isalnum() else ""


def _path(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.netloc or parts.query or parts.fragment or not path:
        raise ConfigurationError(
            "A SQLite URL has a path and nothing else.",
            hint='Use "sqlite:///file.db" (from the current folder) or "sqlite:////absolute/file.db".',
        )
    return path


def _missing(error: ModuleNotFoundError, package: str, extra: str) -> Exception:
    """Tell a package that is not installed from a mistake in our own imports."""
    if error.name is None or error.name.partition(".")[0] != package:
        return error
    return ConfigurationError(
        f"This store needs the package {package}, which is not installed.", hint=f"pip install 'callbox[{extra}]'"
    )
