from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import find_dialect
from callbox.dialects.dialect import Definitions
from callbox.messages import Message
from callbox.providers.rendering import ConversationCache, DefinitionsCache
from callbox.tools.tool import Tool

if TYPE_CHECKING:
    from collections.abc import Sequence

HOSTED = ("openai", "openai-responses", "anthropic", "gemini")


class Counting:
    """A dialect's `write` that counts the messages it was given."""

    def __init__(self, name: str = "openai") -> None:
        self.write_all = find_dialect(name).write
        self.written = 0

    def write(self, messages: Sequence[Message]) -> list[Any]:
        self.written += len(messages)
        return self.write_all(messages)


def turn(number: int) -> list[Message]:
    call = ToolCall(f"call_{number}", "look", {"n": number})
    return [Message.assistant("", [call]), Message.tool([ToolResult(call.id, call.name, f"result {number}")])]


@pytest.mark.parametrize("name", HOSTED)
def test_a_turn_costs_what_is_new_in_it(name: str) -> None:
    counting = Counting(name)
    cache = ConversationCache(counting.write)
    messages = [Message.system("Be brief."), Message.user("Go.")]
    for number in range(200):
        assert cache.write(messages) == counting.write_all(messages)
        messages += turn(number)
    assert counting.written == 2 + 199 * 2


def test_conversations_do_not_disturb_each_other() -> None:
    counting = Counting()
    cache = ConversationCache(counting.write)
    system = Message.system("Be brief.")
    first, second = ([system, Message.user(text)] for text in ("one", "two"))
    for number in range(3):
        assert cache.write(first) == counting.write_all(first)
        assert cache.write(second) == counting.write_all(second)
        first = [*first, *turn(number)]
        second = [*second, *turn(number)]
    assert counting.written == 2 * (2 + 2 * 2)


def test_a_fork_reads_as_it_is() -> None:
    counting = Counting()
    cache = ConversationCache(counting.write)
    trunk = [Message.user("Go."), *turn(0)]
    cache.write(trunk)
    for number in (1, 2):
        branch = [*trunk, *turn(number)]
        assert cache.write(branch) == counting.write_all(branch)


def test_an_exchanged_message_is_seen() -> None:
    counting = Counting()
    cache = ConversationCache(counting.write)
    messages = [Message.user("Go."), *turn(0), *turn(1)]
    cache.write(messages)
    # Compaction: an old result is cleared, what comes after it is the same objects.
    messages[2] = Message.tool([ToolResult("call_0", "look", "cleared")])
    messages += turn(2)
    assert cache.write(messages) == counting.write_all(messages)


def test_equal_is_not_the_same() -> None:
    # 1 == True in Python, but not on the wire.
    cache = ConversationCache(find_dialect("gemini").write)
    result = Message.tool([ToolResult("1", "f", "ok")])
    for flag in (1, True):
        messages = [Message.user("Go."), Message.assistant("", [ToolCall("1", "f", {"a": flag})]), result]
        messages += [Message.assistant("Hm."), Message.user("And?")]
        for length in (3, 5):
            written = cache.write(messages[:length])
            assert written[1]["parts"][0]["functionCall"]["args"]["a"] is flag


@pytest.mark.parametrize("name", ["anthropic", "gemini"])
@pytest.mark.parametrize(
    "tail",
    [
        [Message.assistant(""), Message.user("Still there?")],
        [Message.assistant("   "), Message.user("Still there?")],
        [Message.assistant("One."), Message.assistant("Two."), Message.user("Three.")],
        [Message.user("More.")],
        [Message.system("Be quick."), Message.assistant("Yes.")],
    ],
)
def test_joined_turns_are_joined_at_the_seam_too(name: str, tail: list[Message]) -> None:
    write = find_dialect(name).write
    cache = ConversationCache(write)
    silent = Message.user(" ")
    for start in ([Message.user("Go.")], [Message.user("Go."), Message.assistant("Yes."), silent], [silent]):
        cache.write(start)
        messages = [*start, *tail]
        assert cache.write(messages) == write(messages)


def test_the_list_belongs_to_the_caller() -> None:
    cache = ConversationCache(find_dialect("openai").write)
    messages = [Message.user("Go.")]
    cache.write(messages).clear()
    assert len(cache.write([*messages, Message.assistant("Yes.")])) == 2
    assert cache.write([]) == []


def test_only_so_many_conversations_are_remembered() -> None:
    counting = Counting()
    cache = ConversationCache(counting.write, conversations_max=2)
    started = [[Message.user(str(number))] for number in range(3)]
    for messages in started:
        cache.write(messages)
    counting.written = 0
    cache.write([*started[2], *turn(0)])
    assert counting.written == 2
    counting.written = 0
    cache.write([*started[0], *turn(0)])
    assert counting.written == 3


def test_definitions_are_made_once_for_the_same_tools() -> None:
    made: list[bool] = []

    def define(tools: Sequence[Tool], strict: bool) -> Definitions:
        made.append(strict)
        return Definitions([{"name": tool.name} for tool in tools])

    cache = DefinitionsCache(define, toolsets_max=2)
    one, two = (Tool(name, "A tool.", {"type": "object"}) for name in ("one", "two"))
    first = cache.define([one, two], strict=True)
    assert cache.define((one, two), strict=True) is first
    assert cache.define((two, one), strict=True) != first
    assert cache.define((one, two), strict=False) == first
    assert made == [True, True, False]
    # The least recently used has been forgotten.
    cache.define((two, one), strict=True)
    cache.define((one, two), strict=True)
    assert made == [True, True, False, True]
