"""What makes calls durable: told before and after each call, and awaited. Sessions bring one."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from callbox.calls.call import ToolCall, ToolResult
from callbox.policy.policy import Ask
from callbox.tools.tool import Tool

Verdict: TypeAlias = Literal["approved", "refused", "pending"]


class Recorder(Protocol):
    """Writes down what happens to the calls of one turn. What it raises ends the turn: nothing runs unrecorded."""

    @property
    def life(self) -> str:
        """Names what a runner keeps of the session: no other one, before or after it or elsewhere, has the same."""
        ...

    @property
    def paused(self) -> bool:
        """A call waits for a person. No further call of this turn begins, and the turn has no results yet."""
        ...

    async def approval(self, call: ToolCall, tool: Tool, ask: Ask, policy_version: str) -> tuple[Verdict, str]:
        """Look for a person's decision on this very call, or write down that one is needed; and what they said."""
        ...

    def refusal(self, call: ToolCall, tool: Tool) -> str | None:
        """What a person said when they refused this call, whether or not anything asks for it now; None: nobody did."""
        ...

    async def intent(self, call: ToolCall, tool: Tool) -> str:
        """Write down that the call is about to run. Durable on return.

        Returns:
            Its idempotency key: the same one when the call is run again after a crash.
        """
        ...

    async def outcome(self, call: ToolCall, result: ToolResult) -> None:
        """Write down the call's one result. Durable on return."""
        ...


class NotRecorded(Exception):
    """The recorder failed, and not the tool."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__(str(error))
