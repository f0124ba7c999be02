"""The local provider around an engine that writes what it is told to: order of events, ends, and failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.errors import ContextOverflow, ProviderUnavailable
from callbox.messages import Finished, Message, Text, TextDelta
from callbox.providers import local as module
from callbox.providers.local import Local
from callbox.providers.local_engine import Ending, Generation
from callbox.providers.provider import Request
from callbox.tools.tool import Tool
from support import until

pytest.importorskip("llguidance")

WEATHER = Tool(
    "get_weather",
    "Get the weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


class FakeEngine:
    """Writes the next of its texts, three characters at a time; an exception among them is raised."""

    def __init__(self, *texts: str | Exception) -> None:
        self.texts = list(texts)
        self.asked: list[Generation] = []
        self.waiting = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.ended = threading.Event()

    def generate(self, what: Generation, listen: Callable[[str], bool]) -> Ending:
        self.asked.append(what)
        text = self.texts.pop(0)
        if isinstance(text, Exception):
            raise text
        try:
            for at in range(0, len(text), 3):
                if not listen(text[at : at + 3]):
                    return Ending("stopped", 5, 0, 1)
                self.waiting.set()
                assert self.go_on.wait(30)
            return Ending("stop", 5, 2, len(text))
        finally:
            self.ended.set()


def provider(engine: FakeEngine, **options: Any) -> Local:
    made = Local(**options)
    made._engine = engine  # type: ignore[assignment]  # stands in for the real one
    return made


def answered() -> list[Message]:
    call = ToolCall("c1", "get_weather", {"city": "Oslo"})
    result = ToolResult("c1", "get_weather", '{"sky": "rainy"}')
    return [Message.user("weather in Oslo?"), Message.assistant(calls=[call]), Message.tool([result])]


async def test_a_model_that_only_repeats_itself_is_made_to_answer() -> None:
    engine = FakeEngine('CALL get_weather {"city":"Oslo"}\nmore', "It is rainy.")
    reply = await provider(engine, prompting="open").complete(Request(messages=answered(), tools=[WEATHER]))
    assert reply.message == Message("assistant", (Text("It is rainy."),))
    assert reply.finish == "stop"
    assert reply.usage.input_tokens == 10
    assert reply.usage.requests == 1
    assert engine.asked[0].grammar is not None
    assert engine.asked[1].grammar is None


async def test_results_become_one_sentence_each() -> None:
    engine = FakeEngine("The sky is rainy.", "The sky is clear.")
    other = ToolCall("c2", "get_weather", {"city": "Rome"})
    messages = [
        *answered(),
        Message.assistant(calls=[other]),
        Message.tool([ToolResult("c2", "get_weather", '{"sky": "clear"}')]),
    ]
    events = [event async for event in provider(engine).stream(Request(messages=messages, tools=[WEATHER]))]
    assert isinstance(events[-1], Finished)
    assert events[-1].reply.message.text == "The sky is rainy. The sky is clear."
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == events[-1].reply.message.text


async def test_a_sentence_without_a_working_grammar_is_not_written_freely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compile_problem", lambda lark: "too large")
    engine = FakeEngine()
    reply = await provider(engine).complete(Request(messages=answered(), tools=[WEATHER]))
    assert reply.message.text == "The sky: rainy."
    assert engine.asked == []


async def test_what_the_engine_raises_reaches_the_caller() -> None:
    with pytest.raises(ContextOverflow, match="too long"):
        await provider(FakeEngine(ContextOverflow("too long"))).complete(Request(messages=[Message.user("Hi")]))


async def test_a_deadline_ends_the_wait_and_then_the_model() -> None:
    engine = FakeEngine("a long story")
    engine.go_on.clear()
    with pytest.raises(ProviderUnavailable, match=r"0\.05 seconds"):
        await provider(engine).complete(Request(messages=[Message.user("Hi")], timeout_s=0.05))
    engine.go_on.set()
    assert await asyncio.to_thread(engine.ended.wait, 30)


async def test_a_deadline_never_cancels_the_code_that_reads_the_stream() -> None:
    engine = FakeEngine("a long story")
    engine.go_on.clear()
    stream = provider(engine).stream(Request(messages=[Message.user("Hi")], timeout_s=0.05))
    assert isinstance(await anext(stream), TextDelta)
    loop = asyncio.get_running_loop()
    passed = asyncio.Event()
    loop.call_later(0.1, passed.set)
    await passed.wait()  # the deadline passes here, outside of the stream
    with pytest.raises(ProviderUnavailable):
        await anext(stream)
    engine.go_on.set()


async def test_leaving_early_stops_the_engine() -> None:
    engine = FakeEngine("a long story")
    engine.go_on.clear()
    stream = provider(engine).stream(Request(messages=[Message.user("Hi")]))
    await anext(stream)
    await stream.aclose()
    engine.go_on.set()
    assert await asyncio.to_thread(engine.ended.wait, 30)
    assert engine.asked[0].tokens_max == module.OUTPUT_TOKENS


async def test_leaving_after_a_failure_leaves_nothing_to_report() -> None:
    engine = FakeEngine("abc", ContextOverflow("x"))
    made = provider(engine)
    stream = made.stream(Request(messages=[Message.user("Hi")]))
    assert isinstance(await anext(stream), TextDelta)
    await until(engine.ended.is_set)
    await stream.aclose()


def test_a_loop_that_is_gone_is_no_problem_for_the_worker() -> None:
    engine = FakeEngine("a long story")
    engine.go_on.clear()
    made = provider(engine)

    async def leave() -> None:
        stream = made.stream(Request(messages=[Message.user("Hi")]))
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())
    engine.go_on.set()
    assert engine.ended.wait(30)
    made.unload()
    assert made._engine is None
