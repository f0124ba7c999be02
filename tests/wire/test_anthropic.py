"""Anthropic Messages: what we write against the SDK's types, what we read from its objects, and the API's rules."""

import json
from typing import Any

import pytest
from anthropic.types import Message as VendorMessage
from anthropic.types import MessageParam, RawMessageStreamEvent, ToolParam
from pydantic import TypeAdapter

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.dialects.anthropic import DIALECT
from callbox.messages import (
    CallReady,
    CallStarted,
    Finished,
    Media,
    Message,
    Opaque,
    Reasoning,
    ReasoningDelta,
    Text,
    TextDelta,
    Usage,
)
from callbox.tools.tool import Tool
from dialect_samples import CONVERSATION, RESULTS, TOOLS, read_stream
from wire.streams_anthropic import STREAMS

a_message = TypeAdapter(MessageParam)
a_tool = TypeAdapter(ToolParam)
an_event = TypeAdapter(RawMessageStreamEvent)
every_reply = pytest.mark.parametrize(
    ("chunks", "whole"), [(chunks, whole) for _, chunks, whole in STREAMS], ids=[name for name, _, _ in STREAMS]
)


def taken_by_the_sdk(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        a_message.validate_python(message, strict=False)


def block(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def reply(*content: dict[str, Any], stop: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 5}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-6"}
    return {**head, "content": list(content), "stop_reason": stop, "usage": usage, **more}


def streamed(*events: dict[str, Any]) -> Any:
    return read_stream(DIALECT.reader(), list(events))


def begin(index: int | None, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int | None, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(reason: str) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7}}


# Against the vendor's SDK


@pytest.mark.parametrize("strict", [False, True])
def test_the_sdk_takes_the_definitions(strict: bool) -> None:
    for item in DIALECT.define(TOOLS, strict=strict):
        assert a_tool.validate_python(item) == item
        assert item["input_schema"]["type"] == "object"


def test_the_sdk_takes_a_conversation() -> None:
    taken_by_the_sdk(DIALECT.write(CONVERSATION))
    taken_by_the_sdk(DIALECT.write_results(RESULTS))


@every_reply
def test_the_sdks_object_reads_like_the_wire(chunks: list[Any], whole: Any) -> None:
    assert DIALECT.read(VendorMessage.model_validate(whole)) == DIALECT.read(whole)


@every_reply
def test_the_sdks_events_read_like_the_wire(chunks: list[Any], whole: Any) -> None:
    events = [an_event.validate_python(chunk) for chunk in chunks if chunk["type"] != "ping"]
    assert read_stream(DIALECT.reader(), events) == read_stream(DIALECT.reader(), chunks)


@every_reply
def test_the_sdk_takes_every_reply_back_as_it_came(chunks: list[Any], whole: Any) -> None:
    message = DIALECT.read(whole).message
    written = DIALECT.write([message])
    taken_by_the_sdk(written)
    content = [{key: item for key, item in found.items() if item is not None} for found in whole["content"]]
    assert [found["content"] for found in written] == ([content] if content else [])
    assert DIALECT.write([read_stream(DIALECT.reader(), chunks)[1].message]) == written


def test_deep_arguments_in_an_sdk_object_are_read_all_the_same() -> None:
    deep: dict[str, Any] = {}
    for _ in range(2_000):
        deep = {"a": deep}
    found = VendorMessage.construct(**reply(block("tool_use", id="t", name="now", input=deep), stop="tool_use"))
    assert DIALECT.read(found).calls[0].arguments is not None


# Reading


def test_usage_counts_cached_tokens_as_input() -> None:
    usage = {
        "input_tokens": 3,
        "output_tokens": 50,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 100,
        "output_tokens_details": {"thinking_tokens": 30},
    }
    assert DIALECT.read(reply(usage=usage)).usage == Usage(123, 50, 100, 30, 1)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "paused"),
        ("refusal", "refusal"),
        ("something new", "unknown"),
        (None, "unknown"),
    ],
)
def test_each_stop_reason_has_its_finish(reason: str | None, finish: str) -> None:
    assert DIALECT.read(reply(stop=reason)).finish == finish


def test_a_refusal_says_why_as_far_as_the_vendor_does() -> None:
    assert DIALECT.read(reply(stop="refusal", stop_details={"explanation": "No."})).refusal == "No."
    assert DIALECT.read(reply(block("text", text="I won't."), stop="refusal")).refusal == "I won't."
    assert DIALECT.read(reply(stop="refusal", stop_details={"category": "bio"})).refusal == "bio"
    assert DIALECT.read(reply(stop="refusal")).refusal == "The model refused to answer."
    assert DIALECT.read(reply(block("text", text="Yes."))).refusal is None


