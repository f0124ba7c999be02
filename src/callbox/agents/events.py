"""What `Agent.stream` tells while a run is going on.

The model's own events come through as they are (`TextDelta`, `ReasoningDelta`, `CallStarted`, `CallDelta`,
`CallReady` of `callbox.messages`); these are added:
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from callbox.agents.run import Run
from callbox.calls.call import ToolCall, ToolResult
from callbox.messages import CallDelta, CallReady, CallStarted, ReasoningDelta, Reply, TextDelta


@dataclass(frozen=True, slots=True)
class ReplyEnded:
    """The model has finished one reply; its calls, if any, run next (or have begun)."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class CallRunning:
    """A call passed every stage and runs now."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class CallProgress:
    """A running tool reported progress through its `CallContext`."""

    call: ToolCall
    progress: float
    total: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call has its result, success or error."""

    result: ToolResult


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Always the last event."""

    run: Run


Event: TypeAlias = (
    TextDelta
    | ReasoningDelta
    | CallStarted
    | CallDelta
    | CallReady
    | ReplyEnded
    | CallRunning
    | CallProgress
    | CallFinished
    | RunEnded
)
