"""What keeps journals: the Protocol that every store implements, and the values that cross it.

A store knows sessions, events and leases; it knows nothing about models, calls or approvals, and it cannot read what it
keeps: bodies come sealed (`sessions/sealing.py`). One contract suite (`tests/contracts/test_stores.py`) runs on every
store.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

Status: TypeAlias = Literal["idle", "running", "waiting"]
"""What a session does: nothing; a run has begun and not ended (or crashed); a run waits for somebody's approval."""

EVENT_BYTES_MAX = 16 << 20
"""Of one event's body. A larger result belongs in a file, and its name in the result."""

ID_BYTES_MAX = 512
"""Of the id of a session, and of a tenant, in UTF-8: both must fit into one entry of a database's index."""

EVENTS_READ_MAX = 1_000
"""Events that one `Store.read` returns at most."""

SESSIONS_LISTED_MAX = 1_000
"""Sessions that one `Store.sessions` returns at most."""


@dataclass(frozen=True, slots=True, order=True)
class SessionKey:
    """Names a session: its id is unique within its tenant."""

    tenant: str
    session: str


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What is appended.

    Attributes:
        kind: Short and stable, like ``"intent"``; not secret.
        body: Sealed; the store does not look inside.
        key: Unique within the session, where given: the journal has at most one event with it.
    """

    kind: str
    body: bytes
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What was appended.

    Attributes:
        seq: Its place in the session: the first is 1, and there are no gaps. A fork goes on counting where it left.
        kind, body, key: See `NewEvent`.
        at: When it was appended, seconds since the epoch, by the clock of the store.
    """

    seq: int
    kind: str
    body: bytes
    key: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Parent:
    """Where a fork left: it shares the events of `session` (same tenant) up to and including `seq`."""

    session: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """What a store knows of a session without reading its events.

    Attributes:
        last_seq: Of its last event; for a fork without events of its own, `parent.seq`; else 0.
        status: As of the last event.
        expires_at: When it is erased, seconds since the epoch; None: never.
        owner: Who holds the lease, if it has not run out.
    """

    key: SessionKey
    created_at: float
    updated_at: float
    last_seq: int
    status: Status
    parent: Parent | None = None
    expires_at: float | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Expired:
    """A session whose time is over; they sort as `Store.expired` lists them."""

    expires_at: float
    key: SessionKey


BEFORE_ALL = Expired(-math.inf, SessionKey("", ""))
"""Sorts before every session whose time is over."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to append to a session.

    Attributes:
        fence: Larger than that of every lease that any session of this store ever had. The store refuses an append with
            any but the session's newest: a process that was stopped past its lease and woken commits nothing.
        owner: See `this_process`.
        ttl_s: It runs out so long after it was acquired or renewed.
    """

    key: SessionKey
    fence: int
    owner: str
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """A session as it is read to be worked with.

    Attributes:
        info: What is known of it without its events.
        secret: What it was made with.
        events: Its own, in order, as far as they were asked for.
    """

    info: SessionInfo
    secret: bytes = field(repr=False)
    events: list[Event] = field(repr=False)


class Store(Protocol):
    """Keeps journals. Safe for many tasks, and (but for memory) for many processes.

    Every method may raise `StoreUnavailable`, which is retryable: then it is not known whether a write was done.
    """

    async def create(
        self, key: SessionKey, secret: bytes, *, parent: Parent | None = None, expires_at: float | None = None
    ) -> bool:
        """Make a session without events, and keep its `secret` apart from them. False if there is one already.

        Raises:
            SessionNotFound: There is no `parent`, or it is shorter.
        """
        ...

    async def info(self, key: SessionKey) -> SessionInfo | None:
        """Look at a session; None if there is none."""
        ...

    async def load(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> Loaded | None:
        """What `info` and `read` return, and the secret, at one go; None if there is no such session (any more)."""
        ...

    async def acquire(self, key: SessionKey, owner: str, *, ttl_s: float) -> Lease:
        """Take the right to append, if nobody has it, its holder is dead (`is_dead`), or it has run out.

        An end that is more than `ttl_s` ahead is not believed: the clock was set back.

        Raises:
            SessionBusy: Somebody has it. The same owner asking again, too: two tasks are two writers.
            SessionNotFound: There is no such session.
        """
        ...

    async def renew(self, lease: Lease) -> None:
        """Have it run out later.

        Raises:
            SessionFenced: It is not the session's newest, or there is no such session any more.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give it back. Does nothing if it is not the newest."""
        ...

    async def append(self, lease: Lease, after: int, events: Sequence[NewEvent], *, status: Status) -> None:
        """Append events with the numbers `after` + 1, `after` + 2, ...; all of them or none. Durable on return.

        Appends of many sessions at the same time share one commit. The very same append again, after an answer that was
        lost, succeeds and changes nothing.

        Raises:
            SessionFenced: The lease is not the session's newest, or there is no such session any more.
            JournalConflict: `after` is not the last number, or a `NewEvent.key` is taken.
            ConfigurationError: No events, or one that is larger than `EVENT_BYTES_MAX`.
        """
        ...

    async def read(self, key: SessionKey, *, after: int = 0, limit: int = EVENTS_READ_MAX) -> list[Event]:
        """The session's own events with numbers above `after`, in order, at most `limit`. Not its parent's."""
        ...

    def follow(self, key: SessionKey, *, after: int = 0) -> AsyncGenerator[Event]:
        """The session's own events with numbers above `after`, then each as it is appended, by whatever process.

        Ends when the session is erased.
        """
        ...

    async def expire_at(self, lease: Lease, expires_at: float | None) -> None:
        """Set when the session is to be erased. Raises like `renew`."""
        ...

    async def sessions(
        self, tenant: str, *, status: Status | None = None, after: str = "", limit: int = SESSIONS_LISTED_MAX
    ) -> list[SessionInfo]:
        """A tenant's sessions by id, from the first above `after`."""
        ...

    async def forks(self, key: SessionKey) -> list[str]:
        """Ids of the sessions whose parent this is."""
        ...

    async def erase(self, key: SessionKey) -> bool:
        """Remove secret, events and all else of a session, whoever holds its lease. False if there is none.

        Nothing that is left in the store's files can be read afterwards, because the secret is overwritten there.

        Raises:
            SessionHasForks: Others share its events; erase them first.
        """
        ...

    async def expired(
        self, now: float, *, after: Expired | None = None, limit: int = SESSIONS_LISTED_MAX
    ) -> list[Expired]:
        """Sessions of all tenants whose time is over at `now`, seconds since the epoch; the longest over first.

        `after`: from the first that sorts above it; None: from the beginning. It need not be there any more.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; what was appended stays. Idempotent."""
        ...


def this_process(writer: str) -> str:
    """Name a writer so that others on this host can tell whether it still lives: host, pid, its start, `writer`."""
    pid = os.getpid()
    return f"{_host()} {pid} {_started(pid)} {writer}"


def is_dead(owner: str) -> bool:
    """Whether the process that `this_process` named is known to have ended; of another host nobody knows."""
    words = owner.split(" ")
    if len(words) < 3 or words[0] != _host() or not words[1].isdecimal():
        return False
    return _started(int(words[1])) != words[2]


@cache
def _host() -> str:
    """This host since it was started, as far as process ids mean the same thing; containers are hosts of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return f"{socket.gethostname()}/{os.urandom(16).hex()}"  # nobody else is taken for one of us
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _started(pid: int) -> str:
    """When a process was started, in ticks since boot; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
