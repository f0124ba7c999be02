"""What one run of an agent came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from callbox.calls.call import ToolCall, ToolResult
from callbox.context.cost import RunCost
from callbox.messages import NO_USAGE, Message, Usage
from callbox.policy.approval import Approval

Stop: TypeAlias = Literal[
    "done", "refusal", "filter", "length", "calls", "corrections", "turns", "time", "failed", "approval"
]
"""Why the run ended: the model was done, refused, was cut by its vendor or by its output budget; the run's budget of
calls, corrections, turns or time was spent; or its provider failed. ``"approval"``: a session's run has not ended, it
waits for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run.

    Attributes:
        id: Names the run in contexts, logs and idempotency keys.
        output: The model's final text; for any `stop` but ``"done"`` a clear sentence if the model left none.
        stop: See `Stop`.
        messages: The whole conversation, history first; pass it as `history` to go on.
        calls: All calls, in order; those that could not run carry their `error`.
        results: One per call, in the same order.
        usage: Tokens as the vendor counted them, all requests together.
        cost: Where the tokens went.
        turns: Requests that were answered.
        approvals: What a session's run waits for, when `stop` is ``"approval"``.
    """

    id: str
    output: str
    stop: Stop
    messages: list[Message] = field(repr=False)
    calls: list[ToolCall] = field(default_factory=list[ToolCall], repr=False)
    results: list[ToolResult] = field(default_factory=list[ToolResult], repr=False)
    usage: Usage = NO_USAGE
    cost: RunCost
    turns: int = 0
    approvals: list[Approval] = field(default_factory=list[Approval])
