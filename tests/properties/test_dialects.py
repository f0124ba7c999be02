"""Laws of the dialects: any chunking of any stream reads alike; write then read is the identity in each dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.dialects import NAMES, find_dialect
from callbox.messages import Message
from dialect_samples import (
    STREAM_IDS,
    STREAMS,
    TEXT_ARGUMENTS,
    TOOLS,
    check_events,
    essence,
    read_stream,
    said_in_history,
)

JsonObject = dict[str, Any]
Cut = Callable[[str], list[str]]


# Other chunkings of a stream: each text in it may be cut anywhere, and nothing may come in between.


def _chat(chunk: JsonObject, cut: Cut) -> list[JsonObject]:
    choices = chunk.get("choices") or []
    if len(choices) != 1:
        return [chunk]
    delta = choices[0].get("delta", {})
    if any(isinstance(delta.get(key), list) for key in ("content", "reasoning_details")):
        return [chunk]

    def alone(part: JsonObject, finish: Any = None) -> JsonObject:
        return {**chunk, "choices": [{**choices[0], "delta": part, "finish_reason": finish}]}

    texts = {key: value for key, value in delta.items() if isinstance(value, str) and key != "role"}
    rest = {key: value for key, value in delta.items() if key not in (*texts, "tool_calls", "function_call")}
    out = [alone(rest)]
    # A server that says one thing under two names says both in every chunk.
    pieces = {key: cut(value) for key, value in texts.items()} if len(texts) == 1 else {}
    out += [alone({key: piece}) for key, cuts in pieces.items() for piece in cuts]
    out += [alone(texts)] if not pieces and texts else []
    for call in delta.get("tool_calls") or []:
        for piece in _called(call, cut):
            out.append(alone({"tool_calls": [piece]}))
    if legacy := delta.get("function_call"):
        first, *more = cut(legacy.get("arguments", ""))
        out.append(alone({"function_call": {**legacy, "arguments": first}}))
        out += [alone({"function_call": {"arguments": piece}}) for piece in more]
    out[-1]["choices"][0]["finish_reason"] = choices[0].get("finish_reason")
    return out


def _called(call: JsonObject, cut: Cut) -> list[JsonObject]:
    function = call.get("function") or {}
    if not isinstance(function.get("arguments"), str):
        return [call]
    first, *more = cut(function["arguments"])
    same = {key: call[key] for key in ("index", "id") if key in call}
    return [
        {**call, "function": {**function, "arguments": first}},
        *({**same, "function": {"arguments": piece}} for piece in more),
    ]


def _responses(event: JsonObject, cut: Cut) -> list[JsonObject]:
    if not event["type"].endswith(".delta"):
        return [event]
    return [{**event, "delta": piece} for piece in cut(event["delta"])]


def _anthropic(event: JsonObject, cut: Cut) -> list[JsonObject]:
    delta = event.get("delta") or {}
    key = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}.get(
        delta.get("type", "")
    )
    if event.get("type") != "content_block_delta" or key is None:
        return [event]
    return [{**event, "delta": {**delta, key: piece}} for piece in cut(delta[key])]


def _gemini(chunk: JsonObject, cut: Cut) -> list[JsonObject]:
    candidates = chunk.get("candidates") or []
    parts = candidates[0].get("content", {}).get("parts") if len(candidates) == 1 else None
    if not parts or len(parts) != 1 or not parts[0].keys() <= {"text", "thought"} or "text" not in parts[0]:
        return [chunk]
    *first, last = cut(parts[0]["text"])
    content = candidates[0]["content"]
    before = [
        {"candidates": [{"index": 0, "content": {**content, "parts": [{**parts[0], "text": piece}]}}]}
        for piece in first
    ]
    end = deepcopy(chunk)
    end["candidates"][0]["content"]["parts"][0]["text"] = last
    return [*before, end]


SPLITTERS = {"openai": _chat, "openai-responses": _responses, "anthropic": _anthropic, "gemini": _gemini}


@st.composite
def cuts(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces; some of them may be empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(("name", "label", "chunks", "whole"), STREAMS, ids=STREAM_IDS)
@given(data=st.data())
def test_any_chunking_of_any_stream_reads_alike(
    name: str, label: str, chunks: list[Any], whole: Any, data: st.DataObject
) -> None:
    dialect = find_dialect(name)
    split = SPLITTERS[name]
    other = [piece for chunk in chunks for piece in split(chunk, lambda text: data.draw(cuts(text)))]
    events, reply = read_stream(dialect.reader(TOOLS), other)
    assert essence(reply, whole) == essence(dialect.read(whole, TOOLS), whole)
    check_events(events, reply, text_arguments=name in TEXT_ARGUMENTS)


# Conversations

# Without surrogates, which no wire carries, and NUL, which the strict reader refuses.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, min_size=1, max_size=30).filter(str.strip)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, width=32)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(characters, max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(characters, max_size=8), inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(st.text(characters, min_size=1, max_size=10), values, max_size=4)
errors = st.builds(
    CallError,
    st.sampled_from(["timeout", "denied", "tool_failed", "unknown_tool"]),
    texts,
    suggestion=st.none() | texts,
    path=st.none() | texts,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Instructions, then turns of a user, of a model with calls, and of their results, as a loop makes them."""
    messages = [Message.system(draw(texts))] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 3))):
        messages.append(Message.user(draw(texts)))
        for step in range(draw(st.integers(0, 2))):
            calls = [
                ToolCall(f"call_{turn}_{step}_{number}", draw(names), draw(arguments))
                for number in range(draw(st.integers(1, 3)))
            ]
            messages.append(Message.assistant(draw(st.just("") | texts), calls))
            messages.append(
                Message.tool(
                    [
                        ToolResult.failed(call, draw(errors))
                        if draw(st.booleans())
                        else ToolResult(call.id, call.name, draw(texts))
                        for call in calls
                    ]
                )
            )
        messages.append(Message.assistant(draw(texts)))
    return messages


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
def test_write_then_parse_is_the_identity(name: str, messages: list[Message]) -> None:
    dialect = find_dialect(name)
    written = dialect.write(messages)
    expected = said_in_history(name, messages)
    assert dialect.parse(written) == expected
    # As a vendor's client sends it, and as a user's own store brings it back.
    assert dialect.parse(json.loads(json.dumps(written, ensure_ascii=False).encode())) == expected


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
def test_what_is_parsed_is_written_as_it_was(name: str, messages: list[Message]) -> None:
    dialect = find_dialect(name)
    written = dialect.write(messages)
    assert dialect.write(dialect.parse(written)) == written


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
def test_results_written_alone_are_those_of_the_whole_history(name: str, messages: list[Message]) -> None:
    dialect = find_dialect(name)
    for turn in messages:
        if turn.role == "tool":
            alone = dialect.write_results(turn.results)
            assert alone == dialect.write([turn])
