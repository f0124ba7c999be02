"""Laws: a conversation written turn by turn reads as if written at once; any chunking of a JSON answer
reads alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import find_dialect
from callbox.messages import CallDelta, Finished, Message, Reply, StreamEvent, Text, TextDelta
from callbox.providers.json_tools import JsonToolsReader, read_reply, translate
from callbox.providers.rendering import ConversationCache

TEXTS = st.sampled_from(["", " ", "Hello.", "é\n"])


@st.composite
def steps(draw: st.DrawFn) -> list[Message]:
    """Something that is appended to a conversation at once."""
    kind = draw(st.sampled_from(["user", "system", "assistant", "calls", "calls and more"]))
    text = draw(TEXTS)
    if kind in ("user", "system"):
        return [Message.user(text) if kind == "user" else Message.system(text)]
    if kind == "assistant":
        return [Message.assistant(text)]
    ids = [f"call_{number}" for number in draw(st.lists(st.integers(0, 999), min_size=1, max_size=3, unique=True))]
    calls = [ToolCall(call_id, "look", {"id": call_id}) for call_id in ids]
    results = [ToolResult(call.id, call.name, text) for call in calls]
    more = [Message.user(text)] if kind == "calls and more" else []
    return [Message.assistant(text, calls), Message.tool(results), *more]


@pytest.mark.parametrize("name", ["openai", "openai-responses", "anthropic", "gemini", "json"])
@given(st.lists(steps(), max_size=8))
def test_turn_by_turn_is_the_same_as_at_once(name: str, turns: list[list[Message]]) -> None:
    write = find_dialect("openai" if name == "json" else name).write

    def whole(messages: Any) -> list[Any]:
        return write(translate(messages)) if name == "json" else write(messages)

    cache = ConversationCache(whole)
    messages: list[Message] = []
    for turn in turns:
        messages += turn
        assert cache.write(messages) == whole(messages)


class Echo:
    """An inner reader whose chunks are texts."""

    def __init__(self) -> None:
        self.text = ""

    def feed(self, chunk: Any) -> list[StreamEvent]:
        self.text += chunk
        return [TextDelta(chunk)]

    def finish(self) -> list[StreamEvent]:
        return [Finished(Reply(Message("assistant", (Text(self.text),))))]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data(), st.dictionaries(st.text(max_size=5), VALUES, max_size=3) | st.text(), st.booleans())
def test_any_chunking_of_a_json_answer_reads_alike(data: st.DataObject, said: Any, ascii_only: bool) -> None:
    answer = {"tool": "f", "arguments": said} if isinstance(said, dict) else {"answer": said}
    text = json.dumps(answer, ensure_ascii=ascii_only)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    reader = JsonToolsReader(Echo())
    events: list[StreamEvent] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        events += reader.feed(text[start:end])
    last = [*events, *reader.finish()][-1]
    assert isinstance(last, Finished)
    if isinstance(said, dict):
        (call,) = last.reply.calls
        assert json.loads(call.arguments) == said
        assert "".join(event.text for event in events if isinstance(event, CallDelta)) == call.arguments
    else:
        assert last.reply.message.text == said
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == said


@given(st.text())
def test_no_text_makes_reading_fail_or_loses_a_word(text: str) -> None:
    reply = read_reply(Reply(Message("assistant", (Text(text),))))
    assert reply.calls or reply.message.text or not text.strip() or text.lstrip().startswith(("{", "`"))
