"""What runs beside the steps of a keeper: a chore that the next step ends, and the watch over its machine."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from callbox.errors import CallboxError
from callbox.sandboxes.driver import Machine

_LOG = logging.getLogger("callbox.sandboxes.supervisor.beside")
T = TypeVar("T")


class Chore:
    """At most one thing that is not urgent. Whatever fails in it is told to `note`, and is no failure of anything."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.stop = threading.Event()
        """Set while the chore should end before it is done; those that take long look at it."""
        self._note = note
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Callable[[threading.Event], Awaitable[Any]]) -> None:
        """Begin; the last one has ended."""
        self.stop.clear()
        self._task = asyncio.create_task(self._do(work))

    async def end(self, *, finish: bool = False) -> None:
        """Return when nothing runs any more: cut short, or with `finish` when it is done."""
        task, self._task = self._task, None
        if task is not None:
            if not finish:
                self.stop.set()
            await asyncio.wait({task})

    async def _do(self, work: Callable[[threading.Event], Awaitable[Any]]) -> None:
        try:
            await work(self.stop)
        except Exception as error:  # noqa: BLE001 - the sandbox must stay owned
            if not isinstance(error, CallboxError | OSError):
                _LOG.exception("a chore failed")
            self._note(f"tidying up failed: {error}")


class Watch:
    """Waits for the death of exactly the machine that there is."""

    def __init__(self, on_death: Callable[[Machine, str], None]) -> None:
        self._on_death = on_death
        self._watched: tuple[Machine, asyncio.Task[None]] | None = None

    def over(self, machine: Machine | None) -> None:
        """Watch this one from now on, and no other."""
        if self._watched is not None and self._watched[0] is not machine:
            self._watched[1].cancel()
            self._watched = None
        if machine is not None and self._watched is None:
            self._watched = (machine, asyncio.create_task(self._mourn(machine)))

    async def end(self) -> None:
        """Watch nothing."""
        watched, self._watched = self._watched, None
        if watched is not None:
            await ended(watched[1])

    async def _mourn(self, machine: Machine) -> None:
        try:
            why = await machine.wait_dead()
        except CallboxError as error:
            why = error.message
        except Exception as error:  # noqa: BLE001 - see below
            # A machine that nobody watches could be dead for ever and be taken for running.
            _LOG.exception("a machine cannot be watched")
            why = f"it cannot be watched any more: {error!r}"
        self._on_death(machine, why)


async def begun_or_never(
    ask: Callable[[Callable[[], Awaitable[T]]], asyncio.Future[T]], job: Callable[[], Awaitable[T]]
) -> T:
    """Have `job` done by a queue. When cancelled, either it was not begun and never is, or it has ended.

    For jobs that write where the caller cleans up afterwards.
    """
    begun = False

    async def work() -> T:
        nonlocal begun
        begun = True
        return await job()

    answer = ask(work)
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        if not begun:
            answer.cancel()
        while not answer.done():
            try:
                await asyncio.wait({answer})
            except asyncio.CancelledError:
                continue
        if not answer.cancelled():
            answer.exception()
        raise


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
