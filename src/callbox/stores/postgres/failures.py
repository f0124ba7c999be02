"""What asyncpg raises, as errors of a store. No message repeats a password, a body or a connection string."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import asyncpg

from callbox.errors import CallboxError, ConfigurationError, StoreError, StoreUnavailable

_UNAVAILABLE_CLASSES = {
    "08",  # the connection
    "40",  # deadlock, serialization
    "53",  # disk full, out of memory, too many connections
    "57",  # the server stops or starts, or an operator ended the query
    "58",  # the server's disk
}
_UNAVAILABLE_STATES = {
    "25006",  # read only: a standby, or a server that is being replaced
    "25P03",  # idle too long
    "55P03",  # a lock was not to be had in time
}
_LOST = (
    OSError,
    TimeoutError,
    EOFError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


@contextmanager
def translated(doing: str) -> Generator[None]:
    """Raise what a store may raise instead of what asyncpg does; `doing` completes "Postgres could not ..."."""
    try:
        yield
    except CallboxError:
        raise
    except (asyncpg.DataError, UnicodeError):  # their words quote the value
        raise ConfigurationError(f"Postgres could not {doing}: a value that no column takes, like a NUL.") from None
    except asyncpg.PostgresError as error:
        raise store_error(error, doing) from error
    except _LOST as error:
        raise StoreUnavailable(f"Postgres could not {doing}: {_named(error)}.") from error


def store_error(error: asyncpg.PostgresError, doing: str) -> StoreError | ConfigurationError:
    """The error of a store for an answer of the server.

    Not its detail and context, which may quote rows; a message names relations, constraints and roles.
    """
    state = str(getattr(error, "sqlstate", "") or "")
    text = f"Postgres could not {doing}: {error.args[0] if error.args else type(error).__name__} ({state})."
    if state[:2] in _UNAVAILABLE_CLASSES or state in _UNAVAILABLE_STATES:
        return StoreUnavailable(text)
    if state[:2] == "54":
        return ConfigurationError(text)  # a name that is longer than an index takes
    if state[:2] == "42":
        hint = "Does the role have the rights on schema, tables, sequences and functions? See docs/sessions.md."
        return StoreError(text, hint=hint)
    return StoreError(text)


def _named(error: BaseException) -> str:
    """Its class, and the system's words for it; asyncpg's own messages may quote what it was given."""
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return type(error).__name__
