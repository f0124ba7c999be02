from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects.dialect import StreamReader
from callbox.messages import (
    CallDelta,
    CallReady,
    CallStarted,
    Finished,
    Message,
    Reasoning,
    ReasoningDelta,
    Reply,
    StreamEvent,
    Text,
    TextDelta,
    Usage,
)
from callbox.providers.json_tools import (
    HEAD_CHARS_MAX,
    JsonToolsReader,
    instructions,
    read_reply,
    reply_schema,
    translate,
)
from callbox.tools.tool import Tool

ADD = Tool("add", "Add.", {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]})
TREE = Tool(
    "plant",
    "Plant a tree.",
    {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/Tree"}, "$ref": {"const": {"$ref": "#"}}},
        "required": ["tree"],
        "$defs": {
            "Tree": {
                "type": "object",
                "properties": {"kids": {"items": {"$ref": "#/$defs/Tree"}}},
                "required": ["kids"],
            }
        },
    },
)


def said(text: str, finish: Any = "stop", *others: Any) -> Reply:
    return Reply(Message("assistant", (*others, Text(text))), finish, Usage(1, 2), "m")


class Chunks(StreamReader):
    """An inner reader whose chunks are texts."""

    def __init__(self) -> None:
        self.text = ""

    def feed(self, chunk: Any) -> list[StreamEvent]:
        self.text += chunk
        return [TextDelta(chunk)]

    def finish(self) -> list[StreamEvent]:
        return [Finished(said(self.text))]


def streamed(*chunks: str) -> list[StreamEvent]:
    reader = JsonToolsReader(Chunks())
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return [*events, *reader.finish()]


