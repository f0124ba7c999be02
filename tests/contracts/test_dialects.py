"""What every dialect promises, run on every dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import NAMES, find_dialect
from callbox.dialects.dialect import Dialect, Loss
from callbox.errors import ConfigurationError
from callbox.messages import Finished, Message, Opaque, Reasoning, Reply, Text
from callbox.tools.tool import Tool
from dialect_samples import (
    CALLS,
    CONVERSATION,
    CONVERSATIONAL,
    RESULTS,
    STREAM_IDS,
    STREAMS,
    TEXT_ARGUMENTS,
    TOOLS,
    check_events,
    essence,
    read_stream,
    said_in_history,
    streams,
)

every_dialect = pytest.mark.parametrize("dialect", [find_dialect(name) for name in NAMES], ids=NAMES)
every_vendor = pytest.mark.parametrize("dialect", [find_dialect(name) for name in CONVERSATIONAL], ids=CONVERSATIONAL)
every_stream = pytest.mark.parametrize(("name", "label", "chunks", "whole"), STREAMS, ids=STREAM_IDS)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """The value with any of its parts exchanged for something else, or gone."""
    choice = draw(st.integers(0, 11))
    if choice == 0:
        return draw(json_values)
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if draw(st.integers(0, 11))}
        return {key: draw(spoiled(item)) for key, item in kept.items()}
    if isinstance(value, list):
        items = [draw(spoiled(item)) for item in value]
        return items * 2 if choice == 1 else items
    return value


def encodable(written: Any) -> bytes:
    """As a vendor's client sends it."""
    return json.dumps(written, ensure_ascii=False, allow_nan=False).encode("utf-8")


def test_an_unknown_dialect_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match="openai-responses"):
        find_dialect("smoke-signals")


@every_dialect
def test_a_dialect_is_known_by_its_name(dialect: Dialect) -> None:
    assert find_dialect(dialect.name) is dialect


# Definitions


@every_dialect
@pytest.mark.parametrize("strict", [False, True])
def test_every_tool_is_defined_once_and_in_order(dialect: Dialect, strict: bool) -> None:
    definitions = dialect.define(TOOLS, strict=strict)
    text = encodable(list(definitions)).decode()
    places = [text.find(json.dumps(tool.description)) for tool in TOOLS]
    assert -1 not in places
    assert places == sorted(places)
    assert all(isinstance(loss, Loss) for loss in definitions.losses)
    assert {loss.tool for loss in definitions.losses} <= {tool.name for tool in TOOLS}


@every_dialect
def test_strict_mode_is_refused_with_a_reason_or_changes_nothing(dialect: Dialect) -> None:
    schema = {"type": "object", "properties": {"map": {"type": "object", "additionalProperties": True}}}
    tool = Tool("t", "Takes anything.", schema)
    loose, strict = dialect.define([tool]), dialect.define([tool], strict=True)
    assert strict.losses or list(loose) == list(strict)


@every_dialect
@pytest.mark.parametrize("strict", [False, True])
def test_defining_leaves_the_tool_as_it_was(dialect: Dialect, strict: bool) -> None:
    before = json.dumps([tool.parameters for tool in TOOLS])
    dialect.define(TOOLS, strict=strict)
    assert json.dumps([tool.parameters for tool in TOOLS]) == before


@every_dialect
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_arguments_without_nulls_are_restored_unchanged(dialect: Dialect, tool: Tool) -> None:
    arguments = {"city": "Paris", "lines": [{"sku": "a"}], "root": {"value": 1}, "labels": {"a": "b"}}
    own = {key: value for key, value in arguments.items() if key in tool.parameters["properties"]}
    assert dialect.restore(tool, own) == own


# Reading


@every_dialect
@pytest.mark.parametrize("garbage", [None, 5, "text", [], [1], {}, {"x": [{}]}, b"{", object()])
def test_what_is_no_response_gives_an_empty_reply(dialect: Dialect, garbage: Any) -> None:
    reply = dialect.read(garbage, TOOLS)
    assert (reply.message, reply.finish) == (Message("assistant", ()), "unknown")


@every_dialect
@given(garbage=json_values)
def test_reading_never_raises_for_json(dialect: Dialect, garbage: Any) -> None:
    assert isinstance(dialect.read(garbage, TOOLS), Reply)
    reader = dialect.reader(TOOLS)
    reader.feed(garbage)
    assert isinstance(reader.finish()[-1], Finished)


@every_dialect
@given(data=st.data())
def test_reading_never_raises_for_a_spoiled_response(dialect: Dialect, data: st.DataObject) -> None:
    _, chunks, whole = data.draw(st.sampled_from(streams(dialect.name) or [("", [], {})]))
    reply = dialect.read(data.draw(spoiled(whole)), TOOLS)
    assert all(isinstance(call.id, str) and isinstance(call.name, str) for call in reply.calls)
    _, streamed = read_stream(dialect.reader(TOOLS), [data.draw(spoiled(chunk)) for chunk in chunks])
    assert all(call.id for call in streamed.calls)
    for read in (reply, streamed):
        dialect.parse(dialect.write([read.message]))


@every_stream
def test_a_streamed_reply_reads_like_the_whole_one(name: str, label: str, chunks: list[Any], whole: Any) -> None:
    dialect = find_dialect(name)
    events, streamed = read_stream(dialect.reader(TOOLS), chunks)
    assert essence(streamed, whole) == essence(dialect.read(whole, TOOLS), whole)
    check_events(events, streamed, text_arguments=name in TEXT_ARGUMENTS)


