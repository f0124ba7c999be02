"""Chat Completions replies as they come off the wire, each streamed and whole.

`STREAMS`: (name, chunks, whole response). "compatible:" marks what compatible servers send in a way of their
own; the rest is of OpenAI's documented shape, which `test_openai_chat` checks against the SDK's models.
"""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]

_USAGE = {
    "prompt_tokens": 82,
    "completion_tokens": 17,
    "total_tokens": 99,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 0},
}
_HEAD = {
    "id": "chatcmpl-7QmR",
    "created": 1_790_000_000,
    "model": "gpt-5-2025-08-07",
    "system_fingerprint": "fp_1",
}


def _chunk(delta: JsonObject, finish: str | None = None, index: int = 0) -> JsonObject:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice], "usage": None}


def _stream(*deltas: JsonObject, finish: str | None = "stop") -> list[JsonObject]:
    start = _chunk({"role": "assistant", "content": "", "refusal": None})
    end = _chunk({}, finish)
    usage = {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE}
    return [start, *(_chunk(delta) for delta in deltas), end, usage]


def _whole(message: JsonObject, finish: str | None = "stop") -> JsonObject:
    full = {"role": "assistant", "content": None, "refusal": None, **message}
    choice = {"index": 0, "message": full, "logprobs": None, "finish_reason": finish}
    return {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}


def _call(call_id: str, name: str, arguments: Any, **more: Any) -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def _begin(index: int, call_id: str, name: str, arguments: str = "") -> JsonObject:
    return {"tool_calls": [{"index": index, **_call(call_id, name, arguments)}]}


def _more(index: int, text: str) -> JsonObject:
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


_PARIS, _OSLO = '{"city":"Paris","days":3}', '{"city": "Oslo — \\"N\\"", "days": null}'

_OPENAI: list[tuple[str, list[JsonObject], JsonObject]] = [
    (
        "text",
        _stream({"content": "Hello"}, {"content": ", "}, {"content": "wörld \U0001f30d"}),
        _whole({"content": "Hello, wörld \U0001f30d"}),
    ),
    ("nothing", _stream(), _whole({"content": ""})),
    (
        "one call",
        _stream(_begin(0, "call_A1", "forecast"), *(_more(0, text) for text in _PARIS), finish="tool_calls"),
        _whole({"tool_calls": [_call("call_A1", "forecast", _PARIS)]}, "tool_calls"),
    ),
    (
        "text and two calls that interleave",
        _stream(
            {"content": "Let me look."},
            _begin(0, "call_A1", "forecast"),
            _begin(1, "call_B2", "forecast"),
            _more(0, _PARIS[:9]),
            _more(1, _OSLO[:20]),
            _more(0, _PARIS[9:]),
            _more(1, _OSLO[20:]),
            finish="tool_calls",
        ),
        _whole(
            {
                "content": "Let me look.",
                "tool_calls": [_call("call_A1", "forecast", _PARIS), _call("call_B2", "forecast", _OSLO)],
            },
            "tool_calls",
        ),
    ),
    (
        "two calls in one chunk",
        _stream(
            {
                "tool_calls": [
                    {"index": 0, **_call("call_A1", "forecast", _PARIS)},
                    {"index": 1, **_call("call_B2", "now", "{}")},
                ]
            },
            finish="tool_calls",
        ),
        _whole(
            {"tool_calls": [_call("call_A1", "forecast", _PARIS), _call("call_B2", "now", "{}")]},
            "tool_calls",
        ),
    ),
    (
        "a call cut by the token limit",
        _stream(_begin(0, "call_A1", "forecast"), _more(0, '{"city":"Pa'), finish="length"),
        _whole({"tool_calls": [_call("call_A1", "forecast", '{"city":"Pa')]}, "length"),
    ),
    (
        "refusal",
        _stream({"refusal": "I can't "}, {"refusal": "help with that."}),
        _whole({"refusal": "I can't help with that."}),
    ),
    (
        "content filter",
        _stream({"content": "The first step is"}, finish="content_filter"),
        _whole({"content": "The first step is"}, "content_filter"),
    ),
    (
        "a custom tool's call between two functions",
        _stream(
            _begin(0, "call_A1", "now", "{}"),
            {"tool_calls": [{"index": 1, "id": "call_C3", "type": "custom", "custom": {"name": "sql", "input": ""}}]},
            {"tool_calls": [{"index": 1, "custom": {"input": "SELECT "}}]},
            {"tool_calls": [{"index": 1, "custom": {"input": "1"}}]},
            _begin(2, "call_B2", "now", "{}"),
            finish="tool_calls",
        ),
        _whole(
            {
                "tool_calls": [
                    _call("call_A1", "now", "{}"),
                    {"id": "call_C3", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}},
                    _call("call_B2", "now", "{}"),
                ]
            },
            "tool_calls",
        ),
    ),
    (
        "legacy function_call",
        _stream(
            {"function_call": {"name": "forecast", "arguments": ""}},
            {"function_call": {"arguments": _PARIS[:5]}},
            {"function_call": {"arguments": _PARIS[5:]}},
            finish="function_call",
        ),
        _whole({"function_call": {"name": "forecast", "arguments": _PARIS}}, "function_call"),
    ),
    (
        "of two choices the first",
        [
            _chunk({"role": "assistant", "content": "fir"}, index=0),
            _chunk({"role": "assistant", "content": "second"}, index=1),
            _chunk({"content": "st"}, index=0),
            _chunk({}, "stop", index=1),
            _chunk({}, "stop", index=0),
            {**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE},
        ],
        _whole({"content": "first"}),
    ),
    (
        "audio",
        _stream(
            {"audio": {"id": "audio_9", "transcript": "Good "}},
            {"audio": {"transcript": "day", "data": "UklG"}},
            {"audio": {"expires_at": 1_790_003_600}},
        ),
        _whole(
            {
                "audio": {
                    "id": "audio_9",
                    "transcript": "Good day",
                    "data": "UklG",
                    "expires_at": 1_790_003_600,
                }
            }
        ),
    ),
]

