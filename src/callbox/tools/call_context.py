"""What a running tool can know about its call. Injected by annotation, invisible to the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


class Report(Protocol):
    """Tells whoever watches how far a tool is.

    Args:
        progress: How much is done, in whatever unit.
        total: How much there is to do, in the same unit; None where nobody knows.
        message: What is being done now.
    """

    def __call__(self, progress: float, total: float | None = None, message: str | None = None, /) -> None:
        """Tell it."""
        ...


def _no_progress(progress: float, total: float | None = None, message: str | None = None, /) -> None:
    """Nobody listens."""


def _never() -> bool:
    return False


def _no_deadline() -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """Give a tool or a check a parameter with this annotation, and the gate fills it in.

    Attributes:
        call_id: The call's id.
        tool: The tool's name.
        idempotency_key: The same for every attempt of one call, different for every call; hand it to the services
            that you call, so that they can drop a second attempt.
        attempt: 1 for the first run, 2 after one retry.
        run_id: One run of an agent, or one `Gate.execute`.
        session_id, user_id, tenant_id: Who is asking, as the caller of the gate said.
        scopes: What the caller holds.
        state: Whatever object the caller of the gate passed along; shared by all calls of a run, never copied.
        remaining_s: Seconds until the deadline; None without one.
        is_cancelled: For sync tools, which run in a thread that nothing can stop: poll it in long loops.
        report: ``report(0.5)``, ``report(3, 10, "Reading page 3")``: see `Report`.
    """

    call_id: str
    tool: str
    idempotency_key: str
    attempt: int = 1
    run_id: str = ""
    session_id: str | None = None
    user_id: str | None = None
    tenant_id: str | None = None
    scopes: frozenset[str] = frozenset()
    state: Any = None
    remaining_s: Callable[[], float | None] = field(default=_no_deadline, repr=False)
    is_cancelled: Callable[[], bool] = field(default=_never, repr=False)
    report: Report = field(default=_no_progress, repr=False)


def context_parameter(function: Callable[..., Any]) -> str | None:
    """The name of the parameter that is annotated with `CallContext`, whatever the style of the annotation."""
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = parameter.annotation
        if annotation is CallContext:
            return name
        if isinstance(annotation, str) and annotation.replace(" ", "").split("|")[0].split(".")[-1] == "CallContext":
            return name
    return None
