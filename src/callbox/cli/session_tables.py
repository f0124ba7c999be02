"""How sessions, their entries and approvals look: in a terminal, and as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from callbox.calls.call import ToolCall
from callbox.cli.sandbox_tables import ago
from callbox.cli.terminal import arguments, clean, console, full_arguments, shorten
from callbox.messages import Message
from callbox.policy.approval import Approval
from callbox.sessions.coding import entry_json
from callbox.sessions.entries import (
    Answered,
    Asked,
    Began,
    Decided,
    Ended,
    Entry,
    Intended,
    Noted,
    Replied,
    Rewound,
)
from callbox.sessions.fold import Placed, SessionState
from callbox.stores.store import SessionInfo, SessionKey, is_dead

_STYLES = {"idle": "dim", "running": "green", "waiting": "yellow"}
_ROLE_STYLES = {"user": "bold", "assistant": "", "system": "dim"}


def in_use(info: SessionInfo) -> bool:
    """Whether a process that may be alive works on it."""
    return info.owner is not None and not is_dead(info.owner)


def status_of(info: SessionInfo) -> str:
    """Like the store's, but a run that nobody works on is said to be unfinished."""
    return "unfinished" if info.status == "running" and not in_use(info) else info.status


def info_json(info: SessionInfo) -> dict[str, Any]:
    """A session for programs."""
    return {
        "session": info.key.session,
        "tenant": info.key.tenant,
        "status": info.status,
        "in_use": in_use(info),
        "entries": info.last_seq,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "expires_at": info.expires_at,
        "forked_from": None if info.parent is None else asdict(info.parent),
    }


def placed_json(placed: Placed) -> dict[str, Any]:
    """An entry for programs; its body as docs/sessions.md has it."""
    return {"seq": placed.seq, "at": placed.at, "kind": placed.entry.kind, "body": entry_json(placed.entry)}


def approval_json(approval: Approval) -> dict[str, Any]:
    """An approval for programs."""
    return asdict(approval)


def message_json(message: Message) -> dict[str, Any]:
    """A message for programs: its text, its calls and results."""
    body: dict[str, Any] = {"role": message.role}
    if message.text and not message.results:  # the text of results is theirs, and said there
        body["text"] = message.text
    if message.calls:
        body["calls"] = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.calls]
    if message.results:
        body["results"] = [
            {"call": each.call_id, "name": each.name, "content": each.content, "is_error": each.is_error}
            for each in message.results
        ]
    return body


def show_sessions(infos: Sequence[SessionInfo]) -> None:
    """One line each."""
    if not infos:
        console.print(Text("No sessions.", "dim"))
        return
    table = Table("session", "status", box=None, pad_edge=False)
    table.add_column("entries", justify="right")
    for title in ("changed", "expires", "forked from"):
        table.add_column(title)
    now = time.time()
    for info in infos:
        table.add_row(
            Text(clean(info.key.session), "bold"),
            _status(info),
            Text(f"{info.last_seq:,}"),
            Text(ago(now - info.updated_at)),
            Text(_until(info, now)),
            Text("" if info.parent is None else clean(f"{info.parent.session} at {info.parent.seq}")),
        )
    console.print(table)


def show_session(info: SessionInfo, state: SessionState) -> None:
    """All of one: what it is, what was said, what waits."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    now = time.time()
    rows = {
        "session": info.key.session,
        "tenant": info.key.tenant,
        "entries": str(info.last_seq),
        "created": moment(info.created_at),
        "changed": ago(now - info.updated_at),
        "expires": _until(info, now) or "never",
        **({} if info.parent is None else {"forked from": f"{info.parent.session} at {info.parent.seq}"}),
        **{f"note {name}": str(value) for name, value in state.notes.items()},
    }
    table.add_row("status", _status(info))
    for name, value in rows.items():
        table.add_row(Text(clean(name)), Text(shorten(value, 400)))
    console.print(table)
    console.print()
    for message in state.messages:
        show_message(message)
    if state.turn is not None:
        show_message(state.turn.message)
        for call in state.turn.missing():
            console.print(Text(f"  ? {clean(call.name)}: {_why_open(call, state)}", "yellow"))
    for approval in state.waiting:
        console.print(Text(f"\nWaits for approval {approval.id}: callbox approvals show {approval.id}", "yellow"))


def show_message(message: Message) -> None:
    """What was said, and what was called."""
    if message.text and not message.results:
        style = _ROLE_STYLES.get(message.role, "")
        console.print(Text.assemble((f"{message.role}: ", "cyan"), (clean(message.text), style)), soft_wrap=True)
    for call in message.calls:
        console.print(Text(f"  → {clean(call.name)}({arguments(call)})", "cyan"))
    for result in message.results:
        style = "red" if result.is_error else "green"
        console.print(Text(f"  ← {clean(result.name)}: {shorten(result.content)}", style))


def show_entry(placed: Placed) -> None:
    """One line."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(placed.at))
    line = Text.assemble((f"{placed.seq:>6}  {at}  ", "dim"), (f"{placed.entry.kind:<9}", "cyan"), said(placed.entry))
    console.print(line, soft_wrap=True)


