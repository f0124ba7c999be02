"""What a valid call must pass before it may run: semantic checks, scopes, the policy, a person. All fail closed."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

from callbox.calls import feedback
from callbox.calls.call import CallError, ToolCall
from callbox.errors import Rejected, ToolError
from callbox.gate.passage import Attempt, Passage, copied, is_our_cancellation
from callbox.gate.recording import Recorder
from callbox.gate.runners.threads import Threads
from callbox.policy.policy import Allow, Ask, Decision, Deny, Policy, Question
from callbox.tools.check import Check
from callbox.tools.tool import Tool

log = logging.getLogger("callbox.gate")

Approver: TypeAlias = Callable[[ToolCall, Tool, Ask], "bool | Awaitable[bool]"]
"""Asks a person: True runs the call, anything else refuses it."""


class Guards:
    """Refuses calls. A guard that fails, or gives no proper answer, refuses: nobody must win by breaking it."""

    def __init__(self, threads: Threads, policy: Policy | None, approver: Approver | None) -> None:
        self._threads = threads
        self._policy = policy
        self._approver = approver

    def concern(self, passage: Passage) -> bool:
        """There is anything to ask about this call at all."""
        tool = passage.tool
        rules = tool.checks or tool.scopes or self._policy is not None or tool.approval == "always"
        return bool(rules) or _said_no(passage) is not None

    async def refusal(self, passage: Passage) -> CallError | None:
        """Why this call may not run, or None."""
        for check in passage.tool.checks:
            error = await self._check(passage, check)
            if error is not None:
                return error
        return await self._authorize(passage)

    async def _check(self, passage: Passage, check: Check) -> CallError | None:
        arguments = copied(passage.arguments)
        if any(name not in arguments and name not in check.optional for name in check.parameters):
            return None  # it is about an optional argument that the model left out
        named = {name: arguments[name] for name in check.parameters if name in arguments}
        attempt: Attempt = passage.begin_attempt(1)
        if check.context_parameter is not None:
            key = f"{passage.budget.run_id}.{passage.call.id}.check"
            named[check.context_parameter] = passage.context(key, attempt)
        try:
            async with asyncio.timeout(attempt.timeout_s):
                verdict = await self._call(check.function, check.is_async, **named)
        except Rejected as error:
            return feedback.rejected_by_check(error.message, error.path, suggestion=error.suggestion)
        except ToolError as error:
            return feedback.rejected_by_check(error.message, suggestion=error.suggestion)
        except (Exception, asyncio.CancelledError) as error:
            if is_our_cancellation(error):
                raise
            return _broken_check(passage, error)
        finally:
            attempt.over = True
        if verdict is None or verdict is True:
            return None
        if verdict is False or isinstance(verdict, str):
            return feedback.rejected_by_check(verdict or "These arguments were rejected.")
        return _broken_check(passage, TypeError(f"it returned {type(verdict).__name__}"))

    async def _authorize(self, passage: Passage) -> CallError | None:
        tool, caller = passage.tool, passage.caller
        missing = tool.scopes - caller.scopes
        if missing:
            return feedback.denied(f"The caller lacks the scope {', '.join(sorted(missing))}.")
        decision: Decision = Allow()
        if self._policy is not None and not passage.exempt:
            decision = self._decide(self._policy, passage)
        if isinstance(decision, Deny):
            return feedback.denied(decision.reason)
        if isinstance(decision, Allow) and tool.approval == "always":
            decision = Ask(f"Every call of {tool.name} needs a person's approval.")
        durably = self._approver is None and isinstance(decision, Ask)  # what a person said is looked for there
        # An attacker would have the question dropped, or somebody else asked, after a person has said no.
        if not durably and (said := _said_no(passage)) is not None:
            return feedback.approval_refused(said)
        return await self._approve(passage, decision) if isinstance(decision, Ask) else None

    def _decide(self, policy: Policy, passage: Passage) -> Decision:
        caller = passage.caller
        question = Question(
            passage.tool,
            copied(passage.arguments),
            caller.user_id,
            caller.tenant_id,
            caller.session_id,
            caller.scopes,
        )
        try:
            decision = policy.decide(question)
        except Exception:
            log.exception("The policy failed on a call of %s", passage.tool.name)
            return Deny("The policy could not decide.")
        return decision if isinstance(decision, (Allow, Deny, Ask)) else Deny("The policy gave no decision.")

    async def _approve(self, passage: Passage, ask: Ask) -> CallError | None:
        if self._approver is None:
            if passage.recorder is not None:
                return await self._ask_durably(passage, passage.recorder, ask)
            return feedback.approval_required(ask.reason)
        asked = f"{passage.tool.version} {json.dumps(passage.arguments, sort_keys=True)}"
        if asked in passage.budget.refused:
            return feedback.approval_refused()  # a person who has said no is not asked again in the same run
        shown = replace(passage.call, arguments=copied(passage.arguments))
        try:
            answer = await self._call(
                self._approver, inspect.iscoroutinefunction(self._approver), shown, passage.tool, ask
            )
        except (Exception, asyncio.CancelledError) as error:
            if is_our_cancellation(error):
                raise
            log.exception("Asking for approval of a call of %s failed", passage.tool.name)
            return feedback.approval_required(ask.reason)
        if answer is True:
            return None
        passage.budget.refused.add(asked)
        return feedback.approval_refused()

    async def _ask_durably(self, passage: Passage, recorder: Recorder, ask: Ask) -> CallError | None:
        version = str(getattr(self._policy, "version", ""))
        shown = replace(passage.call, arguments=copied(passage.arguments))
        verdict, said = await recorder.approval(shown, passage.tool, ask, version)
        if verdict == "approved":
            return None
        if verdict == "refused":
            return feedback.approval_refused(said or None)
        passage.waits = True
        return feedback.approval_required(ask.reason)

    async def _call(self, function: Callable[..., Any], is_async: bool, *args: Any, **kwargs: Any) -> Any:
        # Like sync tools, sync guards run in a thread: one that asks a database must not stop everybody else.
        answer = function(*args, **kwargs) if is_async else await self._threads.run(lambda: function(*args, **kwargs))
        return await answer if inspect.isawaitable(answer) else answer


def _said_no(passage: Passage) -> str | None:
    return None if passage.recorder is None else passage.recorder.refusal(passage.call, passage.tool)


def _broken_check(passage: Passage, error: BaseException) -> CallError:
    log.error("A check of tool %s failed on call %s", passage.tool.name, passage.call.id, exc_info=error)
    return feedback.tool_failed(f"The arguments could not be checked ({type(error).__name__}); the tool was not run.")
