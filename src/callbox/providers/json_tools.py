"""Calls for models and servers without tools: the whole answer is held to a JSON Schema and read back as a
call.

An answer is ``{"tool": name, "arguments": {...}}`` or ``{"answer": "..."}``. One call a turn: small models
do better with that, and the agent asks again anyway.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from callbox.calls.call import ToolCall
from callbox.calls.streaming import CompletionScanner
from callbox.dialects.wire import as_object
from callbox.ids import new_id
from callbox.messages import (
    CallDelta,
    CallReady,
    CallStarted,
    Finished,
    Message,
    Part,
    Reply,
    StreamEvent,
    Text,
    TextDelta,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callbox.dialects.dialect import StreamReader
    from callbox.providers.provider import ToolChoice
    from callbox.tools.tool import Tool
    from callbox.values import JsonObject

HEAD_CHARS_MAX = 512
"""An answer that opens an object but names neither a tool nor an answer within this many characters is
plain text."""

_FENCE = r"\s*(?:```(?:json)?\s*)?"
_CALL = re.compile(_FENCE + r'\{\s*"tool"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)', re.DOTALL)
_ANSWER = re.compile(_FENCE + r'\{\s*"answer"\s*:\s*"')
_MAY_OPEN = re.compile(r"\s*(?:`{1,3}|```(?:j|js|jso|json)?\s*(?:\{.*)?|\{.*)?", re.DOTALL)
# Text of a JSON string up to its end, or to an escape that has not fully arrived. A high surrogate waits
# for its low one.
_STRING = re.compile(
    r'(?:[^"\\]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\[^u])*'
)
_UP_TO_BRACE = re.compile(r"[^}]*\}|[^}]+")


def reply_schema(tools: Sequence[Tool], choice: ToolChoice) -> JsonObject:
    """The JSON Schema of one answer: a call of one of the tools, a final text, or either.

    Args:
        tools: What may be called.
        choice: ``"auto"``, ``"none"`` or ``"required"``.
    """
    options: list[JsonObject] = []
    shared: JsonObject = {}
    if choice != "none":
        for tool in tools:
            parameters = tool.parameters
            if _refers(parameters):
                # References are relative to the document, and the tool's schema is no longer the document.
                shared[tool.name] = _rebased(parameters, f"#/$defs/{tool.name}")
                parameters = {"$ref": f"#/$defs/{tool.name}"}
            options.append(_object({"tool": {"const": tool.name}, "arguments": parameters}))
    if choice != "required":
        options.append(_object({"answer": {"type": "string"}}))
    schema: JsonObject = options[0] if len(options) == 1 else {"anyOf": options}
    return {**schema, "$defs": shared} if shared else schema


def instructions(tools: Sequence[Tool], choice: ToolChoice) -> str:
    """What the model is told about its tools, since the server has no place for them."""
    if choice == "none":
        return 'Reply with one JSON object: {"answer": "..."}'
    lines = ["Reply with one JSON object and nothing else."]
    lines.append('To call a function: {"tool": "<name>", "arguments": {...}}. You are told its result.')
    if choice != "required":
        lines.append('To answer the person: {"answer": "..."}')
    lines.append("Functions:")
    for tool in tools:
        described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        lines.append(json.dumps(described, ensure_ascii=False))
    return "\n".join(lines)


def translate(messages: Sequence[Message]) -> list[Message]:
    """A conversation without calls and results: they are said in the words of `instructions`.

    Neighbours of one role are joined: many chat templates insist that roles alternate.
    """
    out: list[Message] = []
    for message in messages:
        if message.role == "assistant":
            new = _said(message)
        elif message.role == "tool":
            told = "\n\n".join(f"Result of {result.name}: {result.content}" for result in message.results)
            new = Message.user(told)
        else:
            new = message
        if out and out[-1].role == new.role == "user":
            out[-1] = Message("user", (*out[-1].content, Text("\n\n"), *new.content))
        else:
            out.append(new)
    return out


def read_reply(reply: Reply) -> Reply:
    """The reply with the call or the answer that its text holds."""
    reading = _Reading()
    reading.feed(reply.message.text)
    reading.finish()
    return reading.applied_to(reply)


class JsonToolsReader:
    """A `StreamReader` that reads calls out of the text that another one reads."""

    def __init__(self, inner: StreamReader) -> None:
        self._inner = inner
        self._reading = _Reading()

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """See `StreamReader.feed`."""
        return self._pass(self._inner.feed(chunk))

    def finish(self) -> list[StreamEvent]:
        """See `StreamReader.finish`."""
        return self._pass(self._inner.finish())

    def _pass(self, events: list[StreamEvent]) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        for event in events:
            if isinstance(event, TextDelta):
                out += self._reading.feed(event.text)
            elif isinstance(event, Finished):
                out += self._reading.finish()
                out.append(Finished(self._reading.applied_to(event.reply)))
            else:
                out.append(event)
        return out


class _Reading:
    """Reads one answer that arrives in pieces: its head says what it is, then arguments or text are passed
    on."""

    def __init__(self) -> None:
        self._state = "head"
        self._pending = ""
        self._fragments: list[str] = []
        self._scanner = CompletionScanner()
        self._call_id = ""
        self._name = ""
        self._closed = False
        self.parts: list[Part] = []

    def feed(self, text: str) -> list[StreamEvent]:
        """Take more of the answer; return what it means."""
        self._pending += text
        events: list[StreamEvent] = []
        if self._state == "head":
            events += self._head()
        if self._state == "arguments":
            events += self._arguments()
        elif self._state == "answer":
            events += self._answer()
        elif self._state == "plain" and self._pending:
            events.append(self._text(self._pending))
            self._pending = ""
        return events

    def finish(self) -> list[StreamEvent]:
        """The answer has ended, properly or not."""
        if self._closed:
            return []
        self._closed = True
        events: list[StreamEvent] = []
        rest, self._pending = self._pending, ""
        if self._state == "head" and rest:
            events += self._unordered(rest)
        elif self._state == "arguments":
            # Cut off: left as it is, for the gate to say so. Half a call is never completed.
            self.parts.append(ToolCall(self._call_id, self._name, "".join(self._fragments)))
        elif self._state == "answer" and rest:
            events.append(self._text(_decoded(rest)))
        elif self._state == "closed" and (said := rest.strip().removeprefix("}").strip("` \r\n\t")):
            events.append(self._text(said))
        self.parts = _joined(self.parts)
        return events

    def applied_to(self, reply: Reply) -> Reply:
        """The reply with what was read in place of its text."""
        kept = tuple(part for part in reply.message.content if not isinstance(part, Text))
        called = any(isinstance(part, ToolCall) for part in self.parts)
        finish = "calls" if called and reply.finish in ("stop", "unknown") else reply.finish
        message = Message(reply.message.role, (*kept, *self.parts))
        return Reply(message, finish, reply.usage, reply.model, reply.refusal)

    def _head(self) -> list[StreamEvent]:
        call = _CALL.match(self._pending)
        if call is not None:
            self._state = "arguments"
            self._call_id = new_id("call")
            self._name = _decoded(call["name"][1:-1])
            self._pending = self._pending[call.end() :]
            return [CallStarted(0, self._call_id, self._name)]
        answer = _ANSWER.match(self._pending)
        if answer is not None:
            self._state = "answer"
            self._pending = self._pending[answer.end() :]
        elif len(self._pending) > HEAD_CHARS_MAX or not _MAY_OPEN.fullmatch(self._pending):
            self._state = "plain"
        return []

    def _arguments(self) -> list[StreamEvent]:
        text, taken = self._pending, 0
        for piece in _UP_TO_BRACE.finditer(text):
            taken = piece.end()
            if self._scanner.feed(piece[0]):
                break
        self._pending = text[taken:]
        if not taken:
            return []
        self._fragments.append(text[:taken])
        events: list[StreamEvent] = [CallDelta(0, text[:taken])]
        if self._scanner.complete:
            self._state = "closed"
            call = ToolCall(self._call_id, self._name, "".join(self._fragments))
            self.parts.append(call)
            events.append(CallReady(0, call))
        return events

    def _answer(self) -> list[StreamEvent]:
        match = _STRING.match(self._pending)
        end = match.end() if match is not None else 0
        raw, self._pending = self._pending[:end], self._pending[end:]
        if self._pending.startswith('"'):
            self._state = "closed"
            self._pending = self._pending[1:]
        return [self._text(_decoded(raw))] if raw else []

    def _unordered(self, text: str) -> list[StreamEvent]:
        """A whole answer whose head was not of the usual form: members in another order, or no object at
        all."""
        try:
            found = as_object(json.loads(text.strip().removeprefix("```json").strip("`")))
        except (ValueError, RecursionError):
            return [self._text(text)]
        name, answer = found.get("tool"), found.get("answer")
        if isinstance(name, str) and "arguments" in found:
            call = ToolCall(new_id("call"), name, json.dumps(found["arguments"], ensure_ascii=False))
            self.parts.append(call)
            return [CallStarted(0, call.id, name), CallDelta(0, call.arguments), CallReady(0, call)]
        return [self._text(answer if isinstance(answer, str) else text)]

    def _text(self, text: str) -> TextDelta:
        self.parts.append(Text(text))
        return TextDelta(text)


def _said(message: Message) -> Message:
    objects: list[JsonObject] = [{"tool": call.name, "arguments": call.arguments} for call in message.calls] or [
        {"answer": message.text}
    ]
    return Message.assistant("\n".join(json.dumps(said, ensure_ascii=False) for said in objects))


def _joined(parts: list[Part]) -> list[Part]:
    """What was called, then what was said, in one piece: nothing is ever said before a call."""
    text = "".join(part.text for part in parts if isinstance(part, Text))
    calls: list[Part] = [part for part in parts if not isinstance(part, Text)]
    return [*calls, Text(text)] if text else calls


def _decoded(raw: str) -> str:
    try:
        # Not strict: small models put line breaks into strings as they are.
        return json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return raw


def _object(properties: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# Where a schema holds values and not schemas, "$ref" is a word like any other.
_VALUES = frozenset({"const", "enum", "default", "examples"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def _refers(schema: Any) -> bool:
    return _rebased(schema, "#/$defs/_") != schema


def _rebased(schema: Any, root: str) -> Any:
    """The schema with its local references moved under `root`."""
    if isinstance(schema, list):
        return [_rebased(item, root) for item in schema]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(schema, dict):
        return schema
    out: JsonObject = {}
    for key, value in as_object(schema).items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            out[key] = root + value[1:]
        elif key in _NAMED and isinstance(value, dict):
            out[key] = {name: _rebased(item, root) for name, item in as_object(value).items()}
        else:
            out[key] = value if key in _VALUES else _rebased(value, root)
    return out
