"""How many calls may run at the same time: of one gate, and of one tool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from callbox.tools.tool import Tool


class Slots:
    """Counts running calls. Serves several event loops one after another (`Agent.run_sync` makes new ones)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._loop: asyncio.AbstractEventLoop | None = None
        self._all = asyncio.Semaphore(size)
        self._by_tool: dict[str, asyncio.Semaphore] = {}

    def of_gate(self) -> asyncio.Semaphore:
        """The slots that all tools share."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # A semaphore that ever made a task wait belongs to that task's loop for good.
            self._loop = loop
            self._all = asyncio.Semaphore(self._size)
            self._by_tool = {}
        return self._all

    @asynccontextmanager
    async def of_tool(self, tool: Tool, size: int) -> AsyncGenerator[None]:
        """One of the tool's own slots, then one of the gate's: who waits for the first must not hold the second."""
        everything = self.of_gate()
        own = self._by_tool.get(tool.name)
        if own is None:
            own = self._by_tool[tool.name] = asyncio.Semaphore(size)
        async with own, everything:
            yield
