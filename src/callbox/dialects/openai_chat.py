"""OpenAI Chat Completions, and what the many servers that are compatible with it make of it.

What a history of this vendor cannot say, so that `parse(write(m))` differs from `m` there:

- a call's `repairs` and `error`, an error result's `retryable`, that two `tool` messages in a row were two
- the id of a legacy ``function_call``; ids over 40 characters: OpenAI refuses them, `write` shortens them
- a name that is no tool name: models invent them, OpenAI refuses the request, `write` makes a name of it
- the MIME type behind an image's URL; media in an assistant's turn; files by URL, which become a line of text
- reasoning of another vendor, which is left out

What is not understood is kept in `Opaque` and goes back to where it was: ``{"message": {field: value}}`` is
fields of the message itself (a refusal, audio, reasoning_details, a participant's name, the role
``developer``), ``{"part": {...}}`` one of its content parts, ``{"tool_call": {...}}`` one of its tool calls.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import strict as strict_mode
from callbox.dialects.dialect import Definitions, Dialect, Loss
from callbox.dialects.history import (
    encodable,
    parsed_call,
    parsed_result,
    written_arguments,
    written_id,
    written_name,
)
from callbox.dialects.openai_chat_reply import (
    NAME,
    REASONING_FIELDS,
    extra_fields,
    read_model,
    read_parts,
    read_reply,
    read_text,
)
from callbox.dialects.openai_chat_stream import OpenAIChatReader
from callbox.dialects.openai_media import read_media, write_media
from callbox.dialects.wire import as_object, as_objects, as_text, plain
from callbox.ids import new_id
from callbox.messages import NO_USAGE, Media, Message, Opaque, Part, Reasoning, Reply, Role, Text
from callbox.tools.tool import Tool
from callbox.values import JsonObject

_CALL_ID_CHARS_MAX = 40
_SAYS_SOMETHING = frozenset({"tool_calls", "function_call", "refusal", "audio"})


class OpenAIChat:
    """The dialect ``"openai"``; see `dialect.Dialect`."""

    name = NAME

    def define(self, tools: Sequence[Tool], *, strict: bool = False) -> Definitions:
        """See `Dialect.define`."""
        items: list[JsonObject] = []
        losses: list[Loss] = []
        for tool in tools:
            shape = strict_mode.shape(tool, strict=strict)
            losses += shape.losses
            function: JsonObject = {
                "name": tool.name,
                "description": tool.description,
                "parameters": shape.parameters,
            }
            if strict:
                # Not sent unless asked for: some compatible servers refuse a key that they do not know.
                function["strict"] = shape.strict
            items.append({"type": "function", "function": function})
        return Definitions(items, losses)

    def restore(self, tool: Tool, arguments: JsonObject) -> JsonObject:
        """See `Dialect.restore`."""
        return strict_mode.restore(tool, arguments)

    def read(self, response: Any, tools: Sequence[Tool] = ()) -> Reply:  # noqa: ARG002 - of the Protocol
        """See `Dialect.read`. Of several choices the first is read."""
        body = as_object(plain(response))
        choice = next(iter(as_objects(body.get("choices"))), None)
        if not choice:
            return Reply(Message("assistant", ()), "unknown", NO_USAGE, read_model(body))
        return read_reply(
            as_object(plain(choice.get("message"))),
            choice.get("finish_reason"),
            body.get("usage"),
            read_model(body),
        )

    def reader(self, tools: Sequence[Tool] = ()) -> OpenAIChatReader:  # noqa: ARG002 - of the Protocol
        """See `Dialect.reader`."""
        return OpenAIChatReader()

    def write_results(self, results: Sequence[ToolResult]) -> list[JsonObject]:
        """See `Dialect.write_results`."""
        return [_write_result(result, result.call_id) for result in results]

    def write(self, messages: Sequence[Message]) -> list[JsonObject]:
        """See `Dialect.write`."""
        out: list[JsonObject] = []
        for message in messages:
            if message.role == "tool":
                out += [
                    _write_result(result, written_id(result.call_id, _CALL_ID_CHARS_MAX)) for result in message.results
                ]
            elif message.role == "assistant":
                out.append(_write_assistant(message))
            else:
                out.append(_write_other(message))
        return out

    def system(self, messages: Sequence[Message]) -> str | None:  # noqa: ARG002 - of the Protocol
        """None: the instructions are in the list."""
        return None

    def parse(self, messages: Sequence[Any]) -> list[Message]:
        """See `Dialect.parse`."""
        out: list[Message] = []
        open_calls: dict[str, ToolCall] = {}
        for item in messages:
            found = as_object(plain(item))
            role = found.get("role")
            if role in ("tool", "function"):
                result = _parse_result(found, open_calls)
                if out and out[-1].role == "tool":
                    out[-1] = Message.tool([*out[-1].results, result])
                else:
                    out.append(Message.tool([result]))
            elif role == "assistant":
                message = Message("assistant", tuple(map(_parse_part, read_parts(found))))
                open_calls.update({call.id: call for call in message.calls})
                out.append(message)
            elif found:
                out.append(_parse_other(found))
        return out


DIALECT: Dialect = OpenAIChat()


# Writing


def _write_result(result: ToolResult, call_id: str) -> JsonObject:
    content = encodable(result.content)
    if as_object(result.vendor.get(NAME)).get("legacy"):
        return {"role": "function", "name": written_name(result.name), "content": content}
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _write_assistant(message: Message) -> JsonObject:
    content: list[JsonObject] = []
    calls: list[JsonObject] = []
    out: JsonObject = {"role": "assistant", "content": None}
    for part in message.content:
        if isinstance(part, Text):
            content.append(_write_text(part))
        elif isinstance(part, ToolCall):
            if as_object(part.vendor.get(NAME)).get("legacy"):
                out["function_call"] = _function(part)
            else:
                calls.append(_call_item(part))
        elif isinstance(part, Reasoning):
            own = as_object(part.vendor.get(NAME))
            if "block" in own:
                content.append(own["block"])
            elif own.get("field") in REASONING_FIELDS:
                out[own["field"]] = encodable(part.text)
        elif isinstance(part, Opaque) and part.dialect == NAME:
            if "message" in part.data:
                out |= _returned(as_object(part.data["message"]))
            elif "tool_call" in part.data:
                calls.append(as_object(part.data["tool_call"]))
            else:
                content.append(as_object(part.data.get("part")))
    if calls:
        out["tool_calls"] = calls
    if content:
        out["content"] = _unwrapped(content)
    elif out.keys().isdisjoint(_SAYS_SOMETHING):
        # Null is refused where there is nothing else.
        out["content"] = ""
    return out


def _returned(extra: JsonObject) -> JsonObject:
    # Audio goes back by its id alone.
    audio = as_object(extra.get("audio"))
    return {**extra, "audio": {"id": audio["id"]}} if "id" in audio else extra


def _unwrapped(content: list[JsonObject]) -> Any:
    only = content[0] if len(content) == 1 else {}
    return only["text"] if only.keys() == {"type", "text"} else content


def _call_item(call: ToolCall) -> JsonObject:
    extra = as_object(call.vendor.get(NAME))
    return {
        "id": written_id(call.id, _CALL_ID_CHARS_MAX),
        "type": "function",
        "function": _function(call),
        **extra,
    }


def _function(call: ToolCall) -> JsonObject:
    return {"name": written_name(call.name), "arguments": written_arguments(call)}


def _write_text(part: Text) -> JsonObject:
    return {"type": "text", "text": encodable(part.text), **as_object(part.vendor.get(NAME))}


def _write_other(message: Message) -> JsonObject:
    """A message of the user or of the system."""
    content: list[JsonObject] = []
    extra: JsonObject = {}
    for part in message.content:
        if isinstance(part, Text):
            content.append(_write_text(part))
        elif isinstance(part, Media):
            content.append(write_media(part))
        elif isinstance(part, Opaque) and part.dialect == NAME:
            if "message" in part.data:
                extra = as_object(part.data["message"])
            else:
                content.append(as_object(part.data.get("part")))
    return {"role": message.role, "content": _unwrapped(content) if content else "", **extra}


# Parsing


def _parse_part(part: Part) -> Part:
    return parsed_call(part) if isinstance(part, ToolCall) else part


def _parse_result(found: JsonObject, calls: Mapping[str, ToolCall]) -> ToolResult:
    content = found.get("content")
    text = content if isinstance(content, str) else "".join(as_text(part.get("text")) for part in as_objects(content))
    name = as_text(found.get("name"))
    if found.get("role") == "function":
        # The legacy wire pairs by name, and there is one call in a turn.
        call = next((call for call in reversed(list(calls.values())) if call.name == name), None)
    else:
        call = calls.get(as_text(found.get("tool_call_id")))
    if call is None:
        return parsed_result(as_text(found.get("tool_call_id")) or new_id("call"), name, text)
    return parsed_result(call.id, call.name, text, call.vendor)


def _parse_other(found: JsonObject) -> Message:
    content = found.get("content")
    parts: list[Part] = []
    if isinstance(content, str):
        parts.append(Text(content))
    for item in as_objects(content):
        if item.get("type") == "text" and isinstance(item.get("text"), str):
            parts.append(read_text(item))
        else:
            parts.append(read_media(item) or Opaque(NAME, {"part": item}))
    role: Role = "user" if found.get("role") == "user" else "system"
    extra = extra_fields(found, frozenset({"role", "content"}))
    if found.get("role") not in ("user", "system"):
        # "developer", or a role that is not known here: kept, so that it is written as it was.
        extra["role"] = found.get("role")
    if extra:
        parts.append(Opaque(NAME, {"message": extra}))
    return Message(role, tuple(parts))
