"""The Responses API: items that come back unchanged, ids that must not be mixed up, streams that break off."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseFunctionToolCall

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects.openai_responses import DIALECT
from callbox.messages import CallReady, CallStarted, Media, Message, Opaque, Reasoning, Text, Usage
from wire.streams_openai_responses import STREAMS

JsonObject = dict[str, Any]
WHOLE = {name: whole for name, _, whole in STREAMS}
CHUNKS = {name: chunks for name, chunks, _ in STREAMS}
REASONED = WHOLE["reasoning and a call"]


def stream(*events: JsonObject) -> Any:
    reader = DIALECT.reader()
    found = [event for chunk in events for event in reader.feed(chunk)]
    return found + reader.finish()


def added(index: int, **item: Any) -> JsonObject:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int, **item: Any) -> JsonObject:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def delta(kind: str, text: str, **more: Any) -> JsonObject:
    return {"type": f"response.{kind}.delta", "delta": text, **more}


@pytest.mark.parametrize(("name", "chunks", "whole"), STREAMS, ids=[name for name, _, _ in STREAMS])
def test_a_stream_reads_as_the_whole_does_to_the_last_detail(name: str, chunks: list[Any], whole: Any) -> None:
    assert stream(*chunks)[-1].reply == DIALECT.read(whole)


# Reading


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("text", "stop"),
        ("reasoning and a call", "calls"),
        ("a call cut by the token limit", "length"),
        ("content filter", "filter"),
        ("refusal", "refusal"),
        ("failed", "unknown"),
    ],
)
def test_why_the_model_stopped(name: str, finish: str) -> None:
    assert DIALECT.read(WHOLE[name]).finish == finish


@pytest.mark.parametrize(
    ("more", "finish"),
    [
        ({}, "stop"),
        ({"status": "queued"}, "unknown"),
        ({"status": "incomplete"}, "unknown"),
        ({"status": "incomplete", "incomplete_details": {"reason": "steered"}}, "unknown"),
    ],
)
def test_why_a_gateways_model_stopped(more: JsonObject, finish: str) -> None:
    assert DIALECT.read({"output": [], **more}).finish == finish


def test_usage_with_what_was_cached_and_thought() -> None:
    assert DIALECT.read(REASONED).usage == Usage(120, 60, cached_tokens=100, reasoning_tokens=40, requests=1)


def test_a_call_is_known_by_its_call_id_and_not_by_its_items_id() -> None:
    (call,) = DIALECT.read(REASONED).calls
    assert (call.id, call.name) == ("call_1", "forecast")
    assert DIALECT.write_results([ToolResult(call.id, call.name, "ok")]) == [
        {"type": "function_call_output", "call_id": "call_1", "output": "ok"}
    ]


def test_a_call_without_a_call_id_gets_one_that_all_events_share() -> None:
    item = {"id": "fc_1", "type": "function_call", "name": "f", "arguments": "{}", "status": "completed"}
    response = {"status": "completed", "output": [item]}
    events = stream(
        added(0, **{**item, "arguments": ""}),
        delta("function_call_arguments", "{}", item_id="fc_1", output_index=0),
        done(0, **item),
        {"type": "response.completed", "response": response},
    )
    ids = {event.id for event in events if isinstance(event, CallStarted)}
    ids |= {event.call.id for event in events if isinstance(event, CallReady)}
    ids |= {call.id for call in events[-1].reply.calls}
    assert len(ids) == 1
    assert ids.pop().startswith("call_")
    assert DIALECT.read(response).calls[0].id.startswith("call_")


def test_reasoning_shows_its_summary_and_keeps_what_is_encrypted() -> None:
    reasoning = DIALECT.read(REASONED).message.content[0]
    assert isinstance(reasoning, Reasoning)
    assert reasoning.text == "First this.\n\nThen that."
    assert reasoning.vendor == {"openai-responses": {"item": REASONED["output"][0]}}


def test_a_status_of_null_is_an_sdks_and_does_not_go_back() -> None:
    item = {"id": "rs_1", "type": "reasoning", "summary": [], "status": None}
    after = {"id": "fc_1", "type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    message = DIALECT.read({"output": [item, after]}).message
    assert DIALECT.write([message])[0] == {"id": "rs_1", "type": "reasoning", "summary": []}


def test_what_the_sdk_adds_is_not_sent_back() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "parsed_arguments": {}}
    text = {"type": "output_text", "text": "x", "annotations": [], "parsed": {}}
    output = [{"id": "m", "type": "message", "role": "assistant", "content": [text]}, call]
    written = str(DIALECT.write([DIALECT.read({"output": output}).message]))
    assert "parsed" not in written


# Streams that are not as they should be


def test_what_had_come_when_a_stream_was_cut() -> None:
    events = stream(
        {"type": "response.created", "response": {"status": "in_progress", "model": "m", "output": []}},
        added(0, id="rs_1", type="reasoning", summary=[]),
        delta("reasoning_text", "Hm", item_id="rs_1", output_index=0, content_index=0),
        added(1, id="msg_1", type="message", role="assistant", content=[]),
        delta("output_text", "He", item_id="msg_1", output_index=1, content_index=0),
        delta("refusal", "No", item_id="msg_1", output_index=1, content_index=1),
        added(2, id="fc_1", type="function_call", call_id="call_1", name="f", arguments=""),
        delta("function_call_arguments", '{"a"', item_id="fc_1", output_index=2),
        added(3, id="ws_1", type="web_search_call", status="in_progress"),
    )
    reply = events[-1].reply
    assert (reply.finish, reply.refusal, reply.model) == ("unknown", "No", "m")
    assert reply.message.content[:2] == (Reasoning("Hm"), Text("He"))
    assert reply.calls == (ToolCall("call_1", "f", '{"a"'),)
    # The API does not know the items that were not done: nothing of them goes back under an id.
    assert "_1'" not in str(DIALECT.write([reply.message])).replace("call_1'", "")


def test_deltas_without_their_item_are_read_all_the_same() -> None:
    reply = stream(
        delta("function_call_arguments", '{"a":1}'),
        delta("function_call_arguments", " "),
        delta("output_text", "Hi"),
        delta("output_text", ""),
        delta("reasoning_summary_text", ""),
    )[-1].reply
    assert [call.arguments for call in reply.calls] == ['{"a":1} ']
    assert reply.message.text == "Hi"


def test_arguments_that_are_done_without_deltas() -> None:
    events = stream(
        added(0, id="fc_1", type="function_call", call_id="a", name="f", arguments=""),
        {"type": "response.function_call_arguments.done", "item_id": "fc_1", "output_index": 0, "arguments": '{"a":1}'},
    )
    assert [event.call for event in events if isinstance(event, CallReady)] == [ToolCall("a", "f", '{"a":1}')]


def test_an_item_that_is_done_before_it_was_added() -> None:
    item = {"id": "fc_1", "type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    (call,) = stream(done(0, **item))[-1].reply.calls
    assert (call.id, call.name, call.arguments) == ("a", "f", "{}")


def test_two_calls_under_one_index_are_two_calls() -> None:
    def item(name: str) -> JsonObject:
        return {"id": f"fc_{name}", "type": "function_call", "call_id": name, "name": name, "arguments": "{}"}

    reply = stream(added(0, **item("a")), added(0, **item("b")), done(0, **item("a")), done(0, **item("b")))[-1].reply
    assert [call.name for call in reply.calls] == ["a", "b"]


def test_an_incomplete_call_is_not_ready() -> None:
    events = stream(*CHUNKS["a call cut by the token limit"])
    assert not [event for event in events if isinstance(event, CallReady)]


def test_an_error_event_leaves_what_had_come() -> None:
    reply = stream(delta("output_text", "Hi"), {"type": "error", "message": "overloaded"})[-1].reply
    assert (reply.message.text, reply.finish) == ("Hi", "unknown")


def test_an_empty_stream_is_an_empty_reply() -> None:
    reply = stream()[-1].reply
    assert (reply.message, reply.finish, reply.usage) == (Message("assistant", ()), "unknown", Usage())


# Writing


def test_reasoning_that_led_to_nothing_is_left_out() -> None:
    message = DIALECT.read({"output": [REASONED["output"][0]]}).message
    assert DIALECT.write([message]) == []


def test_without_its_reasoning_an_item_goes_back_without_its_id() -> None:
    text = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": "commentary",
        "content": [
            {"type": "output_text", "text": "Hi", "annotations": []},
            {"type": "refusal", "refusal": "No."},
        ],
    }
    message = DIALECT.read({"output": [REASONED["output"][0], text, REASONED["output"][1]]}).message
    shortened = Message("assistant", message.content[1:])
    assert DIALECT.write([shortened]) == [
        {"role": "assistant", "content": "Hi", "phase": "commentary"},
        {"role": "assistant", "content": "No.", "phase": "commentary"},
        {
            "type": "function_call",
            "call_id": "call_1",
            "name": "forecast",
            "arguments": '{"city":"Paris","days":3}',
            "status": "completed",
        },
    ]
    assert DIALECT.write([message])[1] == text


def test_messages_that_the_api_made_stay_apart() -> None:
    output = [
        {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": str(number), "annotations": []}],
        }
        for number in range(2)
    ]
    assert DIALECT.write([DIALECT.read({"output": output}).message]) == output


def test_the_caller_of_a_call_goes_back_with_its_result() -> None:
    caller = {"type": "program", "caller_id": "prog_1"}
    item = {"id": "fc_1", "type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "caller": caller}
    (call,) = DIALECT.read({"output": [item]}).calls
    (written,) = DIALECT.write_results([ToolResult(call.id, call.name, "ok", vendor=call.vendor)])
    assert written["caller"] == caller


def test_long_ids_are_shortened_alike_in_call_and_result() -> None:
    call = ToolCall("x" * 70, "f", {})
    first, second = DIALECT.write([Message.assistant("", [call]), Message.tool([ToolResult(call.id, "f", "ok")])])
    assert first["call_id"] == second["call_id"]
    assert len(first["call_id"]) <= 64


# Parsing


def test_a_history_of_all_sorts_comes_back_as_it_was() -> None:
    history: list[JsonObject] = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}}],
        },
        {"role": "user", "content": [{"type": "input_image", "detail": "low", "image_url": "https://x/a.png"}]},
        {"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]},
        {"role": "user", "content": [{"type": "input_file", "filename": "file", "file_data": "https://x"}]},
        *REASONED["output"],
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_2", "name": "sql", "input": "SELECT 1"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "1"},
        {"type": "function_call_output", "call_id": "call_9", "output": [{"type": "input_text", "text": "x"}]},
        {"type": "item_reference", "id": "msg_7"},
        {"role": "assistant", "content": "Bye.", "phase": "final_answer"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Bye."}]},
    ]
    parsed = DIALECT.parse(history)
    assert [message.role for message in parsed] == [
        *("system", "user", "user", "user", "user", "assistant", "tool", "assistant", "tool", "assistant")
    ]
    written = DIALECT.write(parsed)
    assert written[:-1] == history[:-1]
    assert written[-1] == {"role": "assistant", "content": "Bye."}


def test_an_empty_text_of_an_assistant_is_none() -> None:
    assert DIALECT.parse([{"role": "assistant", "content": ""}]) == [Message("assistant", ())]


def test_a_result_without_its_call_keeps_what_it_says_of_itself() -> None:
    item = {"type": "function_call_output", "call_id": "a", "name": "f", "output": "ok"}
    assert DIALECT.parse([item]) == [Message.tool([ToolResult("a", "f", "ok")])]


def test_sdk_objects_may_stand_in_a_history() -> None:
    call = ResponseFunctionToolCall(type="function_call", call_id="a", name="f", arguments="{}")
    assert DIALECT.parse([call]) == [Message.assistant("", [ToolCall("a", "f", {})])]


@pytest.mark.parametrize(
    "media",
    [
        Media("image/png", data="AA=="),
        Media("image/*", url="https://x/a"),
        Media("application/pdf", data="AA=="),
        Media("application/octet-stream", url="https://x/a.pdf"),
    ],
)
def test_media_go_and_come_back(media: Media) -> None:
    message = Message("user", (Text("This:"), media))
    assert DIALECT.parse(DIALECT.write([message])) == [message]


def test_what_is_of_another_dialect_is_left_out_everywhere() -> None:
    foreign = Opaque("elsewhere", {"item": {"type": "x"}, "part": {}, "message": {"y": 1}})
    messages = [Message("user", (foreign, Text("Hi"))), Message("assistant", (foreign,)), Message("tool", (foreign,))]
    assert DIALECT.write(messages) == [{"role": "user", "content": "Hi"}]
