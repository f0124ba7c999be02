"""What a run of a tool came to, as the one result that the model gets: rendered, sanitized, cut."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from callbox.calls import feedback
from callbox.calls.call import CallError, ToolResult
from callbox.errors import Rejected, SandboxLost, ToolError
from callbox.gate.passage import Passage
from callbox.gate.rendering import cut, render
from callbox.gate.retry import is_retryable
from callbox.tools.tool import Tool

log = logging.getLogger("callbox.gate")

Sanitizer: TypeAlias = Callable[[str, Tool], str]
"""Cleans a text before the model sees it: a result, or an error's message. One that fails withholds the text."""


class Outcomes:
    """Makes results."""

    def __init__(self, sanitizer: Sanitizer | None, chars_max: int) -> None:
        self._sanitizer = sanitizer
        self._chars_max = chars_max

    def success(self, passage: Passage, value: Any, duration_ms: float) -> ToolResult:
        """The result of a tool that returned. A result that cannot be sanitized is withheld, and said to have run."""
        call, attempt = passage.call, passage.attempt
        attempts = attempt.number if attempt is not None else 0
        # Sanitized first and cut then: a secret that lies across the cut would no longer be recognised.
        content = self._sanitized(render(value), passage.tool)
        if content is None:
            error = feedback.tool_failed("The tool ran, but its result could not be checked and is withheld.")
            return self._error_result(passage, error, duration_ms)
        content, truncated = cut(content, self._chars_max)
        return ToolResult(call.id, call.name, content, None, value, duration_ms, attempts, truncated, call.vendor)

    def failure(self, passage: Passage, raised: BaseException, duration_ms: float, *, expired: bool) -> ToolResult:
        """The result of a tool that raised. `expired`: it was our deadline that ended it."""
        tool = passage.tool
        if expired and passage.attempt is not None:
            error = feedback.timeout(passage.attempt.timeout_s, may_have_run=not tool.reads_only)
        elif isinstance(raised, Rejected):
            error = feedback.rejected_by_check(raised.message, raised.path, suggestion=raised.suggestion)
        elif isinstance(raised, ToolError):
            error = feedback.tool_failed(raised.message, suggestion=raised.suggestion, retryable=raised.retryable)
        elif isinstance(raised, SandboxLost):
            log.warning("Tool %s lost its sandbox on call %s", tool.name, passage.call.id, exc_info=raised)
            error = feedback.sandbox_lost(may_repeat=is_retryable(tool, raised))
        else:
            log.warning("Tool %s failed on call %s", tool.name, passage.call.id, exc_info=raised)
            text = _text_of(raised) if tool.expose_errors else ""
            error = feedback.tool_failed(
                f"The tool failed with {type(raised).__name__}{text}.", retryable=is_retryable(tool, raised)
            )
        return self._error_result(passage, self.sanitized_error(error, tool), duration_ms)

    def refusal(self, passage: Passage, error: CallError) -> ToolResult:
        """The result of a call that may not run."""
        return ToolResult.failed(passage.call, self.sanitized_error(error, passage.tool))

    def sanitized_error(self, error: CallError, tool: Tool) -> CallError:
        """An error whose words came from a tool, a check or a policy, with these words cleaned."""
        if self._sanitizer is None:
            return error
        message = self._sanitized(error.message, tool)
        suggestion = self._sanitized(error.suggestion, tool) if error.suggestion else None
        return replace(error, message="The reason is withheld." if message is None else message, suggestion=suggestion)

    def _sanitized(self, text: str, tool: Tool) -> str | None:
        if self._sanitizer is None:
            return text
        try:
            clean = self._sanitizer(text, tool)
        except Exception:
            log.exception("The sanitizer failed on a result of %s", tool.name)
            return None
        return clean if isinstance(clean, str) else None

    @staticmethod
    def _error_result(passage: Passage, error: CallError, duration_ms: float) -> ToolResult:
        attempts = passage.attempt.number if passage.attempt is not None else 0
        return replace(ToolResult.failed(passage.call, error), duration_ms=duration_ms, attempts=attempts)


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        log.exception("The text of an exception could not be read")
        return ""
    return f": {text}" if text else ""
