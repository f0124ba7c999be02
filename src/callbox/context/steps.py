"""The pieces of a window: messages as they stand, the results in them, and what must stay together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from callbox.calls.call import ToolResult
    from callbox.messages import Message

StepKind: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(slots=True, eq=False)
class Entry:
    """One message as it is sent now, what it costs, and its place in `Window.messages`."""

    message: Message
    tokens: int
    position: int


@dataclass(slots=True, eq=False)
class Held:
    """One result that is in the window.

    Attributes:
        handle: What it is read again by once it is gone.
        result: As the tool returned it.
        tokens: What it costs as it stands now.
        step, entry, part: Where it is: `part` counts the parts of the entry's message.
        gone: It was cleared or left out.
    """

    handle: str
    result: ToolResult
    tokens: int
    step: Step
    entry: Entry
    part: int
    gone: bool = False


@dataclass(slots=True, eq=False)
class Step:
    """What stays together: one message, or an assistant message with the results of all its calls.

    Attributes:
        number: Its place in the conversation, from 0.
        kind: Who began it.
        entries: Its messages.
        results: The results in them.
    """

    number: int
    kind: StepKind
    entries: list[Entry] = field(default_factory=list[Entry])
    results: list[Held] = field(default_factory=list[Held])

    @property
    def messages(self) -> list[Message]:
        """Its messages as they are sent now: cleared results as stubs."""
        return [entry.message for entry in self.entries]

    @property
    def tokens(self) -> int:
        """What leaving it out would save, uncalibrated."""
        return sum([entry.tokens for entry in self.entries])
