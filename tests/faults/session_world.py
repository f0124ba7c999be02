"""The agent whose process is killed: its tools leave lines in files, which outlive it, and nothing else.

What a model says depends on the conversation only, so it says the same in every process. Every call that has an effect
is told apart from all others by its arguments: an effect that is there twice was done twice.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from callbox import Agent, CallContext, Tool, tool
from callbox.limits import Limits
from callbox.providers.scripted import Scripted
from callbox.sessions.fold import SessionState
from callbox.sessions.journal import Journal, Writer
from callbox.sessions.points import nothing
from callbox.stores.store import Lease, NewEvent, Status, Store


class Files:
    """Where a process leaves what must outlive it.

    Attributes:
        effects: What tools did.
        promises: What was acknowledged.
        left: How a process ended that ended by itself.
        reach: Told where the process is.
    """

    def __init__(self, folder: Path, reach: Callable[[str], None] = nothing) -> None:
        self.folder = folder
        self.effects = folder / "effects"
        self.promises = folder / "promises"
        self.left = folder / "left"
        self.reach = reach

    def add(self, path: Path, line: Any, *, sync: bool = False) -> None:
        """Append a line in one write, so that a kill leaves it whole or absent."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    @staticmethod
    def lines(path: Path) -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tools_of(files: Files) -> list[Tool]:
    """One tool of each kind that a crash treats differently."""

    def effect(name: str, what: Any, context: CallContext) -> None:
        files.reach("effect.before")
        files.add(files.effects, {"tool": name, "what": what, "key": context.idempotency_key}, sync=True)
        files.reach("effect.after")

    @tool(effect="read")
    async def look(place: str, context: CallContext) -> str:
        """Look at a place."""
        effect("look", place, context)
        return f"{place} is fine"

    @tool
    async def pay(amount: int, context: CallContext) -> str:
        """Pay an amount: at most once."""
        effect("pay", amount, context)
        return f"paid {amount}"

    @tool(idempotent=True)
    async def put(name: str, context: CallContext) -> str:
        """Put a thing: as often as one likes, under one key."""
        effect("put", name, context)
        return f"{name} is there"

    @tool(approval="always")
    async def refund(amount: int, context: CallContext) -> str:
        """Refund an amount, if somebody says yes."""
        effect("refund", amount, context)
        return f"refunded {amount}"

    return [look, pay, put, refund]


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"call": name, "arguments": arguments}


SCRIPT: dict[str, Sequence[Any]] = {
    "Prepare": (
        [call("look", place="attic"), call("look", place="cellar"), call("put", name="lamp")],
        [call("pay", amount=5), call("unknown"), call("look", place="roof")],
        "Prepared.",
    ),
    "Give back": ([call("refund", amount=9), call("refund", amount=100), call("pay", amount=1)], "Given back."),
    "In another world": ([call("pay", amount=7)], "Done there."),
    "Instead": ([call("pay", amount=3), call("put", name="chair")], "Done instead."),
}
OUT_OF_TIME = "Out of time"
AT_MOST_ONCE = ("pay", "refund")
YES_UP_TO = 50
"""A refund above this is refused by the person."""


def agent_of(files: Files, store: Store, **limits: Any) -> Agent:
    """The agent, the same in every process."""

    def say(messages: Sequence[Any]) -> Any:
        asked = max(at for at, message in enumerate(messages) if message.role == "user")
        return SCRIPT[messages[asked].text][sum(message.role == "assistant" for message in messages[asked:])]

    return Agent(model=Scripted(say), tools=tools_of(files), store=store, limits=Limits(**limits))


class Noting:
    """A store that notes each append when it has been acknowledged."""

    def __init__(self, store: Store, files: Files) -> None:
        self._store = store
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, lease: Lease, after: int, events: Sequence[NewEvent], *, status: Status) -> None:
        await self._store.append(lease, after, events, status=status)
        bodies = [base64.b64encode(event.body).decode() for event in events]
        self._files.add(self._files.promises, {"appended": lease.key.session, "after": after, "bodies": bodies})


def comparable(state: SessionState) -> SessionState:
    """A state without the time that its process's own clock showed."""
    asked = {name: replace(each, asked_at=0.0) for name, each in state.approvals.items()}
    return replace(state, approvals=asked)


def note_states(files: Files) -> None:
    """Have every writer note what it believes its session to be when it is closed."""
    own = Journal.writing

    @asynccontextmanager
    async def writing(self: Journal, **options: Any) -> AsyncIterator[Writer]:
        async with own(self, **options) as writer:
            yield writer
            state = base64.b64encode(pickle.dumps(comparable(writer.state))).decode()
            files.add(files.promises, {"state": self.key.session, "seq": writer.state.seq, "is": state})

    Journal.writing = writing  # type: ignore[method-assign]
