"""Ends a task for certain."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_S = 0.1
"""After which a task that has not ended is cancelled again: before Python 3.12 `wait_for`, in clients, may lose one."""


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel it, and wait until it has ended."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN_S)
