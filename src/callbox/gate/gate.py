"""The gate: the door for your own loop over any vendor's SDK, and what `Agent` stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, TypeAlias

from callbox.calls import feedback
from callbox.calls.call import ToolCall, ToolResult
from callbox.calls.reading import deduplicate_ids, is_same, read_call
from callbox.dialects import find_dialect
from callbox.gate.caller import ANYONE, Budget, Caller
from callbox.gate.path import Approver, CallPath, Observer, Sanitizer
from callbox.gate.runners.function import ExternalRunner, FunctionRunner
from callbox.gate.runners.http import HttpRunner
from callbox.gate.runners.runner import Runner
from callbox.gate.runners.threads import Threads
from callbox.gate.streaming import StreamedTurn
from callbox.gate.turn import Prepared, Turn
from callbox.limits import DEFAULT_LIMITS, Limits
from callbox.policy.policy import FunctionPolicy, Policy
from callbox.tools.tool import Tool
from callbox.tools.toolset import Toolset
from callbox.values import JsonObject

Restore: TypeAlias = Callable[[Tool, JsonObject], JsonObject]
"""`Dialect.restore`: arguments in a vendor's terms, back in the original schema's."""


class Gate:
    """The one path that every call takes.

    Example::

        gate = Gate([get_order])
        response = await client.chat.completions.create(..., tools=gate.toolset.definitions("openai"))
        calls = gate.read("openai", response)
        results = await gate.execute(calls)
        messages += gate.write("openai", results)

    Args:
        toolset: What may be called: a `Toolset`, or tools and functions.
        policy: Says allow, deny or ask for each valid call; None allows what the tools themselves allow.
        approver: Asks a person where the policy or the tool wants one; without it such a call is answered
            with ``approval_required``.
        sanitizer: Cleans the text of every result.
        limits: See `Limits`.
    """

    def __init__(
        self,
        toolset: Toolset | Iterable[Tool | Callable[..., Any]],
        *,
        policy: Policy | Callable[..., Any] | None = None,
        approver: Approver | None = None,
        sanitizer: Sanitizer | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.toolset = toolset if isinstance(toolset, Toolset) else Toolset(toolset)
        self.limits = limits
        threads = Threads(limits.threads_max)
        self._runners: dict[str, Runner] = {
            "function": FunctionRunner(threads),
            "external": ExternalRunner(threads),
            "http": HttpRunner(),
        }
        self._path = CallPath(
            limits=limits,
            runners=self._runners,
            policy=policy if policy is None or isinstance(policy, Policy) else FunctionPolicy(policy),
            approver=approver,
            sanitizer=sanitizer,
        )

    def read(self, dialect: str, response: Any) -> list[ToolCall]:
        """The calls in a vendor's response, read, repaired where that is lossless, and validated.

        A call that cannot run carries its `error`; pass it to `execute` all the same, which answers it.
        Never raises for what a model did; a response without calls gives an empty list.

        Args:
            dialect: ``"openai"``, ``"openai-responses"``, ``"anthropic"``, ``"gemini"`` or ``"mcp"``.
            response: The response as a dict or as the SDK's object.

        Raises:
            ConfigurationError: There is no such dialect.
        """
        spoken = find_dialect(dialect)
        reply = spoken.read(response, tuple(self.toolset))
        return [call for call, _ in self.prepare(reply.calls, restore=spoken.restore)]

    def prepare(
        self,
        calls: Sequence[ToolCall],
        *,
        restore: Restore | None = None,
    ) -> list[Prepared]:
        """Parse, repair, resolve and validate calls; pairs of the call and, where it is known, its tool."""
        find, names, limits = self.toolset.get, self.toolset.names, self.limits
        prepared = [read_call(call, find, names, limits, restore) for call in deduplicate_ids(calls)]
        allowed = limits.calls_per_turn_max
        for index in range(allowed, len(prepared)):
            call = prepared[index][0]
            error = feedback.budget_exhausted(f"the {allowed} calls of one turn")
            refused = ToolCall(call.id, call.name, call.arguments, call.raw, call.repairs, error, call.vendor)
            prepared[index] = (refused, None)
        return prepared

    async def execute(
        self,
        calls: Sequence[ToolCall],
        *,
        caller: Caller = ANYONE,
        budget: Budget | None = None,
        observer: Observer | None = None,
    ) -> list[ToolResult]:
        """Run one turn's calls: reads together, everything else alone and in the model's order.

        Never raises for what a model or a tool did. Cancelling the task that awaits this cancels the tools.

        Args:
            calls: From `read`, or made by hand.
            caller: On whose behalf.
            budget: What the run may still spend; give the same object to every turn of one run.
            observer: Is told when calls start and finish.

        Returns:
            One result per call, in the order of `calls`.
        """
        async with self.turn(caller=caller, budget=budget, observer=observer) as turn:
            results = await turn.finish(calls)
        return results if len(results) == len(calls) else _one_for_each(calls, results)

    def turn(
        self,
        *,
        caller: Caller = ANYONE,
        budget: Budget | None = None,
        observer: Observer | None = None,
        restore: Restore | None = None,
    ) -> Turn:
        """One turn, for reads that start while the reply is still streamed; see `Turn`."""
        return Turn(
            self._path,
            lambda calls: self.prepare(calls, restore=restore),
            self.toolset.get,
            caller,
            Budget(self.limits) if budget is None else budget,
            observer,
        )

    def stream(
        self,
        dialect: str,
        *,
        caller: Caller = ANYONE,
        budget: Budget | None = None,
        observer: Observer | None = None,
        eager: bool = True,
    ) -> StreamedTurn:
        """Read a streamed response in your own loop, with reads started as soon as they are complete.

        Example::

            async with gate.stream("openai") as turn:
                async for chunk in await client.chat.completions.create(..., stream=True):
                    for event in turn.feed(chunk): ...
                results = await turn.results()
        """
        spoken = find_dialect(dialect)
        return StreamedTurn(
            spoken.reader(tuple(self.toolset)),
            self.turn(caller=caller, budget=budget, observer=observer, restore=spoken.restore),
            eager=eager,
        )

    def with_tools(self, toolset: Toolset) -> Gate:
        """This gate for another toolset: same policy, runners and limits, and the same slots for running calls."""
        other = copy(self)
        other.toolset = toolset
        return other

    def write(self, dialect: str, results: Sequence[ToolResult]) -> list[JsonObject]:
        """The messages to append for one turn's results, in the vendor's shape."""
        return find_dialect(dialect).write_results(results)

    async def aclose(self) -> None:
        """Close what runners hold open. Idempotent."""
        for runner in self._runners.values():
            await runner.aclose()

    async def __aenter__(self) -> Gate:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _one_for_each(calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> list[ToolResult]:
    """Results of calls of which some were the very same call again: those ran once, and share its result."""
    remaining = iter(results)
    answered: dict[str, list[tuple[ToolCall, ToolResult]]] = {}
    every: list[ToolResult] = []
    for call in calls:
        before = answered.setdefault(call.id, [])
        result = next((result for other, result in before if is_same(call, other)), None)
        if result is None or not call.id:
            result = next(remaining)
            before.append((call, result))
        every.append(result)
    return every
