"""Who is asking, and what one run may still spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from callbox.calls.call import ErrorCode, ToolResult
from callbox.clock import Clock, SystemClock
from callbox.ids import new_id
from callbox.limits import DEFAULT_LIMITS, Limits

# Turns of nothing but these lead nowhere and cost no call from the budget: without a bound of their own, a model could
# go on with them for ever, and ask a person again and again.
_NO_PROGRESS: frozenset[ErrorCode] = frozenset(
    (
        "malformed_json",
        "unknown_tool",
        "invalid_arguments",
        "rejected_by_check",
        "denied",
        "approval_required",
        "approval_refused",
        "rate_limited",
    )
)

Exhausted: TypeAlias = Literal["calls", "time", "corrections", "turns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """On whose behalf calls are made. It comes from your program, never from the model.

    Attributes:
        user_id, tenant_id, session_id: Handed to policies, checks and tools.
        scopes: What the caller holds; a tool that needs more is denied.
        state: Any object of yours; tools find it as `CallContext.state`.
    """

    user_id: str | None = None
    tenant_id: str | None = None
    session_id: str | None = None
    scopes: frozenset[str] = frozenset()
    state: Any = None


ANYONE = Caller()


@dataclass(slots=True)
class Budget:
    """What one run may spend, and what it has spent.

    Attributes:
        limits: Where the bounds come from.
        run_id: Names the run in contexts and idempotency keys.
        calls: Calls that were let through to a tool.
        turns: Turns that had calls.
        turns_of_mistakes: Turns in a row with nothing but mistakes and refusals.
        refused: What a person has refused in this run, and is not asked again.
        overdrawn: The model wanted more calls than there were.
    """

    limits: Limits = DEFAULT_LIMITS
    clock: Clock = field(default_factory=SystemClock)
    run_id: str = field(default_factory=lambda: new_id("run"))
    calls: int = 0
    turns: int = 0
    turns_of_mistakes: int = 0
    refused: set[str] = field(default_factory=set[str])
    overdrawn: bool = False
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock.monotonic()

    @property
    def remaining_s(self) -> float:
        """Seconds left of the run's time; may be negative."""
        return self.limits.run_timeout_s - (self.clock.monotonic() - self.started)

    def spend_call(self) -> bool:
        """Take one call from the budget; False when there is none left."""
        if self.calls >= self.limits.calls_per_run_max:
            self.overdrawn = True
            return False
        self.calls += 1
        return True

    def count_turn(self, results: Sequence[ToolResult]) -> None:
        """Learn from one turn's results whether the model gets anywhere."""
        self.turns += 1
        codes = [result.error.code if result.error else None for result in results]
        if None in codes:
            self.turns_of_mistakes = 0
        elif any(code in _NO_PROGRESS for code in codes):
            self.turns_of_mistakes += 1

    @property
    def exhausted(self) -> Exhausted | None:
        """Why the run must end, or None."""
        if self.overdrawn:
            return "calls"
        if self.turns_of_mistakes > self.limits.corrections_max:
            return "corrections"
        if self.turns >= self.limits.turns_per_run_max:
            return "turns"
        if self.remaining_s <= 0:
            return "time"
        return None
