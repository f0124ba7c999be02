"""Threads for sync tools: bounded, started on demand, and daemons.

Not `concurrent.futures`: its threads are joined when the interpreter exits, so one tool that hangs (a thread cannot be
killed) would keep the whole program from ending after its call had long been answered with a time-out.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

_IDLE_S = 10.0
"""Seconds after which a thread without work ends."""


class _Job:
    __slots__ = ("context", "function", "future", "loop")

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.function = function
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.context = contextvars.copy_context()

    def run(self) -> None:
        try:
            result = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001 - handed to the waiting task, whatever it is
            self._settle(error=error)
        else:
            self._settle(result)

    def _settle(self, result: Any = None, error: BaseException | None = None) -> None:
        def settle() -> None:
            if self.future.done():  # cancelled or timed out meanwhile: nobody waits for this any more
                return
            if error is None:
                self.future.set_result(result)
            elif isinstance(error, (StopIteration, asyncio.CancelledError)):
                # A future refuses the first and would read the second as its own cancellation.
                self.future.set_exception(RuntimeError(f"The tool raised {type(error).__name__}."))
            else:
                self.future.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(settle)
        except RuntimeError:
            return  # the loop has closed: the call was given up together with it


class Threads:
    """Runs functions in at most `size` daemon threads; more of them wait in line."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._free = 0  # threads that wait and have not been promised a job that is already in the queue
        self._backlog = 0  # jobs in the queue that no thread has been promised to

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call `function` in a thread, in a copy of this task's context.

        Cancelling the waiting task gives up on the function but cannot stop it; its thread is used again when it ends.
        """
        job = _Job(function, asyncio.get_running_loop())
        with self._lock:
            self._jobs.put(job)
            if self._free:
                self._free -= 1
            elif self._started < self._size:
                self._started += 1
                threading.Thread(target=self._work, name="callbox-tool", daemon=True).start()
            else:
                self._backlog += 1
        return await job.future

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if not self._jobs.empty():  # promised between the time-out and the lock
                        continue
                    self._free -= 1
                    self._started -= 1
                    return
            if not job.future.cancelled():
                job.run()
            del job  # its arguments and result must not live until the next job
            with self._lock:
                if self._backlog:
                    self._backlog -= 1
                else:
                    self._free += 1