def texts(events: list[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_a_call_is_read_with_its_arguments_as_they_were_written() -> None:
    reply = read_reply(said('{"tool": "add", "arguments": {"a": 1, "a": 2, "s": "}\\"{"}}'))
    (call,) = reply.calls
    # The gate has to see the duplicate key.
    assert (call.name, call.arguments) == ("add", '{"a": 1, "a": 2, "s": "}\\"{"}')
    assert (reply.finish, reply.message.text, reply.usage, reply.model) == ("calls", "", Usage(1, 2), "m")


def test_an_answer_is_read_as_text() -> None:
    reply = read_reply(said('{"answer": "It\'s \\u00e9\\n\\ud83d\\ude00."}'))
    assert (reply.message.text, reply.calls, reply.finish) == ("It's é\n😀.", (), "stop")


def test_line_breaks_inside_a_string_are_forgiven() -> None:
    assert read_reply(said('{"answer": "a\nb"}')).message.text == "a\nb"


@pytest.mark.parametrize(
    "text",
    ["Just words.", "", "{not json at all", '{"other": 1}', "``` something else", '{"tool": "add"}', "[1]"],
)
def test_what_has_no_such_form_is_plain_text(text: str) -> None:
    reply = read_reply(said(text))
    assert (reply.message.text, reply.calls) == (text, ())


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"tool": "add", "arguments": {"a": 1}}\n```',
        '{"arguments": {"a": 1}, "tool": "add"}',
        ' \n{ "tool" :"add" ,"arguments" : {"a": 1} }',
    ],
)
def test_unconstrained_models_may_fence_and_reorder(text: str) -> None:
    (call,) = read_reply(said(text)).calls
    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1})


def test_reordered_answers_are_read() -> None:
    assert read_reply(said('{"why": 1, "answer": "Yes"}')).message.text == "Yes"


def test_half_a_call_stays_half() -> None:
    reply = read_reply(said('{"tool": "add", "arguments": {"a": 1', "length"))
    assert reply.calls[0].arguments == '{"a": 1'
    assert reply.finish == "length"
    events = streamed('{"tool": "add", "arguments": {"a": 1')
    assert not any(isinstance(event, CallReady) for event in events)


def test_half_an_answer_keeps_what_was_said() -> None:
    assert read_reply(said('{"answer": "Once upon a ti', "length")).message.text == "Once upon a ti"
    assert read_reply(said('{"answer": "Once \\u00', "length")).message.text == "Once \\u00"


def test_what_follows_a_call_is_text() -> None:
    reply = read_reply(said('{"tool": "add", "arguments": {}} and then some'))
    assert [type(part) for part in reply.message.content] == [ToolCall, Text]
    assert reply.message.text == "and then some"


def test_what_is_no_text_stays_in_the_reply() -> None:
    reply = read_reply(said('{"answer": "Yes"}', "stop", Reasoning("hm")))
    assert reply.message.content == (Reasoning("hm"), Text("Yes"))


def test_events_say_what_the_reply_holds() -> None:
    events = streamed('{"to', 'ol": "add", "argu', 'ments": {"a"', "", ": 1}", "}")
    started, first, second, ready, finished = events
    assert isinstance(started, CallStarted)
    assert (first, second) == (CallDelta(0, '{"a"'), CallDelta(0, ": 1}"))
    assert isinstance(ready, CallReady)
    assert isinstance(finished, Finished)
    assert finished.reply.calls == (ready.call,)
    assert (started.id, started.name, ready.call.arguments) == (ready.call.id, "add", '{"a": 1}')


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "q\\"uo\\\\te \\ud83d\\ude00 \\u00e9\\n/"}',
        '{"tool": "add", "arguments": {"a": "}]\\"", "b": [{}, {"c": "\\\\"}]}}',
        "Plain text, streamed as it comes.",
        '{"arguments": {"a": 1}, "tool": "add"}',
        '```json\n{"answer": "fenced"}\n```',
    ],
)
def test_any_chunking_reads_alike(text: str, size: int) -> None:
    events = streamed(*(text[at : at + size] for at in range(0, len(text), size)))
    last = events[-1]
    assert isinstance(last, Finished)
    whole = read_reply(said(text))
    assert [(call.name, call.arguments) for call in last.reply.calls] == [
        (call.name, call.arguments) for call in whole.calls
    ]
    assert last.reply.message.text == whole.message.text == texts(events)
    deltas = "".join(event.text for event in events if isinstance(event, CallDelta))
    assert deltas == "".join(call.arguments for call in whole.calls)


def test_text_flows_before_the_answer_has_ended() -> None:
    reader = JsonToolsReader(Chunks())
    assert reader.feed('{"answer": "Hel') == [TextDelta("Hel")]
    assert reader.feed("lo \\u00") == [TextDelta("lo ")]
    assert reader.feed("e9") == [TextDelta("é")]


def test_an_object_that_never_says_what_it_is_becomes_text_before_long() -> None:
    reader = JsonToolsReader(Chunks())
    start = '{"essay": "' + "x" * HEAD_CHARS_MAX
    assert texts(reader.feed(start)) == start
    assert texts(reader.feed(" more")) == " more"


def test_other_events_pass_and_the_end_comes_once() -> None:
    class Thinking(Chunks):
        def feed(self, chunk: Any) -> list[StreamEvent]:
            return [ReasoningDelta("hm"), *super().feed(chunk)]

        def finish(self) -> list[StreamEvent]:
            return [*super().finish(), *super().finish()]

    reader = JsonToolsReader(Thinking())
    assert reader.feed('{"answer": "')[0] == ReasoningDelta("hm")
    assert [type(event) for event in reader.finish()] == [Finished, Finished]


VALID: list[Any] = [{"tool": "add", "arguments": {"a": 1}}, {"answer": "x"}]


@pytest.mark.parametrize(("choice", "allowed"), [("auto", VALID), ("required", VALID[:1]), ("none", VALID[1:])])
def test_the_schema_allows_what_the_choice_allows(choice: str, allowed: list[Any]) -> None:
    validator = jsonschema_rs.validator_for(reply_schema([ADD], choice))
    assert [reply for reply in VALID if validator.is_valid(reply)] == allowed
    for wrong in (
        {"tool": "other", "arguments": {"a": 1}},
        {"tool": "add", "arguments": {}},
        {"answer": 1},
        {},
    ):
        assert not validator.is_valid(wrong)


def test_references_inside_a_tools_schema_still_lead_somewhere() -> None:
    schema = reply_schema([ADD, TREE], "auto")
    validator = jsonschema_rs.validator_for(schema)
    deep = {"kids": [{"kids": []}]}
    assert validator.is_valid({"tool": "plant", "arguments": {"tree": deep}})
    assert not validator.is_valid({"tool": "plant", "arguments": {"tree": {"kids": [{}]}}})
    # A property may have the name of a keyword, and a constant may look like a reference.
    assert schema["$defs"]["plant"]["properties"]["$ref"] == {"const": {"$ref": "#"}}
    assert validator.is_valid({"tool": "plant", "arguments": {"tree": deep, "$ref": {"$ref": "#"}}})
    assert "$defs" not in reply_schema([ADD], "auto")


def test_the_model_is_told_its_tools() -> None:
    told = instructions([ADD], "auto")
    assert '"name": "add"' in told
    assert '{"answer": "..."}' in told
    assert "answer" not in instructions([ADD], "required")
    assert "add" not in instructions([ADD], "none")


def test_history_is_told_in_the_same_words() -> None:
    call = ToolCall("1", "add", {"a": 1})
    messages = [
        Message.system("Be brief."),
        Message.user("1+1?"),
        Message.assistant("", [call]),
        Message.tool([ToolResult("1", "add", "2"), ToolResult("2", "add", "3")]),
        Message.user("Well?"),
        Message.assistant("Two."),
    ]
    system, user, asked, told, answer = translate(messages)
    assert (system, user) == (messages[0], messages[1])
    assert json.loads(asked.text) == {"tool": "add", "arguments": {"a": 1}}
    assert told.role == "user"
    assert told.text == "Result of add: 2\n\nResult of add: 3\n\nWell?"
    assert json.loads(answer.text) == {"answer": "Two."}