_DETAILS = [
    {"type": "reasoning.text", "text": "Look it up.", "format": "anthropic-claude-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "gAAAA", "index": 1},
]

_COMPATIBLE: list[tuple[str, list[JsonObject], JsonObject]] = [
    (
        "compatible: reasoning_content and a call (DeepSeek, vLLM)",
        _stream(
            {"reasoning_content": "They ask "},
            {"reasoning_content": "about Paris."},
            {"content": "One moment."},
            _begin(0, "call_00_x", "forecast"),
            _more(0, _PARIS),
            finish="tool_calls",
        ),
        _whole(
            {
                "content": "One moment.",
                "reasoning_content": "They ask about Paris.",
                "tool_calls": [_call("call_00_x", "forecast", _PARIS)],
            },
            "tool_calls",
        ),
    ),
    (
        "compatible: reasoning twice under two names, and its details (OpenRouter)",
        _stream(
            {"reasoning": "Look ", "reasoning_content": "Look ", "reasoning_details": _DETAILS[:1]},
            {"reasoning": "it up.", "reasoning_content": "it up.", "reasoning_details": _DETAILS[1:]},
            {"content": "Sure."},
        ),
        _whole(
            {
                "content": "Sure.",
                "reasoning": "Look it up.",
                "reasoning_content": "Look it up.",
                "reasoning_details": _DETAILS,
            }
        ),
    ),
    (
        "compatible: calls without index, whole in one chunk",
        _stream(
            {"tool_calls": [_call("a", "forecast", _PARIS)]},
            {"tool_calls": [_call("b", "forecast", _OSLO)]},
            finish="tool_calls",
        ),
        _whole({"tool_calls": [_call("a", "forecast", _PARIS), _call("b", "forecast", _OSLO)]}, "tool_calls"),
    ),
    (
        "compatible: every call under index 0",
        _stream(
            _begin(0, "a", "forecast", _PARIS[:4]),
            _more(0, _PARIS[4:]),
            _begin(0, "b", "forecast", _OSLO[:4]),
            _more(0, _OSLO[4:]),
            finish="tool_calls",
        ),
        _whole({"tool_calls": [_call("a", "forecast", _PARIS), _call("b", "forecast", _OSLO)]}, "tool_calls"),
    ),
    (
        "compatible: id and name in every piece",
        _stream(*(_begin(0, "a", "forecast", text) for text in ("", *_PARIS, "")), finish="tool_calls"),
        _whole({"tool_calls": [_call("a", "forecast", _PARIS)]}, "tool_calls"),
    ),
    (
        "compatible: empty ids, pieces",
        _stream(
            _begin(0, "", "forecast", _PARIS[:7]),
            _more(0, _PARIS[7:]),
            _begin(1, "", "forecast", _OSLO),
            finish="tool_calls",
        ),
        _whole({"tool_calls": [_call("", "forecast", _PARIS), _call("", "forecast", _OSLO)]}, "tool_calls"),
    ),
    (
        "compatible: arguments as an object, no ids, one index, finish stop (Ollama)",
        _stream(
            {"tool_calls": [{"index": 0, "function": {"name": "forecast", "arguments": {"city": "Paris"}}}]},
            {"tool_calls": [{"index": 0, "function": {"name": "forecast", "arguments": {"city": "Oslo"}}}]},
            finish="stop",
        ),
        _whole(
            {
                "tool_calls": [
                    {"function": {"name": "forecast", "arguments": {"city": "Paris"}}},
                    {"function": {"name": "forecast", "arguments": {"city": "Oslo"}}},
                ]
            },
            "stop",
        ),
    ),
    (
        "compatible: a thought signature beside the call (Gemini)",
        _stream(
            {
                "tool_calls": [
                    {
                        "index": 0,
                        **_call("a", "forecast", _PARIS, extra_content={"google": {"thought_signature": "CvsB"}}),
                    }
                ]
            },
            finish="tool_calls",
        ),
        _whole(
            {"tool_calls": [_call("a", "forecast", _PARIS, extra_content={"google": {"thought_signature": "CvsB"}})]},
            "tool_calls",
        ),
    ),
    (
        "compatible: thoughts as content parts (Mistral)",
        _stream(
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Paris, "}]}]},
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "then."}]}]},
            {"content": "It is "},
            {"content": "sunny."},
        ),
        _whole(
            {
                "content": [
                    {
                        "type": "thinking",
                        "thinking": [{"type": "text", "text": "Paris, "}, {"type": "text", "text": "then."}],
                    },
                    {"type": "text", "text": "It is sunny."},
                ]
            }
        ),
    ),
    (
        "compatible: an unknown finish reason",
        _stream({"content": "Well"}, finish="insufficient_system_resource"),
        _whole({"content": "Well"}, "insufficient_system_resource"),
    ),
    (
        "compatible: no finish reason at all",
        _stream({"content": "Well"}, finish=None),
        _whole({"content": "Well"}, None),
    ),
]

STREAMS = _OPENAI + _COMPATIBLE
