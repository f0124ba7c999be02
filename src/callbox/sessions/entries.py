"""What a journal says: one class per kind of entry. Docs: the table in docs/sessions.md.

An entry is written once and never changed. Its JSON has a version (`FORMAT`); readers know all versions before theirs.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from callbox.calls.call import ToolResult
from callbox.messages import NO_USAGE, Message, Usage
from callbox.values import JsonObject, JsonValue

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A run began: somebody said something.

    Attributes:
        run: The run's id.
        prompt: What was said.
        prompt_key: The caller's idempotency key for it, if there is one.
    """

    kind: ClassVar[str] = "began"
    run: str
    prompt: tuple[Message, ...]
    prompt_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied:
    """The model answered.

    Attributes:
        message: As it is kept in the conversation, its calls as they were read; None: nothing is kept.
        opens: Its calls are to be run; the message enters the conversation together with their results.
        turn: Then, what tells this turn from one that a fork or a copy of the session has at its place (`turn_id`).
    """

    kind: ClassVar[str] = "replied"
    message: Message | None
    opens: bool
    turn: str = ""
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Intended:
    """A call is about to run. If no outcome follows, it is not known whether it had its effect.

    Attributes:
        call: The call's id. Its idempotency key follows from its place: see `OpenTurn.key_of`.
        version: The tool's version.
        approval: Which yes this uses up.
    """

    kind: ClassVar[str] = "intended"
    call: str
    version: str
    approval: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A call has its one result: of a tool that ran, or why it did not."""

    kind: ClassVar[str] = "answered"
    result: ToolResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call waits for a person. See `Approval`."""

    kind: ClassVar[str] = "asked"
    approval: str
    call: str
    tool: str
    arguments: JsonObject
    digest: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A person decided."""

    kind: ClassVar[str] = "decided"
    approval: str
    approved: bool
    by: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run ended. `output` is what it came to, with `stop` for why."""

    kind: ClassVar[str] = "ended"
    run: str
    stop: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewound:
    """Everything after entry `to` counts as not said. What tools did meanwhile is not undone, and not done again."""

    kind: ClassVar[str] = "rewound"
    to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Something that programs keep with the session: names, links, what was imported from where."""

    kind: ClassVar[str] = "noted"
    values: JsonObject = field(default_factory=dict[str, JsonValue])


Entry: TypeAlias = Began | Replied | Intended | Answered | Asked | Decided | Ended | Rewound | Noted

KINDS: dict[str, type[Entry]] = {
    each.kind: each for each in (Began, Replied, Intended, Answered, Asked, Decided, Ended, Rewound, Noted)
}


def turn_id() -> str:
    """For `Replied.turn`: 48 random bits, which are enough among the copies of one run."""
    return secrets.token_urlsafe(6)


def unique_key(entry: Entry) -> str | None:
    """What the store itself refuses to have twice: the decision on an approval, which anybody may bring."""
    return f"d:{entry.approval}" if isinstance(entry, Decided) else None
