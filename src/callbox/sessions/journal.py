"""One session's journal: entries, sealed and in order, over any store. Reading needs no lease; writing does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from callbox.errors import (
    CallboxError,
    JournalDamaged,
    SessionBusy,
    SessionError,
    SessionFenced,
    SessionNotFound,
    StoreUnavailable,
)
from callbox.ids import new_id
from callbox.sessions.coding import decode, encode
from callbox.sessions.entries import Entry, Rewound, unique_key
from callbox.sessions.fold import Placed, SessionState, fold
from callbox.sessions.points import checked, nothing
from callbox.sessions.sealing import Sealer, new_secret
from callbox.stores.store import (
    EVENTS_READ_MAX,
    Event,
    Lease,
    NewEvent,
    Parent,
    SessionKey,
    Status,
    Store,
    this_process,
)

_LOG = logging.getLogger("callbox.sessions")

LEASE_TTL_S = 30.0
"""A writer that was not heard of for so long has lost its session to whoever wants it."""

RENEWALS_PER_TTL = 3
FORKS_DEEP_MAX = 64
"""Forks of forks."""

APPEND_TRIES = 5
APPEND_WAIT_S = 0.2
"""Between two tries to append when the store cannot be reached; each further wait is twice as long."""

BUSY_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Link:
    """A part of a journal that is kept under one session: a fork has its parents' parts before its own.

    Attributes:
        key: Whose.
        after, until: Its numbers, exclusive and inclusive; `until` None: to the end.
        sealer: Opens it.
        last: The store has said that there are so many entries, those of ancestors with them.
        events: The first of its entries that were asked for.
    """

    key: SessionKey
    after: int
    until: int | None
    sealer: Sealer
    last: int
    events: Sequence[Event]


class Journal:
    """Reads a session's journal, and hands out the right to write to it."""

    def __init__(self, store: Store, key: SessionKey, *, reach: Callable[[str], None] = nothing) -> None:
        self.store = store
        self.key = key
        self._reach = checked(reach)

    async def ensure(self, *, parent: Parent | None = None, expires_at: float | None = None) -> bool:
        """Make the session if there is none. Whether it was made."""
        return await self.store.create(self.key, new_secret(), parent=parent, expires_at=expires_at)

    async def read(self, after: int = 0) -> list[Placed]:
        """All entries with numbers above `after`, a fork's parents' first.

        Raises:
            SessionNotFound: It, or a session that it was forked from, is not there any more.
            JournalDamaged: It is not what was written.
        """
        return await self._read(await self._chain(after), after)

    async def _read(self, links: Sequence[Link], after: int) -> list[Placed]:
        placed: list[Placed] = []
        for link in links:
            if link.until is not None and link.until <= after:
                continue
            placed += [_open(event, link.sealer) for event in await self._events(link)]
        last = after
        for each in placed:
            if each.seq != last + 1:
                raise JournalDamaged(f"Entries {last + 1} to {each.seq - 1} of the session are missing.")
            last = each.seq
        if last < links[-1].last:  # a shorter journal folds well, into a state in which less was done than was done
            if await self.store.info(self.key) is None:
                raise SessionNotFound(f"There is no session {self.key.session!r} any more.")
            raise JournalDamaged(f"Entries {last + 1} to {links[-1].last} of the session are missing.")
        return placed

    async def state(self) -> SessionState:
        """What it comes to now."""
        return (await self._state())[0]

    async def _state(self) -> tuple[SessionState, Link]:
        """What it comes to now, and its own part."""
        links = await self._chain(0)
        own = links[-1]
        return fold(await self._read(links, 0), self.key.session, begins=own.after), own

    async def follow(self, after: int = 0) -> AsyncGenerator[Placed]:
        """Entries above `after`, then each as it is written, by whatever process."""
        links = await self._chain(after)
        for placed in await self._read(links, after):
            yield placed
            after = placed.seq
        sealer = links[-1].sealer
        del links  # what was read, which may be much
        events = self.store.follow(self.key, after=after)
        try:
            async for event in events:
                yield _open(event, sealer)
        finally:
            await events.aclose()

    @contextlib.asynccontextmanager
    async def writing(self, *, wait_s: float = 0.0, ttl_s: float = LEASE_TTL_S) -> AsyncGenerator[Writer]:
        """Hold the session: nobody else writes to it meanwhile.

        Args:
            wait_s: Seconds to wait for another process or task that holds it.
            ttl_s: How long others wait for a holder that does not say anything any more.

        Raises:
            SessionBusy: Somebody has it, still.
            SessionFenced: Somebody took it over meanwhile; raised by what is then tried to be written.
        """
        owner = this_process(new_id("w"))
        lease = await self._acquired(owner, wait_s, ttl_s)
        # Everything from here on ends with the lease given back, however often we are cancelled meanwhile.
        writer: Writer | None = None
        try:
            self._reach("lease.taken")
            state, own = await self._state()
            writer = Writer(self, lease, own.sealer, state, self._reach)
            yield writer
        finally:
            await _to_its_end(lambda: self._give_back(lease, writer))

    async def _give_back(self, lease: Lease, writer: Writer | None) -> None:
        try:
            if writer is not None:
                await writer.aclose()
        finally:
            await _release(self.store, lease)

    async def _acquired(self, owner: str, wait_s: float, ttl_s: float) -> Lease:
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            try:
                return await acquire(self.store, self.key, owner, ttl_s=ttl_s)
            except SessionBusy:
                left_s = deadline - asyncio.get_running_loop().time()
                if left_s <= 0:
                    raise
                await asyncio.sleep(min(BUSY_POLL_S, left_s))

    async def _chain(self, after: int) -> list[Link]:
        """The parts of the journal, the oldest ancestor's first, with what they have above `after`.

        Looked up each time: somebody may have erased the session and made it anew, with another secret.
        """
        links: list[Link] = []
        key, until = self.key, None
        while True:
            # Of an ancestor, no more than is shared.
            loaded = await self.store.load(key, after=after, limit=EVENTS_READ_MAX if until is None else until - after)
            if loaded is None:
                raise SessionNotFound(f"There is no session {key.session!r}.")
            info = loaded.info
            begins = 0 if info.parent is None else info.parent.seq
            links.insert(0, Link(key, begins, until, Sealer(key, loaded.secret), info.last_seq, loaded.events))
            if info.parent is None:
                break
            if len(links) > FORKS_DEEP_MAX:
                raise JournalDamaged("The session is a fork of too many forks.")
            # A fork of a fork may leave before the first fork's own entries do.
            until = info.parent.seq if until is None else min(until, info.parent.seq)
            key = SessionKey(key.tenant, info.parent.session)
        return links

    async def _events(self, link: Link) -> list[Event]:
        """All of a part: what was loaded with it, and what did not fit."""
        until = link.last if link.until is None else link.until
        events = list(link.events)
        while events and events[-1].seq < until:
            more = await self.store.read(link.key, after=events[-1].seq)
            if not more:
                break
            events += more
        return events if link.until is None else [event for event in events if event.seq <= until]


