"""Anthropic Messages: content blocks, results first in the user's turn, thinking that comes back unchanged.

What this vendor's history cannot say, and so does not survive `parse(write(m))`:

- system messages (`system` gives them, for the request's own field), and reasoning of other vendors
- where two turns of one role meet: the API joins them, and so do we
- texts of white space only, which the API refuses
- a medium's type behind a URL; types besides images, PDF and plain text are named in a text instead
- `CallError.retryable`, `ToolCall.error` and `ToolCall.repairs`
"""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from callbox.calls.call import NO_VENDOR, CallError, ToolCall, ToolResult
from callbox.dialects.anthropic_reader import NAME, AnthropicReader, read_part, read_reply
from callbox.dialects.anthropic_strict import Allowance, StrictShape, strict_shape
from callbox.dialects.dialect import Definitions, Loss
from callbox.dialects.history import encodable, recognised_error, written_name
from callbox.dialects.root import object_root
from callbox.dialects.unreadable import written_object
from callbox.dialects.wire import as_list, as_object, as_text, plain
from callbox.messages import Media, Message, Opaque, Part, Reasoning, Reply, Text
from callbox.tools.tool import Tool
from callbox.values import JsonObject, JsonValue

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
"""What the API takes as the name of a parameter; any other is a 400 for the whole request."""


class AnthropicDialect:
    """Anthropic Messages; see `dialect.Dialect`."""

    name = NAME

    def define(self, tools: Sequence[Tool], *, strict: bool = False) -> Definitions:
        """The request's ``tools``. Strict tools are those that the limits of strict mode allow, in order."""
        items: list[JsonObject] = []
        losses: list[Loss] = []
        allowance = Allowance()
        for tool in tools:
            shape = _shape(tool)
            losses += shape.losses
            item: JsonObject = {
                "name": tool.name,
                "description": tool.description,
                "input_schema": shape.schema,
            }
            if strict:
                refusal = _refusal(tool, shape, allowance)
                if refusal:
                    losses += refusal
                else:
                    item |= {"input_schema": shape.strict.schema, "strict": True}
                    losses += shape.strict.dropped
            items.append(item)
        return Definitions(items, losses)

    def read(self, response: Any, tools: Sequence[Tool] = ()) -> Reply:  # noqa: ARG002 - of the Protocol
        """A ``Message``, dict or SDK object. No names are mapped: the API takes all that callbox takes."""
        return read_reply(as_object(plain(response)))

    def reader(self, tools: Sequence[Tool] = ()) -> AnthropicReader:  # noqa: ARG002 - of the Protocol
        """A reader of raw stream events, which the SDK's ``messages.stream`` helper passes on, too."""
        return AnthropicReader()

    def restore(self, tool: Tool, arguments: JsonObject) -> JsonObject:
        """Arguments under the tool's own names, where the API refused one."""
        renamed = _shape(tool).renamed
        if not renamed:
            return arguments
        return {renamed.get(name, name): value for name, value in arguments.items()}

    def write_results(self, results: Sequence[ToolResult]) -> list[JsonObject]:
        """One user message with all results: the API wants the results of a turn together."""
        if not results:
            return []
        return [{"role": "user", "content": [_write_result(result) for result in results]}]

    def write(self, messages: Sequence[Message]) -> list[JsonObject]:
        """The conversation without its system messages; turns of one role are joined, results come first."""
        written: list[JsonObject] = []
        for message in messages:
            if message.role == "system":
                continue
            role = "assistant" if message.role == "assistant" else "user"
            blocks = [block for part in message.content if (block := _write_part(part)) is not None]
            if not blocks:
                continue
            if written and written[-1]["role"] == role:
                written[-1]["content"] += blocks
            else:
                written.append({"role": role, "content": blocks})
        for message in written:
            if message["role"] == "user":
                # A stable sort: text before the results of a turn is a 400.
                message["content"].sort(key=_after_results)
        return written

    def system(self, messages: Sequence[Message]) -> str | None:
        """All system messages, for the request's ``system``."""
        text = "\n\n".join(message.text for message in messages if message.role == "system")
        return encodable(text) or None

    def parse(self, messages: Sequence[Any]) -> list[Message]:
        """The conversation; a user message with results is a `tool` message, then what else it says."""
        parsed: list[Message] = []
        calls: dict[str, ToolCall] = {}
        for found in messages:
            message = as_object(plain(found))
            parts = _parse_content(message.get("content"), calls)
            calls.update({part.id: part for part in parts if isinstance(part, ToolCall)})
            results = tuple(part for part in parts if isinstance(part, ToolResult))
            others = tuple(part for part in parts if not isinstance(part, ToolResult))
            if results:
                parsed.append(Message("tool", results))
            if others or not results:
                role = message.get("role")
                parsed.append(Message(role if role in ("assistant", "system") else "user", others))
        return parsed


DIALECT = AnthropicDialect()


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tool in this vendor's terms. `renamed`: the API's name of a parameter to the tool's own."""

    schema: JsonObject
    losses: tuple[Loss, ...]
    renamed: Mapping[str, str]
    strict: StrictShape


