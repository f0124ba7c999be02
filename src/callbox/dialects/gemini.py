"""Gemini generateContent, on the Gemini API and on Vertex AI.

What this vendor's history cannot say, and so does not survive `parse(write(m))`:

- system messages (`system` gives them, for ``systemInstruction``), and reasoning of other vendors
- ids that callbox made because the vendor gave none: they are made anew, in order (`gemini_reader.MADE_ID`)
- where two turns of the model meet: the API refuses a call that does not follow a turn of the user
- an empty text without a signature, an empty turn
- `CallError.retryable`, `ToolCall.error` and `ToolCall.repairs`
"""

from collections.abc import Mapping, Sequence
from typing import Any

from callbox.calls.call import NO_VENDOR, CallError, ToolCall, ToolResult
from callbox.dialects.dialect import Definitions, Loss
from callbox.dialects.gemini_reader import (
    MADE_ID,
    NAME,
    GeminiReader,
    camel,
    own_name,
    part_object,
    read_call,
    read_part,
    read_reply,
    vendor_name,
)
from callbox.dialects.gemini_schema import declare
from callbox.dialects.history import arguments_text, encodable, recognised_error, written_name
from callbox.dialects.unreadable import written_object
from callbox.dialects.wire import as_list, as_object, as_text, plain
from callbox.messages import Media, Message, Opaque, Part, Reasoning, Reply, Text
from callbox.tools.tool import Tool
from callbox.values import JsonObject, JsonValue


class GeminiDialect:
    """Gemini generateContent; see `dialect.Dialect`."""

    name = NAME

    def define(self, tools: Sequence[Tool], *, strict: bool = False) -> Definitions:
        """The request's ``tools``: one item with all declarations.

        Gemini has no strict mode per tool. The request's ``toolConfig`` with mode ``VALIDATED`` (or ``ANY``)
        holds the model to all declarations as far as it regards them; `strict` reports the tools where that
        is not all.
        """
        declarations: list[JsonObject] = []
        losses: list[Loss] = []
        for tool in tools:
            declared = declare(tool)
            losses += declared.losses
            if strict and not declared.whole:
                reasons = ", ".join(f"{loss.keyword} at {loss.path or 'the root'}" for loss in declared.losses)
                message = f"Gemini holds the model to this schema only in part: {reasons}."
                losses.append(Loss(tool.name, "", "strict", message))
            declaration: JsonObject = {"name": vendor_name(tool.name), "description": tool.description}
            if declared.key is not None:
                declaration[declared.key] = declared.schema
            declarations.append(declaration)
        return Definitions([{"functionDeclarations": declarations}] if declarations else [], losses)

    def read(self, response: Any, tools: Sequence[Tool] = ()) -> Reply:  # noqa: ARG002 - of the Protocol
        """A GenerateContentResponse, dict or SDK object; of several candidates the first."""
        return read_reply(response)

    def reader(self, tools: Sequence[Tool] = ()) -> GeminiReader:  # noqa: ARG002 - of the Protocol
        """A reader of the responses that a stream consists of."""
        return GeminiReader()

    def restore(self, tool: Tool, arguments: JsonObject) -> JsonObject:
        """Arguments with the numbers and truth values that Gemini was offered as texts."""
        way = declare(tool).way
        return as_object(way.back(arguments)) if way else arguments

    def write_results(self, results: Sequence[ToolResult]) -> list[JsonObject]:
        """One user content with all results: the API wants one for each call, together."""
        if not results:
            return []
        return [{"role": "user", "parts": [_write_result(result) for result in results]}]

    def write(self, messages: Sequence[Message]) -> list[JsonObject]:
        """The conversation as ``contents``, without its system messages."""
        written: list[JsonObject] = []
        for message in messages:
            if message.role == "system":
                continue
            role = "model" if message.role == "assistant" else "user"
            parts = [part for item in message.content if (part := _write_part(item)) is not None]
            if not parts:
                continue
            if role == "model" and written and written[-1]["role"] == "model":
                written[-1]["parts"] += parts
            else:
                written.append({"role": role, "parts": parts})
        return written

    def system(self, messages: Sequence[Message]) -> str | None:
        """All system messages, for the request's ``systemInstruction``."""
        text = "\n\n".join(message.text for message in messages if message.role == "system")
        return encodable(text) or None

    def parse(self, messages: Sequence[Any]) -> list[Message]:
        """The conversation; a content with function responses is a `tool` message, then what else it says."""
        parsed: list[Message] = []
        calls = _Calls()
        for found in messages:
            content = camel(plain(found))
            parts = [
                part
                for item in as_list(content.get("parts"))
                if (part := _parse_part(part_object(item), calls)) is not None
            ]
            results = tuple(part for part in parts if isinstance(part, ToolResult))
            others = tuple(part for part in parts if not isinstance(part, ToolResult))
            if results:
                parsed.append(Message("tool", results))
            if others or not results:
                parsed.append(Message("assistant" if content.get("role") == "model" else "user", others))
        return parsed


