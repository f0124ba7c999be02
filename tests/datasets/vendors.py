"""Each vendor's wire format by hand, as its documentation shows it: what a model's answer looks like.

Nothing here comes from `callbox.dialects`: this is the other side, which the dialects are to understand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callbox.tools.vendor_definitions import from_gemini

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WrittenCall = tuple[str, Any]
"""A name and the arguments, as the model writes them: in the terms of the definitions that it was given."""


def openai_chat(calls: Sequence[WrittenCall]) -> dict[str, Any]:
    """A chat completion that calls functions."""
    tool_calls = [
        {
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for index, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": tool_calls}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "some-model",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": None, "message": message}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def openai_responses(calls: Sequence[WrittenCall]) -> dict[str, Any]:
    """A response whose output is function calls."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "some-model",
        "status": "completed",
        "output": [
            {
                "type": "function_call",
                "id": f"fc_{index}",
                "call_id": f"call_{index}",
                "name": name,
                "arguments": json.dumps(arguments),
                "status": "completed",
            }
            for index, (name, arguments) in enumerate(calls)
        ],
        "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    }


def anthropic(calls: Sequence[WrittenCall]) -> dict[str, Any]:
    """A message that uses tools."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "some-model",
        "content": [
            {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": arguments}
            for index, (name, arguments) in enumerate(calls)
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }


def gemini(calls: Sequence[WrittenCall]) -> dict[str, Any]:
    """A generateContent response with function calls, which have no ids."""
    parts = [{"functionCall": {"name": name, "args": arguments}} for name, arguments in calls]
    return {
        "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": parts}}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
        "modelVersion": "some-model",
    }


def mcp(calls: Sequence[WrittenCall]) -> list[dict[str, Any]]:
    """What an MCP client sends: one ``tools/call`` request each."""
    return [
        {
            "jsonrpc": "2.0",
            "id": index,
            "method": "tools/call",
            "params": {"name": name, "arguments": arguments},
        }
        for index, (name, arguments) in enumerate(calls)
    ]


def _chat_type() -> Callable[[Any], object]:
    from openai.types.chat import ChatCompletionFunctionToolParam
    from pydantic import TypeAdapter

    return TypeAdapter(ChatCompletionFunctionToolParam).validate_python


def _responses_type() -> Callable[[Any], object]:
    from openai.types.responses import FunctionToolParam
    from pydantic import TypeAdapter

    return TypeAdapter(FunctionToolParam).validate_python


def _anthropic_type() -> Callable[[Any], object]:
    from anthropic.types import ToolParam
    from pydantic import TypeAdapter

    return TypeAdapter(ToolParam).validate_python


def _gemini_type() -> Callable[[Any], object]:
    from google.genai.types import Tool

    return Tool.model_validate


def _mcp_type() -> Callable[[Any], object]:
    from mcp.types import Tool

    return Tool.model_validate


@dataclass(frozen=True, slots=True)
class Vendor:
    """How to talk like one vendor.

    Attributes:
        response: What its model answers, given these calls.
        functions: Of each function in the request's ``tools``, what holds its name and schema.
        schema: The schema that one of these holds.
        sdk_type: Loads its own SDK's type of an item of ``tools``: a function that raises on all else.
        has_strict: It has a strict mode for tools.
        strict_requires_all: In strict mode no property may be optional.
        as_json_schema: That schema as JSON Schema, where the vendor's form is another.
    """

    response: Callable[[Sequence[WrittenCall]], Any]
    functions: Callable[[Sequence[Mapping[str, Any]]], list[Mapping[str, Any]]]
    schema: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    sdk_type: Callable[[], Callable[[Any], object]]
    has_strict: bool = False
    strict_requires_all: bool = False
    as_json_schema: Callable[[Any], Any] = lambda schema: schema


def _gemini_functions(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [declaration for tool in tools for declaration in tool["functionDeclarations"]]


def _gemini_schema(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """One of two ways to say it, or none for a function that takes nothing."""
    return function.get("parameters") or function.get("parametersJsonSchema") or {}


def _from_gemini(schema: Mapping[str, Any]) -> Any:
    """Gemini's own form is known by its types in capitals; it takes JSON Schema as well."""
    types = schema.get("type", "")
    return from_gemini(schema) if isinstance(types, str) and types.isupper() else schema


VENDORS = {
    "openai": Vendor(
        openai_chat,
        lambda tools: [tool["function"] for tool in tools],
        lambda function: function["parameters"],
        _chat_type,
        has_strict=True,
        strict_requires_all=True,
    ),
    "openai-responses": Vendor(
        openai_responses,
        list,
        lambda function: function["parameters"],
        _responses_type,
        has_strict=True,
        strict_requires_all=True,
    ),
    "anthropic": Vendor(anthropic, list, lambda function: function["input_schema"], _anthropic_type, has_strict=True),
    "gemini": Vendor(gemini, _gemini_functions, _gemini_schema, _gemini_type, as_json_schema=_from_gemini),
    "mcp": Vendor(mcp, list, lambda function: function["inputSchema"], _mcp_type),
}
