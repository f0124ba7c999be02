"""How many calls may run at the same time: of one gate, and of one tool."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from types import TracebackType

from callbox.tools.tool import Tool


class NoSlot(Exception):
    """The run's time was over before the call could begin. The tool was not run."""


# Gates in whose slots the current task already runs. A tool that calls its own gate must not wait for a slot that is
# only free when it has ended.
_HELD: ContextVar[frozenset[int]] = ContextVar("callbox_slots_held", default=frozenset())


class Slots:
    """Counts running calls. Serves several event loops one after another (`Agent.run_sync` makes new ones)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._loop: asyncio.AbstractEventLoop | None = None
        self._all = asyncio.Semaphore(size)
        self._by_tool: dict[str, asyncio.Semaphore] = {}
        self._alone: frozenset[int] = frozenset({id(self)})

    def hold(self, tool: Tool, wait_s: float) -> _Hold:
        """An async context manager that holds a slot for one call; waits for it at most `wait_s` seconds.

        Raises:
            NoSlot: On entering, when the time is over.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # A semaphore that ever made a task wait belongs to that task's loop for good.
            self._loop = loop
            self._all = asyncio.Semaphore(self._size)
            self._by_tool = {}
        held = _HELD.get()
        if not held:
            held = self._alone
        elif id(self) in held:
            return _Hold((), wait_s, held)
        else:
            held |= self._alone
        if tool.concurrency is None:
            return _Hold((self._all,), wait_s, held)
        own = self._by_tool.get(tool.name)
        if own is None:
            own = self._by_tool[tool.name] = asyncio.Semaphore(tool.concurrency)
        # The tool's own first: who waits for that must not hold one of the gate's.
        return _Hold((own, self._all), wait_s, held)


class _Hold:
    __slots__ = ("_held", "_taken", "_token", "_wait_s", "_wanted")

    def __init__(self, wanted: tuple[asyncio.Semaphore, ...], wait_s: float, held: frozenset[int]) -> None:
        self._wanted = wanted
        self._wait_s = wait_s
        self._held = held
        self._taken: list[asyncio.Semaphore] = []

    async def __aenter__(self) -> None:
        try:
            for semaphore in self._wanted:
                if semaphore.locked():
                    async with asyncio.timeout(self._wait_s):
                        await semaphore.acquire()
                else:
                    await semaphore.acquire()
                self._taken.append(semaphore)
        except BaseException as error:
            self._release()
            if isinstance(error, TimeoutError):
                raise NoSlot from None
            raise
        self._token = _HELD.set(self._held)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _HELD.reset(self._token)
        self._release()

    def _release(self) -> None:
        while self._taken:
            self._taken.pop().release()