DIALECT = GeminiDialect()


class _Calls:
    """The calls of a history that wait for their results."""

    def __init__(self) -> None:
        self._made = 0
        self._waiting: dict[str, ToolCall] = {}

    def add(self, part: JsonObject) -> ToolCall:
        """Read a call; where the vendor gave no id, the place of the call makes one."""
        call = read_call(part, made_id=self._make_id)
        self._waiting[call.id] = call
        return call

    def _make_id(self) -> str:
        self._made += 1
        return f"call_{self._made}"

    def answered(self, call_id: str, name: str) -> ToolCall | None:
        """The call that a response is for: by its id, else the first of that name that waits."""
        if call_id:
            return self._waiting.pop(call_id, None)
        for call in self._waiting.values():
            if call.name == name:
                return self._waiting.pop(call.id)
        return None


def _write_part(part: Part) -> JsonObject | None:
    match part:
        case Text():
            own = _vendor(part.vendor)
            return {"text": encodable(part.text), **own} if part.text or own else None
        case Reasoning():
            # Another vendor's thoughts would be taken for the model's own.
            return (
                {"text": encodable(part.text), "thought": True, **_vendor(part.vendor)} if NAME in part.vendor else None
            )
        case Media():
            if part.data is not None:
                return {"inlineData": {"mimeType": part.mime_type, "data": part.data}}
            return {"fileData": {"mimeType": part.mime_type, "fileUri": part.url or ""}}
        case Opaque():
            return part.data if part.dialect == NAME else None
        case ToolCall():
            return _write_call(part)
        case ToolResult():
            return _write_result(part)


def _vendor(vendor: Mapping[str, JsonValue]) -> JsonObject:
    return as_object(vendor.get(NAME))


def _written_name(name: str) -> str:
    return vendor_name(written_name(name))


def _write_call(call: ToolCall) -> JsonObject:
    own = dict(_vendor(call.vendor))
    found: JsonObject = {"name": _written_name(call.name), "args": written_object(call)}
    if MADE_ID not in own:
        found = {"id": call.id, **found}
    own.pop(MADE_ID, None)
    return {"functionCall": found, **own}


def _write_result(result: ToolResult) -> JsonObject:
    """A function response: ``output`` or ``error``, as the API's reference has it, and always as text.

    As a JSON object the result would pass through a protobuf Struct, whose numbers are doubles: an id of 19
    digits would come to the model as another one. And the API takes ``$ref`` in a response for its own.
    """
    own = _vendor(result.vendor)
    kept = as_object(own.get("functionResponse"))
    found: JsonObject = {
        "name": _written_name(result.name),
        "response": {"error" if result.is_error else "output": encodable(result.content)},
        **kept,
    }
    return {"functionResponse": found if MADE_ID in own else {"id": result.call_id, **found}}


def _parse_part(part: JsonObject, calls: _Calls) -> Part | None:
    if isinstance(part.get("functionCall"), dict):
        return calls.add(part)
    if isinstance(part.get("functionResponse"), dict):
        return _parse_result(camel(part["functionResponse"]), calls)
    return read_part(part)


def _parse_result(found: JsonObject, calls: _Calls) -> ToolResult:
    given = as_text(found.get("id"))
    name = own_name(as_text(found.get("name")))
    call = calls.answered(given, name)
    vendor = call.vendor if call is not None else NO_VENDOR
    kept = {key: value for key, value in found.items() if key not in ("id", "name", "response")}
    response = as_object(found.get("response"))
    failed = response.keys() == {"error"}
    content = next(iter(response.values()), "") if len(response) == 1 else response
    if not isinstance(content, str) or not (failed or response.keys() == {"output"}):
        # Not written by us: it goes back as it came.
        kept["response"] = response
        content = arguments_text(content if failed or response.keys() == {"output"} else response)
    own = dict(_vendor(vendor))
    if kept:
        own["functionResponse"] = kept
    if call is None and not given:
        own[MADE_ID] = None
    error = (recognised_error(content) or CallError("tool_failed", content)) if failed else None
    call_id = given or (call.id if call is not None else "")
    return ToolResult(call_id, name, content, error, vendor={**vendor, NAME: own} if own else vendor)
