"""The gate: the door for your own loop over any vendor's SDK, and what `Agent` stands on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeAlias

from callbox.calls import feedback
from callbox.calls.call import ToolCall, ToolResult
from callbox.calls.reading import deduplicate_ids, read_call, unique_calls
from callbox.dialects import find_dialect
from callbox.errors import ConfigurationError
from callbox.gate.caller import ANYONE, Budget, Caller
from callbox.gate.guards import Approver, Guards
from callbox.gate.outcome import Outcomes, Sanitizer
from callbox.gate.passage import Observer
from callbox.gate.path import CallPath
from callbox.gate.recording import Recorder
from callbox.gate.runners.function import ExternalRunner, FunctionRunner
from callbox.gate.runners.http import HttpRunner
from callbox.gate.runners.runner import Runner
from callbox.gate.runners.threads import Threads
from callbox.gate.slots import Slots
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
        sanitizer: Cleans the text of every result, and the words of every error.
        limits: See `Limits`.

    Raises:
        DefinitionError: A tool that runs in a sandbox uses what cannot be sent there.
    """

    def __init__(
        self,
        toolset: Toolset | Tool | Iterable[Tool | Callable[..., Any]],
        *,
        policy: Policy | Callable[..., Any] | None = None,
        approver: Approver | None = None,
        sanitizer: Sanitizer | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.toolset = toolset if isinstance(toolset, Toolset) else Toolset(toolset)
        self.limits = limits
        self._names = self.toolset.names
        threads = Threads(limits.threads_max)
        self._runners: dict[str, Runner] = {
            "function": FunctionRunner(threads),
            "external": ExternalRunner(threads),
            "http": HttpRunner(),
        }
        self._add_sandbox_runner()
        self._path = CallPath(
            Guards(threads, _as_policy(policy), approver),
            Slots(limits.concurrency_max),
            self._runners,
            Outcomes(sanitizer, limits.result_chars_max),
        )
        self._own_tools: frozenset[str] = frozenset()

    def _add_sandbox_runner(self) -> None:
        """Only for toolsets that need it: sandboxes take time to import."""
        if any(tool.binding is not None and tool.binding.kind == "sandbox" for tool in self.toolset):
            from callbox.gate.runners.sandbox import SandboxRunner, check_places

            check_places(self.toolset)
            self._runners["sandbox"] = SandboxRunner()

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
        allowed = self.limits.calls_per_turn_max
        if len(calls) <= allowed:
            return self._read(deduplicate_ids(calls), restore)
        return [
            *self._read(deduplicate_ids(calls[:allowed]), restore),
            *[(_too_many(call, allowed), None) for call in calls[allowed:]],
        ]

    def _read(self, calls: Sequence[ToolCall], restore: Restore | None = None) -> list[Prepared]:
        find, names, limits = self.toolset.get, self._names, self.limits
        return [read_call(call, find, names, limits, restore) for call in calls]

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
        allowed = self.limits.calls_per_turn_max
        # The very same call again, under the same id, is a reply that was replayed: it runs once, both get its result.
        kept, places = unique_calls(calls[:allowed])
        prepared = [*self._read(kept), *[(_too_many(call, allowed), None) for call in calls[allowed:]]]
        async with self.turn(caller=caller, budget=budget, observer=observer) as turn:
            results = await turn.finish((), prepared=prepared)
        return [*[results[place] for place in places], *results[len(kept) :]]

    def turn(
        self,
        *,
        caller: Caller = ANYONE,
        budget: Budget | None = None,
        observer: Observer | None = None,
        restore: Restore | None = None,
        recorder: Recorder | None = None,
    ) -> Turn:
        """One turn, for reads that start while the reply is still streamed; see `Turn`. `recorder` makes it durable."""
        return Turn(
            self._path,
            lambda calls: self.prepare(calls, restore=restore),
            self.toolset.get,
            caller,
            Budget(self.limits) if budget is None else budget,
            observer,
            self._own_tools,
            recorder,
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

    def with_own_tools(self, tools: Sequence[Tool]) -> Gate:
        """This gate, with tools that belong to the conversation itself, like the one that reads cleared results again.

        Same policy, runners, limits and slots. These tools are exempt from the policy, which knows only the user's own:
        they reach nothing outside of the conversation.
        """
        if not tools:
            return self
        other = copy(self)
        other.toolset = self.toolset + Toolset(tools)
        other._own_tools = self._own_tools | {tool.name for tool in tools}  # noqa: SLF001 - the same class
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


def _too_many(call: ToolCall, allowed: int) -> ToolCall:
    return replace(call, error=feedback.budget_exhausted(f"the {allowed} calls of one turn"))


def _as_policy(policy: Policy | Callable[..., Any] | None) -> Policy | None:
    decide = getattr(policy, "decide", policy)
    if inspect.iscoroutinefunction(decide):
        raise ConfigurationError(
            "A policy decides at once; this one is a coroutine function, and every call would be denied.",
            hint="Look things up in a check or an approver, which may be async.",
        )
    return policy if policy is None or isinstance(policy, Policy) else FunctionPolicy(policy)