@pytest.mark.parametrize("given", ["text", '{"a": 1}', [1], 5, False])
def test_arguments_that_are_no_object_are_kept_for_the_gate(given: Any) -> None:
    assert DIALECT.read(reply(block("tool_use", id="t", name="now", input=given))).calls[0].arguments == given


def test_a_call_without_arguments_or_id_is_a_call() -> None:
    call = DIALECT.read(reply(block("tool_use", name="now"))).calls[0]
    assert call.arguments == {}
    assert call.id.startswith("call_")


def test_a_call_that_was_cut_off_is_marked_and_no_other() -> None:
    calls = [block("tool_use", id=name, name="now", input={"a": 1}) for name in ("one", "two")]
    first, second = DIALECT.read(reply(*calls, stop="max_tokens")).calls
    assert first.error is None
    assert second.error is not None
    assert second.error.code == "malformed_json"
    text = block("text", text="and")
    assert [call.error for call in DIALECT.read(reply(calls[0], text, stop="max_tokens")).calls] == [None]


def test_unknown_blocks_come_back_as_they_were() -> None:
    found = block("hologram", data={"x": [1]})
    message = DIALECT.read(reply(found)).message
    assert message.content == (Opaque("anthropic", found),)
    assert DIALECT.write([message])[0]["content"] == [found]


# Streams that are not as they should be


def test_arguments_stay_the_text_that_was_streamed() -> None:
    broken = '{"lines": ["a", '
    events, got = streamed(
        begin(0, type="tool_use", id="t", name="now", input={}),
        delta(0, "input_json_delta", partial_json=broken),
        stop(0),
        end("tool_use"),
    )
    assert got.calls == (ToolCall("t", "now", broken),)
    assert [event for event in events if isinstance(event, CallReady)] == [CallReady(0, got.calls[0])]


def test_a_truncated_call_is_never_ready() -> None:
    for events in (
        [delta(0, "input_json_delta", partial_json='{"city": "Pa'), stop(0), end("max_tokens")],
        [delta(0, "input_json_delta", partial_json='{"city": "Pa')],
        [],
    ):
        seen, got = streamed(begin(0, type="tool_use", id="t", name="now", input={}), *events)
        assert not any(isinstance(event, CallReady) for event in seen)
        assert got.calls[0].arguments == ('{"city": "Pa' if events else "")


def test_a_call_that_ended_before_its_arguments_began_is_no_call_without_arguments() -> None:
    _, got = streamed(begin(0, type="tool_use", id="t", name="now", input={}), stop(0), end("max_tokens"))
    assert got.finish == "length"
    assert got.calls[0].error is not None
    _, lost = streamed(begin(0, type="tool_use", id="t", name="now", input={}))
    assert lost.calls[0].error is not None


def test_a_call_without_arguments_is_ready_when_the_next_block_begins() -> None:
    reader = DIALECT.reader()
    reader.feed(begin(0, type="tool_use", id="one", name="now", input={}))
    assert reader.feed(stop(0)) == []
    events = reader.feed(begin(1, type="tool_use", id="two", name="now", input={}))
    assert CallReady(0, ToolCall("one", "now", "{}")) in events
    assert CallStarted(1, "two", "now") in events


def test_input_given_at_the_start_counts_where_no_delta_comes() -> None:
    _, got = streamed(begin(0, type="tool_use", id="t", name="now", input={"a": 1}), stop(0), end("tool_use"))
    assert json.loads(got.calls[0].arguments) == {"a": 1}


def test_deltas_without_an_index_go_to_the_block_begun_last() -> None:
    _, got = streamed(
        begin(None, type="text", text="He"),
        delta(None, "text_delta", text="llo"),
        begin(None, type="tool_use", id="t", name="now", input={}),
        delta(None, "input_json_delta", partial_json="{}"),
        end("tool_use"),
    )
    assert got.message.text == "Hello"
    assert got.calls == (ToolCall("t", "now", "{}"),)


def test_a_start_that_comes_twice_is_one_call() -> None:
    start = begin(0, type="tool_use", id="t", name="now", input={})
    _, got = streamed(start, start, delta(0, "input_json_delta", partial_json="{}"), end("tool_use"))
    assert got.calls == (ToolCall("t", "now", "{}"),)


