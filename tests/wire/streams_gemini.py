"""generateContent replies as they come off Gemini's wire, each streamed and whole; `STREAMS`: (name, chunks, whole)."""

from typing import Any

JsonObject = dict[str, Any]

_USAGE = {
    "promptTokenCount": 214,
    "candidatesTokenCount": 37,
    "totalTokenCount": 343,
    "cachedContentTokenCount": 128,
    "thoughtsTokenCount": 92,
    "toolUsePromptTokenCount": 11,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 214}],
}
_HEAD = {"modelVersion": "gemini-3.8-flash", "responseId": "Qf7naMvKCpqUmtkP"}
# Standard base64, as REST writes it; "+" and "/" in it, which the SDK's dump writes as "-" and "_".
_SIGNATURE = "Co8EAdHtim9+xTk1/Zq3hG8bA2k="
_OTHER_SIGNATURE = "CiwB0e2Kb+3kPq/7yVdTg5wN1rHu"


def _response(
    *parts: JsonObject, finish: str | None = None, usage: JsonObject | None = None, **more: Any
) -> JsonObject:
    candidate: JsonObject = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": usage or _USAGE, **_HEAD}


def _chunks(*chunks: list[JsonObject], finish: str = "STOP", **more: Any) -> list[JsonObject]:
    early = {"promptTokenCount": 214, "totalTokenCount": 214}
    return [
        *(_response(*parts, usage=early) for parts in chunks[:-1]),
        _response(*chunks[-1], finish=finish, **more),
    ]


def _call(name: str, arguments: JsonObject | None, call_id: str | None = None, signature: str = "") -> JsonObject:
    found: JsonObject = {"name": name}
    if arguments is not None:
        found["args"] = arguments
    if call_id is not None:
        found["id"] = call_id
    return {"functionCall": found, "thoughtSignature": signature} if signature else {"functionCall": found}


def _piece(*values: JsonObject, name: str | None = None, call_id: str | None = None, last: bool = False) -> JsonObject:
    found: JsonObject = {}
    if name is not None:
        found["name"] = name
    if call_id is not None:
        found["id"] = call_id
    if values:
        found["partialArgs"] = list(values)
    if not last:
        found["willContinue"] = True
    return {"functionCall": found}


def _at(path: str, *, more: bool = False, **value: Any) -> JsonObject:
    return {"jsonPath": path, **value, **({"willContinue": True} if more else {})}


_PARIS = {"city": "Paris", "days": 3}
_OSLO = {"city": 'Oslo — "N"', "days": None, "more": {"a": [1, 2.5, True]}}
_THOUGHT = {"text": "Two cities, two calls.", "thought": True}
_CODE = {"executableCode": {"language": "PYTHON", "code": "print(6*7)"}}
_OUTCOME = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42\n"}}
_BLOCKED = {
    "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
    "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
    **_HEAD,
}

STREAMS: list[tuple[str, list[JsonObject], JsonObject]] = [
    (
        "text",
        _chunks([{"text": "Sunny"}], [{"text": " in Paris"}], [{"text": "."}]),
        _response({"text": "Sunny in Paris."}, finish="STOP"),
    ),
    (
        "thoughts, text, and two calls",
        _chunks(
            [{"text": "Two cities, ", "thought": True}],
            [{"text": "two calls.", "thought": True}],
            [{"text": "Let me look."}],
            [_call("forecast", _PARIS, "fc_1", _SIGNATURE), _call("forecast", _OSLO, "fc_2")],
        ),
        _response(
            _THOUGHT,
            {"text": "Let me look."},
            _call("forecast", _PARIS, "fc_1", _SIGNATURE),
            _call("forecast", _OSLO, "fc_2"),
            finish="STOP",
        ),
    ),
    (
        "a signature that comes last, on an empty text",
        _chunks([{"text": "The answer "}], [{"text": "is 42."}], [{"text": "", "thoughtSignature": _SIGNATURE}]),
        _response({"text": "The answer is 42."}, {"text": "", "thoughtSignature": _SIGNATURE}, finish="STOP"),
    ),
    (
        "texts with signatures are never joined",
        _chunks(
            [{"text": "One."}],
            [{"text": "Two.", "thoughtSignature": _SIGNATURE}],
            [{"text": "Three.", "thoughtSignature": _OTHER_SIGNATURE}],
        ),
        _response(
            {"text": "One."},
            {"text": "Two.", "thoughtSignature": _SIGNATURE},
            {"text": "Three.", "thoughtSignature": _OTHER_SIGNATURE},
            finish="STOP",
        ),
    ),
    (
        "older API: calls without ids, the second without arguments",
        _chunks([_call("forecast", _PARIS)], [_call("now", None)]),
        _response(_call("forecast", _PARIS), _call("now", None), finish="STOP"),
    ),
    (
        "Vertex AI: arguments in pieces",
        _chunks(
            [_piece(name="order", call_id="fc_1")],
            [_piece(_at("$.note", stringValue="ring ", more=True))],
            [_piece(_at("$.note", stringValue="twice"), _at("$.lines[0].sku", stringValue="A-1"))],
            [_piece(_at("$.lines[0].count", numberValue=2), _at("$.lines[1]['sku']", stringValue="B"))],
            [_piece(_at("$.contact", nullValue="NULL_VALUE"), _at("$.gift", boolValue=True))],
            [_piece(last=True)],
        ),
        _response(
            _call(
                "order",
                {
                    "note": "ring twice",
                    "lines": [{"sku": "A-1", "count": 2}, {"sku": "B"}],
                    "contact": None,
                    "gift": True,
                },
                "fc_1",
            ),
            finish="STOP",
        ),
    ),
    (
        "code that the vendor runs itself",
        _chunks([_CODE], [_OUTCOME, {"text": "42"}]),
        _response(_CODE, _OUTCOME, {"text": "42"}, finish="STOP"),
    ),
    (
        "text that was cut off",
        _chunks([{"text": "Once upon"}], [{"text": " a"}], finish="MAX_TOKENS"),
        _response({"text": "Once upon a"}, finish="MAX_TOKENS"),
    ),
    (
        "an answer that was stopped for safety",
        _chunks([{"text": "First, "}], [], finish="SAFETY"),
        _response({"text": "First, "}, finish="SAFETY"),
    ),
    (
        "a call that the vendor could not read",
        [_response(finish="MALFORMED_FUNCTION_CALL", finishMessage="Malformed function call: forecast(city=")],
        _response(finish="MALFORMED_FUNCTION_CALL", finishMessage="Malformed function call: forecast(city="),
    ),
    ("a question that was blocked", [_BLOCKED], _BLOCKED),
]
