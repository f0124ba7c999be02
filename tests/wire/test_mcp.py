"""MCP tools: what we write against the SDK's types, what we read from its objects, and JSON-RPC's rules."""

from typing import Any

import pytest
from mcp_types import (
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
)
from mcp_types.jsonrpc import JSONRPCRequest, JSONRPCResponse

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.dialects.mcp import DIALECT
from callbox.messages import CallDelta, CallReady, CallStarted, Finished, Message, Opaque, Text
from callbox.tools.tool import Effect, Tool
from dialect_samples import CALLS, RESULTS, TOOLS


def request(request_id: Any, name: Any = "now", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": {"name": name, **params}}


def response(request_id: Any, *content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": {"content": list(content), "isError": False, **more}}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def bare(effect: Effect = "write", **more: Any) -> Tool:
    return Tool("t", "Does it.", {"type": "object"}, effect=effect, **more)


# Definitions


def test_the_sdk_takes_the_definitions() -> None:
    definitions = DIALECT.define(TOOLS)
    found = ListToolsResult.model_validate({"tools": list(definitions)}).tools
    assert [(tool.name, tool.description, tool.input_schema) for tool in found] == [
        (tool.name, tool.description, tool.parameters) for tool in TOOLS
    ]
    assert definitions.losses == ()


@pytest.mark.parametrize(
    ("tool", "hints"),
    [
        (bare("read"), {"readOnlyHint": True}),
        (bare("write"), {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": False}),
        (
            bare("destructive", idempotent=True),
            {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True},
        ),
        (
            bare("egress"),
            {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": False, "openWorldHint": True},
        ),
    ],
    ids=["read", "write", "destructive", "egress"],
)
def test_effects_become_hints(tool: Tool, hints: dict[str, bool]) -> None:
    assert DIALECT.define([tool])[0]["annotations"] == hints


def test_title_and_the_schema_of_results_are_sent() -> None:
    returns = {"type": "object", "properties": {"a": {"type": "string"}}}
    item = DIALECT.define([bare(title="Tee", returns=returns)])[0]
    assert (item["title"], item["outputSchema"]) == ("Tee", returns)
    assert "outputSchema" not in DIALECT.define([bare(returns={"type": "string"})])[0]
    assert "title" not in DIALECT.define([bare()])[0]


def test_strict_mode_is_not_to_be_had() -> None:
    strict = DIALECT.define(TOOLS, strict=True)
    assert list(strict) == list(DIALECT.define(TOOLS))
    assert [(loss.tool, loss.keyword) for loss in strict.losses] == [(tool.name, "strict") for tool in TOOLS]


def test_arguments_are_in_the_tools_own_terms() -> None:
    arguments = {"a": 1}
    assert DIALECT.restore(TOOLS[0], arguments) is arguments


# Reading


@pytest.mark.parametrize(("request_id", "call_id"), [(7, "7"), ("7", "7"), ("abc", "abc"), (0, "0"), (1.5, "1.5")])
def test_the_response_has_the_requests_id_with_its_type(request_id: Any, call_id: str) -> None:
    reply = DIALECT.read(request(request_id, arguments={"a": None}))
    call = reply.calls[0]
    assert (call.id, call.name, call.arguments, reply.finish) == (call_id, "now", {"a": None}, "calls")
    written = DIALECT.write_results([ToolResult(call.id, call.name, "noon", vendor=call.vendor)])
    assert written == [response(request_id, text("noon"))]
    assert type(written[0]["id"]) is type(request_id)


def test_the_sdks_objects_read_like_the_wire() -> None:
    wire = request(7, arguments={"a": 1}, _meta={"progressToken": "p"})
    call = DIALECT.read(wire).calls[0]
    assert DIALECT.read(JSONRPCRequest.model_validate(wire)).calls == (call,)
    params = DIALECT.read(CallToolRequestParams.model_validate(wire["params"])).calls[0]
    whole = DIALECT.read(CallToolRequest.model_validate({"method": "tools/call", "params": wire["params"]})).calls[0]
    for found in (params, whole):
        assert (found.name, found.arguments) == (call.name, call.arguments)
        assert found.id.startswith("call_")
        assert found.vendor["mcp"]["params"] == {"_meta": {"progressToken": "p"}}


def test_a_call_that_came_without_a_request_gets_a_bare_result() -> None:
    call = DIALECT.read({"name": "now"}).calls[0]
    assert call.arguments == {}
    written = DIALECT.write_results([ToolResult(call.id, call.name, "noon", vendor=call.vendor)])
    assert written == [{"content": [text("noon")], "isError": False}]
    CallToolResult.model_validate(written[0])


def test_a_batch_is_a_turn_of_several_calls() -> None:
    other = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    reply = DIALECT.read([request(1), other, request("x", "forecast"), "garbage", response(9)])
    assert [call.name for call in reply.calls] == ["now", "forecast"]
    assert reply.message.content[1] == Opaque("mcp", other)
    assert len(reply.message.content) == 3


@pytest.mark.parametrize("broken", [{"method": "tools/call"}, request(None, None), request(True, 5, arguments=[1])])
def test_a_broken_request_is_a_call_that_the_gate_refuses(broken: dict[str, Any]) -> None:
    call = DIALECT.read(broken).calls[0]
    assert (call.name, call.arguments) == ("", broken.get("params", {}).get("arguments", {}))
    assert call.id.startswith("call_")


def test_messages_are_whole_at_once() -> None:
    reader = DIALECT.reader()
    call = ToolCall("a", "now", {"x": 1})
    assert reader.feed(request("a", arguments={"x": 1})) == [
        CallStarted(0, "a", "now"),
        CallDelta(0, '{"x": 1}'),
        CallReady(0, call),
    ]
    assert isinstance(reader.feed([request("b")])[0], CallStarted)
    last = reader.finish()[-1]
    assert isinstance(last, Finished)
    assert [found.id for found in last.reply.calls] == ["a", "b"]
    assert reader.finish() == []
    assert reader.feed(request("c")) == []


# Results


def test_the_sdk_takes_results_of_every_kind() -> None:
    for written in DIALECT.write_results(RESULTS):
        CallToolResult.model_validate(JSONRPCResponse.model_validate(written).result)
    first, second, third = [written["result"] for written in DIALECT.write_results(RESULTS)]
    assert first == {"content": [text("sunny, 21 °C")], "isError": False}
    assert second["isError"] is True
    assert "structuredContent" not in second
    assert third == {"content": [text('{"rain": true}')], "isError": False, "structuredContent": {"rain": True}}


@pytest.mark.parametrize("content", ['{"a": NaN}', '{"a": 1', "[1]", "{}x"])
def test_only_an_object_is_structured_content(content: str) -> None:
    assert "structuredContent" not in DIALECT.write_results([ToolResult("1", "now", content)])[0]["result"]


def test_an_empty_result_has_no_content() -> None:
    written = DIALECT.write_results([ToolResult("1", "now", "")])
    assert written == [response("1")]


def test_an_unknown_tool_is_answered_where_the_model_sees_it() -> None:
    error = CallError("unknown_tool", "There is no tool 'nwo'.", suggestion="now")
    call = DIALECT.read(request(7, "nwo")).calls[0]
    written = DIALECT.write_results([ToolResult.failed(call, error)])[0]
    assert "error" not in written
    assert written["result"]["isError"] is True
    assert "unknown_tool" in written["result"]["content"][0]["text"]


# Conversations


def test_calls_and_results_of_a_conversation_come_back() -> None:
    numbered = DIALECT.read(request(7, arguments={"a": 1}, _meta={"progressToken": 1})).calls[0]
    said = [
        Message.assistant("", CALLS),
        Message.tool(RESULTS),
        Message.assistant("", [numbered]),
        Message.tool([ToolResult("7", "now", "noon", vendor=numbered.vendor)]),
    ]
    written = DIALECT.write(said)
    for item in written:
        (JSONRPCRequest if "method" in item else JSONRPCResponse).model_validate(item)
    assert DIALECT.parse(written) == said


def test_what_mcp_cannot_say_is_left_out() -> None:
    other = Opaque("mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    foreign = Opaque("gemini", {"text": "secret"})
    message = Message("assistant", (Text("Let me look."), foreign, other, CALLS[1]))
    written = DIALECT.write([Message.system("Be brief."), Message.user("Hi"), message])
    assert [item["method"] for item in written] == ["tools/list", "tools/call"]
    assert DIALECT.parse(written) == [Message("assistant", (other, CALLS[1]))]
    assert DIALECT.system([Message.system("Be brief.")]) is None


def test_responses_of_somebody_else_go_back_as_they_came() -> None:
    image = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}
    history = [
        request(1, arguments={}),
        request("b", arguments={}),
        request(3, arguments={}),
        response(1, text("a"), image),
        {"jsonrpc": "2.0", "id": "b", "error": {"code": -32602, "message": "Unknown tool: now"}},
        response(3, text("Boom"), isError=True),
        response(99, text("lost")),
    ]
    parsed = DIALECT.parse(history)
    assert [message.role for message in parsed] == ["assistant", "tool"]
    first, second, third, lost = parsed[1].results
    assert (first.content, first.name, first.error) == ("a", "now", None)
    assert second.error == CallError("tool_failed", "Unknown tool: now")
    assert third.error == CallError("tool_failed", "Boom")
    assert (lost.call_id, lost.name) == ("99", "")
    assert DIALECT.write(parsed) == history


def test_structured_content_without_text_is_read() -> None:
    parsed = DIALECT.parse([response("1", structuredContent={"a": 1})])
    assert parsed[0].results[0].content == '{"a": 1}'


def test_a_bare_result_is_a_result() -> None:
    parsed = DIALECT.parse([{"content": [text("noon")]}])
    assert parsed[0].results[0].content == "noon"
    assert DIALECT.write(parsed) == [{"content": [text("noon")], "isError": False}]


def test_unreadable_arguments_are_written_as_an_object_and_known_again() -> None:
    message = Message.assistant("", [ToolCall("1", "now", "{broken")])
    written = DIALECT.write([message])
    CallToolRequest.model_validate({"method": "tools/call", "params": written[0]["params"]})
    assert DIALECT.parse(written) == [message]
