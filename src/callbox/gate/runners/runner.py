"""What a runner is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from callbox.tools.call_context import CallContext
from callbox.tools.tool import Tool
from callbox.values import JsonObject


class Runner(Protocol):
    """Carries out one kind of binding. Raises what the tool raises; deadlines and cancellation come from the gate."""

    async def run(self, tool: Tool, arguments: JsonObject, context: Callable[[], CallContext]) -> Any:
        """Run the tool once and return what it returned. `context` is made when it is asked for: most tools do not."""
        ...

    async def aclose(self) -> None:
        """Release what it holds. Idempotent."""
        ...
