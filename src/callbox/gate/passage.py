"""One call on its way through the gate: what it is, who asks, what its tool may know, and who watches."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

from callbox.calls.call import ToolCall, ToolResult
from callbox.gate.caller import Budget, Caller
from callbox.gate.recording import Recorder
from callbox.tools.call_context import CallContext
from callbox.tools.tool import Tool
from callbox.values import JsonObject

log = logging.getLogger("callbox.gate")


class Observer(Protocol):
    """Is told what happens to calls while it happens. One that raises is logged and changes nothing."""

    def started(self, call: ToolCall) -> None:
        """The call passed every stage and runs now."""
        ...

    def progress(self, call: ToolCall, progress: float, total: float | None, message: str | None) -> None:
        """The running tool reported progress."""
        ...

    def finished(self, result: ToolResult) -> None:
        """The call has its result, whatever it is."""
        ...


def tell(told: Callable[..., None], *arguments: Any) -> None:
    """Tell an observer; its mistakes are not the call's."""
    try:
        told(*arguments)
    except Exception:
        log.exception("An observer of calls failed")


def is_our_cancellation(error: BaseException) -> bool:
    """Somebody cancels our own task. A tool or a guard that raises CancelledError by itself has only failed."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or bool(task.cancelling()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionContext(CallContext):
    """What a runner may know of a call in a durable session.

    Attributes:
        life: See `Recorder.life`. Not of the caller, who names sessions as he likes.
    """

    life: str = field(repr=False)


class Attempt:
    """One run of the tool. A tool that runs in a thread may outlive it, and asks here whether anybody still waits."""

    __slots__ = ("number", "over", "timeout_s")

    def __init__(self, number: int, timeout_s: float) -> None:
        self.number = number
        self.timeout_s = timeout_s
        self.over = False

    def is_over(self) -> bool:
        """Nobody waits for what it does any more."""
        return self.over


@dataclass(slots=True)
class Passage:
    """One call on its way.

    Attributes:
        arguments: The call's own copy. Whoever is shown arguments (a policy, a person, a tool) gets another: what was
            decided on is what runs, whatever anybody does to the objects that they hold.
        exempt: The tool belongs to the conversation itself (`read_result`): the user's policy does not know it.
        recorder: Makes it durable; None: nothing is kept.
        waits: It waits for a person, and has no result yet.
        attempt: The latest run of the tool.
    """

    call: ToolCall
    tool: Tool
    caller: Caller
    budget: Budget
    observer: Observer | None = None
    exempt: bool = False
    recorder: Recorder | None = None
    waits: bool = False
    attempt: Attempt | None = None
    arguments: JsonObject = field(init=False)

    def __post_init__(self) -> None:
        self.arguments = copied(self.call.arguments)

    def begin_attempt(self, number: int) -> Attempt:
        """The next run, with the seconds that it may take: the tool's or the gate's, but no more than the run has."""
        own, budget = self.tool.timeout_s, self.budget
        timeout_s = min(budget.limits.tool_timeout_s if own is None else own, budget.remaining_s)
        self.attempt = Attempt(number, max(0.0, timeout_s))
        return self.attempt

    def context(self, key: str, attempt: Attempt) -> CallContext:
        """What the tool may know."""
        call, caller, budget = self.call, self.caller, self.budget
        deadline = time.monotonic() + attempt.timeout_s
        recorder = self.recorder
        kind = CallContext if recorder is None else partial(SessionContext, life=recorder.life)
        return kind(
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
            is_cancelled=attempt.is_over,
            report=self._reporter(attempt),
        )

    def _reporter(self, attempt: Attempt) -> Callable[..., None]:
        observer, call = self.observer, self.call
        loop, thread = asyncio.get_running_loop(), threading.get_ident()

        def report(progress: float, total: float | None = None, message: str | None = None) -> None:
            if observer is None or attempt.over:
                return
            if threading.get_ident() == thread:
                tell(observer.progress, call, progress, total, message)
            else:  # a sync tool reports from its thread; observers live in the loop's
                loop.call_soon_threadsafe(report, progress, total, message)

        return report


_SCALARS = frozenset({str, int, float, bool, type(None)})


def copied(value: JsonObject) -> JsonObject:
    """A copy of validated arguments that shares nothing mutable with them."""
    return {key: part if type(part) in _SCALARS else _copied(part) for key, part in value.items()}


def _copied(value: Any) -> Any:
    # Validated arguments are plain JSON of bounded depth, so recursion is bounded, too.
    if isinstance(value, dict):
        return copied(cast("JsonObject", value))
    if isinstance(value, list):
        return [part if type(part) in _SCALARS else _copied(part) for part in cast("list[Any]", value)]
    return value
