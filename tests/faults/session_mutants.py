"""Recorders that are wrong in one way each: the harness must see every one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from callbox.agents import session
from callbox.agents.recorder import SessionRecorder
from callbox.calls.call import ToolCall, ToolResult
from callbox.sessions.entries import Entry, Intended
from callbox.sessions.journal import Writer
from callbox.tools.tool import Tool

_write = Writer.write
_intent = SessionRecorder.intent
_outcome = SessionRecorder.outcome


def _replace_intents(by: Callable[[Intended], Intended | None]) -> None:
    async def write(self: Writer, *entries: Entry) -> None:
        kept = [by(each) if isinstance(each, Intended) else each for each in entries]
        if any(kept):
            await _write(self, *[each for each in kept if each is not None])

    Writer.write = write  # type: ignore[method-assign]


def no_intent() -> None:
    """Intents are not written."""
    _replace_intents(lambda _: None)


def late_intent() -> None:
    """Intents are written after the effect."""
    waiting: dict[str, Tool] = {}

    async def intent(self: SessionRecorder, call: ToolCall, tool: Tool) -> str:
        waiting[call.id] = tool
        turn = self._turn()
        run = self._writer.state.run
        assert run is not None
        return f"{run.id}.{turn.seq}.{[each.id for each in turn.message.calls].index(call.id)}"

    async def outcome(self: SessionRecorder, call: ToolCall, result: ToolResult) -> None:
        if tool := waiting.pop(call.id, None):
            await _intent(self, call, tool)
        await _outcome(self, call, result)

    SessionRecorder.intent = intent  # type: ignore[method-assign]
    SessionRecorder.outcome = outcome  # type: ignore[method-assign]


def unused_approval() -> None:
    """A yes is not used up by the call that it was for."""
    _replace_intents(lambda entry: replace(entry, approval=None))


def other_key() -> None:
    """A call that is run again has another key."""

    async def intent(self: SessionRecorder, call: ToolCall, tool: Tool) -> str:
        return f"{await _intent(self, call, tool)}.{os.getpid()}"

    SessionRecorder.intent = intent  # type: ignore[method-assign]


def run_again() -> None:
    """What a crash hid is run again, whatever it is."""
    session._lost = lambda *_, **__: None  # type: ignore[assignment]


MUTANTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (no_intent, late_intent, unused_approval, other_key, run_again)
}

SEEN: dict[str, str] = {
    "no_intent": "intent is not written",
    "late_intent": "intent is not written",
    "unused_approval": "nobody has said yes",
    "other_key": "intent is not written",  # not under the key that the tool was given
    "run_again": "was done 2 times",
}
"""What the harness says of each: it must see what is wrong, and not that the mutant itself failed."""
