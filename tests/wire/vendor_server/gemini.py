"""Gemini generateContent, also streamed. Its calls have ids only where the script gives them one."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from wire.vendor_server.script import Fail, Say, StreamError, need, pieces

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_HEADER = "x-goog-api-key"
INVALID = "INVALID_ARGUMENT"
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
_PART = {
    "text",
    "thought",
    "thoughtSignature",
    "functionCall",
    "functionResponse",
    "inlineData",
    "fileData",
    "executableCode",
    "codeExecutionResult",
}
_SCHEMA = {
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "anyOf",
    "propertyOrdering",
    "default",
    "items",
    "minimum",
    "maximum",
}
SIGNATURE = "/+9zaWduYXR1cmU="


def is_streaming(path: str, body: Any) -> bool:
    return path.endswith(":streamGenerateContent")


def error(fail: Fail) -> tuple[Any, int]:
    content = {"code": fail.status, "message": fail.message, "status": _STATUS.get(fail.status, "UNKNOWN")}
    if fail.details:
        content["details"] = fail.details
    return {"error": content}, fail.status


def error_event(step: StreamError) -> str:
    return _sse({"error": {"code": 503, "message": step.message, "status": step.code}})


def validate(body: Any, headers: dict[str, str]) -> None:
    contents = body.get("contents")
    need(contents, "* GenerateContentRequest.contents: contents is not specified")
    declared: list[str] = []
    for tool in body.get("tools", ()):
        for declaration in tool.get("functionDeclarations", ()):
            declared.append(_declaration(declaration))
    allowed = body.get("toolConfig", {}).get("functionCallingConfig", {}).get("allowedFunctionNames", [])
    need(set(allowed) <= set(declared), "allowed_function_names: not in function_declarations")
    waiting: list[str] = []
    before = ""
    for content in contents:
        role, parts = content["role"], content["parts"]
        need(role in ("user", "model"), "Please use a valid role: user, model.")
        need(parts, "contents.parts must not be empty.")
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        for part in parts:
            _part(part, role)
        need(
            len(answers) == len(waiting),
            "Please ensure that the number of function response parts is equal to the number of function call"
            " parts of the function call turn.",
        )
        need(
            [answer["name"] for answer in answers] == waiting,
            "Function response names do not match the calls.",
        )
        if calls:
            need(
                role == "model" and before == "user",
                "A function call turn comes immediately after a user turn.",
            )
            first = next(part for part in parts if "functionCall" in part)
            need(_signed(first), "Function call is missing a thought_signature.")
        waiting = [call["name"] for call in calls]
        before = role
    need(
        not waiting,
        "The number of function response parts is not equal to the number of function call parts.",
    )


def _part(part: Any, role: str) -> None:
    for name in part:
        need(name in _PART, f"Invalid JSON payload received. Unknown name \"{name}\" at 'contents'")
    if "functionCall" in part:
        need(isinstance(part["functionCall"].get("args", {}), dict), "Invalid value at 'args'")
    if "functionResponse" in part:
        need(role == "user", "functionResponse parts belong to the user.")
        need(isinstance(part["functionResponse"]["response"], dict), "Invalid value at 'response'")


def _signed(part: Any) -> bool:
    # Bytes in protobuf's JSON: both base64 alphabets are read, and the SDK writes the other one than the API.
    signature = part.get("thoughtSignature", "").replace("-", "+").replace("_", "/")
    return signature == SIGNATURE


def _declaration(declaration: Any) -> str:
    need(
        _NAME.fullmatch(declaration["name"]),
        "Invalid function name. Must start with a letter or an underscore.",
    )
    need(
        not {"parameters", "parametersJsonSchema"} <= set(declaration),
        "Only one of parameters and parameters_json_schema may be set.",
    )
    if "parameters" in declaration:
        _schema(declaration["parameters"])
    return declaration["name"]


def _schema(schema: Any) -> None:
    for name in schema:
        need(name in _SCHEMA, f"Invalid JSON payload received. Unknown name \"{name}\" at 'tools'")
    need(isinstance(schema.get("type", ""), str), "Proto field is not repeating, cannot start list.")
    for value in schema.get("properties", {}).values():
        _schema(value)
    for value in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])):
        _schema(value)


def _parts(say: Say) -> list[Any]:
    out: list[Any] = []
    if say.thought:
        out.append({"text": say.thought, "thought": True})
    if say.text:
        out.append({"text": say.text})
    for at, call in enumerate(say.calls):
        named = {"id": call.id} if call.id else {}
        part: dict[str, Any] = {"functionCall": {**named, "name": call.name, "args": call.arguments}}
        if at == 0:
            part["thoughtSignature"] = SIGNATURE
        out.append(part)
    return out


def _response(parts: list[Any], say: Say, body: Any, *, last: bool) -> Any:
    usage = {
        "promptTokenCount": 20,
        "candidatesTokenCount": 8,
        "thoughtsTokenCount": 2,
        "totalTokenCount": 30,
        "cachedContentTokenCount": 5,
    }
    if say.refusal:
        return {
            "promptFeedback": {"blockReason": "SAFETY"},
            "usageMetadata": usage,
            "modelVersion": "gemini-test",
        }
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "gemini-test",
        "responseId": "r1",
    }


def whole(say: Say, body: Any, new_id: Callable[[], int]) -> Any:
    return _response(_parts(say), say, body, last=True)


def events(say: Say, body: Any, new_id: Callable[[], int]) -> list[str]:
    parts: list[Any] = []
    for part in _parts(say):
        # Text comes in pieces, calls come whole.
        parts += [{**part, "text": piece} for piece in pieces(part["text"])] if "text" in part else [part]
    parts = parts or [{"text": ""}]
    return [_sse(_response([part], say, body, last=at == len(parts) - 1)) for at, part in enumerate(parts)]


def _sse(data: Any) -> str:
    return f"data: {json.dumps(data)}\r\n\r\n"
