"""OpenAI Responses: a conversation as a flat list of items.

What such a list cannot say, so that `parse(write(m))` differs from `m` there:

- where one assistant's message, or one message of results, ended and the next began: neighbours become one
- a call's `repairs` and `error`, an error result's `retryable`; ids over 64 characters (shortened)
- a name that is no tool name: models invent them, OpenAI refuses the request, `write` makes a name of it
- the MIME type behind a URL; media of an assistant; reasoning of other vendors, or that led to nothing

What is not understood is kept in `Opaque` and goes back to where it was: ``{"item": {...}}`` is an item of
the list (a web search, a custom tool's call, a compaction), ``{"part": {...}}`` one piece of a message's
content, ``{"message": {field: value}}`` fields of a message itself. Results go back by ``call_id``, never by
``id``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import strict as strict_mode
from callbox.dialects.dialect import Definitions, Dialect, Loss
from callbox.dialects.history import encodable, parsed_call, parsed_result, written_id
from callbox.dialects.openai_media import data_url, from_url
from callbox.dialects.openai_responses_items import (
    CALL_ID_CHARS_MAX,
    NAME,
    read_items,
    write_items,
    write_result,
)
from callbox.dialects.openai_responses_reply import read_response
from callbox.dialects.openai_responses_stream import OpenAIResponsesReader
from callbox.dialects.wire import as_object, as_objects, as_text, plain
from callbox.messages import Media, Message, Opaque, Part, Reply, Role, Text
from callbox.tools.tool import Tool
from callbox.values import JsonObject

_FILE_NAME = "file"


class OpenAIResponses:
    """The dialect ``"openai-responses"``; see `dialect.Dialect`."""

    name = NAME

    def define(self, tools: Sequence[Tool], *, strict: bool = False) -> Definitions:
        """See `Dialect.define`. ``strict`` is always said: left out, it is on, in the API's own way."""
        items: list[JsonObject] = []
        losses: list[Loss] = []
        for tool in tools:
            shape = strict_mode.shape(tool, strict=strict)
            losses += shape.losses
            items.append(
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": shape.parameters,
                    "strict": shape.strict,
                }
            )
        return Definitions(items, losses)

    def restore(self, tool: Tool, arguments: JsonObject) -> JsonObject:
        """See `Dialect.restore`."""
        return strict_mode.restore(tool, arguments)

    def read(self, response: Any, tools: Sequence[Tool] = ()) -> Reply:  # noqa: ARG002 - of the Protocol
        """See `Dialect.read`."""
        return read_response(as_object(plain(response)))

    def reader(self, tools: Sequence[Tool] = ()) -> OpenAIResponsesReader:  # noqa: ARG002 - of the Protocol
        """See `Dialect.reader`."""
        return OpenAIResponsesReader()

    def write_results(self, results: Sequence[ToolResult]) -> list[JsonObject]:
        """See `Dialect.write_results`."""
        return [write_result(result, result.call_id) for result in results]

    def write(self, messages: Sequence[Message]) -> list[JsonObject]:
        """See `Dialect.write`."""
        out: list[JsonObject] = []
        for message in messages:
            if message.role == "assistant":
                out += write_items(message.content)
            elif message.role == "tool":
                out += [_write_tool_part(part) for part in message.content if _goes_back(part)]
            else:
                out.append(_write_other(message))
        return out

    def system(self, messages: Sequence[Message]) -> str | None:  # noqa: ARG002 - of the Protocol
        """None: the instructions are in the list."""
        return None

    def parse(self, messages: Sequence[Any]) -> list[Message]:
        """See `Dialect.parse`."""
        out: list[Message] = []
        calls: dict[str, ToolCall] = {}
        run: list[JsonObject] = []
        for item in [*as_objects(list(messages)), {}]:
            if _is_output(item):
                run.append(item)
                continue
            if run:
                parts = tuple(parsed_call(part) if isinstance(part, ToolCall) else part for part in read_items(run))
                out.append(Message("assistant", parts))
                calls.update({call.id: call for call in out[-1].calls})
                run = []
            if item.get("role") is not None:
                out.append(_parse_other(item))
            elif item:
                part = _parse_tool_part(item, calls)
                before = out.pop().content if out and out[-1].role == "tool" else ()
                out.append(Message("tool", (*before, part)))
        return out