def test_interleaved_calls_are_told_apart_by_their_index() -> None:
    _, got = streamed(
        begin(0, type="tool_use", id="a", name="now", input={}),
        begin(1, type="tool_use", id="b", name="now", input={}),
        delta(1, "input_json_delta", partial_json='{"n":'),
        delta(0, "input_json_delta", partial_json='{"n": 0'),
        delta(1, "input_json_delta", partial_json="1}"),
        delta(0, "input_json_delta", partial_json="}"),
        end("tool_use"),
    )
    assert [call.arguments for call in got.calls] == ['{"n": 0}', '{"n":1}']


def test_deltas_whose_start_was_lost_begin_a_block_of_their_kind() -> None:
    events, got = streamed(
        delta(4, "signature_delta", signature="lost"),
        delta(0, "thinking_delta", thinking="Hm."),
        delta(1, "text_delta", text="So: "),
        delta(1, "input_json_delta", partial_json='{"a":'),
        delta(1, "input_json_delta", partial_json="1}"),
        delta(9, "text_delta", text=""),
        delta(9, "input_json_delta", partial_json=""),
        end("tool_use"),
    )
    assert [type(part) for part in got.message.content] == [Reasoning, Text, ToolCall]
    assert (got.calls[0].name, got.calls[0].arguments) == ("", '{"a":1}')
    assert [event.text for event in events if isinstance(event, (ReasoningDelta, TextDelta))] == ["Hm.", "So: "]


def test_text_at_the_start_of_a_block_is_told_at_once() -> None:
    events, got = streamed(begin(0, type="thinking", thinking="Hm", signature=""), begin(1, type="text", text="So"))
    assert events[:-1] == [ReasoningDelta("Hm"), TextDelta("So")]
    assert got.finish == "unknown"


def test_unknown_deltas_are_kept_in_their_block() -> None:
    _, got = streamed(
        begin(0, type="compaction", content=None),
        delta(0, "compaction_delta", content="short", size=5),
        delta(0, "compaction_delta", content="er"),
        {"type": "something_new"},
        stop(7),
        end("end_turn"),
    )
    assert got.message.content == (Opaque("anthropic", {"type": "compaction", "content": "shorter", "size": 5}),)


def test_a_vendors_own_call_with_broken_input_keeps_an_object() -> None:
    _, got = streamed(
        begin(0, type="server_tool_use", id="s", name="web_search", input={}),
        delta(0, "input_json_delta", partial_json='{"que'),
        end("max_tokens"),
    )
    assert got.message.content[0].data["input"] == {}


def test_after_the_end_nothing_is_read() -> None:
    reader = DIALECT.reader()
    assert isinstance(reader.finish()[-1], Finished)
    assert reader.finish() == []
    assert reader.feed(begin(0, type="text", text="late")) == []


# Writing


def test_results_come_first_in_the_users_turn() -> None:
    written = DIALECT.write([Message.user("Also:"), Message.tool(RESULTS), Message.user("Thanks.")])
    assert len(written) == 1
    assert [found["type"] for found in written[0]["content"]] == ["tool_result"] * 3 + ["text"] * 2


def test_turns_of_one_role_are_joined_and_empty_ones_left_out() -> None:
    written = DIALECT.write(
        [Message.user("a"), Message.assistant(" \n"), Message.user("b"), Message.assistant("c"), Message.assistant("d")]
    )
    assert [(found["role"], len(found["content"])) for found in written] == [("user", 2), ("assistant", 2)]


def test_errors_are_flagged() -> None:
    flags = [found.get("is_error") for found in DIALECT.write_results(RESULTS)[0]["content"]]
    assert flags == [None, True, None]


def test_an_empty_result_has_no_content() -> None:
    written = DIALECT.write_results([ToolResult("t", "now", "")])
    assert "content" not in written[0]["content"][0]
    assert DIALECT.parse(written) == [Message.tool([ToolResult("t", "", "")])]


def test_thoughts_without_a_signature_are_left_out() -> None:
    assert DIALECT.write([Message("assistant", (Reasoning("Hm.", {"anthropic": {"type": "thinking"}}),))]) == []


@pytest.mark.parametrize(
    "media",
    [
        Media("image/png", data="iVBORw0KGgo="),
        Media("image/*", url="https://example.com/a.png"),
        Media("application/pdf", data="JVBERi0="),
        Media("application/pdf", url="https://example.com/a.pdf"),
    ],
)
def test_media_that_the_api_takes_come_back(media: Media) -> None:
    message = Message("user", (media, Text("What is this?")))
    written = DIALECT.write([message])
    taken_by_the_sdk(written)
    assert DIALECT.parse(written) == [message]


