"""What uses a sandbox right now: calls, that a standby waits for or ends, and processes that are to be kept alive."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from callbox.errors import SandboxInterrupted
from callbox.sandboxes.channel import Channel


class Call:
    """One call. It counts from `begin` to the end of its block: what wakes a sandbox for it begins it, in one step."""

    def __init__(self, calls: dict[Call, asyncio.Task[object]], task: asyncio.Task[object]) -> None:
        self._calls = calls
        self._task = task
        self._left = False

    def begin(self) -> None:
        """Count it in, unless its caller has gone meanwhile."""
        if not self._left:
            self._calls[self] = self._task

    def leave(self) -> None:
        """Count it out, for good."""
        self._left = True
        self._calls.pop(self, None)


class Calls:
    """The tasks that are in a call to one sandbox."""

    def __init__(self) -> None:
        self._long: dict[Call, asyncio.Task[object]] = {}
        self._short: dict[Call, asyncio.Task[object]] = {}
        self._interrupted: set[Call] = set()
        self._fewer = asyncio.Event()

    @contextmanager
    def entering(self, *, long: bool) -> Generator[Call]:
        """Make a call of the current task. It has to begin.

        Raises:
            SandboxInterrupted: The sandbox was put to standby under it.
        """
        task = asyncio.current_task()
        assert task is not None
        call = Call(self._long if long else self._short, task)
        try:
            yield call
        except asyncio.CancelledError:
            # Ours only if nobody else cancelled it too: see how asyncio.timeout does it.
            if call in self._interrupted and task.uncancel() <= 0:
                raise SandboxInterrupted(
                    "The sandbox was put to standby under this call.", hint="Attach or ask again; that wakes it."
                ) from None
            raise
        finally:
            call.leave()
            self._interrupted.discard(call)
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
        for call, task in [*self._long.items(), *self._short.items()]:
            self._interrupted.add(call)
            task.cancel()
        while self._interrupted:
            await self._next_end()

    async def _next_end(self) -> None:
        self._fewer.clear()
        await self._fewer.wait()


async def keeps_alive(channel: Channel, timeout_s: float) -> bool:
    """Whether a process runs in the guest that must not be put to sleep.

    Raises:
        TimeoutError: The guest did not answer in time.
    """
    async with asyncio.timeout(timeout_s):
        reply = await channel.call("exec.list", keep_alive=True)
    execs: Any = reply.get("execs")
    return isinstance(execs, list) and any(
        bool(each.get("running") and each.get("keep_alive"))
        for each in cast("list[Mapping[str, Any]]", execs)
        if isinstance(each, Mapping)
    )
