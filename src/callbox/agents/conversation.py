"""One run's messages and tools: what there is, what of it is sent, and what that costs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from callbox.context.compaction import Compaction, plan_compaction
from callbox.context.cost import RunCost
from callbox.context.counting import ESTIMATE, Calibration, Counter, count_tool
from callbox.context.results import READ_RESULT
from callbox.context.selection import ToolIndex
from callbox.context.selector import FIND_TOOLS, Selector
from callbox.context.window import Window
from callbox.messages import Message, Reply
from callbox.tools.tool import Tool
from callbox.tools.toolset import Toolset

_UNBOUNDED = sys.maxsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is sent to the model when there is much of it.

    Attributes:
        budget_tokens: Tokens of one request, messages and definitions together: the model's context window less what it
            may write. None sends everything, until the vendor says that it is too long.
        keep_recent_turns: Turns of the model, with their results, that stay as they are.
        summarize: Have the model summarise what would be left out.
        tools_max: Tools in one request; the model finds the others with `find_tools`. None sends all.
            Needs the extra ``callbox[selection]``.
        index: Ranks the tools for `tools_max`; None ranks by their words. `ToolIndex(toolset, embed=...)` adds meaning.
        protect: Tools whose results are never cleared.
        counter: Says how many tokens a text is.
        calibration: What is known of the vendor's own count; shared by all runs of an agent.
    """

    budget_tokens: int | None = None
    keep_recent_turns: int = 3
    summarize: bool = False
    tools_max: int | None = None
    index: ToolIndex | None = None
    protect: frozenset[str] = frozenset()
    counter: Counter = ESTIMATE
    calibration: Calibration | None = None


class Conversation:
    """The messages of one run, all of them and those that are sent.

    Args:
        context: See `Context`.
        toolset: The user's tools.
        definitions_tokens: What their definitions cost, uncalibrated.

    Attributes:
        messages: All of them, as they were said.
        own_tools: What the context itself brings: `find_tools`, `read_result`. The gate must be able to run them.
        cost: Where the tokens of the run went.
    """

    def __init__(self, context: Context, toolset: Toolset, definitions_tokens: int) -> None:
        self.messages: list[Message] = []
        self.cost = RunCost()
        self._summarize = context.summarize
        self._window = Window(
            _UNBOUNDED if context.budget_tokens is None else context.budget_tokens,
            counter=context.counter,
            calibration=context.calibration,
            keep_recent_turns=context.keep_recent_turns,
            protect=context.protect,
            reader=_free_name(READ_RESULT, toolset),
        )
        self._definitions_tokens = definitions_tokens
        self._all_tools = tuple(toolset)
        self._reader = self._window.read_result_tool()
        self.own_tools: list[Tool] = [self._reader]
        self._selector: Selector | None = None
        if context.tools_max is not None:
            self._selector = Selector(
                context.index or self._all_tools,
                max_tools=context.tools_max,
                counter=context.counter,
                finder=_free_name(FIND_TOOLS, toolset),
            )
            self.own_tools.append(self._selector.find_tools)

    @property
    def to_send(self) -> Sequence[Message]:
        """What goes into the next request. The same list for ever; its contents change when room is made."""
        return self._window.messages

    def add(self, message: Message) -> None:
        """Append a message.

        Raises:
            ConfigurationError: It leaves a call without a result, or has a result without a call.
        """
        self._window.add(message)
        self.messages.append(message)
        if self._selector is not None:
            self._selector.note(message)

    def tools_to_send(self) -> Sequence[Tool]:
        """The tools of the next request."""
        tools = self._all_tools if self._selector is None else self._selector.select().tools
        # Offered once there is something to read again: an idle tool costs tokens in every request.
        return (*tools, self._reader) if len(self._window.cleared) else tools

    def plan_room(self) -> Compaction | None:
        """Before a request: a summary that should be made first, if the context asks for summaries and it is time."""
        window = self._window
        if not self._summarize or window.tokens + self._reserve() <= window.budget_tokens:
            return None
        return plan_compaction(window)

    def make_room(self) -> None:
        """Clear what has to be cleared before the next request; one comparison while everything fits."""
        self._window.fit(reserve=self._reserve())

    def shrink(self) -> bool:
        """The vendor says that the request was too long. Whether it could be made smaller."""
        before = self._window.counted_tokens
        self._window.overflowed(reserve=self._reserve())
        return self._window.counted_tokens < before

    def account(self, reply: Reply) -> None:
        """Book the request that this reply answers, before the reply is added."""
        selection = None if self._selector is None else self._selector.select()
        self.cost.record(self._window, selection=selection, definitions=self._definitions_tokens, usage=reply.usage)
        self._window.observe(reply.usage, beside=selection.tokens if selection else self._definitions_tokens)

    def _reserve(self) -> int:
        own = self._definitions_tokens if self._selector is None else self._selector.select().tokens
        return self._window.calibration.scale(own)


def definitions_tokens(toolset: Toolset, counter: Counter) -> int:
    """What the definitions of all tools cost, uncalibrated."""
    return sum([count_tool(tool, counter) for tool in toolset])


def _free_name(name: str, toolset: Toolset) -> str:
    """The name, or one like it that none of the user's tools has."""
    number = 2
    free = name
    while free in toolset:
        free = f"{name}_{number}"
        number += 1
    return free
