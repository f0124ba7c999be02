"""The connection to Redis, and what is done while there is none: nothing, at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from callbox.clock import Clock
from callbox.errors import ConfigurationError

log = logging.getLogger("callbox.stores.redis")

CONNECTIONS_MAX = 32
"""To Redis, from one store."""

T = TypeVar("T")


class RedisAway(Exception):
    """Redis does not answer, or answered with an error; not known whether it did what was asked."""


class Link:
    """Runs commands on Redis under a time-out. After a failure it tries again only every `retry_s`: a broken Redis
    costs one caller `timeout_s` now and then, and all others nothing.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` or ``unix://``. It never appears in an error,
            a log or a repr, because it may have a password.
        timeout_s: Of one command, with connecting.
        retry_s: Between attempts while Redis is away.

    Raises:
        ConfigurationError: The URL is not one, or redis-py is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float, retry_s: float, clock: Clock) -> None:
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError, ResponseError
        except ImportError:
            raise ConfigurationError(
                "A store behind Redis needs the package redis.", hint='pip install "callbox[redis]"'
            ) from None
        try:
            self.redis: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
                url,
                protocol=2,
                decode_responses=False,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,  # ours is around it: redis-py's loses cancellations before Python 3.12 (wait_for)
                socket_connect_timeout=timeout_s,
                max_connections=CONNECTIONS_MAX * 2,
            )
        except Exception:  # noqa: BLE001 - of many kinds, and their messages may show the password
            raise ConfigurationError(
                "This is not a URL of a Redis.", hint='It looks like "redis://127.0.0.1:6379/0".'
            ) from None
        self._failures = (RedisError, OSError, EOFError, TimeoutError)
        self._refusal = ResponseError
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._clock = clock
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self._retry_at: float | None = None
        self._warned = False

    @property
    def away(self) -> bool:
        """Whether the last command failed and it is not yet time to try again."""
        return self._retry_at is not None and self._clock.monotonic() < self._retry_at

    async def run(self, command: Callable[[Any], Awaitable[T]], *, timeout_s: float | None = None) -> T:
        """Run a command, given the client.

        Raises:
            RedisAway: It did not succeed, or Redis was away a moment ago.
        """
        if self.away:
            raise RedisAway("Redis did not answer a moment ago.")
        if self._retry_at is not None:
            self._retry_at = self._clock.monotonic() + self._retry_s  # one of us tries, the others do not wait for it
        async with self._room:
            try:
                async with asyncio.timeout(timeout_s or self._timeout_s):
                    answer = await command(self.redis)
            except self._failures as error:
                self.failed(error)
                raise RedisAway(f"Redis did not do it ({_reason(error)}).") from None
        self.succeeded()
        return answer

    def failed(self, error: BaseException) -> None:
        """Take note of a failure; one warning for each time that Redis goes away."""
        if isinstance(error, self._refusal) and "LOADING" not in str(error):
            log.warning("Redis refused a command: %s", _reason(error))  # it is there
            return
        self._retry_at = self._clock.monotonic() + self._retry_s
        if not self._warned:
            self._warned = True
            log.warning("Redis is away (%s); trying again every %g s.", _reason(error), self._retry_s)

    def succeeded(self) -> None:
        """Take note that Redis answers."""
        self._retry_at = None
        if self._warned:
            self._warned = False
            log.warning("Redis is back.")

    async def aclose(self) -> None:
        """Close the connections."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.redis.aclose()
        except self._failures:
            return  # whatever it was, it is gone


def _reason(error: BaseException) -> str:
    """Its type, and the server's code where there is one, like OOM; never a message, which may quote what was sent."""
    code = str(error).partition(" ")[0]
    return f"{type(error).__name__} {code}" if code.isupper() and code.isalpha() else type(error).__name__
