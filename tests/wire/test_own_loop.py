"""The door for those who have a loop of their own: a vendor's SDK asks, our definitions, reading and
writing in between.

No provider of ours is involved. The server refuses what the vendor would refuse.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from callbox import Toolset
from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import find_dialect
from callbox.messages import Finished, Reply
from callbox.tools.tool import Tool
from wire.vendor_server import Call, Say, VendorServer

GET_ORDER = Tool(
    "get_order",
    "Look up one order.",
    {
        "type": "object",
        "properties": {"order_id": {"type": "string"}, "verbose": {"type": "boolean"}},
        "required": ["order_id"],
        "additionalProperties": False,
    },
    effect="read",
)
TOOLSET = Toolset([GET_ORDER])
TWO = (Call("get_order", {"order_id": "A-1"}), Call("get_order", {"order_id": "B-2"}))
SCRIPT = (Say("Let me look.", TWO), Say("", (Call("get_order", {"order_id": "C-3"}),)), Say("All are here."))
WHOLE_AND_STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
STRICT_OR_NOT = pytest.mark.parametrize("strict", [False, True], ids=["plain", "strict"])


def run(calls: tuple[ToolCall, ...]) -> list[ToolResult]:
    """What a gate does, in short."""
    results: list[ToolResult] = []
    for call in calls:
        arguments = json.loads(call.arguments) if isinstance(call.arguments, str) else call.arguments
        answer = json.dumps({"order": arguments["order_id"], "state": "sent"})
        results.append(ToolResult(call.id, call.name, answer, vendor=call.vendor))
    return results


def finished(reader: Any) -> Reply:
    (*_, last) = reader.finish()
    assert isinstance(last, Finished)
    return last.reply


def check(server: VendorServer, reply: Reply) -> None:
    assert server.refused == []
    assert len(server.requests) == 3
    assert reply.message.text == "All are here."
    for order in ("A-1", "B-2"):
        assert f'\\"order\\": \\"{order}\\"' in json.dumps(server.bodies[1]) or order in str(server.bodies[1])


@STRICT_OR_NOT
@WHOLE_AND_STREAMED
def test_openai_chat_with_the_sync_client(stream: bool, strict: bool) -> None:
    from openai import OpenAI

    speak = find_dialect("openai")
    with VendorServer(*SCRIPT) as server, OpenAI(api_key="test-key", base_url=f"{server.url}/v1") as client:
        messages: list[Any] = [{"role": "user", "content": "Where are my orders?"}]
        tools = TOOLSET.definitions("openai", strict=strict)
        while True:
            answer = client.chat.completions.create(model="m", messages=messages, tools=tools, stream=stream)
            if stream:
                reader = speak.reader(tuple(TOOLSET))
                for chunk in answer:
                    reader.feed(chunk)
                reply = finished(reader)
                messages += speak.write([reply.message])
            else:
                reply = speak.read(answer, tuple(TOOLSET))
                # What the SDK gave is appended as it is, as the vendor's own examples do.
                messages.append(answer.choices[0].message)
            if not reply.calls:
                break
            messages += speak.write_results(run(reply.calls))
    check(server, reply)


@STRICT_OR_NOT
@WHOLE_AND_STREAMED
async def test_openai_responses_with_the_async_client(stream: bool, strict: bool) -> None:
    from openai import AsyncOpenAI

    speak = find_dialect("openai-responses")
    script = (Say("", TWO, thought="Two orders."), *SCRIPT[1:])
    with VendorServer(*script) as server:
        async with AsyncOpenAI(api_key="test-key", base_url=f"{server.url}/v1") as client:
            items: list[Any] = [{"role": "user", "content": "Where are my orders?"}]
            tools = TOOLSET.definitions("openai-responses", strict=strict)
            while True:
                answer = await client.responses.create(model="m", input=items, tools=tools, stream=stream)
                if stream:
                    reader = speak.reader(tuple(TOOLSET))
                    async for event in answer:
                        reader.feed(event)
                    reply = finished(reader)
                    items += speak.write([reply.message])
                else:
                    reply = speak.read(answer, tuple(TOOLSET))
                    items += answer.output
                if not reply.calls:
                    break
                items += speak.write_results(run(reply.calls))
    check(server, reply)


@STRICT_OR_NOT
@WHOLE_AND_STREAMED
def test_anthropic_with_the_sync_client(stream: bool, strict: bool) -> None:
    from anthropic import Anthropic

    speak = find_dialect("anthropic")
    script = (Say("Let me look.", TWO, thought="Two orders."), *SCRIPT[1:])
    with VendorServer(*script) as server, Anthropic(api_key="test-key", base_url=server.url) as client:
        messages: list[Any] = [{"role": "user", "content": "Where are my orders?"}]
        tools = TOOLSET.definitions("anthropic", strict=strict)
        asking: Any = {"model": "m", "max_tokens": 500, "tools": tools, "messages": messages}
        while True:
            if stream:
                reader = speak.reader(tuple(TOOLSET))
                for event in client.messages.create(**asking, stream=True):
                    reader.feed(event)
                reply = finished(reader)
                messages += speak.write([reply.message])
            else:
                answer = client.messages.create(**asking)
                reply = speak.read(answer, tuple(TOOLSET))
                messages.append({"role": "assistant", "content": answer.content})
            if not reply.calls:
                break
            messages += speak.write_results(run(reply.calls))
    check(server, reply)


async def test_anthropics_stream_helper_is_read_too() -> None:
    from anthropic import AsyncAnthropic

    speak = find_dialect("anthropic")
    with VendorServer(SCRIPT[0]) as server:
        async with AsyncAnthropic(api_key="test-key", base_url=server.url) as client:
            reader = speak.reader()
            asked: Any = [{"role": "user", "content": "Where?"}]
            async with client.messages.stream(model="m", max_tokens=9, messages=asked) as events:
                async for event in events:
                    reader.feed(event)
            reply = finished(reader)
    assert reply.message.text == "Let me look."
    assert [json.loads(call.arguments) for call in reply.calls] == [call.arguments for call in TWO]


@STRICT_OR_NOT
@WHOLE_AND_STREAMED
async def test_gemini_with_the_async_client(stream: bool, strict: bool) -> None:
    from google import genai
    from google.genai import types

    speak = find_dialect("gemini")
    with VendorServer(*SCRIPT) as server:
        client = genai.Client(api_key="test-key", http_options=types.HttpOptions(base_url=server.url))
        contents: list[Any] = [{"role": "user", "parts": [{"text": "Where are my orders?"}]}]
        config: Any = {
            "tools": TOOLSET.definitions("gemini", strict=strict),
            "automatic_function_calling": {"disable": True},
        }
        asking: Any = {"model": "m", "config": config}
        while True:
            if stream:
                reader = speak.reader(tuple(TOOLSET))
                async for chunk in await client.aio.models.generate_content_stream(**asking, contents=contents):
                    reader.feed(chunk)
                reply = finished(reader)
                contents += speak.write([reply.message])
            else:
                answer = await client.aio.models.generate_content(**asking, contents=contents)
                reply = speak.read(answer, tuple(TOOLSET))
                contents.append(answer.candidates[0].content)
            if not reply.calls:
                break
            contents += speak.write_results(run(reply.calls))
        await client.aio.aclose()
    check(server, reply)
