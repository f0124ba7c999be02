"""Looking through the sessions of a tenant, without the agent that works on them; and the small changes to one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from callbox.errors import ApprovalError, SessionError, SessionNotFound, StoreError
from callbox.policy.approval import Approval
from callbox.sessions.entries import Rewound
from callbox.sessions.fold import SessionState, fold
from callbox.sessions.journal import FORKS_DEEP_MAX, Journal, Writer
from callbox.stores.rules import check_key, not_found
from callbox.stores.store import Parent, SessionInfo, SessionKey, Status, Store


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a person in one session.

    Attributes:
        key: Whose.
        state: What its journal comes to; None if it cannot be read.
        error: Why it cannot.
    """

    key: SessionKey
    state: SessionState | None
    error: StoreError | None = None


async def all_sessions(store: Store, tenant: str, *, status: Status | None = None) -> AsyncGenerator[SessionInfo]:
    """A tenant's sessions by id, however many."""
    after = ""
    while page := await store.sessions(tenant, status=status, after=after):
        for info in page:
            yield info
        after = page[-1].key.session


async def waiting(store: Store, tenant: str) -> AsyncGenerator[Waiting]:
    """The tenant's sessions that wait for a person. One that cannot be read does not hide the others."""
    async for info in all_sessions(store, tenant, status="waiting"):
        try:
            state = await Journal(store, info.key).state()
        except SessionNotFound:  # erased meanwhile
            continue
        except StoreError as error:
            if error.retryable:
                raise
            yield Waiting(info.key, None, error)
            continue
        if state.waiting:
            yield Waiting(info.key, state)


async def find_approval(
    store: Store, tenant: str, approval_id: str, *, session: str | None = None
) -> tuple[SessionKey, SessionState, Approval]:
    """Find an approval by its id.

    Args:
        store: Where.
        tenant: Whose.
        approval_id: `Approval.id`.
        session: Where to look; None: in all sessions that wait. One that was decided is found with it only.

    Raises:
        ApprovalError: There is none.
        SessionNotFound: There is no such session.
    """
    if session is not None:
        key = SessionKey(tenant, session)
        state = await Journal(store, key).state()
        if approval_id not in state.approvals:
            raise ApprovalError(f"Session {session!r} has no approval {approval_id!r}.")
        return key, state, state.approvals[approval_id]
    async for each in waiting(store, tenant):
        if each.state is not None and approval_id in each.state.approvals:
            return each.key, each.state, each.state.approvals[approval_id]
    raise ApprovalError(
        f"No session waits for an approval {approval_id!r}.",
        hint="Run: callbox approvals ls. One that was decided is found with its session's id (--session).",
    )


async def fork(
    journal: Journal, session_id: str, *, at: int | None = None, expires_at: float | None = None
) -> SessionKey:
    """Make a session that shares a journal up to `at`. See `Session.fork`.

    Args:
        journal: Of which session.
        session_id: The new one's id.
        at: The last entry to share; None: all there is.
        expires_at: When the new one is to be erased, seconds since the epoch; None: when the first one is.

    Raises:
        ConfigurationError: That cannot be an id.
        SessionError: There is a session of that id, or this is a fork of `FORKS_DEEP_MAX` forks already.
        SessionNotFound: The journal is shorter, or not there.
    """
    info = await journal.store.info(journal.key)
    if info is None:
        raise not_found(journal.key)
    if await _depth(journal.store, info) >= FORKS_DEEP_MAX:  # nobody could read the new one
        raise SessionError(
            f"The session is a fork of {FORKS_DEEP_MAX} forks, each of the one before.",
            hint="Export it, import it under another id, and fork that.",
        )
    key = SessionKey(journal.key.tenant, session_id)
    check_key(key)
    parent = Parent(journal.key.session, info.last_seq if at is None else at)
    ends = info.expires_at if expires_at is None else expires_at
    if not await Journal(journal.store, key).ensure(parent=parent, expires_at=ends):
        raise SessionError(f"There is a session {session_id!r} already.", hint="Choose another id.")
    return key


async def _depth(store: Store, info: SessionInfo | None) -> int:
    """How many forks lead to a session."""
    deep = 0
    while info is not None and info.parent is not None:
        deep += 1
        info = await store.info(SessionKey(info.key.tenant, info.parent.session))
    return deep


async def rewind(writer: Writer, to: int) -> None:
    """Let everything after entry `to` count as not said. See `Session.rewind`.

    Raises:
        SessionError: There is no such entry, or calls were under way there.
    """
    if not 0 <= to < writer.state.seq:
        raise SessionError(f"The session has entries 1 to {writer.state.seq}.", hint="Rewind to one of them.")
    before = [each for each in await writer.journal.read() if each.seq <= to]
    turn = fold(before, writer.journal.key.session).turn
    if turn is not None:  # its calls would be run again, or could not be for ever
        raise SessionError(f"Entry {to} is between a call and its result.", hint=f"Rewind to {turn.seq - 1}.")
    writer.reach("rewind.before")
    await writer.write(Rewound(to=to))
    writer.reach("rewind.after")
