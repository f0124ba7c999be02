"""The stand-in for the vendors is as strict as they are: a test against a server that accepts anything
proves nothing."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest

from wire.vendor_server import Fail, Say, VendorServer

CHAT: Any = {
    "model": "m",
    "messages": [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
}
RESPONSES: Any = {
    "model": "m",
    "input": [
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
    ],
}
MESSAGES: Any = {
    "model": "m",
    "max_tokens": 9,
    "messages": [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
                {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "1"},
                {"type": "tool_result", "tool_use_id": "t2", "content": "2"},
                {"type": "text", "text": "Well?"},
            ],
        },
    ],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
}
SIGNED = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "/+9zaWduYXR1cmU="}
GEMINI: Any = {
    "contents": [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [SIGNED, {"functionCall": {"name": "f", "args": {}}}]},
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "f", "response": {"a": 1}}},
                {"functionResponse": {"name": "f", "response": {"a": 2}}},
            ],
        },
    ],
    "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}],
}
PATHS = {
    "chat": ("/v1/chat/completions", CHAT),
    "responses": ("/v1/responses", RESPONSES),
    "messages": ("/v1/messages", MESSAGES),
    "gemini": ("/v1beta/models/m:generateContent", GEMINI),
}
KEYS = {
    "authorization": "Bearer test-key",
    "x-api-key": "test-key",
    "x-goog-api-key": "test-key",
    "anthropic-version": "2023-06-01",
}


def post(wire: str, body: Any, server: VendorServer) -> httpx.Response:
    return httpx.post(server.url + PATHS[wire][0], json=body, headers=KEYS)


@pytest.mark.parametrize("wire", PATHS)
def test_a_proper_conversation_is_answered(wire: str) -> None:
    with VendorServer(Say("Hello.")) as server:
        answer = post(wire, PATHS[wire][1], server)
        assert (answer.status_code, server.refused) == (200, [])
        assert post(wire, PATHS[wire][1], server).status_code == 500


MISTAKES: list[tuple[str, Any]] = [
    ("chat", lambda body: body["messages"].pop()),
    ("chat", lambda body: body["messages"].append({"role": "tool", "tool_call_id": "c3", "content": "3"})),
    ("chat", lambda body: body["messages"].insert(2, {"role": "user", "content": "Well?"})),
    ("chat", lambda body: body["messages"].append({"role": "assistant", "content": None})),
    ("chat", lambda body: body["tools"][0]["function"].update(name="a b")),
    ("chat", lambda body: body["tools"][0]["function"].update(strict=True)),
    ("chat", lambda body: body.update(tool_choice={"type": "function", "function": {"name": "g"}})),
    ("chat", lambda body: body.update(tools=[])),
    ("chat", lambda body: body.update(stream_options={})),
    ("responses", lambda body: body["input"].pop()),
    ("responses", lambda body: body["input"].pop(2)),
    ("responses", lambda body: body["input"].insert(3, {"type": "reasoning", "id": "rs_2", "summary": []})),
    ("responses", lambda body: body["input"][0].update(content=[{"type": "output_text", "text": "Hi"}])),
    ("responses", lambda body: body.update(tools=[{"type": "function", "name": "f", "parameters": {}}])),
    ("messages", lambda body: body["messages"].pop()),
    ("messages", lambda body: body["messages"][2]["content"].pop(0)),
    ("messages", lambda body: body["messages"][2]["content"].reverse()),
    ("messages", lambda body: body["messages"].append({"role": "user", "content": "Well?"})),
    ("messages", lambda body: body["messages"].pop(0)),
    ("messages", lambda body: body["messages"][2]["content"][2].update(text=" ")),
    ("messages", lambda body: body.pop("max_tokens")),
    ("messages", lambda body: body.pop("tools")),
    ("messages", lambda body: body["tools"][0]["input_schema"].update(anyOf=[])),
    ("messages", lambda body: body["tools"][0].update(strict=True)),
    ("gemini", lambda body: body["contents"].pop()),
    ("gemini", lambda body: body["contents"][2]["parts"].pop()),
    ("gemini", lambda body: body["contents"].pop(0)),
    ("gemini", lambda body: body["contents"][1]["parts"].reverse()),
    ("gemini", lambda body: body["contents"][2]["parts"][0]["functionResponse"].update(name="g")),
    ("gemini", lambda body: body["contents"][0]["parts"][0].update(odd=1)),
    ("gemini", lambda body: body["tools"][0]["functionDeclarations"][0].update(name="1f")),
    ("gemini", lambda body: body["tools"][0]["functionDeclarations"][0]["parameters"].update({"$ref": "#"})),
    ("gemini", lambda body: body["tools"][0]["functionDeclarations"][0].update(parametersJsonSchema={})),
]


@pytest.mark.parametrize(("wire", "mistake"), MISTAKES)
def test_what_a_vendor_refuses_is_refused(wire: str, mistake: Any) -> None:
    body = copy.deepcopy(PATHS[wire][1])
    mistake(body)
    with VendorServer(Say("Hello.")) as server:
        answer = post(wire, body, server)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == server.refused[0]


@pytest.mark.parametrize("wire", PATHS)
def test_a_wrong_key_and_a_failure_have_the_vendors_shape(wire: str) -> None:
    with VendorServer(Fail(429, "Slow down.", headers={"retry-after": "1"}), key="other") as server:
        refused = post(wire, PATHS[wire][1], server)
        assert (refused.status_code, "test-key" in refused.text) == (401, True)
        server.key = "test-key"
        limited = post(wire, PATHS[wire][1], server)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "1")
    assert limited.json()["error"]["message"] == "Slow down."
