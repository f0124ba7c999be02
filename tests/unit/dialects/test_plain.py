"""SDK objects as plain data, also where pydantic itself gives up."""

from typing import Any

import pytest
from anthropic.types import Message
from google.genai import types

from callbox.dialects.wire import plain


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"n": None}
    for _ in range(levels):
        value = {"a": value}
    return value


def test_plain_data_are_themselves() -> None:
    for value in (None, 5, "text", [1], {"a": 1}, types.Part):
        assert plain(value) is value


@pytest.mark.parametrize("levels", [1, 600])
def test_a_gemini_object_is_its_wire_form_however_deep_its_arguments_are(levels: int) -> None:
    wire = {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"functionCall": {"name": "now", "args": deep(levels)}, "thoughtSignature": "AAEC"},
                        {"text": "a", "videoMetadata": {"fps": 2.0}},
                    ],
                },
                "finishReason": "STOP",
            }
        ],
        "modelVersion": "gemini",
    }
    assert plain(types.GenerateContentResponse.model_validate(wire)) == wire


@pytest.mark.parametrize("levels", [1, 600])
def test_an_anthropic_object_is_its_wire_form_however_deep_its_arguments_are(levels: int) -> None:
    wire = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "tool_use", "id": "t", "name": "now", "input": deep(levels), "new_field": [1]}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    assert plain(Message.model_validate(wire)) == wire