@every_stream
def test_a_stream_may_be_cut_anywhere(name: str, label: str, chunks: list[Any], whole: Any) -> None:
    dialect = find_dialect(name)
    full = dialect.read(whole, TOOLS)
    for place in range(len(chunks)):
        reader = dialect.reader(TOOLS)
        events, reply = read_stream(reader, chunks[:place])
        assert reader.finish() == []
        assert reader.feed(chunks[place]) == []
        assert full.message.text.startswith(reply.message.text)
        assert len(reply.calls) <= len(full.calls)
        check_events(events, reply, text_arguments=name in TEXT_ARGUMENTS)


@every_stream
def test_every_call_has_an_id_of_its_own(name: str, label: str, chunks: list[Any], whole: Any) -> None:
    dialect = find_dialect(name)
    for reply in (dialect.read(whole, TOOLS), read_stream(dialect.reader(TOOLS), chunks)[1]):
        ids = [call.id for call in reply.calls]
        assert all(ids)
        assert len(set(ids)) == len(ids)


# Writing and parsing


@every_dialect
def test_a_conversation_written_and_parsed_is_the_same(dialect: Dialect) -> None:
    expected = said_in_history(dialect.name, CONVERSATION)
    assert dialect.parse(dialect.write(CONVERSATION)) == expected


@every_stream
def test_a_reply_that_goes_back_is_parsed_as_it_was_read(name: str, label: str, chunks: list[Any], whole: Any) -> None:
    dialect = find_dialect(name)
    written = dialect.write([dialect.read(whole, TOOLS).message])
    parsed = dialect.parse(written)
    assert dialect.parse(dialect.write(parsed)) == parsed or not any(call.id in str(whole) for call in parsed[0].calls)
    assert dialect.write(parsed) == written


@every_dialect
def test_results_are_written_in_order_after_their_calls(dialect: Dialect) -> None:
    history = [*dialect.write([Message.assistant("", CALLS)]), *dialect.write_results(RESULTS)]
    text = encodable(history).decode()
    places = [text.find(part) for part in ("sunny, 21", "It took too long", "rain")]
    assert -1 not in places
    assert places == sorted(places)
    assert [result for message in dialect.parse(history) for result in message.results] == RESULTS


@every_dialect
def test_no_results_are_no_messages(dialect: Dialect) -> None:
    assert dialect.write_results([]) == []


@every_vendor
def test_instructions_stand_in_one_place(dialect: Dialect) -> None:
    beside = dialect.system(CONVERSATION)
    inside = "Answer in one sentence." in encodable(dialect.write(CONVERSATION)).decode()
    assert inside == (beside is None)
    assert beside in (None, "Answer in one sentence.")
    assert dialect.system([Message.user("Hello")]) is None


@every_dialect
def test_a_call_without_its_result_is_written_all_the_same(dialect: Dialect) -> None:
    assert dialect.write([Message.user("Now?"), Message.assistant("", [CALLS[1]])])


@every_dialect
@pytest.mark.parametrize("raw", ['{"city": "Pa', "", "[1]", "null", '{"a":1}{"b":2}', "Infinity"])
def test_arguments_that_are_no_object_are_written_all_the_same(dialect: Dialect, raw: str) -> None:
    call = ToolCall("call_one", "forecast", raw, raw=raw)
    history = dialect.write([Message.assistant("", [call]), Message.tool([ToolResult.failed(call, RESULTS[1].error)])])
    encodable(history)
    assert [found.id for message in dialect.parse(history) for found in message.calls] == ["call_one"]


@every_dialect
def test_lone_surrogates_never_reach_a_vendor(dialect: Dialect) -> None:
    bad = "a\ud800b"
    call = ToolCall("call_one", "now", json.dumps({"x": bad}, ensure_ascii=False))
    messages = [
        Message.system(bad),
        Message.user(bad),
        Message.assistant(bad, [call]),
        Message.tool([ToolResult("call_one", "now", bad)]),
    ]
    encodable(dialect.write(messages))
    encodable(dialect.write_results(messages[-1].results))
    encodable(dialect.system(messages))


@every_vendor
def test_what_is_of_another_dialect_is_left_out(dialect: Dialect) -> None:
    foreign = (
        Reasoning("secret thoughts", {"elsewhere": {"signature": "secret"}}),
        Text("Sure.", {"elsewhere": {"secret": 1}}),
        Opaque("elsewhere", {"secret": True}),
        ToolCall("call_one", "now", {}, vendor={"elsewhere": {"secret": 1}}),
    )
    result = ToolResult("call_one", "now", "noon", vendor={"elsewhere": {"secret": 1}})
    written = encodable(dialect.write([Message("assistant", foreign), Message.tool([result])])).decode()
    assert "secret" not in written
    assert "Sure." in written
    assert "noon" in written


@every_dialect
@every_stream
def test_a_conversation_may_move_to_another_vendor(
    dialect: Dialect, name: str, label: str, chunks: list[Any], whole: Any
) -> None:
    message = find_dialect(name).read(whole, TOOLS).message
    answers = [ToolResult(call.id, call.name, "ok", vendor=call.vendor) for call in message.calls]
    written = dialect.write([Message.user("Go."), message, *([Message.tool(answers)] if answers else [])])
    encodable(written)
    parsed = dialect.parse(written)
    assert [result.content for found in parsed for result in found.results] == ["ok"] * len(answers)
