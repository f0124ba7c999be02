"""The stages that one call passes after it has been read: check, authorize, approve, limit, run, sanitize, render.

The order is a promise (design, section 5): a refused call never reaches a later stage, and nothing here raises for
what a model, a tool or a policy does. Only cancellation of the caller's own task comes out of it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from callbox.calls import feedback
from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.errors import Rejected, ToolError
from callbox.gate.caller import Budget, Caller
from callbox.gate.rendering import render
from callbox.gate.retry import is_retryable, with_retries
from callbox.gate.runners.runner import Runner
from callbox.gate.slots import Slots
from callbox.limits import Limits
from callbox.policy.policy import Allow, Ask, Decision, Deny, Policy, Question
from callbox.tools.call_context import CallContext
from callbox.tools.tool import Tool

log = logging.getLogger("callbox.gate")

Approver: TypeAlias = Callable[[ToolCall, Tool, Ask], "bool | Awaitable[bool]"]
"""Asks a person: True runs the call, anything else refuses it."""

Sanitizer: TypeAlias = Callable[[str, Tool], str]
"""Cleans a result's text before the model sees it. One that raises withholds the result."""


class Observer(Protocol):
    """Is told what happens to calls while it happens."""

    def started(self, call: ToolCall) -> None:
        """The call passed every stage and runs now."""
        ...

    def progress(self, call: ToolCall, progress: float, total: float | None, message: str | None) -> None:
        """The running tool reported progress."""
        ...

    def finished(self, result: ToolResult) -> None:
        """The call has its result, whatever it is."""
        ...


