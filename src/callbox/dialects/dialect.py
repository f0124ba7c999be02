"""What a dialect is: one vendor's wire format, both directions, pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from callbox.calls.call import ToolResult
from callbox.messages import Message, Reply, StreamEvent
from callbox.tools.tool import Tool
from callbox.values import JsonObject


@dataclass(frozen=True, slots=True)
class Loss:
    """What a vendor's format cannot say about a tool.

    Attributes:
        tool: The tool's name.
        path: JSON Pointer into its parameters schema.
        keyword: The JSON Schema keyword, or ``"strict"`` when strict mode was asked for and cannot be had.
        message: What happens instead; callbox itself still validates against the original schema.
    """

    tool: str
    path: str
    keyword: str
    message: str


class Definitions(list[JsonObject]):
    """What goes into a request's ``tools``: a plain list, with what the vendor's format could not say in `losses`."""

    def __init__(self, items: Sequence[JsonObject] = (), losses: Sequence[Loss] = ()) -> None:
        super().__init__(items)
        self.losses: tuple[Loss, ...] = tuple(losses)


class StreamReader(Protocol):
    """Reads one streamed reply. Never raises for what a model or a chunking does."""

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """Take one chunk (dict or SDK object) as the vendor sent it; return what it means."""
        ...

    def finish(self) -> list[StreamEvent]:
        """The stream ended, properly or not: the rest, with exactly one `Finished` last. Idempotent."""
        ...


class Dialect(Protocol):
    """One vendor's wire format. Stateless; every method is a pure function of its arguments.

    `tools` is the toolset in force where names or arguments must be mapped back to the tool's own terms.
    """

    @property
    def name(self) -> str:
        """``"openai"``, ``"openai-responses"``, ``"anthropic"``, ``"gemini"`` or ``"mcp"``."""
        ...

    def define(self, tools: Sequence[Tool], *, strict: bool = False) -> Definitions:
        """What goes into the request's ``tools``. Strict per tool, where the vendor has it and no meaning is lost."""
        ...

    def read(self, response: Any, tools: Sequence[Tool] = ()) -> Reply:
        """A whole response, dict or SDK object. What is no call, text or known block in it is kept as `Opaque`.

        Never raises for what a model does; a value that is no response of this vendor's gives an empty reply
        whose finish is ``"unknown"``.
        """
        ...

    def reader(self, tools: Sequence[Tool] = ()) -> StreamReader:
        """A reader for one streamed response."""
        ...

    def restore(self, tool: Tool, arguments: JsonObject) -> JsonObject:
        """Arguments in the vendor's terms (nullable for optional, enum as strings) back in the original schema's."""
        ...

    def write_results(self, results: Sequence[ToolResult]) -> list[JsonObject]:
        """The messages to append for the results of one turn."""
        ...

    def write(self, messages: Sequence[Message]) -> list[JsonObject]:
        """A conversation as the vendor's list of messages (`messages`, `input` or `contents`).

        System messages are in it where the vendor keeps them there; else see `system`.
        """
        ...

    def system(self, messages: Sequence[Message]) -> str | None:
        """The instructions, for a vendor that takes them beside the list; None where they are in it."""
        ...

    def parse(self, messages: Sequence[Any]) -> list[Message]:
        """The vendor's list of messages as callbox messages. `parse(write(m)) == m` for what the vendor can say."""
        ...