DIALECT: Dialect = OpenAIResponses()


def _is_output(item: JsonObject) -> bool:
    """Whether a model puts out such an item; what answers one is the client's."""
    if item.get("role") is not None:
        return item["role"] == "assistant"
    kind = as_text(item.get("type"))
    return bool(kind) and not kind.endswith(("_output", "_approval_response"))


def _goes_back(part: Part) -> bool:
    return isinstance(part, ToolResult) or (isinstance(part, Opaque) and part.dialect == NAME and "item" in part.data)


def _write_tool_part(part: Part) -> JsonObject:
    if isinstance(part, ToolResult):
        return write_result(part, written_id(part.call_id, CALL_ID_CHARS_MAX))
    return as_object(part.data.get("item")) if isinstance(part, Opaque) else {}


def _parse_tool_part(item: JsonObject, calls: Mapping[str, ToolCall]) -> Part:
    output = item.get("output")
    if item.get("type") != "function_call_output" or not isinstance(output, str):
        # A custom tool's or a computer's, or one with pictures in it.
        return Opaque(NAME, {"item": item})
    call_id = as_text(item.get("call_id"))
    call = calls.get(call_id)
    if call is None:
        return parsed_result(call_id, as_text(item.get("name")), output)
    return parsed_result(call_id, call.name, output, call.vendor)


def _write_other(message: Message) -> JsonObject:
    """A message of the user or of the system."""
    content: list[JsonObject] = []
    extra: JsonObject = {}
    for part in message.content:
        if isinstance(part, Text):
            own = as_object(part.vendor.get(NAME))
            content.append({"type": "input_text", "text": encodable(part.text), **as_object(own.get("part"))})
        elif isinstance(part, Media):
            content.append(_write_media(part))
        elif isinstance(part, Opaque) and part.dialect == NAME:
            if "part" in part.data:
                content.append(as_object(part.data["part"]))
            else:
                extra |= as_object(part.data.get("message"))
    only = content[0] if len(content) == 1 else {}
    plain_text = only["text"] if only.keys() == {"type", "text"} else (content or "")
    return {"role": message.role, "content": plain_text, **extra}


def _write_media(media: Media) -> JsonObject:
    if media.mime_type.startswith("image/"):
        return {"type": "input_image", "detail": "auto", "image_url": data_url(media)}
    if media.data is None:
        return {"type": "input_file", "file_url": media.url}
    return {"type": "input_file", "filename": _FILE_NAME, "file_data": data_url(media)}


def _parse_other(item: JsonObject) -> Message:
    content = item.get("content")
    parts: list[Part] = [Text(content)] if isinstance(content, str) else []
    for piece in as_objects(content):
        extra = {key: value for key, value in piece.items() if key not in ("type", "text")}
        if piece.get("type") == "input_text" and isinstance(piece.get("text"), str):
            parts.append(Text(piece["text"], {NAME: {"part": extra}}) if extra else Text(piece["text"]))
        else:
            parts.append(_parse_media(piece) or Opaque(NAME, {"part": piece}))
    role: Role = "user" if item.get("role") == "user" else "system"
    fields = {key: value for key, value in item.items() if key not in ("type", "content", "role")}
    if item.get("role") != role:
        fields["role"] = item.get("role")
    if fields:
        # "developer", a status: kept, so that it is written as it was.
        parts.append(Opaque(NAME, {"message": fields}))
    return Message(role, tuple(parts))


def _parse_media(piece: JsonObject) -> Media | None:
    kind, keys = piece.get("type"), piece.keys()
    image, file_url, file_data = piece.get("image_url"), piece.get("file_url"), piece.get("file_data")
    if kind == "input_image" and isinstance(image, str) and keys <= {"type", "detail", "image_url"}:
        return from_url(image, "image/*") if piece.get("detail", "auto") == "auto" else None
    if kind == "input_file" and isinstance(file_url, str) and keys == {"type", "file_url"}:
        return Media("application/octet-stream", url=file_url)
    if kind == "input_file" and isinstance(file_data, str) and piece.get("filename") == _FILE_NAME:
        found = from_url(file_data, "")
        return found if found.data is not None and len(piece) == 3 else None
    return None
