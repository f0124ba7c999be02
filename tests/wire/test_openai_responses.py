"""What we write for the Responses API, as it goes over the wire and as the SDK's own types see it."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import FunctionToolParam, Response, ResponseInputItemParam, ResponseStreamEvent
from pydantic import TypeAdapter

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects.openai_responses import DIALECT
from callbox.messages import Media, Message, Text
from callbox.tools.tool import Tool
from wire.streams_openai_responses import STREAMS

ITEM: TypeAdapter[Any] = TypeAdapter(ResponseInputItemParam)
TOOL: TypeAdapter[Any] = TypeAdapter(FunctionToolParam)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

HISTORY = [
    Message.system("Be brief."),
    Message(
        "user",
        (
            Text("Read these."),
            Media("image/png", url="https://example.com/a.png"),
            Media("application/pdf", data="JVBERi0="),
            Media("application/pdf", url="https://example.com/a.pdf"),
        ),
    ),
    Message.assistant("Let me look.", [ToolCall("call_A1", "forecast", {"city": "Paris"}, raw='{"city":  "Paris"}')]),
    Message.tool([ToolResult("call_A1", "forecast", "sunny")]),
]


def test_a_conversation_on_the_wire() -> None:
    assert DIALECT.write(HISTORY) == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Read these."},
                {"type": "input_image", "detail": "auto", "image_url": "https://example.com/a.png"},
                {
                    "type": "input_file",
                    "filename": "file",
                    "file_data": "data:application/pdf;base64,JVBERi0=",
                },
                {"type": "input_file", "file_url": "https://example.com/a.pdf"},
            ],
        },
        {"role": "assistant", "content": "Let me look."},
        {
            "type": "function_call",
            "call_id": "call_A1",
            "name": "forecast",
            "arguments": '{"city":  "Paris"}',
        },
        {"type": "function_call_output", "call_id": "call_A1", "output": "sunny"},
    ]


def test_definitions_on_the_wire_always_say_whether_they_are_strict() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = Tool("forecast", "The weather to come.", schema)
    loose, strict = DIALECT.define([tool]), DIALECT.define([tool], strict=True)
    assert loose == [
        {
            "type": "function",
            "name": "forecast",
            "description": "The weather to come.",
            "parameters": schema,
            "strict": False,
        }
    ]
    assert strict[0]["strict"] is True
    for item in [*loose, *strict]:
        TOOL.validate_python(item, strict=True, extra="forbid")


def test_the_sdk_accepts_every_item_of_a_conversation() -> None:
    for item in DIALECT.write(HISTORY):
        ITEM.validate_python(item, strict=True, extra="forbid")


@pytest.mark.parametrize(("name", "whole"), [(name, whole) for name, _, whole in STREAMS])
def test_what_a_model_put_out_goes_back_as_it_was(name: str, whole: dict[str, Any]) -> None:
    written = DIALECT.write([DIALECT.read(whole).message])
    assert written == whole["output"]
    for item in written:
        ITEM.validate_python(item, strict=True, extra="forbid")


@pytest.mark.parametrize(("chunks", "whole"), [item[1:] for item in STREAMS if not item[0].startswith("compatible")])
def test_our_fixtures_are_of_the_documented_shape(chunks: list[Any], whole: dict[str, Any]) -> None:
    assert DIALECT.read(Response.model_validate(whole)).message == DIALECT.read(whole).message
    reader = DIALECT.reader()
    for chunk in chunks:
        reader.feed(EVENT.validate_python(chunk))
    assert reader.finish()[-1].reply == DIALECT.read(whole)
