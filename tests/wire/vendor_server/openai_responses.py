"""OpenAI Responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wire.vendor_server.openai_chat import NAME
from wire.vendor_server.openai_chat import error as error
from wire.vendor_server.script import Say, StreamError, need, pieces
from wire.vendor_server.strict_schema import check_strict

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_HEADER = "authorization"
INVALID = "invalid_request_error"
_CONTENT = {
    "user": ("input_text", "input_image", "input_file"),
    "assistant": ("output_text", "refusal"),
    "system": ("input_text",),
    "developer": ("input_text",),
}


def is_streaming(path: str, body: Any) -> bool:
    return body.get("stream") is True


def error_event(step: StreamError) -> str:
    return _sse({"type": "error", "code": step.code, "message": step.message, "param": None, "sequence_number": 9})


def validate(body: Any, headers: dict[str, str]) -> None:
    need(isinstance(body.get("model"), str), "Missing required parameter: 'model'.")
    items = body.get("input")
    need(items, "Missing required parameter: 'input'.")
    need("messages" not in body, "Unsupported parameter: 'messages'.")
    need("max_tokens" not in body, "Unsupported parameter: 'max_tokens'.")
    tools = body.get("tools") or []
    for tool in tools:
        need(
            tool["type"] == "function" and "function" not in tool,
            "Missing required parameter: 'tools[0].name'.",
        )
        need(NAME.fullmatch(tool["name"]), "Invalid 'tools[0].name'.")
        need("strict" in tool, "Responses takes a missing 'strict' for true; say it.")
        if tool["strict"]:
            check_strict(tool["name"], tool["parameters"])
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        need(choice["name"] in {tool["name"] for tool in tools}, "Tool choice not found in 'tools' parameter.")
    called: dict[str, bool] = {}
    for at, item in enumerate(items):
        _item(item, items[at + 1 :], called)
    open_calls = [call_id for call_id, answered in called.items() if not answered]
    need(not open_calls, f"No tool output found for function call {', '.join(open_calls)}.")


def _item(item: Any, following: list[Any], called: dict[str, bool]) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        content = item["content"]
        if not isinstance(content, str):
            allowed = _CONTENT[item["role"]]
            need(content, "Invalid 'input': empty content")
            for part in content:
                need(
                    part["type"] in allowed,
                    f"Invalid value: '{part['type']}'. Supported values are: {allowed}",
                )
    elif kind == "function_call":
        need(isinstance(item["arguments"], str), "Invalid type for 'input': arguments")
        need(NAME.fullmatch(item["name"]), "Invalid 'input': name")
        need(item["call_id"] not in called, "Duplicate call_id")
        called[item["call_id"]] = False
    elif kind == "function_call_output":
        need(
            called.get(item["call_id"]) is False,
            f"No tool call found for function call output with call_id {item['call_id']}.",
        )
        need(isinstance(item["output"], (str, list)), "Invalid type for 'input': output")
        called[item["call_id"]] = True
    elif kind == "reasoning":
        need(item.get("id"), "Missing required parameter: 'input.id'.")
        need(
            following and following[0].get("type") in ("message", "function_call", "reasoning"),
            f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item.",
        )
    else:
        need(False, f"Invalid value: '{kind}'.")


def _output(say: Say, new_id: Callable[[], int]) -> list[Any]:
    out: list[Any] = []
    if say.thought:
        summary = [{"type": "summary_text", "text": say.thought}]
        out.append({"id": f"rs_{new_id()}", "type": "reasoning", "summary": summary})
    content: list[Any] = []
    if say.text:
        content.append({"type": "output_text", "text": say.text, "annotations": [], "logprobs": []})
    if say.refusal:
        content.append({"type": "refusal", "refusal": say.refusal})
    if content:
        out.append(
            {
                "id": f"msg_{new_id()}",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": content,
            }
        )
    for call in say.calls:
        number = new_id()
        out.append(
            {
                "id": f"fc_{number}",
                "type": "function_call",
                "call_id": call.id or f"call_{number}",
                "name": call.name,
                "arguments": json.dumps(call.arguments),
                "status": "completed",
            }
        )
    return out


def whole(say: Say, body: Any, new_id: Callable[[], int], output: list[Any] | None = None) -> Any:
    usage = {
        "input_tokens": 20,
        "output_tokens": 10,
        "total_tokens": 30,
        "input_tokens_details": {"cached_tokens": 5},
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": body["model"],
        "tools": [],
        "output": _output(say, new_id) if output is None else output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "temperature": 1.0,
        "top_p": 1.0,
        "metadata": {},
        "usage": usage,
    }


def events(say: Say, body: Any, new_id: Callable[[], int]) -> list[str]:
    number = -1

    def event(kind: str, **fields: Any) -> str:
        nonlocal number
        number += 1
        return _sse({"type": kind, "sequence_number": number, **fields})

    output = _output(say, new_id)
    bare = {**whole(say, body, new_id, []), "status": "in_progress", "usage": None}
    out = [event("response.created", response=bare), event("response.in_progress", response=bare)]
    for index, item in enumerate(output):
        where = {"output_index": index, "item_id": item["id"]}
        empty = {**item, **({"content": []} if "content" in item else {})}
        if item["type"] == "function_call":
            empty["arguments"] = ""
        if item["type"] == "reasoning":
            empty["summary"] = []
        out.append(event("response.output_item.added", output_index=index, item=empty))
        if item["type"] == "function_call":
            for piece in pieces(item["arguments"]):
                out.append(event("response.function_call_arguments.delta", **where, delta=piece))
            out.append(
                event(
                    "response.function_call_arguments.done",
                    **where,
                    arguments=item["arguments"],
                    name=item["name"],
                )
            )
        for at, part in enumerate(item.get("summary", ())):
            place = {**where, "summary_index": at}
            out.append(event("response.reasoning_summary_part.added", **place, part={**part, "text": ""}))
            for piece in pieces(part["text"]):
                out.append(event("response.reasoning_summary_text.delta", **place, delta=piece))
            out.append(event("response.reasoning_summary_text.done", **place, text=part["text"]))
            out.append(event("response.reasoning_summary_part.done", **place, part=part))
        for at, part in enumerate(item.get("content", ())):
            place = {**where, "content_index": at}
            field = "text" if part["type"] == "output_text" else "refusal"
            name = "response.output_text" if field == "text" else "response.refusal"
            out.append(event("response.content_part.added", **place, part={**part, field: ""}))
            for piece in pieces(part[field]):
                out.append(event(f"{name}.delta", **place, delta=piece))
            out.append(event(f"{name}.done", **place, **{field: part[field]}))
            out.append(event("response.content_part.done", **place, part=part))
        out.append(event("response.output_item.done", output_index=index, item=item))
    out.append(event("response.completed", response=whole(say, body, new_id, output)))
    return out


def _sse(data: Any) -> str:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"