def said(entry: Entry) -> str:
    """What an entry says, on one line."""
    match entry:
        case Began(prompt=prompt):
            text = " ".join(message.text for message in prompt)
        case Replied(message=message):
            calls = [] if message is None else [f"→ {call.name}({arguments(call)})" for call in message.calls]
            text = "(nothing that is kept)" if message is None else " ".join([message.text, *calls])
        case Intended(call=call, approval=approval):
            text = call if approval is None else f"{call}, approved by {approval}"
        case Answered(result=result):
            text = f"{result.name}: {result.content}"
        case Asked(approval=approval, tool=tool, reason=reason):
            text = f"{approval} {tool}: {reason}"
        case Decided(approval=approval, approved=approved, by=by, note=note):
            text = f"{approval} {'approved' if approved else 'refused'} by {by}{note and f': {note}'}"
        case Ended(stop=stop, output=output):
            text = f"{stop}: {output}"
        case Rewound(to=to):
            text = f"to {to}"
        case Noted(values=values):
            text = str(values)
    return shorten(text)


def show_approvals(found: Iterable[tuple[SessionKey, Approval]]) -> None:
    """One line each; all arguments only in `show_approval`."""
    table = Table("approval", "session", "tool", "arguments", "asked", box=None, pad_edge=False)
    now = time.time()
    for key, approval in found:
        table.add_row(
            Text(approval.id, "bold"),
            Text(clean(key.session)),
            Text(clean(approval.tool)),
            Text(arguments(_call(approval))),
            Text(ago(now - approval.asked_at)),
        )
    if table.row_count:
        console.print(table)
    else:
        console.print(Text("Nothing waits for a person.", "dim"))


def show_approval(key: SessionKey, approval: Approval, asked_for: str) -> None:
    """All of it: nobody should approve what they have not seen. What one would not see is escaped."""
    decided = "waits" if approval.approved is None else "approved" if approval.approved else "refused"
    rows = {
        "approval": approval.id,
        "session": key.session,
        "tenant": key.tenant,
        "asked": f"{moment(approval.asked_at)} by the run of: {asked_for}",
        "why": approval.reason,
        "digest": approval.digest,
        "state": decided + (f" by {approval.by}" if approval.by else "") + (", used" if approval.used else ""),
        **({"note": approval.note} if approval.note else {}),
        "tool": approval.tool,
    }
    for name, value in rows.items():
        console.print(Text.assemble((f"{name:<9} ", "dim"), shorten(value, 1_000)), soft_wrap=True)
    for line in full_arguments(_call(approval)):
        # Soft: the terminal wraps by itself, while rich would drop blanks at the ends of lines.
        console.print(Text(f"    {line}", "yellow"), soft_wrap=True)


def asked_for(state: SessionState) -> str:
    """What the run that waits was told."""
    return "" if state.run is None else " ".join(message.text for message in state.run.prompt)


def moment(seconds: float) -> str:
    """A time of this host's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def _call(approval: Approval) -> ToolCall:
    return ToolCall(approval.call_id, approval.tool, approval.arguments)


def _status(info: SessionInfo) -> Text:
    status = status_of(info)
    return Text(f"{status}{' (in use)' if in_use(info) else ''}", _STYLES.get(status, "yellow"))


def _until(info: SessionInfo, now: float) -> str:
    if info.expires_at is None:
        return ""
    left = info.expires_at - now
    return "is over" if left <= 0 else f"in {ago(left).removesuffix(' ago')}"


def _why_open(call: ToolCall, state: SessionState) -> str:
    if any(each.call_id == call.id for each in state.waiting):
        return "waits for a person"
    if state.turn is not None and call.id in state.turn.intents:
        return "began; no outcome yet"
    return "not begun"