async def acquire(store: Store, key: SessionKey, owner: str, *, ttl_s: float) -> Lease:
    """`Store.acquire`. If we are cancelled meanwhile, it is given back: we live, so nobody else could take it."""
    task = asyncio.ensure_future(store.acquire(key, owner, ttl_s=ttl_s))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _to_its_end(lambda: _undo(store, task))
        raise


async def _undo(store: Store, acquiring: asyncio.Future[Lease]) -> None:
    [lease] = await asyncio.gather(acquiring, return_exceptions=True)
    if isinstance(lease, Lease):
        await _release(store, lease)


async def _release(store: Store, lease: Lease) -> None:
    with contextlib.suppress(StoreUnavailable, SessionFenced):
        await store.release(lease)


_Waiting: TypeAlias = tuple[Sequence[Entry], "asyncio.Future[None]"]


class Writer:
    """The right to write to a session, and its state. Entries of tasks that write at the same time share one append.

    Attributes:
        state: What the journal comes to, with all that was written.
    """

    def __init__(
        self, journal: Journal, lease: Lease, sealer: Sealer, state: SessionState, reach: Callable[[str], None]
    ) -> None:
        self.journal = journal
        self.state = state
        self.reach = reach
        self._lease = lease
        self._sealer = sealer
        self._held: list[Entry] = []
        self._waiting: list[_Waiting] = []
        self._appending: asyncio.Task[None] | None = None
        self._failed: BaseException | None = None
        self._renewing = asyncio.create_task(self._renew())

    @property
    def life(self) -> str:
        """See `sealing.life_of`."""
        return self._sealer.life

    async def write(self, *entries: Entry) -> None:
        """Append entries, together. They are durable, and in `state`, when this returns.

        Raises:
            SessionFenced: The session was taken over. Nothing was written, nor will be.
            StoreUnavailable: The store could not be reached for some time. It is not known whether they were written;
                nothing more can be written with this writer.
        """
        if self._failed is not None:
            raise self._failed
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, future))
        if self._appending is None:
            self._appending = asyncio.create_task(self._append_all())
        await future  # cancelled, we only stop waiting: the entries are on their way

    async def hold(self, entry: Entry) -> None:
        """Take an entry into `state` and append it with the next `write`, or at the end: one commit instead of two.

        For what nobody acts on before something else is written. Raises like `write`.
        """
        if self._failed is not None or self._appending is not None:
            await self.write(entry)
            return
        self.state.apply(Placed(self.state.seq + 1, time.time(), entry), self.journal.key.session)
        self._held.append(entry)

    async def expire_at(self, at: float | None) -> None:
        """Set when the session is to be erased, seconds since the epoch; None: never. Raises like `Store.renew`."""
        await self.journal.store.expire_at(self._lease, at)

    async def aclose(self) -> None:
        """Stop writing; what was begun is ended first."""
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        while (task := self._appending) is not None:
            await asyncio.gather(task, return_exceptions=True)
            if self._appending is task:  # the loop is being closed, and it was cancelled before it began
                self._appending = None
                self._fail(asyncio.CancelledError(), self._waiting)
        if self._failed is None and self._held:
            try:
                await self._append(())
            except CallboxError as error:  # nobody has acted on it: whoever goes on does without
                _LOG.warning("What a session held was not written: %s", error)
        if self._failed is None:
            self._failed = SessionError("The session is not held any more.", hint="Use: async with journal.writing()")

    async def _append_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await self._append([entry for entries, _ in batch for entry in entries])
                except BaseException as error:
                    self._fail(error, [*batch, *self._waiting])
                    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                        raise  # the others are heard by who waits
                for _, future in batch:
                    if not future.done():
                        future.set_result(None)
        finally:
            self._appending = None

    def _fail(self, error: BaseException, told: Sequence[_Waiting]) -> None:
        self._failed = error
        self._waiting = []
        for _, future in told:
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever was cancelled meanwhile does not look

    async def _append(self, entries: Sequence[Entry]) -> None:
        held, self._held = self._held, []
        after = self.state.seq - len(held)
        events = [
            NewEvent(entry.kind, self._sealer.seal(seq, entry.kind, encode(entry)), unique_key(entry))
            for seq, entry in enumerate([*held, *entries], after + 1)
        ]
        status = await self._take_in(entries, self.state.seq)
        wait_s = APPEND_WAIT_S
        self.reach("append.before")
        for tries_left in reversed(range(APPEND_TRIES)):
            try:
                await self.journal.store.append(self._lease, after, events, status=status)
                break
            except StoreUnavailable:
                # Whether it was written is not known: the very same append again is written once.
                if not tries_left:
                    raise
                await asyncio.sleep(wait_s)
                wait_s *= 2
        self.reach("append.after")

    async def _take_in(self, entries: Sequence[Entry], after: int) -> Status:
        """Bring `state` to after these entries. If they are not written, nobody may use it any more."""
        if any(isinstance(entry, Rewound) for entry in entries):
            known = await self.journal.read()
            placed = [Placed(seq, 0.0, entry) for seq, entry in enumerate(entries, after + 1)]
            self.state = fold([*known, *placed], self.journal.key.session, begins=self.state.begins)
        else:
            now = time.time()
            for seq, entry in enumerate(entries, after + 1):
                self.state.apply(Placed(seq, now, entry), self.journal.key.session)
        return self.state.status

    async def _renew(self) -> None:
        pause_s = self._lease.ttl_s / RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.journal.store.renew(self._lease)
            except StoreUnavailable as error:
                _LOG.warning("The lease of a session could not be renewed: %s", error)
            except SessionFenced as error:
                self._failed = error
                return


async def _to_its_end(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Await what must not be left half done, and may be begun again; who cancels us meanwhile is heard afterwards."""
    task = asyncio.ensure_future(work())
    again = True
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
            if task.cancelled() and again:  # a loop that is being closed cancels every task, once
                task, again = asyncio.ensure_future(work()), False
    if cancelled is not None:
        raise cancelled
    task.result()


def _open(event: Event, sealer: Sealer) -> Placed:
    return Placed(event.seq, event.at, decode(event.kind, sealer.unseal(event.seq, event.kind, event.body)))
