"""The items of the Responses API: reading what a model put out, and writing it back as it was.

Text, calls and reasoning carry their item in `vendor` under this dialect's name: the API wants it back.

- ``message``: the fields of the message that a text stood in (id, status, phase); ``part``: the text's own
- ``item``: the fields of a call's item besides call_id, name and arguments (id, status, namespace, caller)
- ``after``: the id of the reasoning item that the model wrote just before. The API refuses an item under its
  own id without that one; when a shortened history has lost the one, the other goes without its id
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from callbox.calls.call import NO_VENDOR, ToolCall, ToolResult
from callbox.dialects.history import (
    arguments_text,
    encodable,
    written_arguments,
    written_id,
    written_name,
)
from callbox.dialects.wire import as_object, as_objects, as_text
from callbox.ids import new_id
from callbox.messages import Opaque, Part, Reasoning, Text
from callbox.values import JsonObject, JsonValue

NAME = "openai-responses"
CALL_ID_CHARS_MAX = 64

# What the SDK adds of its own to what it has parsed; the API refuses it.
_OF_THE_SDK = frozenset({"parsed", "parsed_arguments"})


def read_items(items: Iterable[JsonObject]) -> list[Part]:
    """What a model put out, in its order."""
    parts: list[Part] = []
    after: str | None = None
    for item in items:
        kind = item.get("type")
        if kind == "function_call":
            parts.append(_read_call(item, after))
        elif kind == "reasoning":
            parts += _read_reasoning(item)
            after = as_text(item.get("id")) or after
        elif kind == "message" or (kind is None and "content" in item):
            parts += _read_message(item, after)
        else:
            parts.append(Opaque(NAME, {"item": item}))
    return parts


def _read_call(item: JsonObject, after: str | None) -> ToolCall:
    extra = _rest(item, "type", "call_id", "name", "arguments")
    return ToolCall(
        as_text(item.get("call_id")) or new_id("call"),
        as_text(item.get("name")),
        arguments_text(item.get("arguments")),
        vendor=_vendor(item=extra, after=after if "id" in extra else None),
    )


def _read_reasoning(item: JsonObject) -> list[Part]:
    texts = [*as_objects(item.get("summary")), *as_objects(item.get("content"))]
    text = "\n\n".join(as_text(piece.get("text")) for piece in texts)
    # An SDK's dump says "status": null, and the API refuses just that.
    item = {key: value for key, value in item.items() if key != "status" or value is not None}
    # Without its id it is what was left of a stream that was cut, and cannot go back.
    if item.get("id"):
        return [Reasoning(text, _vendor(item=item))]
    return [Reasoning(text)] if text else []


def _read_message(item: JsonObject, after: str | None) -> list[Part]:
    meta = _rest(item, "type", "role", "content")
    if "id" not in meta:
        after = None
    content = item.get("content")
    if isinstance(content, str):
        return [Text(content, _vendor(message=meta, after=after))] if content else []
    parts: list[Part] = []
    for piece in as_objects(content):
        if piece.get("type") in ("output_text", "input_text", "text") and isinstance(piece.get("text"), str):
            vendor = _vendor(message=meta, part=_rest(piece, "type", "text"), after=after)
            parts.append(Text(piece["text"], vendor))
        else:
            found = {"message": meta, "part": {k: v for k, v in piece.items() if k not in _OF_THE_SDK}}
            parts.append(Opaque(NAME, {**found, "after": after} if after else found))
    return parts


def _rest(item: JsonObject, *known: str) -> JsonObject:
    return {key: value for key, value in item.items() if key not in known and key not in _OF_THE_SDK}


def _vendor(**found: JsonValue) -> Mapping[str, JsonValue]:
    kept: JsonObject = {key: value for key, value in found.items() if value}
    return {NAME: kept} if kept else NO_VENDOR


# Writing


def write_items(parts: Sequence[Part]) -> list[JsonObject]:
    """What a model put out, as input items for the next request."""
    known = {as_text(as_object(_own(part).get("item")).get("id")) for part in parts if isinstance(part, Reasoning)}
    items: list[JsonObject] = []
    message: JsonObject | None = None
    for part in parts:
        if isinstance(part, Text) or (isinstance(part, Opaque) and part.dialect == NAME and "part" in part.data):
            message = _write_part(items, message, part, known)
            continue
        message = None
        if isinstance(part, ToolCall):
            items.append(_write_call(part, known))
        elif isinstance(part, Reasoning) and "item" in _own(part):
            items.append(as_object(_own(part)["item"]))
        elif isinstance(part, Opaque) and part.dialect == NAME:
            items.append(as_object(part.data.get("item")))
    # A reasoning item is refused without the item that it led to.
    while items and items[-1].get("type") == "reasoning":
        items.pop()
    return items


def _own(part: Part) -> JsonObject:
    return as_object(part.data if isinstance(part, Opaque) else getattr(part, "vendor", NO_VENDOR).get(NAME))


def _write_call(call: ToolCall, known: set[str]) -> JsonObject:
    own = _own(call)
    extra = dict(as_object(own.get("item")))
    if own.get("after", "") not in known | {""}:
        extra.pop("id", None)
    return {
        "type": "function_call",
        "call_id": written_id(call.id, CALL_ID_CHARS_MAX),
        "name": written_name(call.name),
        "arguments": written_arguments(call),
        **extra,
    }


def _write_part(items: list[JsonObject], message: JsonObject | None, part: Part, known: set[str]) -> JsonObject | None:
    """Write one part of a message; returns the message item that the next part may belong to."""
    own = _own(part)
    meta = as_object(own.get("message"))
    piece = _piece(part)
    if "id" not in meta or own.get("after", "") not in known | {""}:
        # No item of the API's own: the short form, which takes text alone, and of all fields just the phase.
        text = piece.get("text") if isinstance(part, Text) else piece.get("refusal")
        phase = {"phase": meta["phase"]} if "phase" in meta else {}
        items.append({"role": "assistant", "content": as_text(text), **phase})
        return None
    if message is None or message.get("id") != meta["id"]:
        message = {"type": "message", "role": "assistant", **meta, "content": []}
        items.append(message)
    message["content"].append(piece)
    return message


def _piece(part: Part) -> JsonObject:
    if isinstance(part, Text):
        return {
            "type": "output_text",
            "text": encodable(part.text),
            "annotations": [],
            **as_object(_own(part).get("part")),
        }
    return as_object(_own(part).get("part"))


def write_result(result: ToolResult, call_id: str) -> JsonObject:
    """One call's result. What asked for it (``caller``: a program of the model's) goes back with it."""
    said = as_object(as_object(result.vendor.get(NAME)).get("item"))
    return {
        "type": "function_call_output",
        "call_id": call_id,
        "output": encodable(result.content),
        **({"caller": said["caller"]} if said.get("caller") else {}),
    }
