"""Time for keepers: a clock that can also ring, so that tests own both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """Something that will ring."""

    def cancel(self) -> None:
        """Don't ring."""
        ...


class Pacer(Protocol):
    """Where a keeper reads the time and orders its alarms."""

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def call_later(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        """Call `ring` in so many seconds."""
        ...


class LoopPacer:
    """The host's clock, and the event loop's timers."""

    def monotonic(self) -> float:
        """See `Pacer.monotonic`."""
        return time.monotonic()

    def wall(self) -> float:
        """See `Pacer.wall`."""
        return time.time()

    def call_later(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        """See `Pacer.call_later`."""
        return asyncio.get_running_loop().call_later(seconds, ring)
