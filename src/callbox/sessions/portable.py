"""Sessions as documents: to take one elsewhere, to keep it, to read it.

A document is plain: whoever exports a session may read it, and wants to. What was sealed in the store is not sealed in
it. Its entries are those of the journal, in order; a fork brings the past that it shares. Two shapes, one content:
one JSON object, or JSON Lines (the head, then an entry a line, then the end).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, cast

from callbox.errors import CallboxError, JournalConflict, JournalDamaged, SessionError
from callbox.ids import new_id
from callbox.sessions.coding import decode, encode
from callbox.sessions.entries import Answered, Asked, Began, Decided, Entry, Noted, Replied, unique_key
from callbox.sessions.fold import Placed, SessionState, fold
from callbox.sessions.journal import LEASE_TTL_S, Journal, acquire
from callbox.sessions.sealing import SEAL_BYTES_MAX, Sealer, new_secret, sealed_bytes
from callbox.stores.rules import check_key
from callbox.stores.store import EVENT_BYTES_MAX, NewEvent, SessionKey, Store, this_process
from callbox.values import JsonObject

KIND = "callbox.session"
VERSION = 1
"""Of the document. Entries have a version of their own (`entries.FORMAT`)."""

DOCUMENT_BYTES_MAX = 256 << 20
"""Of a document that is read. An import is one append: all of it or nothing."""

IMPORTED, VOIDED = "callbox.imported", "callbox.voided"
"""Notes of an imported session: where it came from; the last approval that did not come along."""

compact = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
"""JSON on one line, ASCII: what a digest is made of."""

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "bool": (bool,),
    "int": (int,),
    "JsonObject": (dict,),
}


@dataclass(frozen=True, slots=True)
class Document:
    """A session that was exported, read and found whole.

    Attributes:
        session, tenant: Where it was.
        exported_at: When it was taken, seconds since the epoch.
        expires_at: When it was to be erased there; None: never.
        entries: All of them, numbered from 1.
    """

    session: str
    tenant: str
    exported_at: float
    expires_at: float | None
    entries: tuple[Placed, ...]


# --- out ---


async def export_session(journal: Journal) -> JsonObject:
    """A session as one JSON object. Nobody's leave is needed: of a run that is under way it has what is durable now.

    Raises:
        SessionNotFound: There is no such session.
        JournalDamaged: It cannot be read.
    """
    head, placed = await _taken(journal)
    entries = [_entry(each) for each in placed]
    return {**head, "entries": entries, **_end(head, entries)}


async def export_lines(journal: Journal) -> Iterator[str]:
    """The same as JSON Lines, each without its line end: the head, an entry a line, the end. Raises like the other."""
    head, placed = await _taken(journal)
    return _lines(head, placed)


def _lines(head: JsonObject, placed: Iterable[Placed]) -> Iterator[str]:
    end = _Ending(head)
    yield compact(head)
    for each in placed:
        entry = _entry(each)
        end.take(entry)
        yield compact(entry)
    yield compact(end.body())


async def _taken(journal: Journal) -> tuple[JsonObject, list[Placed]]:
    info = await journal.store.info(journal.key)
    placed = await journal.read()
    head: JsonObject = {
        "kind": KIND,
        "version": VERSION,
        "session": journal.key.session,
        "tenant": journal.key.tenant,
        "exported_at": _written_time(time.time()),
    }
    if info is not None and info.expires_at is not None:
        head["expires_at"] = _written_time(info.expires_at)
    if info is not None and info.parent is not None:
        head["forked_from"] = {"session": info.parent.session, "seq": info.parent.seq}
    return head, placed


def _entry(placed: Placed) -> JsonObject:
    body = json.loads(encode(placed.entry))
    return {"seq": placed.seq, "at": _written_time(placed.at), "kind": placed.entry.kind, "body": body}


class _Ending:
    """What shows that nothing is missing and nothing was changed by accident. It keeps nobody from forging."""

    def __init__(self, head: JsonObject) -> None:
        self._digest = hashlib.sha256(compact(head).encode())
        self._count = 0

    def take(self, entry: JsonObject) -> None:
        self._digest.update(b"\n" + compact(entry).encode())
        self._count += 1

    def body(self) -> JsonObject:
        return {"count": self._count, "digest": f"sha256:{self._digest.hexdigest()}"}


def _end(head: JsonObject, entries: Iterable[JsonObject]) -> JsonObject:
    ending = _Ending(head)
    for entry in entries:
        ending.take(entry)
    return ending.body()


# --- in ---


def read_document(source: str | bytes | Mapping[str, Any]) -> Document:
    """Read what `export_session` or `export_lines` made.

    Args:
        source: The text of either shape, or the object.

    Raises:
        JournalDamaged: It is not a session's document, a newer callbox made it, something is missing or was changed.
    """
    try:
        body = _parsed(source) if isinstance(source, str | bytes) else dict(source)
        return _document(body)
    except RecursionError as error:
        raise JournalDamaged("The document is nested too deeply.") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        if isinstance(error, CallboxError):
            raise
        raise JournalDamaged(f"The document cannot be read ({type(error).__name__}).") from error


def _parsed(source: str | bytes) -> dict[str, Any]:
    if len(source) > DOCUMENT_BYTES_MAX:
        raise JournalDamaged(f"The document is larger than {DOCUMENT_BYTES_MAX} bytes.")
    text = source if isinstance(source, str) else source.decode()
    with contextlib.suppress(json.JSONDecodeError):
        body: Any = json.loads(text)
        if not isinstance(body, dict):
            raise _foreign()
        return cast("dict[str, Any]", body)
    # Not splitlines: it would also split at characters that JSON allows inside a text.
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        head, *rest = [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise JournalDamaged("The document is not JSON; it may have been cut off.") from error
    _check_head(head)
    end: Any = rest.pop() if rest else {}
    if not isinstance(end, dict) or "digest" not in end:
        raise JournalDamaged("The end of the document is missing.")
    return {**head, **cast("dict[str, Any]", end), "entries": rest}


def _check_head(head: Any) -> None:
    if not isinstance(head, dict) or cast("dict[str, Any]", head).get("kind") != KIND:
        raise _foreign()
    version: Any = cast("dict[str, Any]", head).get("version")
    if type(version) is not int or version < 1:
        raise _foreign()
    if version > VERSION:
        raise JournalDamaged("The document is of a newer version.", hint="A newer callbox made it: upgrade.")


def _foreign() -> JournalDamaged:
    return JournalDamaged("This is not a session that callbox exported.", hint="Use: callbox session export")


def _document(body: dict[str, Any]) -> Document:
    _check_head(body)
    if "entries" not in body or "digest" not in body:
        raise JournalDamaged("The end of the document is missing.")
    listed: list[dict[str, Any]] = body["entries"]
    head = {name: value for name, value in body.items() if name not in ("entries", "count", "digest")}
    if _end(head, listed) != {"count": body["count"], "digest": body["digest"]}:
        raise JournalDamaged("The document was changed, or part of it is missing: its digest is another.")
    placed = tuple(_placed(number, entry) for number, entry in enumerate(listed, 1))
    _folded(placed, body["session"])
    expires_at = body.get("expires_at")
    document = Document(
        session=body["session"],
        tenant=body["tenant"],
        exported_at=_read_time(body["exported_at"]),
        expires_at=None if expires_at is None else _read_time(expires_at),
        entries=placed,
    )
    if not (isinstance(document.session, str) and document.session and isinstance(document.tenant, str)):
        raise JournalDamaged("The document does not say whose it is.")
    return document


def _placed(number: int, written: dict[str, Any]) -> Placed:
    if written["seq"] != number:
        raise JournalDamaged(f"Entry {number} of the document has the number {written['seq']}.")
    entry = decode(written["kind"], json.dumps(written["body"]).encode())
    if not isinstance(entry, Began | Replied | Answered):  # those are read part by part
        for each in fields(entry):
            if type(getattr(entry, each.name)) not in _TYPES[cast("str", each.type)]:
                raise JournalDamaged(f"Entry {number} of the document has a wrong {each.name!r}.")
    if json.loads(encode(entry)) != written["body"]:
        raise JournalDamaged(f"Entry {number} of the document says more than callbox writes.")
    return Placed(number, _read_time(written["at"]), entry)


def _folded(placed: Iterable[Placed], session: str) -> SessionState:
    try:
        return fold(placed, session)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise JournalDamaged("The entries of the document do not follow from each other.") from error


async def import_session(
    store: Store,
    tenant: str,
    document: Document,
    *,
    session_id: str | None = None,
    expires_at: float | None = None,
) -> SessionKey:
    """Make a session of a document; it goes on where it was. A call that had an intent and no outcome is unknown.

    A yes that was not used does not come along: it was for the session that was exported, which may use it itself.
    Under the same id the call waits again; under another one it asks anew when the session is resumed.

    Args:
        store: Where to.
        tenant: Whose it is there.
        document: See `read_document`.
        session_id: Its id there; None: the one that it had.
        expires_at: When it is to be erased there, seconds since the epoch; None: as the document says.

    Raises:
        ConfigurationError: That cannot be an id.
        SessionError: There is a session of that id already.
        JournalDamaged: One entry is larger than a store takes.
        StoreError: It could not be written. Nothing of it is there then, but perhaps a session without entries, which
            the next import fills.
    """
    key = SessionKey(tenant, session_id or document.session)
    check_key(key)
    entries = _carried(document, key.session)
    bodies = [encode(entry) for entry in entries]
    for number, body in enumerate(bodies, 1):
        # What a store took there it takes here: it is the deflated body that counts.
        if len(body) + SEAL_BYTES_MAX > EVENT_BYTES_MAX and sealed_bytes(body) > EVENT_BYTES_MAX:
            raise JournalDamaged(f"Entry {number} of the document is too large to be kept.")
    status = _folded([Placed(seq, 0.0, entry) for seq, entry in enumerate(entries, 1)], key.session).status
    ends = document.expires_at if expires_at is None else expires_at
    if not await store.create(key, new_secret(), expires_at=ends):
        info = await store.info(key)
        if info is None or info.last_seq or info.parent is not None:
            raise _taken_id(key)
    lease = await acquire(store, key, this_process(new_id("w")), ttl_s=LEASE_TTL_S)
    try:
        loaded = await store.load(key, limit=0)
        if loaded is None:
            raise SessionError(f"Session {key.session!r} was erased meanwhile.")
        sealer, taken = Sealer(key, loaded.secret), set[str]()
        events: list[NewEvent] = []
        for seq, (entry, body) in enumerate(zip(entries, bodies, strict=True), 1):
            unique = unique_key(entry)
            if unique is not None and unique in taken:  # before a fork and after it: once in each of two journals
                unique = None
            taken.update(() if unique is None else (unique,))
            events.append(NewEvent(entry.kind, sealer.seal(seq, entry.kind, body), unique))
        await store.expire_at(lease, ends)  # an empty session that was there may have had another
        try:
            await store.append(lease, 0, events, status=status)
        except JournalConflict as error:
            raise _taken_id(key) from error
    finally:
        await store.release(lease)
    return key


def _taken_id(key: SessionKey) -> SessionError:
    return SessionError(f"There is a session {key.session!r} already.", hint="Choose another id; nothing was changed.")


def _carried(document: Document, session: str) -> list[Entry]:
    """The entries as they are written down: what must not count any more makes room for a note, at the same number."""
    state = _folded(document.entries, document.session)
    missing = set[str]() if state.turn is None else {call.id for call in state.turn.missing()}
    open_ = {each.id: each for each in state.approvals.values() if each.call_id in missing and not each.used}
    elsewhere = session != document.session

    def kept(entry: Entry) -> Entry:
        # An attacker would have one yes used twice, by a copy; or write one into the document.
        if isinstance(entry, Decided) and entry.approval in open_ and (elsewhere or entry.approved):
            return Noted(values={VOIDED: entry.approval})
        if isinstance(entry, Asked) and entry.approval in open_ and elsewhere:
            return Noted(values={VOIDED: entry.approval})
        return entry

    origin = {
        "tenant": document.tenant,
        "session": document.session,
        "exported_at": _written_time(document.exported_at),
        "entries": len(document.entries),
    }
    return [*[kept(placed.entry) for placed in document.entries], Noted(values={IMPORTED: origin})]


def _written_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _read_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
