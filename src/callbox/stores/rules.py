"""Rules that every store keeps, whatever it keeps them with."""

from __future__ import annotations

from collections.abc import Sequence

from callbox.errors import (
    ConfigurationError,
    JournalConflict,
    SessionBusy,
    SessionFenced,
    SessionHasForks,
    SessionNotFound,
)
from callbox.stores.store import EVENT_BYTES_MAX, ID_BYTES_MAX, NewEvent, Parent, SessionKey, is_dead

_SHOWN_CHARS_MAX = 40


def check_key(key: SessionKey) -> None:
    """Refuse ids that not every store keeps, or that no list shows.

    Raises:
        ConfigurationError: The session's or the tenant's is empty, longer than `ID_BYTES_MAX`, or has a NUL or half
            of a surrogate pair in it.
    """
    for what, name in (("session", key.session), ("tenant", key.tenant)):
        if not name:
            raise ConfigurationError(f"A {what} needs an id.", hint='Use something like "customer-42".')
        if "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
            raise ConfigurationError(f"{_shown(name)} cannot be the id of a {what}.", hint="Use text without NUL.")
        if len(name) > ID_BYTES_MAX or len(name.encode()) > ID_BYTES_MAX:
            raise ConfigurationError(
                f"The id of a {what} has at most {ID_BYTES_MAX} bytes; {_shown(name)} is longer.",
                hint="Use a digest of it.",
            )


def _shown(name: str) -> str:
    """An id in a message, whatever somebody gave as one."""
    return repr(name if len(name) <= _SHOWN_CHARS_MAX else f"{name[:_SHOWN_CHARS_MAX]}...")


def check_events(events: Sequence[NewEvent]) -> int:
    """Refuse what no store takes; returns the bytes of the bodies together.

    Raises:
        ConfigurationError: No events, or one that is larger than `EVENT_BYTES_MAX`.
    """
    if not events:
        raise ConfigurationError("An append without events.", hint="Give at least one.")
    total = 0
    for event in events:
        size = len(event.body)
        if size > EVENT_BYTES_MAX:
            raise ConfigurationError(
                f"An event of {size} bytes; at most {EVENT_BYTES_MAX} are kept.",
                hint="Write it to a file, and keep the file's name.",
            )
        total += size
    return total


def is_running(ends_at: float, ttl_s: float, now: float) -> bool:
    """Whether a lease has not run out. An end more than `ttl_s` ahead is not believed: the clock was set back."""
    return now < ends_at <= now + ttl_s


def is_held(owner: str | None, ends_at: float, ttl_s: float, now: float) -> bool:
    """Whether somebody who may be alive has a lease that has not run out."""
    return owner is not None and is_running(ends_at, ttl_s, now) and not is_dead(owner)


def not_found(key: SessionKey) -> SessionNotFound:
    """There is no such session."""
    return SessionNotFound(f"There is no session {key.session!r} of tenant {key.tenant!r}.")


def no_parent(parent: Parent) -> SessionNotFound:
    """A fork's parent is not there, or is shorter."""
    return SessionNotFound(f"There is no session {parent.session!r} with {parent.seq} events to fork.")


def busy(key: SessionKey, owner: str) -> SessionBusy:
    """Somebody holds the lease; says which process, without the name of its host."""
    return SessionBusy(
        f"Session {key.session!r} is in use by process {owner.split(' ')[1] if ' ' in owner else owner!r}.",
        hint="Wait until it is done, or until its lease runs out.",
    )


def fenced(key: SessionKey) -> SessionFenced:
    """A lease is not the newest."""
    return SessionFenced(
        f"Session {key.session!r} was taken over or erased; nothing more is committed with this lease."
    )


def not_next(key: SessionKey, after: int, last_seq: int) -> JournalConflict:
    """An append does not join on."""
    return JournalConflict(f"Session {key.session!r} has {last_seq} events; an append after {after} does not join on.")


def key_taken(key: SessionKey, taken: str) -> JournalConflict:
    """An idempotency key is there already."""
    return JournalConflict(f"Session {key.session!r} has an event with the key {taken!r} already.")


def has_forks(key: SessionKey) -> SessionHasForks:
    """Others share the events."""
    return SessionHasForks(f"Other sessions share the events of {key.session!r}.", hint="Erase them first.")
