"""Reading what a Responses model answered: its output, why it stopped, its usage."""

from __future__ import annotations

from typing import Any

from callbox.calls.call import ToolCall
from callbox.dialects.openai_responses_items import read_items
from callbox.dialects.wire import as_count, as_object, as_objects, as_text, plain
from callbox.messages import NO_USAGE, FinishReason, Message, Reply, Usage
from callbox.values import JsonObject

_INCOMPLETE: dict[str, FinishReason] = {
    "max_output_tokens": "length",
    "max_messages": "length",
    "content_filter": "filter",
}


def read_response(response: JsonObject) -> Reply:
    """The reply that one response object is."""
    output = response.get("output")
    model = as_text(response.get("model")) or None
    if not isinstance(output, list):
        return Reply(Message("assistant", ()), "unknown", NO_USAGE, model)
    items = as_objects(output)
    parts = read_items(items)
    refusal = "".join(as_text(piece.get("refusal")) for item in items for piece in as_objects(item.get("content")))
    has_calls = any(isinstance(part, ToolCall) for part in parts)
    return Reply(
        Message("assistant", tuple(parts)),
        _finish(response, has_calls=has_calls, refused=bool(refusal)),
        _read_usage(response.get("usage")),
        model,
        refusal or None,
    )


def _finish(response: JsonObject, *, has_calls: bool, refused: bool) -> FinishReason:
    status = response.get("status")
    if status == "incomplete":
        reason = as_object(plain(response.get("incomplete_details"))).get("reason")
        return _INCOMPLETE.get(as_text(reason), "unknown")
    if status not in ("completed", None):
        return "unknown"
    if has_calls:
        return "calls"
    return "refusal" if refused else "stop"


def _read_usage(value: Any) -> Usage:
    found = as_object(plain(value))
    return Usage(
        input_tokens=as_count(found.get("input_tokens")),
        output_tokens=as_count(found.get("output_tokens")),
        cached_tokens=as_count(as_object(found.get("input_tokens_details")).get("cached_tokens")),
        reasoning_tokens=as_count(as_object(found.get("output_tokens_details")).get("reasoning_tokens")),
        requests=1,
    )
