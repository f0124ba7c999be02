"""Gemini generateContent: what we write against the SDK's types, what we read from its objects, and the API's rules."""

from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.dialects.gemini import DIALECT
from callbox.dialects.gemini_reader import own_name, vendor_name
from callbox.messages import (
    CallDelta,
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
from callbox.tools.tool import NAME, Tool
from dialect_samples import CONVERSATION, RESULTS, TOOLS, read_stream
from wire.streams_gemini import STREAMS

every_reply = pytest.mark.parametrize(
    ("chunks", "whole"), [(chunks, whole) for _, chunks, whole in STREAMS], ids=[name for name, _, _ in STREAMS]
)


def taken_by_the_sdk(contents: list[dict[str, Any]]) -> list[types.Content]:
    """The SDK's models forbid fields that they do not know."""
    return [types.Content.model_validate(content) for content in contents]


def reply(*parts: Any, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": finish}], **more}


def call(name: str, **fields: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, **fields}}


def streamed(*parts: Any, finish: str | None = "STOP") -> Any:
    return read_stream(DIALECT.reader(), [*(reply(part, finish=None) for part in parts), reply(finish=finish)])


def made_ids(message: Message) -> Message:
    """Ids that callbox made, numbered as `parse` numbers them."""
    parts = list(message.content)
    number = 0
    for at, part in enumerate(parts):
        if isinstance(part, ToolCall) and "id" in part.vendor.get("gemini", {}):
            number += 1
            parts[at] = ToolCall(f"call_{number}", part.name, part.arguments, vendor=part.vendor)
    return Message(message.role, tuple(parts))


# Against the vendor's SDK


@pytest.mark.parametrize("strict", [False, True])
def test_the_sdk_takes_the_definitions(strict: bool) -> None:
    definitions = DIALECT.define(TOOLS, strict=strict)
    config = types.GenerateContentConfig.model_validate({"tools": list(definitions)})
    assert config.tools is not None
    assert isinstance(config.tools[0], types.Tool)
    assert len(config.tools[0].function_declarations or []) == len(TOOLS)


def test_no_tools_are_no_item() -> None:
    assert DIALECT.define([]) == []


def test_the_sdk_takes_a_conversation() -> None:
    taken_by_the_sdk(DIALECT.write(CONVERSATION))
    taken_by_the_sdk(DIALECT.write_results(RESULTS))


@every_reply
def test_the_sdks_object_reads_like_the_wire(chunks: list[Any], whole: Any) -> None:
    ours, theirs = DIALECT.read(whole), DIALECT.read(types.GenerateContentResponse.model_validate(whole))
    assert made_ids(theirs.message) == made_ids(ours.message)
    assert (theirs.finish, theirs.usage, theirs.model, theirs.refusal) == (
        ours.finish,
        ours.usage,
        ours.model,
        ours.refusal,
    )


@every_reply
def test_the_sdks_chunks_read_like_the_wire(chunks: list[Any], whole: Any) -> None:
    objects = [types.GenerateContentResponse.model_validate(chunk) for chunk in chunks]
    theirs, ours = read_stream(DIALECT.reader(), objects)[1], read_stream(DIALECT.reader(), chunks)[1]
    assert made_ids(theirs.message) == made_ids(ours.message)
    assert (theirs.finish, theirs.usage) == (ours.finish, ours.usage)


@every_reply
def test_a_stream_gives_the_parts_of_the_whole(chunks: list[Any], whole: Any) -> None:
    streamed_message = read_stream(DIALECT.reader(), chunks)[1].message
    assert made_ids(streamed_message) == made_ids(DIALECT.read(whole).message)


@every_reply
def test_the_sdk_takes_every_reply_back_as_it_came(chunks: list[Any], whole: Any) -> None:
    message = DIALECT.read(whole).message
    written = DIALECT.write([message])
    taken_by_the_sdk(written)
    assert DIALECT.parse(written) == ([made_ids(message)] if written else [])
    if written:
        wrote = written[0]["parts"]
        came = whole["candidates"][0]["content"]["parts"]
        for part in came:
            part.get("functionCall", {}).setdefault("args", {})
        assert wrote == came


def test_snake_case_reads_like_camel_case() -> None:
    snake = {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"function_call": {"id": "1", "name": "now", "args": {"a_b": 1}}, "thought_signature": "-_8="},
                        {"inline_data": {"mime_type": "image/png", "data": "-_8="}},
                    ],
                },
                "finish_reason": "STOP",
            }
        ],
        "usage_metadata": {"prompt_token_count": 3, "thoughts_token_count": 2},
        "model_version": "gemini",
    }
    got = DIALECT.read(snake)
    assert got.message.content == (
        ToolCall("1", "now", {"a_b": 1}, vendor={"gemini": {"thoughtSignature": "+/8="}}),
        Media("image/png", data="+/8="),
    )
    assert (got.finish, got.usage, got.model) == ("calls", Usage(3, 2, 0, 2, 1), "gemini")


