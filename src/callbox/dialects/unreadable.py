"""Arguments that are no object, or not all of one, for vendors that take only objects."""

import json
from dataclasses import replace
from typing import Any

from callbox.calls.call import CallError, ToolCall
from callbox.dialects.history import arguments_text, encodable, parsed_call
from callbox.dialects.wire import as_object
from callbox.values import JsonObject

UNREADABLE = "INVALID_JSON"
"""The one key of the object that stands for arguments which are no object.

Anthropic's page on fine-grained tool streaming advises to wrap text that is no JSON in an object with such a
key; Gemini takes only objects, too.
"""


def written_object(call: ToolCall) -> JsonObject:
    """A call's arguments as an object; what is none, or what no client could encode, is wrapped in one."""
    # A streamed call goes into the history as it came: as text.
    arguments = parsed_call(call).arguments
    if isinstance(arguments, str):
        return {UNREADABLE: encodable(arguments)}
    try:
        # NaN and lone surrogates would make the vendor's client fail, on this request and on all that follow.
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return {UNREADABLE: encodable(arguments_text(arguments))}
    return as_object(arguments) if isinstance(arguments, dict) else {UNREADABLE: arguments}


def read_object(value: Any) -> Any:
    """Arguments as a vendor sends them, or as `written_object` wrote them."""
    if value is None:
        return {}
    found = as_object(value)
    return found[UNREADABLE] if found.keys() == {UNREADABLE} else value


def cut_off(call: ToolCall) -> ToolCall:
    """The call marked as unfinished: vendors close the object themselves, so it looks whole."""
    error = CallError(
        "malformed_json",
        "The call was cut off: the output ended while its arguments were being written.",
        suggestion="Call again with shorter arguments, or split the work into several calls.",
    )
    return replace(call, error=error)
