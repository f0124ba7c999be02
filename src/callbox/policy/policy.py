"""Policy says allow, deny or ask: a value, never an exception."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from callbox.tools.tool import Effect, Tool
from callbox.values import JsonObject


@dataclass(frozen=True, slots=True)
class Allow:
    """The call may run."""


@dataclass(frozen=True, slots=True)
class Deny:
    """The call may not run. `reason` is sent to the model: keep what it must not know out of it."""

    reason: str = "This call is not allowed here."


@dataclass(frozen=True, slots=True)
class Ask:
    """A person decides. `reason` is shown to that person and to the model."""

    reason: str = "This call needs a person's approval."


Decision: TypeAlias = Allow | Deny | Ask


@dataclass(frozen=True, slots=True)
class Question:
    """What a policy decides on.

    Attributes:
        tool: The tool that would run.
        arguments: Valid arguments, in the tool's own terms.
        user_id, tenant_id, session_id: Who asks, as the caller of the gate said; never what the model said.
        scopes: What the caller holds.
    """

    tool: Tool
    arguments: JsonObject
    user_id: str | None = None
    tenant_id: str | None = None
    session_id: str | None = None
    scopes: frozenset[str] = frozenset()


@runtime_checkable
class Policy(Protocol):
    """Decides on calls. Pure and quick: it is on the path of every call. One that raises denies."""

    def decide(self, question: Question) -> Decision:
        """Say whether this call may run."""
        ...


@dataclass(frozen=True, slots=True)
class EffectPolicy:
    """One decision per effect; what is not named is denied.

    Example: ``EffectPolicy({"read": Allow(), "write": Ask("Changes data."), "destructive": Deny()})``.
    """

    decisions: Mapping[Effect, Decision]

    def decide(self, question: Question) -> Decision:
        """See `Policy.decide`."""
        return self.decisions.get(
            question.tool.effect, Deny(f"Calls with effect {question.tool.effect!r} are not allowed here.")
        )


@dataclass(frozen=True, slots=True)
class FunctionPolicy:
    """A plain function as a policy."""

    function: Callable[[Question], Any]

    def decide(self, question: Question) -> Decision:
        """See `Policy.decide`. Anything but a decision is a denial."""
        decision = self.function(question)
        return decision if isinstance(decision, (Allow, Deny, Ask)) else Deny("The policy gave no decision.")


@dataclass(frozen=True, slots=True)
class Strictest:
    """Several policies, all of which must agree: one Deny denies, else one Ask asks."""

    policies: tuple[Policy, ...]

    def decide(self, question: Question) -> Decision:
        """See `Policy.decide`."""
        outcome: Decision = Allow()
        for policy in self.policies:
            decision = policy.decide(question)
            if isinstance(decision, Deny):
                return decision
            if isinstance(decision, Ask):
                outcome = decision
        return outcome