@lru_cache(maxsize=1024)
def _shape(tool: Tool) -> _Shape:
    schema, losses = object_root(tool)
    renamed: dict[str, str] = {}
    properties = as_object(schema.get("properties"))
    if not all(_PROPERTY.fullmatch(name) for name in properties):
        to_vendor = _new_names(properties)
        renamed = {new: old for old, new in to_vendor.items() if new != old}
        schema["properties"] = {to_vendor[name]: value for name, value in properties.items()}
        if "required" in schema:
            schema["required"] = [to_vendor.get(name, name) for name in schema["required"]]
        for keyword in ("dependentRequired", "dependentSchemas", "propertyNames", "patternProperties"):
            if schema.pop(keyword, None) is not None:
                message = "It speaks of names that the API does not take; checked by callbox alone."
                losses.append(Loss(tool.name, "", keyword, message))
    return _Shape(schema, tuple(losses), renamed, strict_shape(tool, schema))


def _new_names(properties: Mapping[str, Any]) -> dict[str, str]:
    """Each name, and what the API takes in its place: no two alike."""
    taken = {name for name in properties if _PROPERTY.fullmatch(name)}
    names: dict[str, str] = {}
    for name in properties:
        new = name if name in taken else re.sub(r"[^a-zA-Z0-9_.-]", "_", name)[:64] or "_"
        number = 2
        while new != name and new in taken:
            new = f"{new[:58]}_{number}"
            number += 1
        taken.add(new)
        names[name] = new
    return names


def _refusal(tool: Tool, shape: _Shape, allowance: Allowance) -> list[Loss]:
    """Why this tool is not strict; empty if it is."""
    found = shape.strict.refused
    if found or shape.losses:
        reasons = ", ".join(f"{loss.keyword} at {loss.path or 'the root'}" for loss in (*shape.losses, *found))
        return [
            *found,
            Loss(tool.name, "", "strict", f"Sent without strict mode, with its whole schema: {reasons}."),
        ]
    limit = allowance.take(shape.strict)
    return [Loss(tool.name, "", "strict", f"Sent without strict mode: {limit}.")] if limit else []


def _write_part(part: Part) -> JsonObject | None:
    match part:
        case Text():
            text = encodable(part.text)
            # "text content blocks must contain non-whitespace text"
            return {"type": "text", "text": text, **_vendor(part.vendor)} if text.strip() else None
        case Media():
            return _write_media(part)
        case Reasoning():
            return _write_reasoning(part)
        case Opaque():
            return part.data if part.dialect == NAME else None
        case ToolCall():
            return _write_call(part)
        case ToolResult():
            return _write_result(part)


def _after_results(block: JsonObject) -> bool:
    return block.get("type") != "tool_result"


def _vendor(vendor: Mapping[str, JsonValue]) -> JsonObject:
    return as_object(vendor.get(NAME))


def _write_reasoning(part: Reasoning) -> JsonObject | None:
    own = _vendor(part.vendor)
    if own.get("type") == "redacted_thinking":
        return own
    # Thoughts without their signature are refused: they may be another vendor's, or forged.
    return {"type": "thinking", "thinking": encodable(part.text), **own} if own.get("signature") else None


def _write_call(call: ToolCall) -> JsonObject:
    return {
        "type": "tool_use",
        "id": call.id,
        "name": written_name(call.name),
        "input": written_object(call),
        **_vendor(call.vendor),
    }


def _write_media(media: Media) -> JsonObject:
    kind = "image" if media.mime_type.startswith("image/") else "document"
    if media.url is not None:
        if kind == "image" or media.mime_type == "application/pdf":
            return {"type": kind, "source": {"type": "url", "url": media.url}}
    elif media.data is not None:
        if media.mime_type in _IMAGES or media.mime_type == "application/pdf":
            source = {"type": "base64", "media_type": media.mime_type, "data": media.data}
            return {"type": kind, "source": source}
        if media.mime_type == "text/plain":
            return {"type": "text", "text": encodable(b64decode(media.data).decode("utf-8", "replace"))}
    where = f" at {media.url}" if media.url else ""
    return {
        "type": "text",
        "text": f"[An attachment of type {media.mime_type}{where}, which this API cannot take.]",
    }


def _write_result(result: ToolResult) -> JsonObject:
    block: JsonObject = {"type": "tool_result", "tool_use_id": result.call_id}
    own = _vendor(result.vendor)
    if "content" in own:
        block["content"] = own["content"]
    elif result.content:
        block["content"] = encodable(result.content)
    if result.is_error:
        block["is_error"] = True
    if "toolset_name" in own:
        block["toolset_name"] = own["toolset_name"]
    return block


def _parse_content(content: Any, calls: Mapping[str, ToolCall]) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)] if content else []
    parts: list[Part] = []
    for item in as_list(content):
        block = as_object(plain(item))
        part = _parse_result(block, calls) if block.get("type") == "tool_result" else read_part(block)
        if part is not None:
            parts.append(part)
    return parts


def _parse_result(block: JsonObject, calls: Mapping[str, ToolCall]) -> ToolResult:
    call_id = as_text(block.get("tool_use_id"))
    call = calls.get(call_id)
    vendor: Mapping[str, Any] = call.vendor if call is not None else NO_VENDOR
    content = block.get("content")
    if isinstance(content, list):
        text = "".join(as_text(as_object(item).get("text")) for item in as_list(content))
        # Images, documents, search results: text cannot say them, so they go back as they came.
        vendor = {**vendor, NAME: {**_vendor(vendor), "content": content}}
    else:
        text = as_text(content)
    error = None
    if block.get("is_error") is True:
        error = recognised_error(text) or CallError("tool_failed", text)
    return ToolResult(call_id, call.name if call is not None else "", text, error, vendor=vendor)