# Reading


def test_usage_counts_thoughts_as_output_and_tool_prompts_as_input() -> None:
    usage = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 60,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 30,
        "toolUsePromptTokenCount": 5,
    }
    assert DIALECT.read(reply({"text": "a"}, usageMetadata=usage)).usage == Usage(105, 37, 60, 30, 1)


@pytest.mark.parametrize(
    ("reason", "finish", "refusal"),
    [
        ("STOP", "stop", None),
        ("MAX_TOKENS", "length", None),
        ("SAFETY", "filter", "SAFETY: because"),
        ("RECITATION", "filter", "RECITATION: because"),
        ("IMAGE_SAFETY", "filter", "IMAGE_SAFETY: because"),
        ("CONTINUATION", "paused", None),
        ("MALFORMED_FUNCTION_CALL", "unknown", "MALFORMED_FUNCTION_CALL: because"),
        ("UNEXPECTED_TOOL_CALL", "unknown", "UNEXPECTED_TOOL_CALL: because"),
        ("OTHER", "unknown", None),
        ("SOMETHING_NEW", "unknown", None),
        (None, "unknown", None),
    ],
)
def test_each_finish_reason_has_its_finish(reason: str | None, finish: str, refusal: str | None) -> None:
    body = reply({"text": "a"}, finish=reason)
    body["candidates"][0]["finishMessage"] = "because"
    got = DIALECT.read(body)
    assert (got.finish, got.refusal) == (finish, refusal)


def test_a_blocked_question_says_why_as_far_as_the_vendor_does() -> None:
    for feedback, reason in (
        ({"blockReason": "SAFETY"}, "SAFETY"),
        ({"blockReason": "OTHER", "blockReasonMessage": "Terms."}, "Terms."),
    ):
        got = DIALECT.read({"promptFeedback": feedback})
        assert (got.finish, got.refusal, got.message.content) == ("filter", reason, ())


def test_calls_after_max_tokens_are_no_finished_turn() -> None:
    assert DIALECT.read(reply(call("now"), finish="MAX_TOKENS")).finish == "length"


def test_only_the_first_candidate_is_read() -> None:
    body = reply({"text": "one"})
    body["candidates"] += reply({"text": "two"})["candidates"]
    assert DIALECT.read(body).message.text == "one"


def test_a_call_without_an_id_gets_one_that_the_vendor_never_sees() -> None:
    found = DIALECT.read(reply(call("now", args={"a": 1}))).calls[0]
    assert found.id.startswith("call_")
    result = ToolResult(found.id, found.name, "noon", vendor=found.vendor)
    written = DIALECT.write([Message.assistant("", [found]), Message.tool([result])])
    assert written[0]["parts"] == [call("now", args={"a": 1})]
    assert written[1]["parts"] == [{"functionResponse": {"name": "now", "response": {"output": "noon"}}}]


def test_an_id_that_the_vendor_gave_goes_back_on_both_sides() -> None:
    found = DIALECT.read(reply(call("now", id="fc_1"))).calls[0]
    assert found == ToolCall("fc_1", "now", {})
    written = DIALECT.write([Message.assistant("", [found]), Message.tool([ToolResult("fc_1", "now", "noon")])])
    assert written[0]["parts"][0]["functionCall"]["id"] == "fc_1"
    assert written[1]["parts"][0]["functionResponse"]["id"] == "fc_1"


def test_a_signature_never_goes_into_a_result() -> None:
    found = DIALECT.read(reply({**call("now", id="fc_1"), "thoughtSignature": "c2ln"})).calls[0]
    assert "c2ln" in str(DIALECT.write([Message.assistant("", [found])]))
    assert "c2ln" not in str(DIALECT.write_results([ToolResult("fc_1", "now", "noon", vendor=found.vendor)]))


@pytest.mark.parametrize("given_args", ["text", [1], 5])
def test_arguments_that_are_no_object_are_kept_for_the_gate(given_args: Any) -> None:
    assert DIALECT.read(reply(call("now", args=given_args))).calls[0].arguments == given_args


