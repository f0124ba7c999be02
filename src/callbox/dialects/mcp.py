"""MCP's ``tools/list`` and ``tools/call``: the client, not a model API, brings the calls.

Formats: https://modelcontextprotocol.io/specification/2025-11-25/server/tools, and the same page of
2026-07-28.

MCP has no conversation. What `write` can say of one is its calls and results: an assistant's calls are
requests, their results are responses, both in order; texts, media, reasoning and instructions are left out.
What does not survive `parse(write(m))` besides: where two turns of one role meet, ids that callbox made,
`CallError.retryable`, `ToolCall.error` and `ToolCall.repairs`.

Every result is a result, whatever went wrong. The specification wants a JSON-RPC error (-32602) for a tool
that does not exist, and a result with ``isError`` for arguments that are wrong (SEP-1303), because clients
show the latter to the model and mostly not the former. callbox answers an unknown name with the names that
do exist, which only the model can use: so it goes the way that reaches the model.

``resultType``, which 2026-07-28 adds to results, is left to the server that negotiated that version; where
it is absent, a client takes the result as complete.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from callbox.calls.call import NO_VENDOR, CallError, ToolCall, ToolResult
from callbox.dialects.dialect import Definitions, Loss
from callbox.dialects.history import arguments_text, encodable, recognised_error
from callbox.dialects.unreadable import read_object, written_object
from callbox.dialects.wire import as_list, as_object, as_text, plain
from callbox.ids import new_id
from callbox.messages import (
    CallDelta,
    CallReady,
    CallStarted,
    Finished,
    Message,
    Opaque,
    Part,
    Reply,
    StreamEvent,
)
from callbox.tools.tool import Tool
from callbox.values import JsonObject

NAME = "mcp"

_METHOD = "tools/call"
_REQUEST_ID = "id"
"""In `vendor`: the request's id where it is a number, None where there was none and the call's id is ours."""


class McpReader:
    """Reads JSON-RPC messages; see `dialect.StreamReader`."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._calls = 0
        self._finished = False

    @property
    def reply(self) -> Reply:
        """What was read so far."""
        return Reply(Message("assistant", tuple(self._parts)), "calls" if self._calls else "unknown")

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """Take one whole message, or a batch."""
        if self._finished:
            return []
        events: list[StreamEvent] = []
        for found in _messages(chunk):
            if not _is_request(found):
                if "method" in found:
                    self._parts.append(Opaque(NAME, found))
                continue
            call = _read_call(found)
            self._parts.append(call)
            text = arguments_text(call.arguments)
            events += [
                CallStarted(self._calls, call.id, call.name),
                CallDelta(self._calls, text),
                CallReady(self._calls, call),
            ]
            self._calls += 1
        return events

    def finish(self) -> list[StreamEvent]:
        """No more messages; see `dialect.StreamReader`."""
        if self._finished:
            return []
        self._finished = True
        return [Finished(self.reply)]


class McpDialect:
    """MCP tools; see `dialect.Dialect`."""

    name = NAME

    def define(self, tools: Sequence[Tool], *, strict: bool = False) -> Definitions:
        """The ``tools`` of a ``tools/list`` result. MCP takes every schema whole, and has no strict mode."""
        message = "MCP has no strict mode: how closely a model is held to the schema is the client's business."
        losses = [Loss(tool.name, "", "strict", message) for tool in tools] if strict else []
        return Definitions([_definition(tool) for tool in tools], losses)

    def read(self, response: Any, tools: Sequence[Tool] = ()) -> Reply:  # noqa: ARG002 - of the Protocol
        """The calls in a ``tools/call`` request, in its params, or in a list of such (a JSON-RPC batch)."""
        reader = McpReader()
        reader.feed(response)
        reader.finish()
        return reader.reply

    def reader(self, tools: Sequence[Tool] = ()) -> McpReader:  # noqa: ARG002 - of the Protocol
        """A reader of whole messages, each of which is whole at once: MCP streams no tokens."""
        return McpReader()

    def restore(self, tool: Tool, arguments: JsonObject) -> JsonObject:  # noqa: ARG002 - of the Protocol
        """The arguments as they are: the schema was sent as it is."""
        return arguments

    def write_results(self, results: Sequence[ToolResult]) -> list[JsonObject]:
        """One JSON-RPC response for each; the bare ``CallToolResult`` for a call that had no request."""
        return [_write_result(result) for result in results]

    def write(self, messages: Sequence[Message]) -> list[JsonObject]:
        """Calls as requests, results as responses; see the module's docstring for what is left out."""
        written: list[JsonObject] = []
        for message in messages:
            for part in message.content:
                if isinstance(part, ToolCall):
                    written.append(_write_call(part))
                elif isinstance(part, ToolResult):
                    written.append(_write_result(part))
                elif isinstance(part, Opaque) and part.dialect == NAME:
                    written.append(part.data)
        return written

    def system(self, messages: Sequence[Message]) -> str | None:  # noqa: ARG002 - of the Protocol
        """None: a server has no say in the instructions of the client's model."""
        return None

    def parse(self, messages: Sequence[Any]) -> list[Message]:
        """Requests and responses as messages; neighbours of one kind are one turn."""
        parsed: list[Message] = []
        calls: dict[str, ToolCall] = {}
        for found in _messages(list(messages)):
            part = _parse_message(found, calls)
            if isinstance(part, ToolCall):
                calls[part.id] = part
            role = "tool" if isinstance(part, ToolResult) else "assistant"
            if parsed and parsed[-1].role == role:
                parsed[-1] = Message(role, (*parsed[-1].content, part))
            else:
                parsed.append(Message(role, (part,)))
        return parsed


