"""Asking again: exponential backoff with full jitter, bounded by attempts and by the request's own time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import tenacity

from callbox.errors import ConfigurationError, ProviderError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long a provider asks again. The vendors' own SDKs are told not to retry.

    Attributes:
        attempts_max: Requests in all; 1 never asks again.
        wait_initial_s: Bound of the first wait, doubled each time; a wait is random between 0 and its bound.
        wait_max_s: No wait that we choose is longer.
        retry_after_max_s: A longer wait that the API asks for is not waited: its error is raised at once.
    """

    attempts_max: int = 4
    wait_initial_s: float = 0.5
    wait_max_s: float = 30.0
    retry_after_max_s: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts_max < 1:
            raise ConfigurationError("attempts_max must be at least 1.", hint="1 means: never ask again.")
        if min(self.wait_initial_s, self.wait_max_s, self.retry_after_max_s) < 0:
            raise ConfigurationError("Waits cannot be negative.")


DEFAULT_RETRY = RetryPolicy()


async def retried(
    ask: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    timeout_s: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Await `ask()` until it succeeds or asking again cannot help.

    Args:
        ask: Makes one attempt; raises `ProviderError`.
        policy: How often, how long.
        timeout_s: Seconds for all attempts and waits together. A wait that would not fit is not begun.
        sleep: How to wait.

    Raises:
        ProviderError: The last attempt's.
    """

    def worth_it(error: BaseException) -> bool:
        return (
            isinstance(error, ProviderError)
            and error.retryable
            and (error.retry_after_s or 0.0) <= policy.retry_after_max_s
        )

    backoff = tenacity.wait_random_exponential(multiplier=policy.wait_initial_s, max=policy.wait_max_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after_s if isinstance(error, ProviderError) else None
        if asked is None:
            return backoff(state)
        # Everybody who was refused at the same moment is told the same moment: spread out behind it.
        return asked + random.uniform(0.0, policy.wait_initial_s)  # noqa: S311 - spreads load, guards nothing

    attempts = tenacity.AsyncRetrying(
        sleep=sleep,
        stop=tenacity.stop_after_attempt(policy.attempts_max) | tenacity.stop_before_delay(timeout_s),
        wait=wait,
        retry=tenacity.retry_if_exception(worth_it),
        reraise=True,
    )

    async def attempt() -> T:
        # tenacity awaits what it can see to be a coroutine function; a lambda that returns a coroutine is
        # none.
        return await ask()

    return await attempts(attempt)