def test_parts_of_no_kind_are_kept_and_empty_ones_left_out() -> None:
    message = DIALECT.read(reply({"hologram": 1}, {}, {"text": ""}, "garbage", {"text": "", "thought": True})).message
    assert message.content == (Opaque("gemini", {"hologram": 1}),)
    assert DIALECT.write([message])[0]["parts"] == [{"hologram": 1}]
    assert streamed({"hologram": 1}, {"text": ""}, {"text": "", "thought": True})[1].message == message


# Names


@pytest.mark.parametrize(
    ("own", "theirs"),
    [("now", "now"), ("7up", "_7up"), ("-x", "_-x"), ("_7up", "__7up"), ("_now", "_now"), ("__-", "___-")],
)
def test_names_that_gemini_refuses_are_mapped(own: str, theirs: str) -> None:
    tool = Tool(own, "Does it.", {"type": "object"})
    assert DIALECT.define([tool])[0]["functionDeclarations"][0]["name"] == theirs
    assert DIALECT.read(reply(call(theirs)), [tool]).calls[0].name == own
    assert read_stream(DIALECT.reader([tool]), [reply(call(theirs))])[1].calls[0].name == own


@given(names=st.lists(st.from_regex(NAME, fullmatch=True), unique=True, max_size=5))
def test_no_two_names_become_one(names: list[str]) -> None:
    theirs = [vendor_name(name) for name in names]
    assert len(set(theirs)) == len(names)
    assert [own_name(name) for name in theirs] == names
    assert all(name[0].isalpha() or name[0] == "_" for name in theirs)


# Streams


def test_a_whole_call_is_told_at_once() -> None:
    reader = DIALECT.reader()
    events = reader.feed(reply({"text": "Hm.", "thought": True}, {"text": "So."}, call("now", id="1", args={"a": "é"})))
    assert events == [
        ReasoningDelta("Hm."),
        TextDelta("So."),
        CallStarted(0, "1", "now"),
        CallDelta(0, '{"a": "é"}'),
        CallReady(0, ToolCall("1", "now", {"a": "é"})),
    ]
    assert isinstance(reader.finish()[-1], Finished)
    assert reader.finish() == []
    assert reader.feed(reply({"text": "late"})) == []


def test_signed_thoughts_and_texts_are_told_and_kept_apart() -> None:
    events, got = streamed(
        {"text": "a", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "b", "thought": True},
        {"text": "c", "thoughtSignature": "c2ln"},
    )
    assert events[:-1] == [ReasoningDelta("a"), ReasoningDelta("b"), TextDelta("c")]
    assert [type(part) for part in got.message.content] == [Reasoning, Reasoning, Text]


def piece(*values: Any, goes_on: bool = True, **fields: Any) -> dict[str, Any]:
    more = {"willContinue": True} if goes_on else {}
    return {"functionCall": {**fields, **({"partialArgs": list(values)} if values else {}), **more}}


def at(path: str, text: str) -> dict[str, str]:
    return {"jsonPath": path, "stringValue": text}


def test_pieces_that_repeat_name_and_id_are_one_call() -> None:
    _, got = streamed(
        piece(at("$.city", "San "), name="forecast", id="1"),
        piece(at("$.city", "Francisco"), name="forecast", id="1", goes_on=False),
    )
    assert got.calls == (ToolCall("1", "forecast", {"city": "San Francisco"}),)


def test_a_call_that_comes_whole_in_one_piece_of_pieces() -> None:
    _, got = streamed(piece(at("$.a", "x"), name="now", id="1", goes_on=False), piece(goes_on=False))
    assert got.calls == (ToolCall("1", "now", {"a": "x"}),)


def test_the_next_call_ends_the_one_before() -> None:
    events, got = streamed(
        piece(name="now", id="1"),
        piece(at("$.a", "x")),
        piece(name="now", id="2"),
        piece(at("$.b", "y"), goes_on=False),
        call("forecast", id="3", args={}),
        piece(name="now"),
        call("now", args={"c": 1}),
    )
    assert [(found.name, found.arguments) for found in got.calls] == [
        ("now", {"a": "x"}),
        ("now", {"b": "y"}),
        ("forecast", {}),
        ("now", {}),
        ("now", {"c": 1}),
    ]
    assert [event.index for event in events if isinstance(event, CallReady)] == [0, 1, 2, 3, 4]


def test_a_signature_on_any_piece_belongs_to_the_call() -> None:
    _, got = streamed(piece(name="now", id="1"), {**piece(goes_on=False), "thoughtSignature": "c2ln"})
    assert got.calls[0].vendor == {"gemini": {"thoughtSignature": "c2ln"}}