@pytest.mark.parametrize(
    ("media", "text"),
    [
        (Media("text/plain", data="aMOp"), "hé"),
        (Media("audio/wav", data="UklGRg=="), "[An attachment of type audio/wav, which this API cannot take.]"),
        (
            Media("video/mp4", url="https://example.com/v"),
            "[An attachment of type video/mp4 at https://example.com/v, which this API cannot take.]",
        ),
        (Media("image/tiff", data="SUkq"), "[An attachment of type image/tiff, which this API cannot take.]"),
    ],
)
def test_other_media_become_text(media: Media, text: str) -> None:
    assert DIALECT.write([Message("user", (media,))])[0]["content"] == [{"type": "text", "text": text}]


def test_a_document_that_says_more_than_media_can_is_kept_whole() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    for found in (
        block("document", source=source, title="Contract"),
        block("document", source={"type": "file", "file_id": "file_1"}),
    ):
        message = {"role": "user", "content": [found]}
        taken_by_the_sdk([message])
        assert DIALECT.write(DIALECT.parse([message])) == [message]


# Parsing


def test_a_plain_history_is_parsed() -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [block("text", text="There?", cache_control={"type": "ephemeral"})]},
        "garbage",
    ]
    system, hi, empty, there, garbage = DIALECT.parse(history)
    assert (system, hi, empty) == (Message.system("Be brief."), Message.user("Hi"), Message("assistant", ()))
    assert there.text == "There?"
    assert DIALECT.write([there]) == [history[3]]
    assert garbage == Message("user", ())


def test_a_result_of_blocks_is_read_as_text_and_goes_back_as_blocks() -> None:
    content = [block("text", text="a"), block("image", source={"type": "url", "url": "https://x.example/i"})]
    history = [
        {"role": "assistant", "content": [block("tool_use", id="t", name="now", input={})]},
        {"role": "user", "content": [block("tool_result", tool_use_id="t", content=content)]},
    ]
    parsed = DIALECT.parse(history)
    assert parsed[1].results[0].content == "a"
    assert parsed[1].results[0].name == "now"
    assert DIALECT.write(parsed) == history


def test_an_error_of_somebody_else_is_an_error() -> None:
    found = block("tool_result", tool_use_id="t", content="Boom", is_error=True)
    result = DIALECT.parse([{"role": "user", "content": [found]}])[0].results[0]
    assert result == ToolResult("t", "", "Boom", CallError("tool_failed", "Boom"))
    assert DIALECT.write_results([result])[0]["content"] == [found]


def test_what_a_call_must_get_back_stays_with_it_and_its_result() -> None:
    found = block("tool_use", id="t", name="click", input={}, toolset_name="browser", caller={"type": "direct"})
    call = DIALECT.read(reply(found)).calls[0]
    result = ToolResult(call.id, call.name, "ok", vendor=call.vendor)
    written = DIALECT.write([Message.assistant("", [call]), Message.tool([result])])
    taken_by_the_sdk(written)
    assert written[0]["content"] == [found]
    assert written[1]["content"][0]["toolset_name"] == "browser"
    assert DIALECT.parse(written) == [Message.assistant("", [call]), Message.tool([result])]


# Parameters under names that the API refuses


def test_parameters_with_refused_names_are_renamed_and_named_back() -> None:
    properties = {"größe": {"type": "integer"}, "gr__e": {"type": "string"}, "x" * 70: {}, "ok": {}, "": {}}
    schema = {"type": "object", "properties": properties, "required": ["größe", "ok"]}
    tool = Tool("size", "Sizes.", {**schema, "dependentRequired": {"größe": ["ok"]}})
    definitions = DIALECT.define([tool])
    offered = definitions[0]["input_schema"]
    assert a_tool.validate_python(definitions[0])
    assert len(offered["properties"]) == 5
    assert {"gr__e", "ok"} <= offered["properties"].keys()
    assert [loss.keyword for loss in definitions.losses] == ["dependentRequired"]
    sent = {name: number for number, name in enumerate(offered["properties"])}
    assert DIALECT.restore(tool, sent) == {name: number for number, name in enumerate(properties)}
    assert set(offered["required"]) <= offered["properties"].keys()
