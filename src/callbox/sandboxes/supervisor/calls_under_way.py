"""Which calls use a sandbox right now, so that a standby that somebody asks for can wait for them or end them."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from callbox.errors import SandboxInterrupted


class Calls:
    """The tasks that are in a call to one sandbox."""

    def __init__(self) -> None:
        self._long: dict[object, asyncio.Task[object]] = {}
        self._short: dict[object, asyncio.Task[object]] = {}
        self._interrupted: set[object] = set()
        self._fewer = asyncio.Event()

    @contextmanager
    def under_way(self, *, long: bool) -> Generator[None]:
        """Count the current task in, until the block ends.

        Raises:
            SandboxInterrupted: The sandbox was put to standby under it.
        """
        task = asyncio.current_task()
        assert task is not None
        mark, calls = object(), self._long if long else self._short
        calls[mark] = task
        try:
            yield
        except asyncio.CancelledError:
            # Ours only if nobody else cancelled it too: see how asyncio.timeout does it.
            if mark in self._interrupted and task.uncancel() <= 0:
                raise SandboxInterrupted(
                    "The sandbox was put to standby under this call.", hint="Attach or ask again; that wakes it."
                ) from None
            raise
        finally:
            del calls[mark]
            self._interrupted.discard(mark)
            self._fewer.set()

    async def short_ones_ended(self, seconds_max: float) -> None:
        """Wait for the calls that will soon be done."""
        try:
            async with asyncio.timeout(seconds_max):
                while self._short:
                    await self._next_end()
        except TimeoutError:
            return

    async def interrupt(self) -> None:
        """End every call with SandboxInterrupted, and wait until none is left."""
        for mark, task in [*self._long.items(), *self._short.items()]:
            self._interrupted.add(mark)
            task.cancel()
        while self._interrupted:
            await self._next_end()

    async def _next_end(self) -> None:
        self._fewer.clear()
        await self._fewer.wait()
