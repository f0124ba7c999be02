"""Running a tool again after a failure that says it is retryable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from callbox.errors import SandboxLost, ToolError
from callbox.tools.tool import Tool

RETRY_WAIT_S = 0.2
"""Seconds before the second attempt, at most; each further wait may be twice as long."""

RETRY_WAIT_S_MAX = 10.0
"""Seconds that one wait may last."""


def is_retryable(tool: Tool, error: BaseException) -> bool:
    """Whether the tool allows another attempt after this error."""
    if isinstance(error, ToolError):
        return error.retryable
    if isinstance(error, SandboxLost):  # it may have had its effect
        return tool.idempotent or tool.reads_only
    return bool(tool.retry_on) and isinstance(error, tool.retry_on)


async def with_retries(
    tool: Tool,
    attempt: Callable[[int], Awaitable[Any]],
    sleep: Callable[[float], Awaitable[Any]],
    remaining_s: float,
) -> Any:
    """Run ``attempt(number)`` until it succeeds, fails for good, or ``tool.retries`` or `remaining_s` are used up.

    Waits grow exponentially with full jitter, so that many callers of one struggling service do not return in step.

    Raises:
        Exception: The last attempt's own error.
    """
    # tenacity costs 40 ms at import, and most tools never retry.
    from tenacity import (
        AsyncRetrying,
        retry_if_exception,
        stop_after_attempt,
        stop_before_delay,
        wait_random_exponential,
    )

    async for trial in AsyncRetrying(
        stop=stop_after_attempt(tool.retries + 1) | stop_before_delay(remaining_s),
        wait=wait_random_exponential(multiplier=RETRY_WAIT_S, max=RETRY_WAIT_S_MAX),
        retry=retry_if_exception(lambda error: is_retryable(tool, error)),
        sleep=sleep,
        reraise=True,
    ):
        with trial:
            return await attempt(trial.retry_state.attempt_number)
    raise AssertionError("unreachable: the last attempt raises")
