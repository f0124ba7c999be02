"""What the dialects' contract suite and properties share: tools, conversations, streams, ways to compare."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from typing import Any

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.dialects import NAMES, find_dialect
from callbox.dialects.dialect import StreamReader
from callbox.dialects.history import parsed_call
from callbox.messages import (
    CallDelta,
    CallReady,
    CallStarted,
    Finished,
    Message,
    Reply,
    StreamEvent,
    TextDelta,
)
from callbox.tools.tool import Tool

JsonObject = dict[str, Any]

# A dialect whose vendor has no streamed replies has no module here.
_STREAM_MODULES = {
    "openai": "wire.streams_openai",
    "openai-responses": "wire.streams_openai_responses",
    "anthropic": "wire.streams_anthropic",
    "gemini": "wire.streams_gemini",
}

CONVERSATIONAL = tuple(_STREAM_MODULES)
"""Dialects of model APIs: all but MCP, which carries calls and results only."""

TEXT_ARGUMENTS = ("openai", "openai-responses", "anthropic")
"""Dialects whose vendors stream arguments as JSON text."""


def streams(dialect_name: str) -> list[tuple[str, list[Any], Any]]:
    """(name, chunks, whole response) of that dialect."""
    module = _STREAM_MODULES.get(dialect_name)
    return import_module(module).STREAMS if module else []


STREAMS = [
    (dialect_name, name, chunks, whole) for dialect_name in NAMES for name, chunks, whole in streams(dialect_name)
]
STREAM_IDS = [f"{dialect_name}: {name}" for dialect_name, name, _, _ in STREAMS]


def _tool(name: str, properties: JsonObject, required: list[str], **more: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": required, **more}
    return Tool(name, f"Does what {name} says.", schema)


TOOLS = [
    _tool("now", {}, []),
    _tool(
        "forecast",
        {
            "city": {"type": "string", "description": "Its name."},
            "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 3},
            "units": {"enum": ["metric", "imperial"], "type": "string"},
        },
        ["city"],
    ),
    _tool(
        "order",
        {
            "lines": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}},
                    "required": ["sku"],
                    "additionalProperties": False,
                },
            },
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "contact": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
        ["lines"],
    ),
    _tool(
        "tree",
        {"root": {"$ref": "#/$defs/Node"}},
        ["root"],
        **{
            "$defs": {
                "Node": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "number"},
                        "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                    },
                    "required": ["value"],
                    "additionalProperties": False,
                }
            }
        },
    ),
    _tool(
        "free_form",
        {"labels": {"type": "object", "additionalProperties": {"type": "string"}}, "pin": {"const": 7}},
        [],
    ),
    _tool("a" * 64, {"x": {"type": ["string", "null"], "pattern": "^a+$"}}, []),
]

CALLS = [
    ToolCall("call_one", "forecast", {"city": "Paris", "days": None, "more": {"a": [1, 2.5, True, "é\n"]}}),
    ToolCall("call_two", "now", {}),
    ToolCall("call_three", "forecast", {"city": "Oslo"}),
]
ERROR = CallError("timeout", "It took too long.", suggestion="Try again later.")
RESULTS = [
    ToolResult("call_one", "forecast", "sunny, 21 °C"),
    ToolResult.failed(CALLS[1], ERROR),
    ToolResult("call_three", "forecast", '{"rain": true}'),
]
CONVERSATION = [
    Message.system("Answer in one sentence."),
    Message.user("How is the weather in Paris and Oslo?"),
    Message.assistant("Let me look.", CALLS),
    Message.tool(RESULTS),
    Message.assistant("Sunny and wet."),
    Message.user("Thanks."),
]


def read_stream(reader: StreamReader, chunks: list[Any]) -> tuple[list[StreamEvent], Reply]:
    """All events, and the reply of the one `Finished`."""
    events = [event for chunk in chunks for event in reader.feed(chunk)] + reader.finish()
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Finished) for event in events[:-1])
    return events, events[-1].reply


def essence(reply: Reply, whole: Any) -> Any:
    """What must not depend on how a reply came: calls, text, finish, usage. Ids that we made up are numbered.

    Arguments are compared once they are read: Anthropic sends text in a stream, and an object in a whole reply.
    """
    said = json.dumps(whole)
    calls = [
        replace(parsed_call(call), id=call.id if json.dumps(call.id)[1:-1] in said else f"made up {number}")
        for number, call in enumerate(reply.calls)
    ]
    return calls, reply.message.text, reply.finish, reply.usage, reply.refusal, reply.model


def check_events(events: list[StreamEvent], reply: Reply, *, text_arguments: bool) -> None:
    """The events tell the same story as the reply: nothing twice, nothing of a call before its start."""
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.message.text
    started: dict[int, CallStarted] = {}
    arguments: dict[int, str] = {}
    ready: dict[int, ToolCall] = {}
    for event in events:
        if isinstance(event, CallStarted):
            assert event.index not in started
            started[event.index] = event
        elif isinstance(event, CallDelta):
            assert event.index in started
            assert event.index not in ready or not event.text.strip()
            arguments[event.index] = arguments.get(event.index, "") + event.text
        elif isinstance(event, CallReady):
            assert event.index in started
            assert event.index not in ready
            ready[event.index] = event.call
    assert list(started) == list(range(len(reply.calls)))
    for index, call in enumerate(reply.calls):
        assert (started[index].id, started[index].name) == (call.id, call.name)
        if text_arguments:
            assert arguments.get(index, "") == call.arguments
        if index in ready:
            assert (ready[index].id, ready[index].name) == (call.id, call.name)
            assert ready[index].arguments == call.arguments


def said_in_history(dialect_name: str, messages: list[Message]) -> list[Message]:
    """What the vendor's list says of a conversation: MCP only calls and results, some all but instructions."""
    if dialect_name not in CONVERSATIONAL:
        kept = [Message(found.role, (*found.calls, *found.results)) for found in messages]
        return [found for found in kept if found.content]
    beside = find_dialect(dialect_name).system(messages) is not None
    return [message for message in messages if not (beside and message.role == "system")]
