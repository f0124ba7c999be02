"""Rows of the file as values. SQLite keeps any type in any column, so what was read is checked here, and only here."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any, NamedTuple, get_args

from callbox.errors import JournalDamaged
from callbox.stores import rules
from callbox.stores.store import Event, Expired, Parent, SessionInfo, SessionKey, Status

RESTORE = "Restore the file from a backup."

INFO = (
    "SELECT tenant, session, created_at, updated_at, last_seq, status, parent, parent_seq, expires_at, owner, ends_at,"
    " ttl_s FROM sessions"
)
"""Begins the queries whose rows `describe` takes."""

LOAD = INFO.replace(" FROM", ", (SELECT secret FROM secrets x WHERE x.id = sessions.id) FROM")
"""Begins those for `describe` and, with the last column, `secret`."""

HEAD = "SELECT id, fence, last_seq FROM sessions"
"""Begins those for `head`."""

HOLD = "SELECT id, fence, owner, ends_at, ttl_s FROM sessions"
"""Begins those for `hold`."""

EXPIRED = "SELECT expires_at, tenant, session FROM sessions"
"""Begins those for `expired`."""

EVENT = 'SELECT seq, kind, body, "key", at FROM events'
"""Begins those for `event`."""

_TYPES: dict[str, tuple[type, ...]] = {
    "id": (int,),
    "tenant": (str,),
    "session": (str,),
    "created_at": (float,),
    "updated_at": (float,),
    "last_seq": (int,),
    "status": (str,),
    "parent": (str, NoneType),
    "parent_seq": (int, NoneType),
    "expires_at": (float, NoneType),
    "fence": (int,),
    "owner": (str, NoneType),
    "ends_at": (float,),
    "ttl_s": (float,),
}
_INFO, _HOLD, _EXPIRED = (
    query.partition(" FROM ")[0].removeprefix("SELECT ").split(", ") for query in (INFO, HOLD, EXPIRED)
)
_STATUSES = frozenset(get_args(Status))
_INTEGER_MAX = 1 << 62  # above, counting on would leave what SQLite calls an integer


class Hold(NamedTuple):
    """Who holds a session's lease, and until when."""

    row_id: int
    fence: int
    owner: str | None
    ends_at: float
    ttl_s: float


def describe(row: Sequence[Any], now: float) -> SessionInfo:
    """A session, of a row of `INFO`.

    Raises:
        JournalDamaged: Here and below: the row is none that was written.
    """
    tenant, session, created_at, updated_at, last_seq, status, parent, parent_seq, expires_at, owner, ends_at, ttl_s = (
        _checked(_INFO, row)
    )
    if status not in _STATUSES or not 0 <= last_seq < _INTEGER_MAX or (parent is None) != (parent_seq is None):
        raise _damaged("a session's status, last_seq or parent")
    return SessionInfo(
        key=SessionKey(tenant, session),
        created_at=created_at,
        updated_at=updated_at,
        last_seq=last_seq,
        status=status,
        parent=None if parent is None else Parent(parent, parent_seq),
        expires_at=expires_at,
        owner=owner if rules.is_running(ends_at, ttl_s, now) else None,
    )


def head(row: Sequence[Any]) -> tuple[int, int, int]:
    """What a write must know, of a row of `HEAD`. Every append passes here."""
    row_id, fence, last_seq = row
    if type(fence) is not int or type(last_seq) is not int or not 0 <= last_seq < _INTEGER_MAX:
        raise _damaged("a session's fence or last_seq")
    return row_id, fence, last_seq


def hold(row: Sequence[Any]) -> Hold:
    """Who holds the lease, of a row of `HOLD`."""
    return Hold(*_checked(_HOLD, row))


def event(row: Sequence[Any]) -> Event:
    """An event, of a row of `EVENT`. Its body is judged by who unseals it, but for its type."""
    seq, kind, body, key, at = row
    if (
        type(seq) is not int
        or type(kind) is not str
        or type(body) is not bytes
        or (key is not None and type(key) is not str)
        or type(at) is not float
    ):
        raise _damaged("an event")
    return Event(seq, kind, body, key, at)


def expired(row: Sequence[Any]) -> Expired:
    """A session whose time is over, of a row of expires_at, tenant, session."""
    at, tenant, session = _checked(_EXPIRED, row)
    return Expired(at, SessionKey(tenant, session))


def name(row: Sequence[Any]) -> str:
    """A session's id, of a row with nothing else."""
    return _checked(["session"], row)[0]


def secret(value: Any) -> bytes:
    """A session's secret; a session without one is damaged."""
    if type(value) is not bytes:
        raise _damaged("a session's secret")
    return value


def counter(row: Sequence[Any] | None) -> int:
    """A counter's value, of a row with nothing else; every counter was made with the file."""
    if row is None or type(row[0]) is not int:
        raise _damaged("a counter")
    return row[0]


def next_fence(row: Sequence[Any] | None, newest: int) -> int:
    """The fence of the next lease, of the counter's row; `newest` is that of the session's last one."""
    last = counter(row)
    if not newest <= last < _INTEGER_MAX:  # a lease must not become as new as one that was fenced off
        raise _damaged("the counter of fences")
    return last + 1


def _checked(columns: Sequence[str], row: Sequence[Any]) -> Sequence[Any]:
    for column, value in zip(columns, row, strict=True):
        if type(value) not in _TYPES[column]:
            raise _damaged(f"a session's {column}")
    return row


def _damaged(what: str) -> JournalDamaged:
    return JournalDamaged(f"The SQLite file is damaged: {what} is not what was written.", hint=RESTORE)
