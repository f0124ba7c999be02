"""Anthropic Messages."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from wire.vendor_server.script import Fail, Say, StreamError, need, pieces

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_HEADER = "x-api-key"
INVALID = "invalid_request_error"
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_SIGNATURE = "c2lnbmF0dXJl/+=="


def is_streaming(path: str, body: Any) -> bool:
    return body.get("stream") is True


def error(fail: Fail) -> tuple[Any, int]:
    kind = fail.code if fail.code in _TYPES.values() else _TYPES.get(fail.status, "api_error")
    content = {"type": "error", "error": {"type": kind, "message": fail.message}, "request_id": "req_1"}
    return content, fail.status


def error_event(step: StreamError) -> str:
    return _sse({"type": "error", "error": {"type": step.code, "message": step.message}})


def validate(body: Any, headers: dict[str, str]) -> None:
    need(headers.get("anthropic-version"), "anthropic-version: header is required")
    need(isinstance(body.get("max_tokens"), int), "max_tokens: Field required")
    need(isinstance(body.get("system", ""), (str, list)), "system: Input should be a valid string")
    messages = body.get("messages")
    need(messages, "messages: at least one message is required")
    tools = body.get("tools") or []
    for tool in tools:
        _definition(tool)
    need("tool_choice" not in body or tools, "tool_choice may only be specified while providing tools.")
    need(
        json.dumps(body).count('"cache_control"') <= 4,
        "A maximum of 4 blocks with cache_control may be provided.",
    )
    waiting: list[str] = []
    for at, message in enumerate(messages):
        role = message["role"]
        need(role in ("user", "assistant"), f"messages: Unexpected role {role!r}.")
        need(at or role == "user", 'messages: first message must use the "user" role')
        need(not at or messages[at - 1]["role"] != role, "messages: roles must alternate")
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        need(blocks, f"messages.{at}: all messages must have non-empty content")
        waiting = _blocks(at, role, blocks, waiting, bool(tools))
    need(not waiting, f"`tool_use` ids were found without `tool_result` blocks immediately after: {waiting}")


def _definition(tool: Any) -> None:
    need(_NAME.fullmatch(tool["name"]), "tools.0.custom.name: String should match pattern")
    schema = tool["input_schema"]
    need(schema.get("type") == "object", "tools.0.custom.input_schema.type: Field required")
    for word in ("oneOf", "allOf", "anyOf"):
        need(word not in schema, "input_schema does not support oneOf, allOf, or anyOf at the top level")
    for name in schema.get("properties", {}):
        need(_PROPERTY.fullmatch(name), "Property keys should match pattern '^[a-zA-Z0-9_.-]{1,64}$'")
    if tool.get("strict"):
        need(schema.get("additionalProperties") is False, "additionalProperties must be false for strict tools")


def _blocks(at: int, role: str, blocks: list[Any], waiting: list[str], has_tools: bool) -> list[str]:
    calls: list[str] = []
    answered: list[str] = []
    other_seen = False
    for block in blocks:
        kind = block["type"]
        if kind == "text":
            need(block["text"].strip(), f"messages.{at}: text content blocks must contain non-whitespace text")
        if kind == "tool_result":
            need(role == "user", f"messages.{at}: `tool_result` blocks can only be in `user` messages")
            need(not other_seen, f"messages.{at}: `tool_result` blocks must come first")
            need(
                block["tool_use_id"] in waiting,
                f"messages.{at}: unexpected `tool_use_id` in `tool_result` blocks: {block['tool_use_id']}",
            )
            answered.append(block["tool_use_id"])
        else:
            other_seen = True
        if kind == "tool_use":
            need(role == "assistant", "`tool_use` blocks can only be in `assistant` messages")
            need(isinstance(block["input"], dict), "tool_use.input: Input should be a valid dictionary")
            need(_NAME.fullmatch(block["name"]), "tool_use.name: String should match pattern")
            need(block["id"] not in calls, "`tool_use` ids must be unique")
            calls.append(block["id"])
        if kind == "thinking":
            need(block.get("signature") == _SIGNATURE, "Invalid `signature` in `thinking` block")
            need("cache_control" not in block, "thinking.cache_control: Extra inputs are not permitted")
    need(has_tools or not (calls or answered), "Requests which include `tool_use` blocks must define tools")
    missing = [call_id for call_id in waiting if call_id not in answered]
    need(not missing, f"`tool_use` ids were found without `tool_result` blocks immediately after: {missing}")
    return calls


def _content(say: Say, new_id: Callable[[], int]) -> list[Any]:
    out: list[Any] = []
    if say.thought:
        out.append({"type": "thinking", "thinking": say.thought, "signature": _SIGNATURE})
    if say.text or say.refusal:
        out.append({"type": "text", "text": say.text or say.refusal, "citations": None})
    for call in say.calls:
        call_id = call.id or f"toolu_{new_id()}"
        out.append({"type": "tool_use", "id": call_id, "name": call.name, "input": call.arguments})
    return out


def _stop(say: Say) -> str:
    return "refusal" if say.refusal else "tool_use" if say.calls else "end_turn"


def whole(say: Say, body: Any, new_id: Callable[[], int]) -> Any:
    usage = {
        "input_tokens": 15,
        "output_tokens": 10,
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 0,
    }
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": _content(say, new_id),
        "stop_reason": _stop(say),
        "stop_sequence": None,
        "usage": usage,
    }


def events(say: Say, body: Any, new_id: Callable[[], int]) -> list[str]:
    start = {**whole(Say(), body, new_id), "stop_reason": None}
    out = [_sse({"type": "message_start", "message": start}), _sse({"type": "ping"})]
    for index, block in enumerate(_content(say, new_id)):
        match block["type"]:
            case "text":
                empty = {**block, "text": ""}
                deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
            case "thinking":
                empty = {**block, "thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            case _:
                empty = {**block, "input": {}}
                text = json.dumps(block["input"]) if block["input"] else ""
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces(text)]]
        out.append(_sse({"type": "content_block_start", "index": index, "content_block": empty}))
        out += [_sse({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
        out.append(_sse({"type": "content_block_stop", "index": index}))
    delta = {"stop_reason": _stop(say), "stop_sequence": None}
    out.append(_sse({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 10}}))
    return [*out, _sse({"type": "message_stop"})]


def _sse(data: Any) -> str:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"
