"""The calls of one model turn: read, planned, some of them begun early, all of them answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType

from callbox.calls import feedback
from callbox.calls.call import ToolCall, ToolResult
from callbox.gate.caller import Budget, Caller
from callbox.gate.passage import Observer, Passage, tell
from callbox.gate.path import CallPath
from callbox.gate.planning import plan
from callbox.gate.recording import Recorder
from callbox.tools.tool import Tool

Prepared = tuple[ToolCall, Tool | None]
"""A call that has been read, and its tool where the call can run."""


class Turn:
    """Runs one turn's calls. An async context manager: leaving it ends whatever it began and did not hand over.

    While a reply is still being streamed, `offer` starts what may start early. `finish` takes all calls of the
    complete reply and gives one result each, in their order.
    """

    def __init__(
        self,
        path: CallPath,
        prepare: Callable[[Sequence[ToolCall]], list[Prepared]],
        find: Callable[[str], Tool | None],
        caller: Caller,
        budget: Budget,
        observer: Observer | None = None,
        exempt: frozenset[str] = frozenset(),
        recorder: Recorder | None = None,
    ) -> None:
        self._path = path
        self._prepare = prepare
        self._find = find
        self._caller = caller
        self._budget = budget
        self._observer = observer
        self._exempt = exempt
        self._recorder = recorder
        self._early: dict[str, tuple[ToolCall, asyncio.Task[ToolResult]]] = {}

    async def __aenter__(self) -> Turn:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._early:
            await self._end([task for _, task in self._early.values()])
            self._early.clear()

    def prepare(self, calls: Sequence[ToolCall]) -> list[Prepared]:
        """Read calls as the gate does, in the terms of the dialect that they came in."""
        return self._prepare(calls)

    def offer(self, call: ToolCall, before: Sequence[str]) -> bool:
        """Start a call whose arguments are complete while the model is still writing.

        Only a valid read starts, and only if every call before it is a read too: it must not overtake a write.

        Args:
            call: The call, complete.
            before: Names of the calls that come before it in this reply.

        Returns:
            Whether it was started.
        """
        if call.id in self._early or len(before) >= self._budget.limits.calls_per_turn_max:
            return False
        if not all(self._reads(name) for name in (*before, call.name)):
            return False
        [(read, tool)] = self._prepare((call,))
        if tool is None or read.error is not None:
            return False
        self._early[call.id] = (read, asyncio.create_task(self._take(read, tool)))
        return True

    async def finish(
        self, calls: Sequence[ToolCall], *, prepared: Sequence[Prepared] | None = None
    ) -> list[ToolResult]:
        """One result per call, in order.

        Args:
            calls: All calls of the reply.
            prepared: The same calls, if they have been read already.
        """
        ready = self._prepare(calls) if prepared is None else prepared
        if len(ready) == 1 and not self._early:  # most turns: nothing to plan
            results = [await self._answer(*ready[0])]
        else:
            results = await self._answer_all(ready)
        if results and self._recorder is None:  # a recorded turn may have results of an earlier process, too
            self._budget.count_turn(results)
        return results

    @property
    def paused(self) -> bool:
        """A call waits for a person: the results that `finish` returned are not all there is to say."""
        return self._recorder is not None and self._recorder.paused

    async def _answer_all(self, ready: Sequence[Prepared]) -> list[ToolResult]:
        if self._early:
            await self._drop_changed([call for call, _ in ready])
        results: dict[int, ToolResult] = {}
        runnable = [None if call.error is not None else tool for call, tool in ready]
        for index, tool in enumerate(runnable):
            if tool is None:
                results[index] = await self._answer(*ready[index])
        for group in plan(runnable):
            if self.paused:  # nothing overtakes a call that waits
                results.update({index: ToolResult.failed(ready[index][0], feedback.cancelled()) for index in group})
                continue
            if len(group) == 1:
                results[group[0]] = await self._answer(*ready[group[0]])
                continue
            try:
                async with asyncio.TaskGroup() as tasks:
                    running = {index: tasks.create_task(self._answer(*ready[index])) for index in group}
            except BaseExceptionGroup as failed:  # of the recorder: the rest was cancelled
                raise failed.exceptions[0] from None
            results.update({index: task.result() for index, task in running.items()})
        assert len(results) == len(ready), "one result per call"
        return [results[index] for index in range(len(ready))]

    def _reads(self, name: str) -> bool:
        tool = self._find(name)
        return tool is not None and tool.reads_only

    async def _answer(self, call: ToolCall, tool: Tool | None) -> ToolResult:
        if call.error is not None or tool is None:
            result = ToolResult.failed(call, call.error or feedback.unknown_tool(call.name, ()))
            if self._observer is not None:
                tell(self._observer.finished, result)
            return result
        early = self._early.pop(call.id, None) if self._early else None
        if early is None:
            return await self._take(call, tool)
        task = early[1]
        try:
            return await task
        except asyncio.CancelledError:
            # Awaiting a task does not own it: if we are cancelled, so must it be.
            await self._end([task])
            raise

    async def _take(self, call: ToolCall, tool: Tool) -> ToolResult:
        exempt = call.name in self._exempt
        passage = Passage(call, tool, self._caller, self._budget, self._observer, exempt, self._recorder)
        return await self._path.take(passage)

    async def _drop_changed(self, calls: Sequence[ToolCall]) -> None:
        """End what was begun for a call that the complete reply does not contain as it was begun."""
        final = {call.id: call for call in calls if call.error is None}
        gone = [key for key, (begun, _) in self._early.items() if not _same(begun, final.get(key))]
        await self._end([self._early.pop(key)[1] for key in gone])

    @staticmethod
    async def _end(tasks: Sequence[asyncio.Task[ToolResult]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


def _same(begun: ToolCall, final: ToolCall | None) -> bool:
    return final is not None and (begun.name, begun.arguments) == (final.name, final.arguments)
