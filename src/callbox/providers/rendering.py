"""Writing conversations and tools once: a turn costs what is new in it, not the whole history."""

from __future__ import annotations

from collections import OrderedDict
from operator import is_
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callbox.dialects.dialect import Definitions
    from callbox.messages import Message
    from callbox.tools.tool import Tool
    from callbox.values import JsonObject

CONVERSATIONS_MAX = 64
TOOLSETS_MAX = 32


class ConversationCache:
    """Remembers what conversations look like on the wire, and writes only what was appended to them.

    Messages are immutable, so a message that is the same object reads the same. Vendors that alternate roles
    join neighbours, so a conversation is only ever cut where two roles meet.

    Args:
        write: `Dialect.write`.
        conversations_max: How many conversations are remembered; the one not used for longest is forgotten.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Message]], list[JsonObject]],
        conversations_max: int = CONVERSATIONS_MAX,
    ) -> None:
        self._write = write
        self._max = conversations_max
        # By the identity of its last message. The messages are kept so that no identity is given out twice.
        self._known: OrderedDict[int, tuple[list[Message], list[JsonObject]]] = OrderedDict()

    def write(self, messages: Sequence[Message]) -> list[JsonObject]:
        """The whole conversation for the wire. The list is yours, its items are shared: only read them."""
        cut, wire = self._prefix(messages)
        rest = self._write(messages[cut:])
        role = rest[0].get("role") if cut and rest else None
        if role is not None and role == wire[-1].get("role"):
            # Something around the cut says nothing on this wire, so that its neighbours join.
            rest, wire = self._write(messages), []
        wire = [*wire, *rest]
        if messages:
            self._known[id(messages[-1])] = (list(messages), wire)
            while len(self._known) > self._max:
                self._known.popitem(last=False)
        return list(wire)

    def _prefix(self, messages: Sequence[Message]) -> tuple[int, list[JsonObject]]:
        for cut in range(len(messages) - 1, 0, -1):
            if messages[cut].role != "assistant" or messages[cut - 1].role not in ("user", "tool"):
                continue
            known = self._known.get(id(messages[cut - 1]))
            if known is None or len(known[0]) != cut or not all(map(is_, known[0], messages)):
                continue
            # Gives way to the longer one that is about to be written.
            del self._known[id(messages[cut - 1])]
            if known[1]:
                return cut, known[1]
        return 0, []


class DefinitionsCache:
    """Remembers what toolsets look like on the wire.

    Args:
        define: `Dialect.define`.
        toolsets_max: How many are remembered.
    """

    def __init__(self, define: Callable[[Sequence[Tool], bool], Definitions], toolsets_max: int = TOOLSETS_MAX) -> None:
        self._define = define
        self._max = toolsets_max
        self._known: OrderedDict[tuple[object, ...], tuple[tuple[Tool, ...], Definitions]] = OrderedDict()

    def define(self, tools: Sequence[Tool], *, strict: bool) -> Definitions:
        """The definitions of these tools. Shared: do not change them."""
        key = (strict, *map(id, tools))
        found = self._known.get(key)
        if found is None:
            # The tools are kept so that no identity is given out twice.
            found = self._known[key] = (tuple(tools), self._define(tools, strict))
            while len(self._known) > self._max:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return found[1]
