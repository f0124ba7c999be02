"""An event loop in a thread, for callers that have none."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncIterable, Coroutine, Iterator
from typing import Any, TypeVar

from callbox.errors import ConfigurationError

_T = TypeVar("_T")

STOP_DEADLINE_S = 5.0
"""Seconds that the thread has to end its tasks when the program ends."""


class Background:
    """Runs coroutines for threads without an event loop. The thread starts with the first one."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._abandoned: list[asyncio.AbstractEventLoop] = []

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run it there, and return or raise what it does. Ctrl-C cancels it.

        Raises:
            ConfigurationError: Called from a coroutine, which would block its own event loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            coroutine.close()
            raise ConfigurationError(
                "The blocking API was called from a coroutine, which would stop its event loop.",
                hint="Use callbox.Sandbox there, with await.",
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterable[_T]) -> Iterator[_T]:
        """The items of an async iterable, one at a time; left early, the iterable is closed."""
        iterator = aiter(items)
        try:
            while True:
                try:
                    yield self.run(_next(iterator))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                self.run(close())

    def stop(self) -> None:
        """Cancel what runs there, and end the thread."""
        with self._starting:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_DEADLINE_S)

    def forget(self) -> None:
        """Begin anew in a process that was forked: it has the loop, but not the thread."""
        if self._loop is not None:
            # Never closed, nor freed, which closes it: its poll object is the parent's too, and would forget its files.
            self._abandoned.append(self._loop)
        self._loop = self._thread = None
        self._starting = threading.Lock()  # a thread that is not here may have held it

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop,), name="callbox-blocking", daemon=True)
                thread.start()
                self._loop, self._thread = loop, thread
            return self._loop


async def _next(iterator: Any) -> Any:
    return await anext(iterator)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


background = Background()
"""The one of this process."""
atexit.register(background.stop)
os.register_at_fork(after_in_child=background.forget)
