"""Chat Completions: what is kept, what is made up, and what goes back where."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.chat_completion_message_function_tool_call import ChatCompletionMessageFunctionToolCall

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects.openai_chat import DIALECT
from callbox.messages import Finished, Media, Message, Opaque, Reasoning, Reply, Text, Usage
from wire.streams_openai import STREAMS

JsonObject = dict[str, Any]
WHOLE = {name: whole for name, _, whole in STREAMS}


def choice(message: JsonObject, finish: str | None = "stop", **more: Any) -> JsonObject:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


def reply_of(deltas: list[JsonObject], finish: str | None = "stop") -> Reply:
    reader = DIALECT.reader()
    for delta in deltas:
        reader.feed({"choices": [{"index": 0, "delta": delta}]})
    reader.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    (*_, last) = reader.finish()
    assert isinstance(last, Finished)
    return last.reply


@pytest.mark.parametrize(("name", "chunks", "whole"), STREAMS, ids=[name for name, _, _ in STREAMS])
def test_a_stream_reads_as_the_whole_does_to_the_last_detail(name: str, chunks: list[Any], whole: Any) -> None:
    read = DIALECT.read(whole)
    reader = DIALECT.reader()
    for chunk in chunks:
        reader.feed(chunk)
    streamed = reader.finish()[-1].reply
    if not ({call.id for call in read.calls} ^ {call.id for call in streamed.calls}):
        assert streamed == read
    else:
        assert [call.arguments for call in streamed.calls] == [call.arguments for call in read.calls]
        assert not any(call["id"] for call in whole["choices"][0]["message"].get("tool_calls", ()) if "id" in call)


# Reading


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("text", "stop"),
        ("one call", "calls"),
        ("a call cut by the token limit", "length"),
        ("refusal", "refusal"),
        ("content filter", "filter"),
        ("legacy function_call", "calls"),
        ("compatible: arguments as an object, no ids, one index, finish stop (Ollama)", "calls"),
        ("compatible: an unknown finish reason", "unknown"),
        ("compatible: no finish reason at all", "unknown"),
    ],
)
def test_why_the_model_stopped(name: str, finish: str) -> None:
    assert DIALECT.read(WHOLE[name]).finish == finish


def test_usage_with_what_was_cached_and_thought() -> None:
    assert DIALECT.read(WHOLE["text"]).usage == Usage(82, 17, cached_tokens=64, reasoning_tokens=5, requests=1)
    deepseek = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}
    assert DIALECT.read(choice({"content": "x"}, usage=deepseek)).usage.cached_tokens == 8
    assert DIALECT.read(choice({"content": "x"})).usage == Usage(requests=1)
    assert DIALECT.read({}).usage == Usage()


def test_usage_beside_the_choice_counts_too() -> None:
    reader = DIALECT.reader()
    reader.feed({"choices": [{"index": 0, "delta": {"content": "x"}, "usage": {"prompt_tokens": 4}}]})
    assert reader.finish()[-1].reply.usage.input_tokens == 4


def test_a_refusal_is_said_apart_and_goes_back_where_it_was() -> None:
    reply = DIALECT.read(WHOLE["refusal"])
    assert (reply.refusal, reply.message.text) == ("I can't help with that.", "")
    assert DIALECT.write([reply.message]) == [
        {"role": "assistant", "content": None, "refusal": "I can't help with that."}
    ]


def test_a_refusal_may_be_a_content_part() -> None:
    part = {"type": "refusal", "refusal": "No."}
    reply = DIALECT.read(choice({"role": "assistant", "content": [part]}))
    assert (reply.finish, reply.refusal) == ("refusal", "No.")
    assert DIALECT.write([reply.message]) == [{"role": "assistant", "content": [part]}]


def test_calls_of_custom_tools_are_kept_in_their_place_and_not_read() -> None:
    reply = DIALECT.read(WHOLE["a custom tool's call between two functions"])
    assert [type(part) for part in reply.message.content] == [ToolCall, Opaque, ToolCall]
    (written,) = DIALECT.write([reply.message])
    assert [call["type"] for call in written["tool_calls"]] == ["function", "custom", "function"]


def test_arguments_of_a_call_are_the_text_as_it_came() -> None:
    (call,) = DIALECT.read(
        choice({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{ "x":1}'}}]})
    ).calls
    assert call == ToolCall("a", "f", '{ "x":1}')


@pytest.mark.parametrize(
    ("item", "expected"),
    [({"function": {"name": "f"}}, ("f", "")), ({"function": {}}, ("", "")), ({"function": {"name": 5}}, ("", ""))],
)
def test_a_call_that_lacks_something_is_a_call_all_the_same(item: JsonObject, expected: tuple[str, str]) -> None:
    (call,) = DIALECT.read(choice({"tool_calls": [item]})).calls
    assert (call.name, call.arguments) == expected
    assert call.id.startswith("call_")


def test_what_only_gemini_understands_of_a_call_goes_back_with_it() -> None:
    reply = DIALECT.read(WHOLE["compatible: a thought signature beside the call (Gemini)"])
    (written,) = DIALECT.write([reply.message])
    assert written["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "CvsB"}}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_shown_thoughts_go_back_under_the_name_they_came_under(field: str) -> None:
    reply = DIALECT.read(choice({"content": "Hi", field: "Hm."}))
    assert reply.message.content == (Reasoning("Hm.", {"openai": {"field": field}}), Text("Hi"))
    assert DIALECT.write([reply.message]) == [{"role": "assistant", "content": "Hi", field: "Hm."}]


def test_a_name_that_comes_in_pieces() -> None:
    deltas: list[JsonObject] = [
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "fore", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "cast", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]
    assert reply_of(deltas, "tool_calls").calls == (ToolCall("a", "forecast", "{}"),)


def test_a_last_delta_may_be_called_message() -> None:
    reader = DIALECT.reader()
    reader.feed({"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]})
    assert reader.finish()[-1].reply.message == Message.assistant("Hi")


def test_content_parts_that_are_unknown_are_kept() -> None:
    part = {"type": "reference", "reference_ids": [1]}
    whole = choice({"content": [{"type": "text", "text": "See "}, part]})
    assert DIALECT.read(whole).message.content == (Text("See "), Opaque("openai", {"part": part}))
    assert reply_of([{"content": "See "}, {"content": [part]}]).message == DIALECT.read(whole).message


def test_fields_that_are_not_known_to_be_text_or_objects_do_no_harm() -> None:
    reply = reply_of(
        [{"annotations": [1]}, {"annotations": [2]}, {"x": "a"}, {"x": 5}, {"y": {"z": "b"}}, {"y": {"z": "c"}}]
    )
    assert reply.message.content == (Opaque("openai", {"message": {"annotations": [1, 2], "x": 5, "y": {"z": "bc"}}}),)


def test_what_the_sdk_adds_is_not_sent_back() -> None:
    assert DIALECT.read(choice({"content": "{}", "parsed": {"a": 1}})).message == Message.assistant("{}")


# Writing


def test_audio_goes_back_by_its_id() -> None:
    (written,) = DIALECT.write([DIALECT.read(WHOLE["audio"]).message])
    assert written == {"role": "assistant", "content": None, "audio": {"id": "audio_9"}}


def test_an_assistant_who_said_nothing_has_empty_content() -> None:
    assert DIALECT.write([Message("assistant", ())]) == [{"role": "assistant", "content": ""}]


def test_several_texts_stay_several() -> None:
    message = Message("assistant", (Text("One."), Text("Two.")))
    assert DIALECT.parse(DIALECT.write([message])) == [message]


def test_ids_and_names_that_openai_refuses_are_changed_alike_in_call_and_result() -> None:
    call = ToolCall("x" * 50, "functions.get", {})
    assistant, tool = DIALECT.write(
        [Message.assistant("", [call]), Message.tool([ToolResult(call.id, call.name, "ok")])]
    )
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"]
    assert len(tool["tool_call_id"]) <= 40
    assert assistant["tool_calls"][0]["function"]["name"] == "functions_get"


def test_results_alone_keep_the_id_that_the_users_own_history_has() -> None:
    assert DIALECT.write_results([ToolResult("x" * 50, "f", "ok")])[0]["tool_call_id"] == "x" * 50


def test_a_legacy_call_is_answered_in_the_legacy_way() -> None:
    reply = DIALECT.read(WHOLE["legacy function_call"])
    (call,) = reply.calls
    history = DIALECT.write(
        [reply.message, Message.tool([ToolResult(call.id, call.name, "sunny", vendor=call.vendor)])]
    )
    assert history == [
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "forecast", "arguments": '{"city":"Paris","days":3}'},
        },
        {"role": "function", "name": "forecast", "content": "sunny"},
    ]
    assistant, results = DIALECT.parse(history)
    assert results.results[0].call_id == assistant.calls[0].id


# Parsing


def test_roles_and_fields_that_are_not_ours_survive() -> None:
    history: list[JsonObject] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "ada", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "low"}}]},
        {"role": "critic", "content": "Hm"},
        {"role": "assistant", "content": "Yes", "name": "bot"},
    ]
    parsed = DIALECT.parse(history)
    assert [message.role for message in parsed] == ["system", "user", "user", "user", "system", "assistant"]
    assert DIALECT.write(parsed) == history


def test_results_of_one_turn_are_one_message_and_keep_the_names_of_their_calls() -> None:
    history = [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}},
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "b",
            "content": [{"type": "text", "text": "on"}, {"type": "text", "text": "e"}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "two"},
        {"role": "tool", "tool_call_id": "c", "name": "h", "content": None},
    ]
    calls, results = DIALECT.parse(history)
    assert calls.calls == (ToolCall("a", "f", {}), ToolCall("b", "g", "{"))
    assert results == Message.tool([ToolResult("b", "g", "one"), ToolResult("a", "f", "two"), ToolResult("c", "h", "")])


def test_sdk_objects_may_stand_anywhere_in_a_history() -> None:
    call = ChatCompletionMessageFunctionToolCall.model_validate(
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    )
    message = ChatCompletionMessage(role="assistant", content="Hi", tool_calls=[call])
    expected = [Message.assistant("Hi", [ToolCall("a", "f", {})])]
    assert DIALECT.parse([message]) == expected
    assert DIALECT.parse([{"role": "assistant", "content": "Hi", "tool_calls": [call]}, None, 5]) == expected


@pytest.mark.parametrize(
    ("media", "part"),
    [
        (Media("image/png", data="AA=="), {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}),
        (Media("image/*", url="https://x/a"), {"type": "image_url", "image_url": {"url": "https://x/a"}}),
        (Media("audio/wav", data="AA=="), {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}),
        (Media("audio/mpeg", data="AA=="), {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}}),
        (
            Media("application/pdf", data="AA=="),
            {"type": "file", "file": {"filename": "file", "file_data": "data:application/pdf;base64,AA=="}},
        ),
    ],
)
def test_media_go_and_come_back(media: Media, part: JsonObject) -> None:
    message = Message("user", (Text("This:"), media))
    (written,) = DIALECT.write([message])
    assert written["content"][1] == part
    assert DIALECT.parse([written]) == [message]


def test_a_file_by_url_becomes_a_line_of_text() -> None:
    (written,) = DIALECT.write([Message("user", (Media("application/pdf", url="https://x/a.pdf"),))])
    assert written["content"] == "[application/pdf: https://x/a.pdf]"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "file_1"}},
        {"type": "file", "file": {"filename": "file", "file_data": "https://x"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "flac"}},
        {"type": "image_url", "image_url": {"url": 5}},
        {"type": 5, "x": {}},
    ],
)
def test_media_that_say_more_than_we_can_hold_are_kept_as_they_are(part: JsonObject) -> None:
    history = [{"role": "user", "content": [part]}]
    assert DIALECT.write(DIALECT.parse(history)) == history
