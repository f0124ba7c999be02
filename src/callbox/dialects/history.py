"""Calls and results as text in a vendor's history, and back: what several dialects share."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast, get_args

from callbox.calls import strict_json
from callbox.calls.call import MISSING, NO_VENDOR, CallError, ErrorCode, Problem, ToolCall, ToolResult
from callbox.dialects.wire import as_list, as_object, as_text
from callbox.limits import DEFAULT_LIMITS
from callbox.tools.tool import NAME, sanitize_name
from callbox.values import JsonObject

_CODES = frozenset(get_args(ErrorCode))


def arguments_text(value: Any) -> str:
    """A call's arguments as text, just as the vendor sent them; some compatible servers send an object."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        # No JSON value at all, so no model wrote it. The gate answers malformed_json.
        return f"<{type(value).__name__}>"


def encodable(text: str) -> str:
    """The text without lone surrogates: models write them, and a client fails to encode the whole request."""
    if text.isascii():
        return text
    # In JSON text the escape means what the surrogate meant.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def written_arguments(call: ToolCall) -> str:
    """A call's arguments for a history: bit for bit as the model wrote them: prompt caches stay warm."""
    if call.raw is not None and call.raw.strip():
        return encodable(call.raw)
    text = arguments_text(call.arguments)
    return encodable(text) if text.strip() else "{}"


def written_id(call_id: str, chars_max: int) -> str:
    """An id that a vendor takes in a history; the same for the call and for its result, whoever made it."""
    if len(call_id) <= chars_max:
        return call_id
    return "call_" + hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:32]


def written_name(name: str) -> str:
    """A name that a vendor takes in a history. Models invent ``functions.get``; OpenAI refuses to read it."""
    return name if NAME.fullmatch(name) else sanitize_name(name)


def parsed_call(call: ToolCall) -> ToolCall:
    """The call with its arguments read, if they are strictly one JSON object; else the call as it was."""
    text = call.arguments
    if not isinstance(text, str):
        return call
    try:
        value = strict_json.parse(text, DEFAULT_LIMITS)
    except strict_json.StrictJsonError:
        return call
    if not isinstance(value, dict):
        return call
    return ToolCall(call.id, call.name, value, text, call.repairs, call.error, call.vendor)


def parsed_result(call_id: str, name: str, content: str, vendor: Any = NO_VENDOR) -> ToolResult:
    """A result out of a history; one of callbox's own errors is known again by its text."""
    return ToolResult(call_id, name, content, recognised_error(content), vendor=vendor)


def recognised_error(content: str) -> CallError | None:
    """The error that `CallError.render` made this text of, or None. Its `retryable` is not in the text."""
    if not content.startswith('{"error": "'):
        return None
    try:
        found = as_object(json.loads(content))
    except (ValueError, RecursionError):
        return None
    if found.get("error") not in _CODES or not isinstance(found.get("message"), str):
        return None
    error = CallError(
        cast("ErrorCode", found["error"]),
        found["message"],
        path=_text_or_none(found.get("path")),
        expected=_text_or_none(found.get("expected")),
        received=found.get("received", MISSING),
        suggestion=_text_or_none(found.get("suggestion")),
        problems=tuple(_problem(as_object(item)) for item in as_list(found.get("problems"))),
    )
    # A tool's own answer may look alike; only what we would write the very same way is ours.
    return error if error.render() == content else None


def _problem(found: JsonObject) -> Problem:
    return Problem(
        found.get("code", ""),
        as_text(found.get("path")),
        as_text(found.get("message")),
        expected=_text_or_none(found.get("expected")),
        received=found.get("received", MISSING),
        suggestion=_text_or_none(found.get("suggestion")),
    )


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