DIALECT = McpDialect()


def _definition(tool: Tool) -> JsonObject:
    item: JsonObject = {"name": tool.name}
    if tool.title is not None:
        item["title"] = tool.title
    item["description"] = tool.description
    item["inputSchema"] = tool.parameters
    if tool.returns is not None and tool.returns.get("type") == "object":
        # Up to 2025-11-25 only an object may be structured content; other results are text alone.
        item["outputSchema"] = tool.returns
    annotations: JsonObject = {"readOnlyHint": tool.reads_only}
    if not tool.reads_only:
        annotations["destructiveHint"] = tool.effect == "destructive"
        annotations["idempotentHint"] = tool.idempotent
    if tool.effect == "egress":
        # Of the other effects nobody has said how open their world is; a client then assumes that it is.
        annotations["openWorldHint"] = True
    item["annotations"] = annotations
    return item


def _messages(found: Any) -> list[JsonObject]:
    """The objects in a message or a batch."""
    found = plain(found)
    entries = as_list(found) if isinstance(found, list) else [found]
    return [item for entry in entries if (item := as_object(plain(entry)))]


def _is_request(found: JsonObject) -> bool:
    if "method" in found:
        return found["method"] == _METHOD
    return isinstance(found.get("name"), str)


def _read_call(found: JsonObject) -> ToolCall:
    params = as_object(found.get("params")) if "method" in found else found
    own: JsonObject = {}
    request_id = found.get("id") if "method" in found else None
    if isinstance(request_id, str) and request_id:
        call_id = request_id
    elif isinstance(request_id, (int, float)) and not isinstance(request_id, bool):
        call_id = str(request_id)
        own[_REQUEST_ID] = request_id
    else:
        call_id = new_id("call")
        own[_REQUEST_ID] = None
    rest = {key: value for key, value in params.items() if key not in ("name", "arguments") and value is not None}
    if rest:
        own["params"] = rest
    return ToolCall(
        call_id,
        as_text(params.get("name")),
        read_object(params.get("arguments")),
        vendor={NAME: own} if own else NO_VENDOR,
    )


def _vendor(vendor: Mapping[str, Any]) -> JsonObject:
    return as_object(vendor.get(NAME))


def _id_of(call_id: str, own: JsonObject) -> Any:
    """The request's id with its own JSON type: a response with another one is no response."""
    found = own.get(_REQUEST_ID)
    return call_id if found is None else found


def _write_call(call: ToolCall) -> JsonObject:
    own = _vendor(call.vendor)
    params = {"name": call.name, "arguments": written_object(call), **as_object(own.get("params"))}
    return {"jsonrpc": "2.0", "id": _id_of(call.id, own), "method": _METHOD, "params": params}


def _write_result(result: ToolResult) -> JsonObject:
    own = _vendor(result.vendor)
    envelope: JsonObject = {"jsonrpc": "2.0", "id": _id_of(result.call_id, own)}
    if "error" in own:
        return {**envelope, "error": own["error"]}
    body: JsonObject = {"content": [], "isError": result.is_error}
    content = encodable(result.content)
    if "content" in own:
        body["content"] = own["content"]
    elif content:
        body["content"] = [{"type": "text", "text": content}]
    if not result.is_error and (structured := _structured(content)) is not None:
        body["structuredContent"] = structured
    if own.get(_REQUEST_ID, result.call_id) is None:
        return body
    return {**envelope, "result": body}


def _structured(content: str) -> JsonObject | None:
    """The content as an object, where it is one: a tool with an output schema must send it so, too."""
    if not content.startswith("{"):
        return None
    try:
        found: Any = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return as_object(found)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _parse_message(found: JsonObject, calls: Mapping[str, ToolCall]) -> Part:
    if _is_request(found):
        return _read_call(found)
    if "result" in found or "error" in found or "content" in found:
        return _parse_result(found, calls)
    return Opaque(NAME, found)


def _parse_result(found: JsonObject, calls: Mapping[str, ToolCall]) -> ToolResult:
    given = found.get("id")
    call_id = given if isinstance(given, str) else "" if given is None else str(given)
    call = calls.get(call_id)
    own: JsonObject = dict(_vendor(call.vendor)) if call is not None else {}
    if call is None and not isinstance(given, str):
        own[_REQUEST_ID] = given
    name = call.name if call is not None else ""
    if "error" in found:
        own["error"] = found["error"]
        message = as_text(as_object(found["error"]).get("message"))
        return ToolResult(call_id, name, message, CallError("tool_failed", message), vendor={NAME: own})
    body = as_object(found.get("result")) if "result" in found else found
    blocks = [as_object(block) for block in as_list(body.get("content"))]
    content = "".join(as_text(block.get("text")) for block in blocks)
    if len(blocks) > 1 or any(block.keys() != {"type", "text"} for block in blocks):
        # Images, links, annotations: text cannot say them, so they go back as they came.
        own["content"] = body["content"]
    if not content and "structuredContent" in body:
        content = arguments_text(body["structuredContent"])
    error = (recognised_error(content) or CallError("tool_failed", content)) if body.get("isError") is True else None
    return ToolResult(call_id, name, content, error, vendor={NAME: own} if own else NO_VENDOR)
