"""The local provider with its real model. Accuracy is benchmarks/local_model.py's matter; here it is about promises."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from callbox import Agent
from callbox.calls.call import ToolCall, ToolResult
from callbox.cli.question import QUESTION, TOOLS
from callbox.errors import ConfigurationError, ContextOverflow, ProviderBadRequest, ProviderUnavailable
from callbox.messages import CallDelta, CallReady, CallStarted, Finished, Message, TextDelta
from callbox.providers.local import Local
from callbox.providers.local_engine import shipped_model
from callbox.providers.provider import Request
from callbox.tools.tool import Tool
from support import let_others_run

pytestmark = [pytest.mark.local_model, pytest.mark.timeout(600)]
pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def model() -> Local:
    """One for all: loading it is the expensive part."""
    return Local(context_tokens=2048)


def tool(name: str, description: str, **properties: Any) -> Tool:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return Tool(name, description, schema)


WEATHER = tool("get_weather", "Get the weather in a city.", city={"type": "string"})
TIMER = tool("set_timer", "Start a timer.", minutes={"type": "integer", "minimum": 1})


def asking(text: str, *tools: Tool, **options: Any) -> Request:
    return Request(messages=[Message.user(text)], tools=tools, output_tokens_max=256, **options)


NASTY = {
    "enums": {"enum": ["north-east", "south-west", 7, None]},
    "nested": {
        "type": "object",
        "properties": {
            "who": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["who", "tags"],
        "additionalProperties": False,
    },
    "union": {"anyOf": [{"type": "integer", "minimum": 100}, {"type": "string", "pattern": "^[A-Z]{3}$"}]},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "date": {"type": "string", "format": "date"},
    "range": {"type": "number", "minimum": -1, "maximum": 1},
    "integers": {"type": "integer", "exclusiveMinimum": 10, "maximum": 12},
    "pair": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "boolean"}], "items": False, "minItems": 2},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
    "anything": {},
}


@pytest.mark.parametrize("kind", list(NASTY))
async def test_calls_always_fit_their_schema(model: Local, kind: str) -> None:
    made = tool("store_value", "Store a value.", value=NASTY[kind])
    reply = await model.complete(
        asking("Please store the value hello world 3.75 for me.", made, tool_choice="required")
    )
    assert reply.finish == "calls"
    assert reply.calls
    for call in reply.calls:
        assert call.name == "store_value"
        jsonschema_rs.validate(made.parameters, json.loads(call.arguments))


async def test_calls_fit_even_when_the_model_writes_at_random(model: Local) -> None:
    made = tool("store_value", "Store a value.", value=NASTY["nested"], again=NASTY["union"])
    request = asking("Store it.", made, tool_choice="required", temperature=3.0, parallel=False)
    for _ in range(3):
        reply = await model.complete(request)
        (call,) = reply.calls
        jsonschema_rs.validate(made.parameters, json.loads(call.arguments))


async def test_the_question_gets_its_tool_and_its_values(model: Local) -> None:
    reply = await model.complete(asking("What's the weather in Oslo?", TIMER, WEATHER))
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("get_weather", {"city": "Oslo"})]
    assert reply.usage.input_tokens > 100
    assert reply.usage.output_tokens > 5
    assert reply.usage.requests == 1
    assert reply.model == "smollm2-135m"


async def test_one_question_may_need_several_calls_of_a_tool(model: Local) -> None:
    reply = await model.complete(asking("What's the weather in Lima and in Quito?", WEATHER))
    assert [json.loads(call.arguments)["city"] for call in reply.calls] == ["Lima", "Quito"]
    alone = await model.complete(asking("What's the weather in Lima and in Quito?", WEATHER, parallel=False))
    assert len(alone.calls) == 1


async def test_streaming_tells_what_complete_returns(model: Local) -> None:
    request = asking("What's the weather in Lima and in Quito?", WEATHER)
    whole = await model.complete(request)
    events = [event async for event in model.stream(request)]
    assert isinstance(events[-1], Finished)
    assert [type(event) for event in events if not isinstance(event, CallDelta)] == [
        CallStarted,
        CallReady,
        CallStarted,
        CallReady,
        Finished,
    ]
    streamed = events[-1].reply
    assert [(call.name, call.arguments) for call in streamed.calls] == [
        (call.name, call.arguments) for call in whole.calls
    ]
    for index, call in enumerate(streamed.calls):
        told = "".join(event.text for event in events if isinstance(event, CallDelta) and event.index == index)
        assert told == call.arguments


async def test_text_streams_in_pieces(model: Local) -> None:
    events = [event async for event in model.stream(asking("Say hello to me."))]
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert len(pieces) > 1
    assert isinstance(events[-1], Finished)
    assert "".join(pieces).strip() == events[-1].reply.message.text
    assert events[-1].reply.finish == "stop"


async def test_no_call_is_made_when_none_is_wanted(model: Local) -> None:
    refused = await model.complete(asking("What's the weather in Oslo?", WEATHER, tool_choice="none"))
    assert refused.calls == ()
    assert refused.message.text
    named = await model.complete(asking("What's the weather in Oslo?", WEATHER, TIMER, tool_choice="set_timer"))
    assert {call.name for call in named.calls} == {"set_timer"}


async def test_an_answered_call_is_not_made_again_but_told(model: Local) -> None:
    call = ToolCall("c1", "get_weather", {"city": "Oslo"})
    messages = [
        Message.user("What's the weather in Oslo?"),
        Message.assistant(calls=[call]),
        Message.tool([ToolResult("c1", "get_weather", '{"sky": "snowy", "degrees": -3}')]),
    ]
    reply = await model.complete(Request(messages=messages, tools=[WEATHER]))
    assert reply.calls == ()
    assert "snowy" in reply.message.text
    assert "-3" in reply.message.text


async def test_leaving_a_stream_stops_the_model(model: Local) -> None:
    request = Request(messages=[Message.user("Tell me a very long story.")], output_tokens_max=1500)
    stream = model.stream(request)
    assert isinstance(await anext(stream), TextDelta)
    await stream.aclose()
    # The next answer waits for the model: it would wait for minutes if the story went on.
    async with asyncio.timeout(60):
        assert (await model.complete(asking("Hello!"))).message.text


async def test_cancelling_the_task_stops_the_model(model: Local) -> None:
    begun = asyncio.Event()

    async def listen() -> None:
        request = Request(messages=[Message.user("Tell me a very long story.")], output_tokens_max=1500)
        async for _ in model.stream(request):
            begun.set()

    task = asyncio.create_task(listen())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(60):
        assert (await model.complete(asking("Hello!"))).message.text


async def test_a_request_in_line_can_be_cancelled_before_it_begins(model: Local) -> None:
    first = asyncio.create_task(model.complete(asking("Tell me a story.")))
    second = asyncio.create_task(model.complete(asking("Tell me another story.")))
    await let_others_run(1)
    second.cancel()
    assert (await first).message.text
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_time_limits_are_kept(model: Local) -> None:
    request = Request(messages=[Message.user("Tell me a very long story.")], output_tokens_max=1500, timeout_s=0.2)
    with pytest.raises(ProviderUnavailable, match=r"0\.2 seconds"):
        await model.complete(request)


async def test_a_conversation_that_is_too_long_is_said_to_be(model: Local) -> None:
    with pytest.raises(ContextOverflow):
        await model.complete(asking("word " * 5000))


async def test_a_schema_that_no_grammar_can_hold_is_refused_not_ignored(model: Local) -> None:
    with pytest.raises(ProviderBadRequest, match="cannot be put into a grammar"):
        await model.complete(asking("Store it.", tool("store", "Store a value.", value=False)))


async def test_an_answer_that_was_cut_says_so(model: Local) -> None:
    request = Request(messages=[Message.user("Tell me a long story.")], output_tokens_max=8)
    assert (await model.complete(request)).finish == "length"


async def test_without_constraints_the_model_writes_what_it_likes() -> None:
    free = Local(context_tokens=1024, constrained=False)
    reply = await free.complete(asking("What's the weather in Oslo?", WEATHER, tool_choice="required"))
    assert reply.finish in ("calls", "stop", "length")
    free.unload()


async def test_a_model_of_your_own_is_shown_the_whole_conversation() -> None:
    own = Local(shipped_model(), context_tokens=1024)
    assert own.model == "SmolLM2-135M-Instruct.Q4_1"
    reply = await own.complete(asking("What's the weather in Oslo?", WEATHER, TIMER, tool_choice="required"))
    for call in reply.calls:
        chosen = {"get_weather": WEATHER, "set_timer": TIMER}[call.name]
        jsonschema_rs.validate(chosen.parameters, json.loads(call.arguments))
    assert reply.calls
    own.unload()
    own.unload()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
async def test_nothing_listens_on_the_network(model: Local) -> None:
    await model.complete(asking("Hello!"))
    assert not listening_sockets() & own_descriptors()


def own_descriptors() -> set[str]:
    return {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def listening_sockets() -> set[str]:
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {f"socket:[{fields[9]}]" for fields in lines if fields[3] == "0A"}


def test_the_demo_calls_both_tools_and_says_both_results(model: Local) -> None:
    run = Agent(model=model, tools=TOOLS).run_sync(QUESTION)
    assert [(call.name, call.arguments) for call in run.calls] == [
        ("get_order", {"order_id": "A-1042"}),
        ("track_parcel", {"parcel": "TRK-58"}),
    ]
    assert run.stop == "done"
    assert "blue kettle" in run.output
    assert "on Friday" in run.output


def test_the_quickstart_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", ["quickstart.py"])
    runpy.run_path(str(Path(__file__).parents[3] / "examples" / "quickstart.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "get_order({'order_id': 'A-1042'})" in printed
    assert "on Friday" in printed


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="too little"):
        Local(context_tokens=10)
    with pytest.raises(ConfigurationError, match="too little"):
        Local(threads=0)


def test_what_the_constraint_cannot_say_can_be_asked(model: Local) -> None:
    made = tool("t", "D.", tags={"type": "array", "items": {"type": "string"}, "uniqueItems": True})
    assert [(loss.tool, loss.keyword) for loss in model.losses([made])] == [("t", "uniqueItems")]


async def test_closing_keeps_the_model_for_the_next_run(model: Local) -> None:
    await model.aclose()
    await model.aclose()
    assert model.dialect == "openai"
    assert (await model.complete(asking("Hello!"))).message.text
