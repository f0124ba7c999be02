from __future__ import annotations

import asyncio

import pytest

from callbox.errors import ConfigurationError, ProviderBadRequest, ProviderRateLimited, ProviderUnavailable
from callbox.providers.retrying import RetryPolicy, retried


class Model:
    """Fails as it is told, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked = 0
        self.waits: list[float] = []

    async def ask(self) -> str:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def run(self, policy: RetryPolicy | None = None, timeout_s: float = 1e6) -> str:
        return await retried(self.ask, policy or RetryPolicy(), timeout_s=timeout_s, sleep=self.sleep)


def gone() -> ProviderUnavailable:
    return ProviderUnavailable("gone")


async def test_what_is_retryable_is_asked_again_after_growing_random_waits() -> None:
    model = Model(gone(), gone(), gone())
    assert await model.run(RetryPolicy(wait_initial_s=2.0)) == "answer"
    assert model.asked == 4
    assert len(model.waits) == 3
    assert all(0 <= wait <= bound for wait, bound in zip(model.waits, (2, 4, 8), strict=True))


async def test_no_wait_is_longer_than_the_longest() -> None:
    model = Model(*(gone() for _ in range(9)))
    await model.run(RetryPolicy(attempts_max=10, wait_initial_s=1.0, wait_max_s=3.0))
    assert max(model.waits) <= 3.0


async def test_attempts_are_bounded_and_the_last_error_is_raised() -> None:
    last = ProviderUnavailable("last")
    model = Model(gone(), last, gone())
    with pytest.raises(ProviderUnavailable) as raised:
        await model.run(RetryPolicy(attempts_max=2))
    assert raised.value is last
    assert model.asked == 2


async def test_what_is_not_retryable_is_raised_at_once() -> None:
    model = Model(ProviderBadRequest("no"))
    with pytest.raises(ProviderBadRequest):
        await model.run()
    assert (model.asked, model.waits) == (1, [])
    out_of_credit = ProviderRateLimited("no credit")
    out_of_credit.retryable = False
    model = Model(out_of_credit)
    with pytest.raises(ProviderRateLimited):
        await model.run()
    assert model.asked == 1


async def test_other_exceptions_are_not_ours_to_retry() -> None:
    model = Model(KeyError("bug"))
    with pytest.raises(KeyError):
        await model.run()
    assert model.asked == 1


async def test_the_api_says_how_long_to_wait() -> None:
    model = Model(ProviderRateLimited("slow down", retry_after_s=7.0))
    await model.run(RetryPolicy(wait_initial_s=0.5))
    assert 7.0 <= model.waits[0] <= 7.5


async def test_a_wait_longer_than_allowed_is_not_begun() -> None:
    model = Model(ProviderRateLimited("come back tomorrow", retry_after_s=86_400.0))
    with pytest.raises(ProviderRateLimited, match="tomorrow"):
        await model.run(RetryPolicy(retry_after_max_s=60.0))
    assert (model.asked, model.waits) == (1, [])


async def test_a_wait_that_does_not_fit_into_the_time_is_not_begun() -> None:
    model = Model(ProviderRateLimited("slow down", retry_after_s=30.0))
    with pytest.raises(ProviderRateLimited):
        await model.run(timeout_s=20.0)
    assert (model.asked, model.waits) == (1, [])


async def test_cancellation_ends_a_wait() -> None:
    waiting = asyncio.Event()

    async def wait_for_ever(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    model = Model(gone())
    task = asyncio.create_task(retried(model.ask, RetryPolicy(), timeout_s=1e6, sleep=wait_for_ever))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.asked == 1


@pytest.mark.parametrize("wrong", [{"attempts_max": 0}, {"wait_max_s": -1.0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