def test_a_call_that_was_cut_off_is_marked_and_never_ready() -> None:
    events, got = streamed(piece(name="now", id="1"), piece(at("$.a", "x")), finish="MAX_TOKENS")
    assert not any(isinstance(event, CallReady) for event in events)
    assert got.calls[0].error is not None
    assert got.calls[0].error.code == "malformed_json"


def test_pieces_that_make_no_sense_are_marked() -> None:
    events, got = streamed(piece(at("$..a", "x"), name="now", id="1", goes_on=False))
    assert not any(isinstance(event, CallReady) for event in events)
    assert got.calls[0].error is not None


def test_arguments_that_no_encoder_takes_are_still_a_call() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    _, got = streamed(call("now", id="1", args=deep))
    assert got.calls[0].arguments is deep
    written = DIALECT.write([got.message])
    assert written[0]["parts"][0]["functionCall"]["args"].keys() == {"INVALID_JSON"}


# Writing and parsing


def test_results_are_texts_under_the_keys_that_the_api_names() -> None:
    responses = [part["functionResponse"]["response"] for part in DIALECT.write_results(RESULTS)[0]["parts"]]
    assert [list(response) for response in responses] == [["output"], ["error"], ["output"]]
    assert all(isinstance(value, str) for response in responses for value in response.values())


def test_turns_of_the_model_are_joined_and_empty_ones_left_out() -> None:
    contents = DIALECT.write(
        [Message.user("a"), Message.assistant("b"), Message.assistant(""), Message.assistant("c"), Message.user("d")]
    )
    assert [(content["role"], len(content["parts"])) for content in contents] == [
        ("user", 1),
        ("model", 2),
        ("user", 1),
    ]


@pytest.mark.parametrize(
    "media", [Media("image/png", data="iVBORw0KGgo="), Media("video/mp4", url="gs://bucket/a.mp4"), Media("audio/wav")]
)
def test_media_come_back(media: Media) -> None:
    message = Message("user", (media, Text("What is this?")))
    contents = DIALECT.write([message])
    taken_by_the_sdk(contents)
    back = DIALECT.parse(contents)[0].content[0]
    assert back == (media if media.data or media.url else Media("audio/wav", url=""))


def test_media_with_more_than_media_can_say_are_kept_whole() -> None:
    part = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo=", "displayName": "a"}}
    assert DIALECT.write(DIALECT.parse([{"role": "user", "parts": [part]}]))[0]["parts"] == [part]


def test_a_history_of_somebody_else_goes_back_as_it_came() -> None:
    history = [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {
            "role": "model",
            "parts": [call("now", args={}), call("forecast", args={"city": "Oslo"}), call("now", args={})],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "now", "response": {"hour": 12, "zone": "UTC"}}},
                {
                    "functionResponse": {
                        "name": "forecast",
                        "response": {"output": {"rain": True}},
                        "scheduling": "SILENT",
                    }
                },
                {"functionResponse": {"name": "now", "response": {"error": {"code": 5}}}},
            ],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "lost", "response": {}}}]},
    ]
    taken_by_the_sdk(history)
    parsed = DIALECT.parse(history)
    first, second, third = parsed[2].results
    assert [first.call_id, second.call_id, third.call_id] == [found.id for found in parsed[1].calls]
    assert (first.content, second.content) == ('{"hour": 12, "zone": "UTC"}', '{"rain": true}')
    assert third.error == CallError("tool_failed", '{"code": 5}')
    assert parsed[3].results[0].content == "{}"
    assert DIALECT.write(parsed) == history


def test_results_find_their_calls_by_id() -> None:
    contents = [
        {"role": "model", "parts": [call("now", id="1", args={"a": 1}), call("now", id="2", args={"a": 2})]},
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": call_id, "name": "now", "response": {"output": call_id}}}
                for call_id in ("2", "1", "3")
            ],
        },
    ]
    parsed = DIALECT.parse(contents)
    assert [result.call_id for result in parsed[1].results] == ["2", "1", "3"]
    assert DIALECT.write(parsed) == contents


def test_unreadable_arguments_are_written_as_an_object_and_known_again() -> None:
    for arguments in ("{broken", [1, 2], 5):
        message = Message.assistant("", [ToolCall("1", "now", arguments)])
        contents = DIALECT.write([message])
        taken_by_the_sdk(contents)
        assert DIALECT.parse(contents) == [message]
