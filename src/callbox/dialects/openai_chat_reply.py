"""Reading what a Chat Completions model answered: one message, its finish reason, its usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callbox.calls.call import NO_VENDOR, ToolCall
from callbox.dialects.history import arguments_text
from callbox.dialects.wire import as_count, as_object, as_objects, as_text, plain
from callbox.ids import new_id
from callbox.messages import FinishReason, Message, Opaque, Part, Reasoning, Reply, Text, Usage
from callbox.values import JsonObject, JsonValue

NAME = "openai"

FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "calls",
    "function_call": "calls",
    "length": "length",
    "content_filter": "filter",
    # Compatible servers: Mistral, Together, Bedrock's and Anthropic's gateways.
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "calls",
    "model_length": "length",
    "max_tokens": "length",
}

# In this order: servers in transition send both, with the same text.
REASONING_FIELDS = ("reasoning_content", "reasoning")
# "parsed" is the SDK's own addition, not the wire's.
KNOWN_FIELDS = frozenset({"role", "content", "tool_calls", "function_call", "parsed", *REASONING_FIELDS})
_EMPTY: tuple[JsonValue, ...] = (None, "", [], {})
_CALL_FIELDS = frozenset({"id", "type", "index", "function"})


def read_reply(message: JsonObject, finish_reason: Any, usage: Any, model: str | None) -> Reply:
    """The reply that one choice is."""
    parts = read_parts(message)
    refusal = as_text(message.get("refusal")) or "".join(
        as_text(item.get("refusal")) for item in as_objects(message.get("content"))
    )
    has_calls = any(isinstance(part, ToolCall) for part in parts)
    finish = FINISH.get(as_text(finish_reason), "unknown")
    if refusal and finish in ("stop", "unknown") and not has_calls:
        finish = "refusal"
    elif has_calls and finish == "stop":
        # Many compatible servers say "stop" after calls.
        finish = "calls"
    return Reply(Message("assistant", tuple(parts)), finish, _read_usage(usage), model, refusal or None)


def read_parts(message: JsonObject) -> list[Part]:
    """An assistant's message, in the one order that this wire has: thoughts, content, calls, the rest."""
    parts: list[Part] = []
    for name in REASONING_FIELDS:
        text = message.get(name)
        if isinstance(text, str) and text:
            parts.append(Reasoning(text, {NAME: {"field": name}}))
            break
    content = message.get("content")
    if isinstance(content, str) and content:
        parts.append(Text(content))
    for item in as_objects(content):
        if item.get("type") == "thinking":
            parts.append(Reasoning(thinking_text(item), {NAME: {"block": item}}))
        elif item.get("type") == "text" and isinstance(item.get("text"), str):
            parts.append(read_text(item))
        else:
            parts.append(Opaque(NAME, {"part": item}))
    parts += [_read_call(item) for item in as_objects(message.get("tool_calls"))]
    legacy = as_object(plain(message.get("function_call")))
    if legacy:
        parts.append(_read_call({"function": legacy, "legacy": True}))
    extra = extra_fields(message, KNOWN_FIELDS)
    if extra:
        parts.append(Opaque(NAME, {"message": extra}))
    return parts


def extra_fields(found: JsonObject, known: frozenset[str]) -> JsonObject:
    """Fields that only the vendor understands, where they say something: reasoning_details, audio, ..."""
    return {name: value for name, value in found.items() if name not in known and value not in _EMPTY}


def read_text(item: JsonObject) -> Text:
    """A content part of text; what it says besides (a cache breakpoint) is kept."""
    extra = extra_fields(item, frozenset({"type", "text"}))
    return Text(item["text"], {NAME: extra}) if extra else Text(item["text"])


def thinking_text(item: JsonObject) -> str:
    """The text of Mistral's content part for thoughts."""
    thinking = item.get("thinking")
    if isinstance(thinking, str):
        return thinking
    return "".join(as_text(piece.get("text")) for piece in as_objects(thinking))


def _read_call(item: JsonObject) -> Part:
    function = plain(item.get("function"))
    if not isinstance(function, dict):
        return Opaque(NAME, {"tool_call": item})
    named = as_object(function)
    return ToolCall(
        as_text(item.get("id")) or new_id("call"),
        as_text(named.get("name")),
        arguments_text(named.get("arguments")),
        vendor=call_vendor(item),
    )


def call_vendor(item: JsonObject) -> Mapping[str, JsonValue]:
    """What a tool call says besides its id, name and arguments, to be handed back."""
    # Gemini behind this wire keeps its thought signature in extra_content and refuses a history without it.
    extra = extra_fields(item, _CALL_FIELDS)
    return {NAME: extra} if extra else NO_VENDOR


def _read_usage(value: Any) -> Usage:
    found = as_object(plain(value))
    cached = as_object(found.get("prompt_tokens_details")).get("cached_tokens")
    return Usage(
        input_tokens=as_count(found.get("prompt_tokens")),
        output_tokens=as_count(found.get("completion_tokens")),
        # DeepSeek's own field.
        cached_tokens=as_count(cached) or as_count(found.get("prompt_cache_hit_tokens")),
        reasoning_tokens=as_count(as_object(found.get("completion_tokens_details")).get("reasoning_tokens")),
        requests=1,
    )


def read_model(body: JsonObject) -> str | None:
    """The model that answered, by its own account."""
    return as_text(body.get("model")) or None
