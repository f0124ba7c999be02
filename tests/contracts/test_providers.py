"""What every provider promises, on every provider: the scripted one, and the vendors' SDKs against a strict
local server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.dialects import NAMES
from callbox.messages import (
    CallDelta,
    CallReady,
    CallStarted,
    Finished,
    Message,
    Reply,
    StreamEvent,
    TextDelta,
)
from callbox.providers.provider import Provider, Request
from callbox.providers.registry import provider
from callbox.providers.scripted import Scripted
from callbox.tools.tool import Tool
from wire.vendor_server import Call, Say, VendorServer

GET_ORDER = Tool(
    "get_order",
    "Look up one order.",
    {
        "type": "object",
        "properties": {"order_id": {"type": "string"}, "verbose": {"type": "boolean"}},
        "required": ["order_id"],
    },
    effect="read",
)
KINDS = ("scripted", "openai", "openai-json", "openai-responses", "anthropic", "gemini")
Make = Callable[..., Provider]


def scripted_turn(say: Say) -> Any:
    calls = [{"call": call.name, "arguments": call.arguments} for call in say.calls]
    return [*([say.text] if say.text else []), *calls]


def as_json(say: Say) -> Say:
    said = {"tool": say.calls[0].name, "arguments": say.calls[0].arguments} if say.calls else {"answer": say.text}
    return Say(json.dumps(said))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(kind: str) -> Iterator[Make]:
    """Makes a provider of the kind in question whose model says these turns."""
    with ExitStack() as stack:

        def made(*turns: Say) -> Provider:
            if kind == "scripted":
                return Scripted([scripted_turn(turn) for turn in turns])
            steps = [as_json(turn) for turn in turns] if kind == "openai-json" else turns
            server = stack.enter_context(VendorServer(*steps))
            options: dict[str, Any] = {"tools": "json_schema"} if kind == "openai-json" else {}
            name = kind.removesuffix("-json")
            path = "/v1" if name.startswith("openai") else ""
            return provider(f"{name}:model-1", api_key="test-key", base_url=server.url + path, **options)

        yield made


def asking(*messages: Message) -> Request:
    return Request(messages=[Message.system("Be brief."), *messages], tools=(GET_ORDER,), timeout_s=60)


QUESTION = Message.user("Where is A-1?")


def read(call: ToolCall) -> Any:
    return json.loads(call.arguments) if isinstance(call.arguments, str) else call.arguments


async def streamed(model: Provider, request: Request) -> tuple[list[StreamEvent], Reply]:
    events = [event async for event in model.stream(request)]
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Finished) for event in events[:-1])
    return events, events[-1].reply


async def answered(model: Provider, request: Request, *, stream: bool) -> Reply:
    return (await streamed(model, request))[1] if stream else await model.complete(request)


async def test_it_names_its_dialect_and_its_model(make: Make) -> None:
    model = make()
    assert model.dialect in NAMES
    assert model.model in ("scripted", "model-1")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_text_is_a_reply_that_stops(make: Make, stream: bool) -> None:
    model = make(Say("It has been shipped — “soon”. 📦"))
    reply = await answered(model, asking(QUESTION), stream=stream)
    await model.aclose()
    assert reply.message.role == "assistant"
    assert reply.message.text == "It has been shipped — “soon”. 📦"
    assert (reply.finish, reply.calls, reply.refusal) == ("stop", (), None)
    assert reply.usage.requests == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_come_in_the_models_order(make: Make, kind: str, stream: bool) -> None:
    calls = (Call("get_order", {"order_id": "A-1"}), Call("get_order", {"order_id": 'é\n"{}'}))
    if kind == "openai-json":
        calls = calls[1:]  # one call a turn
    model = make(Say("", calls))
    reply = await answered(model, asking(QUESTION), stream=stream)
    await model.aclose()
    assert reply.finish == "calls"
    assert [(call.name, read(call)) for call in reply.calls] == [(call.name, call.arguments) for call in calls]
    assert len({call.id for call in reply.calls}) == len(calls)
    assert all(call.id for call in reply.calls)


async def test_a_stream_tells_what_the_whole_reply_holds(make: Make, kind: str) -> None:
    calls = (Call("get_order", {"order_id": "A-1", "verbose": True}), Call("get_order", {"order_id": "B-2"}))
    turn = Say("", calls[:1]) if kind == "openai-json" else Say("One moment.", calls)
    model = make(turn)
    events, reply = await streamed(model, asking(QUESTION))
    await model.aclose()
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == reply.message.text
    for index, call in enumerate(reply.calls):
        (started,) = [event for event in events if isinstance(event, CallStarted) and event.index == index]
        assert (started.id, started.name) == (call.id, call.name)
        text = "".join(event.text for event in events if isinstance(event, CallDelta) and event.index == index)
        assert json.loads(text) == read(call)
        (ready,) = [event for event in events if isinstance(event, CallReady) and event.index == index]
        assert (ready.call.id, ready.call.name, read(ready.call)) == (call.id, call.name, read(call))
    assert [event.index for event in events if isinstance(event, CallReady)] == list(range(len(turn.calls)))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_goes_on_with_the_results(make: Make, kind: str, stream: bool) -> None:
    two = (Call("get_order", {"order_id": "A-1"}), Call("get_order", {"order_id": "B-2"}))
    first = Say("", two[:1]) if kind == "openai-json" else Say("Let me look.", two, thought="Hm.")
    model = make(first, Say("", (Call("get_order", {"order_id": "C-3"}),)), Say("All three are here."))
    messages = [QUESTION]
    for _ in range(2):
        reply = await answered(model, asking(*messages), stream=stream)
        results = [ToolResult(call.id, call.name, '{"state": "sent"}', vendor=call.vendor) for call in reply.calls]
        messages += [reply.message, Message.tool(results)]
    reply = await answered(model, asking(*messages), stream=stream)
    # A person goes on where the model has stopped.
    messages += [reply.message, Message.user("Thanks!")]
    assert reply.message.text == "All three are here."
    await model.aclose()


async def test_an_iterator_that_is_left_early_can_be_closed(make: Make) -> None:
    model = make(Say("A long story. " * 20))
    stream = model.stream(asking(QUESTION))
    assert isinstance(await anext(stream), TextDelta)
    await stream.aclose()  # type: ignore[attr-defined]
    await model.aclose()


async def test_closing_twice_is_harmless(make: Make) -> None:
    model = make(Say("Yes."))
    await model.complete(asking(QUESTION))
    await model.aclose()
    await model.aclose()
