"""Group commit: while one commit is on its way, the appends that come meanwhile wait together for the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from callbox.errors import CallboxError, ConfigurationError, StoreError, StoreUnavailable
from callbox.stores import rules
from callbox.stores.postgres.connections import Connection, Connections
from callbox.stores.store import Lease, NewEvent, SessionKey, Status

APPENDS_PER_COMMIT_MAX = 256
BYTES_PER_COMMIT_MAX = 8 << 20
"""Of bodies; a single append may be larger."""

_NEXT = "SELECT append_next($1, $2, $3, $4, $5, $6, $7)"
_APPEND = "SELECT n, verdict, last_seq, taken FROM append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"


@dataclass(slots=True, eq=False)
class _Append:
    lease: Lease
    after: int
    events: Sequence[NewEvent]
    status: Status
    size: int
    done: asyncio.Future[None]


class Writer:
    """Takes appends and commits them in batches; its task lives only while there is something to commit."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._waiting: deque[_Append] = deque()
        self._task: asyncio.Task[None] | None = None

    async def append(self, lease: Lease, after: int, events: Sequence[NewEvent], status: Status) -> None:
        """See `Store.append`; the events were checked.

        Cancelled while it waits, an append is not made; cancelled later, nobody knows.
        """
        size = rules.check_events(events)
        keys: set[str] = set()
        for event in events:
            if "\0" in event.kind or "\0" in (event.key or ""):  # the server would refuse the whole batch
                raise ConfigurationError("A NUL in the kind or the key of an event.")
            if event.key is not None:
                if event.key in keys:
                    raise rules.key_taken(lease.key, event.key)
                keys.add(event.key)
        asked = _Append(lease, after, events, status, size, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name="callbox postgres writer")
        await asked.done

    async def aclose(self) -> None:
        """Commit what waits."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        while batch := self._next():
            try:
                await self._commit(batch)
            except CallboxError as error:
                if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                    await self._one_by_one(batch)  # one of them is to blame, and the others are not
                else:
                    _fail(batch, error)
            except BaseException as error:
                _fail(batch, StoreUnavailable("The writer was stopped; whether the append was made is not known."))
                if not isinstance(error, Exception):
                    _fail(self._waiting, StoreUnavailable("The writer was stopped."))
                    self._waiting.clear()
                raise

    def _next(self) -> list[_Append]:
        """The appends that are committed together: at most one of each session, in the order they came."""
        batch: list[_Append] = []
        later: list[_Append] = []
        sessions: set[SessionKey] = set()
        size = 0
        while self._waiting and len(batch) < APPENDS_PER_COMMIT_MAX:
            asked = self._waiting.popleft()
            if asked.done.done():  # given up while it waited
                continue
            if asked.lease.key in sessions:
                later.append(asked)
                continue
            if batch and size + asked.size > BYTES_PER_COMMIT_MAX:
                later.append(asked)
                break
            sessions.add(asked.lease.key)
            size += asked.size
            batch.append(asked)
        self._waiting.extendleft(reversed(later))
        return batch

    async def _one_by_one(self, batch: list[_Append]) -> None:
        for asked in batch:
            try:
                await self._commit([asked])
            except CallboxError as error:
                _fail([asked], error)

    async def _commit(self, batch: list[_Append]) -> None:
        async with self._connections.use("append") as connection:
            if len(batch) == 1 and await _appended_next(connection, batch[0]):
                rows: list[Any] = [(1, "ok", 0, None)]
            else:
                rows = await connection.fetch(_APPEND, *_arguments(batch))
        verdicts = {row[0]: row for row in rows}
        for n, asked in enumerate(batch, 1):
            if asked.done.done():
                continue
            error = _judged(asked, verdicts.get(n))
            if error is None:
                asked.done.set_result(None)
            else:
                asked.done.set_exception(error)


async def _appended_next(connection: Connection, asked: _Append) -> bool:
    """Make one append, if nothing stands against it: half of the server's work for a batch of one."""
    if any(event.key is not None for event in asked.events):
        return False
    lease, events = asked.lease, asked.events
    return await connection.fetchval(
        _NEXT,
        lease.key.tenant,
        lease.key.session,
        lease.fence,
        asked.after,
        asked.status,
        [event.kind for event in events],
        [event.body for event in events],
    )


def _arguments(batch: list[_Append]) -> tuple[list[Any], ...]:
    """The columns that `append_events` takes."""
    leases = [asked.lease for asked in batch]
    counts = [len(asked.events) for asked in batch]
    firsts: list[int] = []
    owners: list[int] = []
    for n, count in enumerate(counts, 1):
        firsts.append(len(owners))
        owners += [n] * count
    events = [event for asked in batch for event in asked.events]
    return (
        [lease.key.tenant for lease in leases],
        [lease.key.session for lease in leases],
        [lease.fence for lease in leases],
        [asked.after for asked in batch],
        counts,
        firsts,
        [asked.status for asked in batch],
        owners,
        [event.kind for event in events],
        [event.key for event in events],
        [event.body for event in events],
    )


def _judged(asked: _Append, row: Any) -> Exception | None:
    """What the server's verdict means to who asked; None: it is done."""
    key = asked.lease.key
    if row is None or row[1] == "fenced":
        return rules.fenced(key)
    if row[1] == "conflict":
        return rules.not_next(key, asked.after, row[2])
    if row[1] == "taken":
        return rules.key_taken(key, row[3])
    if row[1] not in {"ok", "same"}:
        return StoreError(f"The server's function append_events answered {row[1]!r}.", hint="Is it ours?")
    return None


def _fail(batch: Sequence[_Append] | deque[_Append], error: CallboxError) -> None:
    """Give everybody an error of their own: one object raised in two tasks would mix their tracebacks."""
    for asked in batch:
        if not asked.done.done():
            own = type(error)(error.message, hint=error.hint)
            own.__cause__ = error.__cause__
            asked.done.set_exception(own)