class _Attempt:
    """One run of the tool. A tool that runs in a thread may outlive it, and asks here whether anybody still waits."""

    __slots__ = ("abandoned", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.abandoned = False

    def is_abandoned(self) -> bool:
        return self.abandoned


@dataclass(slots=True)
class Passage:
    """One call on its way."""

    call: ToolCall
    tool: Tool
    caller: Caller
    budget: Budget
    observer: Observer | None = None
    attempts: int = 0
    expired: bool = False
    """The last attempt was ended by its deadline, not by a TimeoutError of the tool's own."""

    def context(self, key: str, timeout_s: float, attempt: _Attempt) -> CallContext:
        """What the tool may know."""
        call, caller, budget = self.call, self.caller, self.budget
        deadline = time.monotonic() + timeout_s
        return CallContext(
            call_id=call.id,
            tool=call.name,
            idempotency_key=key,
            attempt=attempt.number,
            run_id=budget.run_id,
            session_id=caller.session_id,
            user_id=caller.user_id,
            tenant_id=caller.tenant_id,
            scopes=caller.scopes,
            state=caller.state,
            remaining_s=lambda: max(0.0, deadline - time.monotonic()),
            is_cancelled=attempt.is_abandoned,
            report=self._reporter(),
        )

    @property
    def timeout_s(self) -> float:
        """Seconds of one attempt: the tool's or the gate's, and never more than the run has left."""
        own = self.tool.timeout_s
        return max(0.0, min(self.budget.limits.tool_timeout_s if own is None else own, self.budget.remaining_s))

    def _reporter(self) -> Callable[[float, float | None, str | None], None]:
        observer, loop = self.observer, asyncio.get_running_loop()

        def report(progress: float, total: float | None = None, message: str | None = None) -> None:
            if observer is not None:
                # A sync tool reports from its thread; observers live in the loop's.
                loop.call_soon_threadsafe(observer.progress, self.call, progress, total, message)

        return report


class CallPath:
    """What all calls of one gate pass through."""

    def __init__(
        self,
        *,
        limits: Limits,
        runners: Mapping[str, Runner],
        policy: Policy | None,
        approver: Approver | None,
        sanitizer: Sanitizer | None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._limits = limits
        self._runners = runners
        self._policy = policy
        self._approver = approver
        self._sanitizer = sanitizer
        self._sleep = sleep
        self._slots = Slots(limits.concurrency_max)

    async def take(self, passage: Passage) -> ToolResult:
        """Bring one readable call to its one result."""
        started = time.perf_counter()
        tool = passage.tool
        refusal = await self._check(passage) if tool.checks else None
        if refusal is None and (self._policy is not None or tool.scopes or tool.approval == "always"):
            refusal = await self._authorize(passage)
        if refusal is None:
            refusal = self._spend(passage.budget)
        if refusal is not None:
            result = ToolResult.failed(passage.call, refusal)
        else:
            result = await self._run(passage, started)
        if passage.observer is not None:
            passage.observer.finished(result)
        return result

    # Before the run

    @staticmethod
    def _spend(budget: Budget) -> CallError | None:
        if budget.remaining_s <= 0:
            return feedback.budget_exhausted(f"the {budget.limits.run_timeout_s:g} seconds of this run")
        if not budget.spend_call():
            return feedback.budget_exhausted(f"the {budget.limits.calls_per_run_max} calls of this run")
        return None

    async def _check(self, passage: Passage) -> CallError | None:
        arguments = passage.call.arguments
        for check in passage.tool.checks:
            if any(name not in arguments and name not in check.optional for name in check.parameters):
                continue  # it is about an optional argument that the model left out
            named = {name: arguments[name] for name in check.parameters if name in arguments}
            if check.context_parameter is not None:
                named[check.context_parameter] = passage.context(
                    f"{passage.budget.run_id}.check", passage.timeout_s, _Attempt(1)
                )
            try:
                async with asyncio.timeout(passage.timeout_s):
                    verdict = check.function(**named)
                    if inspect.isawaitable(verdict):
                        verdict = await verdict
            except ToolError as error:
                return feedback.rejected_by_check(
                    error.message, getattr(error, "path", None), suggestion=error.suggestion
                )
            except Exception as error:  # a broken check must not let a call through
                log.exception("A check of tool %s failed on call %s", passage.tool.name, passage.call.id)
                return feedback.tool_failed(
                    f"The arguments could not be checked ({type(error).__name__}); the tool was not run."
                )
            if verdict is not None:
                return feedback.rejected_by_check(str(verdict), None)
        return None

    async def _authorize(self, passage: Passage) -> CallError | None:
        tool, caller = passage.tool, passage.caller
        missing = tool.scopes - caller.scopes
        if missing:
            return feedback.denied(f"The caller lacks the scope {', '.join(sorted(missing))}.")
        decision: Decision = Allow()
        if self._policy is not None:
            decision = self._decide(self._policy, passage)
        if isinstance(decision, Deny):
            return feedback.denied(decision.reason)
        if isinstance(decision, Allow) and tool.approval == "always":
            decision = Ask(f"Every call of {tool.name} needs a person's approval.")
        if isinstance(decision, Ask):
            return await self._approve(passage, decision)
        return None

    def _decide(self, policy: Policy, passage: Passage) -> Decision:
        caller = passage.caller
        question = Question(
            passage.tool,
            passage.call.arguments,
            caller.user_id,
            caller.tenant_id,
            caller.session_id,
            caller.scopes,
        )
        try:
            decision = policy.decide(question)
        except Exception:
            # An attacker who can make the policy fail must not win by it.
            log.exception("The policy failed on a call of %s", passage.tool.name)
            return Deny("The policy could not decide.")
        return decision if isinstance(decision, (Allow, Deny, Ask)) else Deny("The policy gave no decision.")

    async def _approve(self, passage: Passage, ask: Ask) -> CallError | None:
        if self._approver is None:
            return feedback.approval_required(ask.reason)
        try:
            answer = self._approver(passage.call, passage.tool, ask)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception:
            log.exception("Asking for approval of a call of %s failed", passage.tool.name)
            return feedback.approval_required(ask.reason)
        return None if answer is True else feedback.approval_refused()

    # The run

    async def _run(self, passage: Passage, started: float) -> ToolResult:
        call, tool, budget = passage.call, passage.tool, passage.budget
        runner = self._runners.get(tool.binding.kind) if tool.binding is not None else None
        if runner is None:
            return ToolResult.failed(call, feedback.tool_failed("This tool is only declared here; nothing can run it."))
        key = f"{budget.run_id}.{budget.calls}"
        if passage.observer is not None:
            passage.observer.started(call)

        async def attempt(number: int) -> Any:
            passage.attempts = number
            timeout_s = passage.timeout_s
            this = _Attempt(number)
            deadline = asyncio.timeout(timeout_s)
            try:
                async with deadline:
                    try:
                        return await runner.run(tool, call.arguments, lambda: passage.context(key, timeout_s, this))
                    except asyncio.CancelledError:
                        this.abandoned = True
                        raise
            except TimeoutError:
                passage.expired = deadline.expired()
                raise

        try:
            if tool.concurrency is None:
                async with self._slots.of_gate():
                    value = await self._attempts(passage, attempt)
            else:
                async with self._slots.of_tool(tool, tool.concurrency):
                    value = await self._attempts(passage, attempt)
        except Exception as error:  # noqa: BLE001 - whatever a tool raises is the call's result
            return self._failed(passage, error, started)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # somebody cancels us; a tool that cancels itself has only failed
            return self._failed(passage, error, started)
        except SystemExit as error:  # sys.exit() somewhere in a tool's library must not end the host
            return self._failed(passage, error, started)
        return self._succeeded(passage, value, started)

    async def _attempts(self, passage: Passage, attempt: Callable[[int], Awaitable[Any]]) -> Any:
        if passage.tool.retries:
            return await with_retries(passage.tool, attempt, self._sleep)
        return await attempt(1)

    # After the run

    def _succeeded(self, passage: Passage, value: Any, started: float) -> ToolResult:
        call = passage.call
        content, truncated = render(value, self._limits.result_chars_max)
        if self._sanitizer is not None:
            try:
                content = self._sanitizer(content, passage.tool)
            except Exception:
                log.exception("The sanitizer failed on a result of %s", passage.tool.name)
                return ToolResult.failed(
                    call,
                    feedback.tool_failed("The tool ran, but its result could not be checked and is withheld."),
                )
        return ToolResult(
            call.id,
            call.name,
            content,
            None,
            value,
            (time.perf_counter() - started) * 1000,
            passage.attempts,
            truncated,
            call.vendor,
        )

    def _failed(self, passage: Passage, error: BaseException, started: float) -> ToolResult:
        call, tool = passage.call, passage.tool
        description: CallError
        if isinstance(error, TimeoutError) and passage.expired:
            description = feedback.timeout(passage.timeout_s, may_have_run=not tool.reads_only)
        elif isinstance(error, Rejected):
            description = feedback.rejected_by_check(error.message, error.path, suggestion=error.suggestion)
        elif isinstance(error, ToolError):
            description = feedback.tool_failed(error.message, suggestion=error.suggestion, retryable=error.retryable)
        else:
            log.warning("Tool %s failed on call %s", tool.name, call.id, exc_info=error)
            text = f": {error}" if tool.expose_errors and str(error) else ""
            description = feedback.tool_failed(
                f"The tool failed with {type(error).__name__}{text}.", retryable=is_retryable(tool, error)
            )
        failed = ToolResult.failed(call, description)
        return ToolResult(
            failed.call_id,
            failed.name,
            failed.content,
            failed.error,
            None,
            (time.perf_counter() - started) * 1000,
            passage.attempts,
            vendor=failed.vendor,
        )
