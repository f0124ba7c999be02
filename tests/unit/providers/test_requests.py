"""What a `Request` becomes on each vendor's wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.errors import ConfigurationError
from callbox.messages import Message
from callbox.providers.hosted import HostedProvider
from callbox.providers.provider import Request
from callbox.providers.registry import provider
from callbox.tools.tool import Tool
from wire.vendor_server import Call, Raw, Say, VendorServer

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
WEATHER = Tool("weather", "The weather.", PARAMETERS, effect="read")
TIDES = Tool("tides", "The tides.", PARAMETERS, effect="read")
ODD = Tool("7tides", "Seven tides.", PARAMETERS, effect="read")
CONVERSATION = (Message.system("Be brief."), Message.user("Hello"))


def body(spec: str, *, client: Any = None, made: dict[str, Any] | None = None, **fields: Any) -> Any:
    """The body that a provider would send, without sending it."""
    options = {"api_key": "k", **(made or {})}
    model = provider(spec, **options)
    assert isinstance(model, HostedProvider)
    return model._body(Request(messages=CONVERSATION, **fields))


TOOLS = (WEATHER, TIDES)


def test_what_nobody_asked_for_is_not_sent() -> None:
    assert set(body("openai:m")) == {"model", "messages"}
    assert set(body("openai-responses:m")) <= {"model", "input", "instructions"}
    assert set(body("anthropic:m")) == {"model", "messages", "max_tokens", "system"}
    assert set(body("gemini:m")) == {"contents", "systemInstruction"}


def test_instructions_go_where_the_vendor_keeps_them() -> None:
    assert body("openai:m")["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body("anthropic:m")["system"] == "Be brief."
    assert body("gemini:m")["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    responses = body("openai-responses:m")
    assert "Be brief." in json.dumps(responses)


def test_limits_have_each_vendors_name() -> None:
    asked = {"output_tokens_max": 99, "temperature": 0.5}
    assert body("openai:m", **asked)["max_completion_tokens"] == 99
    local = {"base_url": "http://127.0.0.1:1/v1"}
    assert body("openai:m", made=local, **asked)["max_tokens"] == 99
    assert body("openai-responses:m", **asked)["max_output_tokens"] == 99
    assert body("anthropic:m", **asked)["max_tokens"] == 99
    assert body("anthropic:m", made={"output_tokens_max": 7})["max_tokens"] == 7
    assert body("gemini:m", **asked)["generationConfig"] == {"temperature": 0.5, "maxOutputTokens": 99}
    for spec in ("openai:m", "openai-responses:m", "anthropic:m"):
        assert body(spec, **asked)["temperature"] == 0.5


CHOICES = {
    "openai:m": [None, "none", "required", {"type": "function", "function": {"name": "tides"}}],
    "openai-responses:m": [None, "none", "required", {"type": "function", "name": "tides"}],
    "anthropic:m": [None, {"type": "none"}, {"type": "any"}, {"type": "tool", "name": "tides"}],
    "gemini:m": [None, {"mode": "NONE"}, {"mode": "ANY"}, {"mode": "ANY", "allowedFunctionNames": ["tides"]}],
}


@pytest.mark.parametrize("spec", CHOICES)
def test_the_choice_of_a_tool_has_each_vendors_form(spec: str) -> None:
    found = [body(spec, tools=TOOLS, tool_choice=choice) for choice in ("auto", "none", "required", "tides")]
    if spec.startswith("gemini"):
        assert [one.get("toolConfig", {}).get("functionCallingConfig") for one in found] == CHOICES[spec]
    else:
        assert [one.get("tool_choice") for one in found] == CHOICES[spec]
    with pytest.raises(ConfigurationError, match="'rain', which is not among"):
        body(spec, tools=TOOLS, tool_choice="rain")


def test_a_name_that_gemini_refuses_is_chosen_under_the_name_it_is_declared_with() -> None:
    sent = body("gemini:m", tools=(WEATHER, ODD), tool_choice="7tides")
    (name,) = sent["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"]
    declared = [one["name"] for tool in sent["tools"] for one in tool["functionDeclarations"]]
    assert name == declared[1] != "7tides"


def test_compatible_servers_get_the_one_tool_that_must_be_called() -> None:
    sent = body("openai:m", made={"base_url": "http://127.0.0.1:1/v1"}, tools=TOOLS, tool_choice="tides")
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["tides"]
    assert sent["tool_choice"] == "required"


def test_one_call_at_a_time_has_each_vendors_form() -> None:
    for spec in ("openai:m", "openai-responses:m"):
        assert body(spec, tools=TOOLS, parallel=False)["parallel_tool_calls"] is False
        assert "parallel_tool_calls" not in body(spec, parallel=False)
    one = {"disable_parallel_tool_use": True}
    assert body("anthropic:m", tools=TOOLS, parallel=False)["tool_choice"] == {"type": "auto", **one}
    assert body("anthropic:m", tools=TOOLS, parallel=False, tool_choice="tides")["tool_choice"] == {
        "type": "tool",
        "name": "tides",
        **one,
    }


def test_strict_is_openais_default_and_the_others_choice() -> None:
    assert body("openai:m", tools=TOOLS)["tools"][0]["function"]["strict"] is True
    assert not body("openai:m", tools=TOOLS, strict=False)["tools"][0]["function"].get("strict")
    assert body("openai-responses:m", tools=TOOLS)["tools"][0]["strict"] is True
    assert "strict" not in body("anthropic:m", tools=TOOLS)["tools"][0]
    assert body("anthropic:m", tools=TOOLS, strict=True)["tools"][0]["strict"] is True
    sent = body("gemini:m", tools=TOOLS, strict=True)
    assert sent["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}


def test_definitions_are_shared_between_requests() -> None:
    model = provider("openai:m", api_key="k")
    assert isinstance(model, HostedProvider)
    first, second = (model._body(Request(messages=CONVERSATION, tools=TOOLS)) for _ in range(2))
    assert first["tools"] is second["tools"]


def test_responses_are_stored_or_not_as_asked() -> None:
    made = {"store": False, "include": ["reasoning.encrypted_content"]}
    sent = body("openai-responses:m", made=made)
    assert (sent["store"], sent["include"]) == (False, ["reasoning.encrypted_content"])


def test_the_prompt_cache_is_marked_at_three_places() -> None:
    marker = {"cache_control": {"type": "ephemeral"}}
    model = provider("anthropic:m", api_key="k", cache=True)
    assert isinstance(model, HostedProvider)
    messages = list(CONVERSATION)
    sent = model._body(Request(messages=messages, tools=TOOLS))
    assert [tool.get("cache_control") for tool in sent["tools"]] == [None, marker["cache_control"]]
    assert sent["system"] == [{"type": "text", "text": "Be brief.", **marker}]
    assert sent["messages"][-1]["content"][-1] == {"type": "text", "text": "Hello", **marker}
    # The next turn's marks are its own: none is left where the last ones were.
    call = ToolCall("toolu_1", "weather", {"city": "Oslo"})
    messages += [Message.assistant("", [call]), Message.tool([ToolResult("toolu_1", "weather", "Rain.")])]
    sent = model._body(Request(messages=messages, tools=TOOLS))
    assert json.dumps(sent).count("cache_control") == 3
    assert "cache_control" in sent["messages"][-1]["content"][-1]


def test_thoughts_take_no_mark() -> None:
    from callbox.providers.anthropic import cached

    messages = [{"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}]
    assert cached({"messages": messages}) == {"messages": messages}


def test_nothing_is_marked_where_nothing_is() -> None:
    model = provider("anthropic:m", api_key="k", cache=True)
    assert isinstance(model, HostedProvider)
    assert "cache_control" not in json.dumps(model._body(Request(messages=())))


SCHEMAS = {
    None: lambda sent: sent["response_format"]["json_schema"]["schema"],
    "vllm": lambda sent: sent["structured_outputs"]["json"],
    "llama.cpp": lambda sent: sent["json_schema"],
}


@pytest.mark.parametrize("guided", SCHEMAS)
def test_the_schema_of_an_answer_goes_where_the_server_looks(guided: str | None) -> None:
    made = {"tools": "json_schema", "guided": guided} if guided is None else {"guided": guided}
    sent = body("openai:m", made=made, tools=TOOLS)
    schema = SCHEMAS[guided](sent)
    assert [option["properties"]["tool"]["const"] for option in schema["anyOf"][:2]] == ["weather", "tides"]
    assert "tools" not in sent
    assert len(sent["messages"]) == 2
    assert sent["messages"][0]["content"].startswith("Be brief.\n\n")
    assert '"weather"' in sent["messages"][0]["content"]
    named = SCHEMAS[guided](body("openai:m", made=made, tools=TOOLS, tool_choice="tides"))
    assert named["properties"]["tool"] == {"const": "tides"}


def test_without_instructions_the_tools_are_the_instructions() -> None:
    model = provider("openai:m", api_key="k", tools="json_schema")
    assert isinstance(model, HostedProvider)
    sent = model._body(Request(messages=[Message.user("Hi")], tools=TOOLS))
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert "response_format" not in model._body(Request(messages=[Message.user("Hi")]))


def test_a_guide_without_a_schema_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="guided="):
        provider("openai:m", tools="native", guided="vllm")


async def test_without_tools_json_is_only_text() -> None:
    with VendorServer(Say('{"answer": "x"}'), Say('{"answer": "x"}')) as server:
        model = provider("openai:m", api_key="test-key", base_url=f"{server.url}/v1", tools="json_schema")
        request = Request(messages=CONVERSATION)
        assert (await model.complete(request)).message.text == '{"answer": "x"}'
        events = [event async for event in model.stream(request)]
        assert events[-1].reply.message.text == '{"answer": "x"}'  # type: ignore[union-attr]
        await model.aclose()


async def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    with VendorServer(Say("Hi."), key="none") as server:
        model = provider("openai:m", base_url=f"{server.url}/v1")
        assert (await model.complete(Request(messages=CONVERSATION))).message.text == "Hi."
        await model.aclose()


async def test_geminis_signature_comes_back_bit_for_bit() -> None:
    from wire.vendor_server.gemini import SIGNATURE

    with VendorServer(Say("", (Call("weather", {"city": "Oslo"}),)), Say("Rain.")) as server:
        model = provider("gemini:m", api_key="test-key", base_url=server.url)
        reply = await model.complete(Request(messages=CONVERSATION, tools=TOOLS))
        results = [ToolResult(call.id, call.name, "Rain.", vendor=call.vendor) for call in reply.calls]
        messages = [*CONVERSATION, reply.message, Message.tool(results)]
        await model.complete(Request(messages=messages, tools=TOOLS, extra={"generationConfig": {"topK": 3}}))
        await model.aclose()
    assert server.bodies[1]["contents"][1]["parts"][0]["thoughtSignature"] == SIGNATURE
    assert server.bodies[1]["generationConfig"] == {"topK": 3}
    assert server.requests[0].path.endswith("/models/m:generateContent")


async def test_an_error_in_a_200_is_an_error() -> None:
    from callbox.errors import ProviderUnavailable
    from callbox.providers.hosted import Options
    from callbox.providers.retrying import RetryPolicy

    once = Options(retry=RetryPolicy(attempts_max=1))
    failed = {
        "id": "r",
        "object": "response",
        "status": "failed",
        "output": [],
        "error": {"code": "server_error", "message": "The model broke."},
    }
    chat = {"error": {"code": 502, "type": "server_error", "message": "The model broke."}}
    with VendorServer(Raw(chat), Raw(failed)) as server:
        for spec in ("openai:m", "openai-responses:m"):
            model = provider(spec, api_key="test-key", base_url=f"{server.url}/v1", options=once)
            with pytest.raises(ProviderUnavailable, match="The model broke"):
                await model.complete(Request(messages=CONVERSATION))
            await model.aclose()
