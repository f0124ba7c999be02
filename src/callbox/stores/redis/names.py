"""How things are called and written in Redis. No pickle: a line of JSON, then the sealed body as it is.

Tenants and sessions appear as digests, but for the list of what waits to be flushed, which must name them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from callbox.stores.store import Event, SessionInfo, SessionKey


class Names:
    """The keys and channels of one namespace.

    Args:
        namespace: In front of all of them, so that several stores can share one Redis.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self.waiting = f"{namespace}:waiting"
        self.flusher = f"{namespace}:flusher"
        self.epoch = f"{namespace}:epoch"

    def hot(self, key: SessionKey, life: str) -> str:
        """The sorted set of a session's committed events, by number."""
        return f"{self._namespace}:hot:{_digest(key)}:{life}"

    def pending(self, key: SessionKey) -> str:
        """The stream of a session's events that are not in the inner store yet; an entry's id is the event's number."""
        return f"{self._namespace}:pending:{_digest(key)}"

    def state(self, key: SessionKey) -> str:
        """The hash that says which fence may append to the stream, and after which number."""
        return f"{self._namespace}:state:{_digest(key)}"

    def taken(self, key: SessionKey) -> str:
        """The set of the session's idempotency keys."""
        return f"{self._namespace}:taken:{_digest(key)}"

    def channel(self, key: SessionKey) -> str:
        """Where it is announced that the session has more events."""
        return f"{self._namespace}:news:{_digest(key)}"


def _digest(key: SessionKey) -> str:
    return sha256(json.dumps([key.tenant, key.session]).encode()).hexdigest()[:40]


def life_of(info: SessionInfo) -> str:
    """Tell a session from an erased one that had the same name."""
    return repr(info.created_at)


def pack_key(key: SessionKey) -> str:
    """Write a session's name."""
    return json.dumps([key.tenant, key.session])


def unpack_key(text: bytes) -> SessionKey:
    """Read what `pack_key` wrote."""
    tenant, session = json.loads(text)
    return SessionKey(tenant, session)


def pack_event(event: Event) -> bytes:
    """Write an event."""
    head = json.dumps([event.seq, event.kind, event.key, event.at], separators=(",", ":"))
    return head.encode() + b"\n" + event.body


def unpack_event(data: bytes) -> Event:
    """Read what `pack_event` wrote. `ValueError` if it is something else."""
    head, line, body = data.partition(b"\n")
    if not line:
        raise ValueError("not an event")
    seq, kind, key, at = json.loads(head)
    return Event(seq, kind, body, key, at)


def contiguous(events: Sequence[Event], after: int) -> list[Event]:
    """Those at the front that are numbered `after` + 1, `after` + 2, ..."""
    taken: list[Event] = []
    for event in events:
        if event.seq != after + 1 + len(taken):
            break
        taken.append(event)
    return taken


def text(value: Any) -> str:
    """What Redis returned, as text; empty for nothing."""
    return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)
