"""What we write for Chat Completions, as it goes over the wire and as the SDK's own types see it."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.chat import ChatCompletionFunctionToolParam as ToolParam
from pydantic import TypeAdapter

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.dialects.openai_chat import DIALECT
from callbox.messages import Media, Message, Text
from callbox.tools.tool import Tool
from wire.streams_openai import STREAMS

MESSAGE: TypeAdapter[Any] = TypeAdapter(ChatCompletionMessageParam)
TOOL: TypeAdapter[Any] = TypeAdapter(ToolParam)

CALL = ToolCall("call_A1", "forecast", {"city": "Paris"}, raw='{"city":  "Paris"}')
HISTORY = [
    Message.system("Be brief."),
    Message("user", (Text("What is this, and how is Paris?"), Media("image/png", data="iVBORw0KGgo="))),
    Message.assistant("Let me look.", [CALL, ToolCall("call_B2", "now", {})]),
    Message.tool(
        [
            ToolResult("call_A1", "forecast", "sunny"),
            ToolResult.failed(ToolCall("call_B2", "now"), CallError("timeout", "It took too long.")),
        ]
    ),
    Message.assistant("A square. Sunny."),
]


def test_a_conversation_on_the_wire() -> None:
    assert DIALECT.write(HISTORY) == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this, and how is Paris?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            ],
        },
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {
                    "id": "call_A1",
                    "type": "function",
                    "function": {"name": "forecast", "arguments": '{"city":  "Paris"}'},
                },
                {"id": "call_B2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_A1", "content": "sunny"},
        {
            "role": "tool",
            "tool_call_id": "call_B2",
            "content": '{"error": "timeout", "message": "It took too long."}',
        },
        {"role": "assistant", "content": "A square. Sunny."},
    ]


def test_definitions_on_the_wire() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tool = Tool("forecast", "The weather to come.", {**schema, "required": ["city"]})
    assert DIALECT.define([tool]) == [
        {
            "type": "function",
            "function": {
                "name": "forecast",
                "description": "The weather to come.",
                "parameters": {**schema, "required": ["city"]},
            },
        }
    ]
    assert DIALECT.define([tool], strict=True) == [
        {
            "type": "function",
            "function": {
                "name": "forecast",
                "description": "The weather to come.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "days": {"type": ["integer", "null"]}},
                    "required": ["city", "days"],
                    "additionalProperties": False,
                },
                "strict": True,
            },
        }
    ]
    for item in [*DIALECT.define([tool]), *DIALECT.define([tool], strict=True)]:
        TOOL.validate_python(item, strict=True, extra="forbid")


def test_the_sdk_accepts_every_message_of_a_conversation() -> None:
    for message in DIALECT.write(HISTORY):
        MESSAGE.validate_python(message, strict=True, extra="forbid")


@pytest.mark.parametrize(("name", "whole"), [(name, whole) for name, _, whole in STREAMS])
def test_the_sdk_accepts_what_goes_back_of_a_reply(name: str, whole: dict[str, Any]) -> None:
    (written,) = DIALECT.write([DIALECT.read(whole).message])
    # Compatible servers have fields of their own and want them back; OpenAI itself has none that is unknown.
    extra = "ignore" if name.startswith("compatible") else "forbid"
    assert MESSAGE.validate_python(written, strict=True, extra=extra)["role"] == "assistant"


@pytest.mark.parametrize(("chunks", "whole"), [item[1:] for item in STREAMS if not item[0].startswith("compatible")])
def test_our_fixtures_are_of_the_documented_shape(chunks: list[Any], whole: dict[str, Any]) -> None:
    completion = ChatCompletion.model_validate(whole)
    assert DIALECT.read(completion).message.text == DIALECT.read(whole).message.text
    for chunk in chunks:
        if not any("custom" in call for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", ())):
            ChatCompletionChunk.model_validate(chunk)
