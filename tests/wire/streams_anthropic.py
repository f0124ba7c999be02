"""Messages replies as they come off Anthropic's wire, each streamed and whole; `STREAMS`: (name, chunks, whole)."""

from typing import Any

JsonObject = dict[str, Any]

_USAGE_BEGIN = {
    "input_tokens": 472,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 1_024,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 2,
    "service_tier": "standard",
}
_USAGE_END = {"output_tokens": 89, "output_tokens_details": {"thinking_tokens": 31}}
_HEAD = {"id": "msg_01XvTkD2", "type": "message", "role": "assistant", "model": "claude-opus-4-6"}
_SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds+/w=="


def _event(kind: str, **fields: Any) -> JsonObject:
    return {"type": kind, **fields}


def _block(index: int, start: JsonObject, *deltas: JsonObject) -> list[JsonObject]:
    return [
        _event("content_block_start", index=index, content_block=start),
        *(_event("content_block_delta", index=index, delta=delta) for delta in deltas),
        _event("content_block_stop", index=index),
    ]


def _text(index: int, *texts: str) -> list[JsonObject]:
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return _block(index, {"type": "text", "text": ""}, *deltas)


def _thinking(index: int, *texts: str) -> list[JsonObject]:
    deltas = [{"type": "thinking_delta", "thinking": text} for text in texts]
    signature = {"type": "signature_delta", "signature": _SIGNATURE}
    return _block(index, {"type": "thinking", "thinking": "", "signature": ""}, *deltas, signature)


def _tool_use(index: int, call_id: str, name: str, *pieces: str) -> list[JsonObject]:
    start = {"type": "tool_use", "id": call_id, "name": name, "input": {}, "caller": {"type": "direct"}}
    # The first delta of a call is always empty.
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]
    return _block(index, start, *deltas)


def _stream(*blocks: list[JsonObject], stop: str, **more: Any) -> list[JsonObject]:
    message = {**_HEAD, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _USAGE_BEGIN}
    return [
        _event("message_start", message=message),
        _event("ping"),
        *(event for block in blocks for event in block),
        _event(
            "message_delta",
            delta={"stop_reason": stop, "stop_sequence": None, **more},
            usage=_USAGE_END,
        ),
        _event("message_stop"),
    ]


def _whole(*content: JsonObject, stop: str, **more: Any) -> JsonObject:
    usage = {**_USAGE_BEGIN, **_USAGE_END}
    return {
        **_HEAD,
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
        **more,
    }


def _said(text: str, **more: Any) -> JsonObject:
    return {"type": "text", "text": text, "citations": None, **more}


def _called(call_id: str, name: str, arguments: JsonObject) -> JsonObject:
    direct = {"type": "direct"}
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments, "caller": direct}


_THOUGHT = {"type": "thinking", "thinking": "Two cities, two calls.", "signature": _SIGNATURE}
_REDACTED = {
    "type": "redacted_thinking",
    "data": "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIwxtE3rAFBa8cr3qpP",
}
_SEARCH = {
    "type": "server_tool_use",
    "id": "srvtoolu_01WYG3z",
    "name": "web_search",
    "input": {"query": "Oslo"},
}
_FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_01WYG3z",
    "content": [
        {
            "type": "web_search_result",
            "title": "Oslo",
            "url": "https://example.com/oslo",
            "encrypted_content": "EqgfCioIARgBIiQ3YTAwMjY1Mi1mZjM5LTQ1NGUtODgxNC1kNjNjNTk1",
            "page_age": None,
        }
    ],
}
_CITATION = {
    "type": "web_search_result_location",
    "url": "https://example.com/oslo",
    "title": "Oslo",
    "encrypted_index": "Eo8BCioIAhgBIiQyYjQ0OWJmZi1lNm",
    "cited_text": "Oslo is the capital of Norway.",
}
_REFUSED = {"type": "refusal", "category": "cyber", "explanation": "That would help an attack."}

STREAMS: list[tuple[str, list[JsonObject], JsonObject]] = [
    (
        "text",
        _stream(_text(0, "Sunny", " in Paris", "."), stop="end_turn"),
        _whole(_said("Sunny in Paris."), stop="end_turn"),
    ),
    (
        "thinking, text, and two calls",
        _stream(
            _thinking(0, "Two cities, ", "two calls."),
            _text(1, "Let me ", "look."),
            _tool_use(2, "toolu_01A", "forecast", '{"city"', ': "Par', 'is", "da', 'ys": 3}'),
            _tool_use(3, "toolu_01B", "forecast", '{"city": "Oslo — \\', '"N\\"", "days": null}'),
            stop="tool_use",
        ),
        _whole(
            _THOUGHT,
            _said("Let me look."),
            _called("toolu_01A", "forecast", {"city": "Paris", "days": 3}),
            _called("toolu_01B", "forecast", {"city": 'Oslo — "N"', "days": None}),
            stop="tool_use",
        ),
    ),
    (
        "calls without arguments, before and after others",
        _stream(
            _tool_use(0, "toolu_01A", "now"),
            _tool_use(1, "toolu_01B", "forecast", '{"city": "Paris"}'),
            _tool_use(2, "toolu_01C", "now"),
            stop="tool_use",
        ),
        _whole(
            _called("toolu_01A", "now", {}),
            _called("toolu_01B", "forecast", {"city": "Paris"}),
            _called("toolu_01C", "now", {}),
            stop="tool_use",
        ),
    ),
    (
        "redacted thinking",
        _stream(_block(0, _REDACTED), _text(1, "Done."), stop="stop_sequence"),
        _whole(_REDACTED, _said("Done."), stop="stop_sequence"),
    ),
    (
        "a search of the vendor's own, cited",
        _stream(
            _block(
                0,
                {**_SEARCH, "input": {}},
                {"type": "input_json_delta", "partial_json": '{"query"'},
                {"type": "input_json_delta", "partial_json": ': "Oslo"}'},
            ),
            _block(1, _FOUND),
            _block(
                2,
                {"type": "text", "text": "", "citations": []},
                {"type": "citations_delta", "citation": _CITATION},
                {"type": "text_delta", "text": "It is Norway's capital."},
            ),
            stop="end_turn",
        ),
        _whole(_SEARCH, _FOUND, _said("It is Norway's capital.", citations=[_CITATION]), stop="end_turn"),
    ),
    (
        "a long turn that was paused",
        _stream(_block(0, _SEARCH), stop="pause_turn"),
        _whole(_SEARCH, stop="pause_turn"),
    ),
    (
        "text that was cut off",
        _stream(_text(0, "Once upon", " a"), stop="max_tokens"),
        _whole(_said("Once upon a"), stop="max_tokens"),
    ),
    (
        "a refusal",
        _stream(stop="refusal", stop_details=_REFUSED),
        _whole(stop="refusal", stop_details=_REFUSED),
    ),
]
