"""One run's messages and tools: what there is, what of it is sent, and what that costs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from callbox.context.compaction import Compaction, plan_compaction
from callbox.context.cost import RunCost
from callbox.context.counting import ESTIMATE, Calibration, Counter, count_tool
from callbox.context.results import READ_RESULT
from callbox.context.selection import ToolIndex
from callbox.context.selector import FIND_TOOLS, Selector
from callbox.context.window import Window
from callbox.errors import ConfigurationError
from callbox.messages import Message, Reply, Usage
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

    Without a budget nothing is ever cleared, so tokens are counted when somebody asks for the cost, or when the vendor
    says that they were too many; until then what is to be booked waits in line.
    """

    def __init__(self, context: Context, toolset: Toolset, definitions_tokens: int) -> None:
        self.messages: list[Message] = []
        self.cost = RunCost(self._book)
        # A selection changes between requests, so what it costs must be booked when it is sent.
        counts_at_once = context.budget_tokens is not None or context.tools_max is not None
        self._unbooked: list[Message | Usage] | None = None if counts_at_once else []
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
        """What goes into the next request. Its contents change when room is made."""
        return self._window.messages if self._unbooked is None else self.messages

    def add(self, message: Message) -> None:
        """Append a message of this run."""
        if self._unbooked is None:
            self._window.add(message)
        else:
            self._unbooked.append(message)
        self.messages.append(message)
        if self._selector is not None:
            self._selector.note(message)

    def begin(self, messages: Iterable[Message]) -> None:
        """Append what was there before this run.

        Raises:
            ConfigurationError: It leaves a call without a result, or has a result without a call.
        """
        for message in messages:
            self.add(message)
        self._book()  # which checks them
        if self._window.open_calls:
            raise ConfigurationError(
                f"The call {self._window.open_calls[0]!r} has no result.",
                hint="Every call needs exactly one result before the conversation goes on.",
            )

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
        if self._unbooked is None:
            self._window.fit(reserve=self._reserve())

    def shrink(self) -> bool:
        """The vendor says that the request was too long. Whether it could be made smaller."""
        self._book()
        self._unbooked = None
        before = self._window.counted_tokens
        self._window.overflowed(reserve=self._reserve())
        return self._window.counted_tokens < before

    def account(self, reply: Reply) -> None:
        """Book the request that this reply answers, before the reply is added."""
        if self._unbooked is None:
            self._record(reply.usage)
        else:
            self._unbooked.append(reply.usage)

    def _book(self) -> None:
        if self._unbooked:
            waiting, self._unbooked = self._unbooked, []
            for entry in waiting:
                if isinstance(entry, Usage):
                    self._record(entry)
                else:
                    self._window.add(entry)

    def _record(self, usage: Usage) -> None:
        selection = None if self._selector is None else self._selector.select()
        self.cost.record(self._window, selection=selection, definitions=self._definitions_tokens, usage=usage)
        self._window.observe(usage, beside=selection.tokens if selection else self._definitions_tokens)

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
