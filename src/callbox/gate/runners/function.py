"""Running Python functions: coroutines in this loop, everything else in a thread."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from callbox.gate.runners.threads import Threads
from callbox.tools.call_context import CallContext
from callbox.tools.tool import ExternalBinding, FunctionBinding, Tool
from callbox.values import JsonObject


class FunctionRunner:
    """Runs `FunctionBinding`: one function, keyword arguments, as the type hints name them."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def run(self, tool: Tool, arguments: JsonObject, context: Callable[[], CallContext]) -> Any:
        """See `Runner.run`."""
        binding = tool.binding
        assert isinstance(binding, FunctionBinding)
        named = binding.convert(arguments) if binding.convert is not None else arguments
        if binding.context_parameter is not None:
            named = {**named, binding.context_parameter: context()}
        if binding.is_async:
            return await binding.function(**named)
        result = await self._threads.run(lambda: binding.function(**named))
        # A sync wrapper around a coroutine function gives its coroutine back; it belongs to this loop.
        return await result if inspect.isawaitable(result) else result

    async def aclose(self) -> None:
        """See `Runner.aclose`. The threads are daemons and end by themselves."""


class ExternalRunner:
    """Runs `ExternalBinding`: one function for many tools."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def run(self, tool: Tool, arguments: JsonObject, context: Callable[[], CallContext]) -> Any:
        """See `Runner.run`."""
        binding = tool.binding
        assert isinstance(binding, ExternalBinding)
        if binding.is_async:
            return await binding.run(tool.name, arguments, context())
        made = context()
        result = await self._threads.run(lambda: binding.run(tool.name, arguments, made))
        return await result if inspect.isawaitable(result) else result

    async def aclose(self) -> None:
        """See `Runner.aclose`."""
