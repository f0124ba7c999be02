"""The stages that one call passes after it has been read: check, authorize, approve, limit, run, sanitize, render.

The order is a promise (design, section 5): a refused call never reaches a later stage, and nothing here raises for
what a model, a tool or a guard does. Only cancellation of the caller's own task comes out of it, and the failure of a
recorder: what cannot be written down does not run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from callbox.calls import feedback
from callbox.calls.call import CallError, ToolResult
from callbox.gate.caller import Budget
from callbox.gate.guards import Guards
from callbox.gate.outcome import Outcomes
from callbox.gate.passage import Passage, copied, is_our_cancellation, tell
from callbox.gate.recording import NotRecorded, Recorder
from callbox.gate.retry import with_retries
from callbox.gate.runners.runner import Runner
from callbox.gate.slots import NoSlot, Slots


class CallPath:
    """What all calls of one gate pass through."""

    def __init__(
        self,
        guards: Guards,
        slots: Slots,
        runners: Mapping[str, Runner],
        outcomes: Outcomes,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._guards = guards
        self._slots = slots
        self._runners = runners
        self._outcomes = outcomes
        self._sleep = sleep

    async def take(self, passage: Passage) -> ToolResult:
        """Bring one readable call to its one result."""
        refusal = await self._guards.refusal(passage) if self._guards.concern(passage) else None
        if refusal is None:
            refusal = _spend(passage.budget)
        if refusal is None:
            result = await self._run(passage)
        else:
            result = self._outcomes.refusal(passage, refusal)
        if passage.recorder is not None and not passage.waits:
            await passage.recorder.outcome(passage.call, result)
        if passage.observer is not None and not passage.waits:
            tell(passage.observer.finished, result)
        return result

    async def _run(self, passage: Passage) -> ToolResult:
        tool, budget = passage.tool, passage.budget
        runner = self._runners.get(tool.binding.kind) if tool.binding is not None else None
        if runner is None:
            error = feedback.tool_failed("This tool is only declared here; nothing can run it.")
            return self._outcomes.refusal(passage, error)
        key = f"{budget.run_id}.{budget.calls}"
        started = time.perf_counter()
        expired = False

        async def attempt(number: int) -> Any:
            nonlocal expired
            this = passage.begin_attempt(number)
            if this.timeout_s <= 0:
                raise NoSlot
            deadline = asyncio.timeout(this.timeout_s)
            try:
                async with deadline:
                    return await runner.run(tool, copied(passage.arguments), lambda: passage.context(key, this))
            except TimeoutError:
                expired = deadline.expired()
                raise
            finally:
                this.over = True

        try:
            async with self._slots.hold(tool, budget.remaining_s):
                if passage.recorder is not None:
                    key = await _intend(passage, passage.recorder)
                if passage.observer is not None:
                    tell(passage.observer.started, passage.call)
                if tool.retries:
                    value = await with_retries(tool, attempt, self._sleep, budget.remaining_s)
                else:
                    value = await attempt(1)
        except NoSlot:
            return self._outcomes.refusal(passage, _out_of_time(budget))
        except NotRecorded as failed:
            raise failed.error from None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if is_our_cancellation(error):
                raise
            return self._outcomes.failure(passage, error, _since(started), expired=expired)
        return self._outcomes.success(passage, value, _since(started))


async def _intend(passage: Passage, recorder: Recorder) -> str:
    try:
        return await recorder.intent(passage.call, passage.tool)
    except BaseException as error:
        if is_our_cancellation(error):
            raise
        raise NotRecorded(error) from error


def _spend(budget: Budget) -> CallError | None:
    if budget.remaining_s <= 0:
        return _out_of_time(budget)
    if not budget.spend_call():
        return feedback.budget_exhausted(f"the {budget.limits.calls_per_run_max} calls of this run")
    return None


def _out_of_time(budget: Budget) -> CallError:
    return feedback.budget_exhausted(f"the {budget.limits.run_timeout_s:g} seconds of this run")


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
