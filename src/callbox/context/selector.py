"""Which tools one conversation sends: kept in a stable order, grown by `find_tools`, and counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from callbox.context.counting import ESTIMATE, Counter, count_tool
from callbox.context.selection import QUERY_CHARS_MAX, ToolIndex
from callbox.errors import ConfigurationError
from callbox.tools.tool import FunctionBinding, Tool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from callbox.messages import Message

FIND_TOOLS: Final = "find_tools"

_FOUND_AT_ONCE: Final = 10
_BEFORE_CHARS: Final = 400
"""Characters of the model's last words that are read along with the user's: "yes, do that" says little
alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The tools of one request.

    Attributes:
        tools: What to send, in the toolset's order, `find_tools` last where something was left out.
        left_out: Tools of the toolset that are not sent.
        tokens: What the definitions cost, uncalibrated.
        saved_tokens: What those that are left out would cost.
    """

    tools: tuple[Tool, ...]
    left_out: int
    tokens: int
    saved_tokens: int


class Selector:
    """Chooses tools for one conversation. Give it every message (`note`), and ask before every request
    (`select`).

    Args:
        tools: The toolset, or a `ToolIndex` of it that conversations share.
        max_tools: Tools to send. Pinned tools and tools that were called or found are sent even if they are
            more; a quarter of it is always chosen for the question.
        pinned: Names of tools that are always sent, besides those that say so themselves (`Tool.pinned`).
        counter: Says what a definition costs.
        finder: Name of the tool that finds others.

    Raises:
        ConfigurationError: `max_tools` is below 1, a pinned name is unknown, or a tool has the finder's name.
    """

    def __init__(
        self,
        tools: ToolIndex | Iterable[Tool],
        *,
        max_tools: int = 20,
        pinned: Collection[str] = (),
        counter: Counter = ESTIMATE,
        finder: str = FIND_TOOLS,
    ) -> None:
        self.index = tools if isinstance(tools, ToolIndex) else ToolIndex(tools)
        self.max_tools = max_tools
        self._by_name = {tool.name: tool for tool in self.index.tools}
        if max_tools < 1:
            raise ConfigurationError(f"max_tools={max_tools} leaves no tool.", hint="Use at least 1.")
        if unknown := [name for name in pinned if name not in self._by_name]:
            raise ConfigurationError(f"Pinned tools that do not exist: {', '.join(unknown)}.")
        if finder in self._by_name:
            raise ConfigurationError(f"A tool is named {finder!r} already.", hint="Use finder= for another name.")
        self._pinned = {tool.name for tool in self.index.tools if tool.pinned} | set(pinned)
        self._costs = self.index.costs(counter)
        self._all_tokens = sum(self._costs.values())
        # Names in the order in which they came to be needed; a dict, because that order decides what is
        # forgotten.
        self._called: dict[str, None] = {}
        self._found: dict[str, None] = {}
        self._said = ""
        self._query = ""
        self._selection: Selection | None = None
        self.find_tools = self._finder(finder)
        self._finder_tokens = count_tool(self.find_tools, counter)

    @property
    def needed(self) -> bool:
        """There are more tools than are sent at once; otherwise `select` always gives all of them."""
        return len(self.index.tools) > self.max_tools

    def note(self, message: Message) -> None:
        """Take a message of the conversation: what was asked, what was called. Costs no ranking."""
        if message.role == "assistant":
            for call in message.calls:
                if call.name in self._by_name and call.name not in self._called:
                    self._called[call.name] = None
            if message.text:
                self._said = message.text
        elif message.role == "tool":
            for result in message.results:
                if result.name == self.find_tools.name and result.error is None:
                    self._note_found(result.content)
        elif message.role == "user" and message.text:
            # The model's words come first, because of a query that is too long the end is kept.
            self._query = f"{self._said[-_BEFORE_CHARS:]}\n{message.text[-QUERY_CHARS_MAX:]}".strip()
            self._selection = None

    def select(self) -> Selection:
        """The tools for the next request. Between two user messages it is the same, but for tools that were
        found.

        Raises:
            ConfigurationError: The extra ``callbox[selection]`` is not installed, and there are too many
                tools.
        """
        if self._selection is None:
            self._selection = self._choose() if self.needed else self._make(set(self._by_name))
        return self._selection

    def find(self, query: str, limit: int = 5) -> list[Tool]:
        """Tools for a query, best first, of those that are not sent now; they are sent from the next
        request on.

        Args:
            query: What the tool should do, in a few words.
            limit: How many at most; 1 to 10.
        """
        sent = {tool.name for tool in self.select().tools}
        ranked = [tool for tool in self.index.rank(query) if tool.name not in sent]
        found = ranked[: min(max(limit, 1), _FOUND_AT_ONCE)]
        for tool in found:
            self._found.pop(tool.name, None)
            self._found[tool.name] = None
        # What was found and never called is forgotten first; otherwise a curious model undoes the selection.
        unused = [name for name in self._found if name not in self._called]
        for name in unused[: max(0, len(unused) - max(self.max_tools, _FOUND_AT_ONCE))]:
            del self._found[name]
        if found:
            self._selection = self._make(sent & set(self._by_name) | set(self._found))
        return found

    def _note_found(self, content: str) -> None:
        """What `find` gave, in an earlier process perhaps: it was promised for the next turn."""
        try:
            names = [str(each["name"]) for each in json.loads(content)["found"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return  # cut, or changed by a sanitizer
        fresh = [name for name in names if name in self._by_name and name not in self._found]
        if not fresh:
            return
        self._found.update(dict.fromkeys(fresh))
        if self._selection is not None:
            sent = {tool.name for tool in self._selection.tools}
            self._selection = self._make(sent & set(self._by_name) | set(self._found))

    def _choose(self) -> Selection:
        chosen = self._pinned | set(self._called) | set(self._found)
        room = max(self.max_tools - len(chosen), self.max_tools // 4)
        fresh = [tool.name for tool in self.index.rank(self._query) if tool.name not in chosen]
        return self._make(chosen | set(fresh[:room]))

    def _make(self, names: set[str]) -> Selection:
        tools = [tool for tool in self.index.tools if tool.name in names]
        tokens = sum([self._costs[tool.name] for tool in tools])
        left_out = len(self.index.tools) - len(tools)
        saved = self._all_tokens - tokens
        if left_out:
            tools.append(self.find_tools)
            tokens += self._finder_tokens
            saved -= self._finder_tokens
        return Selection(tools=tuple(tools), left_out=left_out, tokens=tokens, saved_tokens=saved)

    def _finder(self, name: str) -> Tool:
        # Async so that it runs in the loop: it changes the selection, which is no other thread's business.
        async def find_tools(query: str, limit: int = 5) -> dict[str, Any]:
            found = self.find(query, limit)
            if not found:
                return {"found": [], "note": "No other tools exist: all are available already."}
            return {
                "found": [{"name": tool.name, "description": tool.description} for tool in found],
                "note": "These tools can be called from your next turn on.",
            }

        return Tool(
            name=name,
            description=(
                "Find more tools than those listed here. Use it when none of the tools that you see can do "
                "what is needed: say what the tool should do, and those that fit become available on your "
                "next turn."
            ),
            parameters={
                "type": "object",
                "properties": {
                    "query": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": QUERY_CHARS_MAX,
                        "description": "What the tool should do, in a few words.",
                    },
                    "limit": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": _FOUND_AT_ONCE,
                        "description": "How many tools to find at most; default 5.",
                    },
                },
                "required": ["query"],
                "additionalProperties": False,
            },
            binding=FunctionBinding(find_tools, is_async=True),
            effect="read",
            idempotent=True,
            pinned=True,
        )
