"""What a model is told when its call has no ordinary result: short, imperative, one `CallError` per call."""

from __future__ import annotations

from collections.abc import Sequence

from callbox.calls.call import MISSING, CallError, Problem
from callbox.calls.suggestion import similar
from callbox.calls.wording import listing, shorten
from callbox.values import JsonValue

_NAMES_LISTED_MAX = 50


def malformed_json(message: str, *, received: JsonValue = MISSING, suggestion: str | None = None) -> CallError:
    """The arguments are not JSON that can be read without guessing."""
    return CallError("malformed_json", message, received=received, suggestion=suggestion)


def unknown_tool(name: object, names: Sequence[str]) -> CallError:
    """The call names a tool that is not offered. `names` are the tools that are."""
    if not names:
        return CallError("unknown_tool", "There are no tools to call.", suggestion="Answer without calling a tool.")
    expected = "one of: " + listing(names, _NAMES_LISTED_MAX)
    if not isinstance(name, str) or not name:
        return CallError("unknown_tool", "The call names no tool.", expected=expected)
    near = similar(name, names)
    suggestion = f"Did you mean {' or '.join(near)}?" if near else None
    received = shorten(name)
    return CallError("unknown_tool", f"There is no tool {received!r}.", None, expected, received, suggestion)


def invalid_arguments(problems: Sequence[Problem], more: int = 0) -> CallError:
    """The arguments do not fit the tool's schema. `more`: problems beyond those in `problems`."""
    listed = tuple(problems)
    if len(listed) == 1 and not more:
        only = listed[0]
        return CallError(
            "invalid_arguments",
            only.message,
            only.path,
            only.expected,
            only.received,
            only.suggestion,
            listed,
        )
    count = f"{len(listed)} problems" if not more else f"{len(listed) + more} problems; {len(listed)} are listed"
    return CallError(
        "invalid_arguments", f"The arguments have {count}. Correct them all and call again.", problems=listed
    )


def rejected_by_check(message: str, path: str | None = None, *, suggestion: str | None = None) -> CallError:
    """The arguments fit the schema but make no sense here; `message` is the check's own sentence."""
    return CallError("rejected_by_check", message, path, suggestion=suggestion)


def denied(reason: str) -> CallError:
    """The policy says no."""
    return CallError("denied", reason or "This call is not allowed.", suggestion="Do not repeat this call.")


def approval_required(reason: str) -> CallError:
    """A person must approve this call first, and nobody was asked."""
    return CallError(
        "approval_required",
        reason or "This call needs a person's approval.",
        suggestion="Tell the user what you want to do and ask for approval.",
    )


def approval_refused(reason: str | None = None) -> CallError:
    """A person was asked and said no."""
    return CallError(
        "approval_refused",
        reason or "A person was asked to approve this call and refused.",
        suggestion="Do not repeat this call; ask the user how to go on.",
    )


def rate_limited(what: str, retry_after_s: float | None = None) -> CallError:
    """Too many calls. `what` was exceeded, like ``"10 calls of send_email a minute"``."""
    wait = f"Wait {retry_after_s:g} seconds before" if retry_after_s is not None else "Wait before"
    return CallError(
        "rate_limited",
        f"Too many calls: at most {what}.",
        suggestion=f"{wait} calling again.",
        retryable=True,
    )


def budget_exhausted(what: str) -> CallError:
    """The run may not spend more. `what` is used up, like ``"the 100 calls of this run"``."""
    return CallError(
        "budget_exhausted",
        f"Not run: {what} are used up.",
        suggestion="Answer with what you already know.",
    )


def timeout(seconds: float, *, may_have_run: bool = True) -> CallError:
    """The tool did not answer in `seconds`. `may_have_run`: it may have had its effect all the same."""
    return CallError(
        "timeout",
        f"The tool did not finish within {seconds:g} seconds.",
        suggestion="It may have had its effect: check before calling it again." if may_have_run else None,
        retryable=not may_have_run,
    )


def cancelled() -> CallError:
    """The run was cancelled before this call had a result."""
    return CallError("cancelled", "The call was cancelled.")


def tool_failed(message: str, *, suggestion: str | None = None, retryable: bool = False) -> CallError:
    """The tool ran and failed; `message` must be safe to send to the model."""
    return CallError("tool_failed", message, suggestion=suggestion, retryable=retryable)


def outcome_unknown(tool: str) -> CallError:
    """A crash hid whether the call had its effect."""
    return CallError(
        "outcome_unknown",
        f"It is not known whether {tool} had its effect: the host stopped while it ran.",
        suggestion="Check the state first; do not simply call it again.",
    )


def sandbox_lost(message: str = "The sandbox that ran this call is gone.", *, may_repeat: bool = True) -> CallError:
    """The machine under the call went away; what was only in its memory is lost. `may_repeat`: a second run is safe."""
    suggestion = None if may_repeat else "It may have had its effect: check before calling it again."
    return CallError("sandbox_lost", message, suggestion=suggestion, retryable=may_repeat)
