"""Responses API replies as they come off the wire, each as events and whole.

`STREAMS`: (name, events, whole response). "compatible:" marks what gateways make of it; the rest is of the
documented shape, which `test_openai_responses` checks against the SDK's models.
"""

from __future__ import annotations

from itertools import count
from typing import Any

JsonObject = dict[str, Any]

_USAGE = {
    "input_tokens": 120,
    "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 0},
    "output_tokens": 60,
    "output_tokens_details": {"reasoning_tokens": 40},
    "total_tokens": 180,
}
_PARIS, _OSLO = '{"city":"Paris","days":3}', '{"city": "Oslo — \\"N\\"", "days": null}'


def _response(output: list[JsonObject], status: str = "completed", **more: Any) -> JsonObject:
    return {
        "id": "resp_68a1",
        "object": "response",
        "created_at": 1_790_000_000,
        "status": status,
        "model": "gpt-5-2025-08-07",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _USAGE,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        **more,
    }


def _text(text: str, item_id: str = "msg_1", **more: Any) -> JsonObject:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
        **more,
    }


def _call(number: int, name: str, arguments: str, **more: Any) -> JsonObject:
    return {
        "id": f"fc_{number}",
        "type": "function_call",
        "call_id": f"call_{number}",
        "name": name,
        "arguments": arguments,
        "status": "completed",
        **more,
    }


def _reasoning(*summary: str) -> JsonObject:
    return {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in summary],
        "encrypted_content": "gAAAAABo",
    }


def _pieces(text: str) -> list[str]:
    return [text[at : at + 6] for at in range(0, len(text), 6)]


def _opening(item: JsonObject) -> JsonObject:
    empty = {"content": [], "arguments": "", "input": "", "summary": [], "encrypted_content": ""}
    begun = {key: empty.get(key, value) for key, value in item.items()}
    return {**begun, "status": "in_progress"} if "status" in item else begun


def _inside(item: JsonObject, place: JsonObject) -> list[JsonObject]:
    where = {**place, "item_id": item["id"]}
    events: list[JsonObject] = []
    for index, part in enumerate(item.get("content", ())):
        at = {**where, "content_index": index}
        kind = "refusal" if part["type"] == "refusal" else "output_text"
        text = part["refusal" if kind == "refusal" else "text"]
        empty = {**part, ("refusal" if kind == "refusal" else "text"): ""}
        events.append({"type": "response.content_part.added", **at, "part": empty})
        extra = {} if kind == "refusal" else {"logprobs": []}
        events += [{"type": f"response.{kind}.delta", **at, "delta": piece, **extra} for piece in _pieces(text)]
        done = {"refusal": text} if kind == "refusal" else {"text": text, "logprobs": []}
        events.append({"type": f"response.{kind}.done", **at, **done})
        events.append({"type": "response.content_part.done", **at, "part": part})
    for index, part in enumerate(item.get("summary", ())):
        at = {**where, "summary_index": index}
        events.append({"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}})
        events += [
            {"type": "response.reasoning_summary_text.delta", **at, "delta": piece} for piece in _pieces(part["text"])
        ]
        events.append({"type": "response.reasoning_summary_text.done", **at, "text": part["text"]})
        events.append({"type": "response.reasoning_summary_part.done", **at, "part": part})
    if item["type"] == "function_call":
        events += [
            {"type": "response.function_call_arguments.delta", **where, "delta": piece}
            for piece in _pieces(item["arguments"])
        ]
        if item["status"] == "completed":
            done = {"type": "response.function_call_arguments.done", **where, "arguments": item["arguments"]}
            events.append(done)
    if item["type"] == "custom_tool_call":
        events.append({"type": "response.custom_tool_call_input.delta", **where, "delta": item["input"]})
        events.append({"type": "response.custom_tool_call_input.done", **where, "input": item["input"]})
    return events


def _events(response: JsonObject, end: str = "response.completed") -> list[JsonObject]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    events: list[JsonObject] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(response["output"]):
        place = {"output_index": index}
        events.append({"type": "response.output_item.added", **place, "item": _opening(item)})
        events += _inside(item, place)
        events.append({"type": "response.output_item.done", **place, "item": item})
    events.append({"type": end, "response": response})
    numbers = count()
    return [{**event, "sequence_number": next(numbers)} for event in events]


def _interleaved(response: JsonObject) -> list[JsonObject]:
    """Both calls are added first; their arguments come in turns."""
    events = _events(response)
    added = [event for event in events if event["type"].endswith("item.added")]
    deltas = [[event for event in events if event.get("item_id") == item["id"]] for item in response["output"]]
    turns = [event for pair in zip(*deltas, strict=False) for event in pair]
    rest = [event for own in deltas for event in own if event not in turns]
    done = [event for event in events if event["type"].endswith("item.done")]
    return [*events[:2], *added, *turns, *rest, *done, events[-1]]


def _one(name: str, response: JsonObject, end: str = "response.completed") -> tuple[str, list[JsonObject], JsonObject]:
    return name, _events(response, end), response


_TWO_CALLS = _response([_call(1, "forecast", _PARIS), _call(2, "forecast", _OSLO)])
_CUT = _response(
    [_reasoning("Thinking"), _call(1, "forecast", _PARIS[:12], status="incomplete")],
    "incomplete",
    incomplete_details={"reason": "max_output_tokens"},
)
_OPAQUE = _response(
    [
        {
            "id": "ws_1",
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "x"},
        },
        {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_9", "name": "sql", "input": "SELECT 1"},
        _text("Done."),
    ]
)


def _other_ids(events: list[JsonObject]) -> list[JsonObject]:
    """A gateway that makes up another item id for every event."""
    numbers = count()
    out: list[JsonObject] = []
    for event in events:
        changed = dict(event)
        if "item_id" in changed:
            changed["item_id"] = f"x{next(numbers)}"
        if "item" in changed and event["type"].endswith("added"):
            changed["item"] = {**changed["item"], "id": f"x{next(numbers)}"}
        out.append(changed)
    return out


def _no_output(events: list[JsonObject]) -> list[JsonObject]:
    """A gateway whose last event leaves the output empty."""
    return [*events[:-1], {**events[-1], "response": {**events[-1]["response"], "output": []}}]


_REASONED = _response([_reasoning("First this.", "Then that."), _call(1, "forecast", _PARIS)])

STREAMS = [
    _one("text", _response([_text("Hello, wörld \U0001f30d")])),
    _one("nothing", _response([])),
    _one("reasoning and a call", _REASONED),
    _one("commentary, then two calls", _response([_text("On it.", phase="commentary"), *_TWO_CALLS["output"]])),
    ("two calls that interleave", _interleaved(_TWO_CALLS), _TWO_CALLS),
    _one("a call cut by the token limit", _CUT, "response.incomplete"),
    _one(
        "content filter",
        _response(
            [_text("The first", status="incomplete")],
            "incomplete",
            incomplete_details={"reason": "content_filter"},
        ),
        "response.incomplete",
    ),
    _one(
        "refusal",
        _response([{**_text(""), "content": [{"type": "refusal", "refusal": "I can't help with that."}]}]),
    ),
    _one("items that are not ours", _OPAQUE),
    _one(
        "failed",
        _response([], "failed", error={"code": "server_error", "message": "Try again."}),
        "response.failed",
    ),
    ("compatible: another id in every event", _other_ids(_events(_REASONED)), _REASONED),
    ("compatible: no output in the last event", _no_output(_events(_REASONED)), _REASONED),
]
