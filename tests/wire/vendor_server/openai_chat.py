"""OpenAI Chat Completions."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from wire.vendor_server.script import Fail, Say, StreamError, need, pieces
from wire.vendor_server.strict_schema import check_strict

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_HEADER = "authorization"
INVALID = "invalid_request_error"
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 10,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 5},
}


def is_streaming(path: str, body: Any) -> bool:
    return body.get("stream") is True


def error(fail: Fail) -> tuple[Any, int]:
    kind = "invalid_request_error" if fail.status < 500 else "server_error"
    return {"error": {"message": fail.message, "type": kind, "param": None, "code": fail.code}}, fail.status


def error_event(step: StreamError) -> str:
    return _sse({"error": {"message": step.message, "type": "server_error", "code": step.code}})


def validate(body: Any, headers: dict[str, str]) -> None:
    need(isinstance(body.get("model"), str), "you must provide a model parameter")
    need(body.get("messages"), "[] is too short - 'messages'")
    need("stream_options" not in body or body.get("stream"), "'stream_options' needs 'stream'")
    tools = body.get("tools")
    need(tools is None or tools, "[] is too short - 'tools'")
    need("parallel_tool_calls" not in body or tools, "'parallel_tool_calls' is only allowed with 'tools'")
    need("tool_choice" not in body or tools, "'tool_choice' is only allowed when 'tools' are specified")
    names = {_definition(tool) for tool in tools or []}
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        need(choice["function"]["name"] in names, "Tool choice 'function' not found in 'tools' parameter.")
    _messages(body["messages"])


def _definition(tool: Any) -> str:
    function = tool["function"]
    need(tool["type"] == "function", "Invalid 'tools': type")
    need(NAME.fullmatch(function["name"]), "Invalid 'tools[0].function.name': string does not match pattern.")
    parameters = function["parameters"]
    need(parameters.get("type") == "object", "schema must be a JSON Schema of 'type: \"object\"'")
    if function.get("strict"):
        check_strict(function["name"], parameters)
    return function["name"]


def _messages(messages: list[Any]) -> None:
    waiting: list[str] = []
    for message in messages:
        role = message["role"]
        need(role in ("system", "developer", "user", "assistant", "tool"), f"Invalid role {role}")
        if role == "tool":
            need(
                message["tool_call_id"] in waiting,
                "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
            )
            waiting.remove(message["tool_call_id"])
            need(isinstance(message["content"], (str, list)), "Invalid type for 'content'")
            continue
        need(
            not waiting,
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. These tool_call_ids did not have response messages: {', '.join(waiting)}",
        )
        calls = message.get("tool_calls") or []
        need("tool_calls" not in message or calls, "[] is too short - 'tool_calls'")
        if role != "assistant" or not calls:
            need(
                message.get("content") is not None,
                "Invalid value for 'content': expected a string, got null.",
            )
        for call in calls:
            need(len(call["id"]) <= 40, "string too long. Expected a string with maximum length 40")
            need(NAME.fullmatch(call["function"]["name"]), "Invalid 'tool_calls': name")
            need(isinstance(call["function"]["arguments"], str), "Invalid 'tool_calls': arguments")
            waiting.append(call["id"])
    need(not waiting, f"tool_call_ids did not have response messages: {', '.join(waiting)}")


def whole(say: Say, body: Any, new_id: Callable[[], int]) -> Any:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": say.text or None,
        "refusal": say.refusal or None,
    }
    if say.calls:
        message["tool_calls"] = [_call(call, new_id) for call in say.calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(say)}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
        "usage": _USAGE,
    }


def events(say: Say, body: Any, new_id: Callable[[], int]) -> list[str]:
    def chunk(delta: Any, finish: str | None = None) -> str:
        return _sse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            }
        )

    out = [chunk({"role": "assistant", "content": ""})]
    out += [chunk({"content": piece}) for piece in pieces(say.text)]
    out += [chunk({"refusal": piece}) for piece in pieces(say.refusal)]
    calls = [_call(call, new_id) for call in say.calls]
    for index, call in enumerate(calls):
        arguments = call["function"]["arguments"]
        opening = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        out.append(chunk({"tool_calls": [opening]}))
        out += [
            chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}) for piece in pieces(arguments)
        ]
    out.append(chunk({}, _finish(say)))
    if body.get("stream_options", {}).get("include_usage"):
        out.append(
            _sse(
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": body["model"],
                    "choices": [],
                    "usage": _USAGE,
                }
            )
        )
    return [*out, "data: [DONE]\n\n"]


def _call(call: Any, new_id: Callable[[], int]) -> Any:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": call.id or f"call_{new_id()}", "type": "function", "function": function}


def _finish(say: Say) -> str:
    return "tool_calls" if say.calls else "stop"


def _sse(data: Any) -> str:
    return f"data: {json.dumps(data)}\n\n"
