from __future__ import annotations

from typing import Any

import pytest

from callbox.calls.call import ToolCall
from callbox.errors import ConfigurationError, ProviderRateLimited, ProviderUnavailable
from callbox.messages import (
    CallDelta,
    CallReady,
    CallStarted,
    Finished,
    Message,
    Opaque,
    Reasoning,
    ReasoningDelta,
    Reply,
    Text,
    TextDelta,
    Usage,
)
from callbox.providers.provider import Request
from callbox.providers.scripted import Scripted
from support import let_others_run

ASK = Request(messages=(Message.user("Hello"),))


async def events(model: Scripted) -> list[Any]:
    return [event async for event in model.stream(ASK)]


async def test_turns_are_said_one_after_the_other() -> None:
    model = Scripted([{"call": "look", "arguments": {"id": 1}}, "done"])
    first = await model.complete(ASK)
    assert (first.finish, first.calls) == ("calls", (ToolCall("call_1", "look", {"id": 1}),))
    second = await model.complete(ASK)
    assert (second.finish, second.message.text, second.model) == ("stop", "done", "scripted")
    assert second.usage == Usage(requests=1, estimated=True)


async def test_a_list_is_one_turn_of_texts_and_parallel_calls() -> None:
    model = Scripted([["Wait.", {"call": "a"}, {"call": "b", "arguments": "{broken", "id": "x"}]])
    reply = await model.complete(ASK)
    assert reply.message.content == (
        Text("Wait."),
        ToolCall("call_1", "a", {}),
        ToolCall("x", "b", "{broken"),
    )


async def test_a_function_sees_the_messages_and_may_be_async() -> None:
    async def think(messages: Any) -> Any:
        await let_others_run(1)
        return f"{messages[-1].text}?"

    assert (await Scripted(think).complete(ASK)).message.text == "Hello?"
    assert (await Scripted(lambda messages: {"call": messages[0].role}).complete(ASK)).calls[0].name == "user"
    mixed = Scripted(["first", lambda messages: f"{len(messages)} messages"])
    assert [(await mixed.complete(ASK)).message.text for _ in range(2)] == ["first", "1 messages"]


async def test_a_script_that_is_over_says_how_often_it_was_asked() -> None:
    model = Scripted(["only"])
    await model.complete(ASK)
    with pytest.raises(ConfigurationError, match=r"has 1 turns, and this is request 2\."):
        await model.complete(ASK)
    assert len(model.requests) == 2


async def test_exceptions_are_raised() -> None:
    model = Scripted([ProviderRateLimited, ValueError, ProviderUnavailable("gone")])
    for expected in (ProviderRateLimited, ValueError, ProviderUnavailable):
        with pytest.raises(expected):
            await model.complete(ASK)


async def test_an_exception_in_a_turn_comes_after_what_stands_before_it() -> None:
    model = Scripted([["Once upon", ProviderUnavailable("cut")]] * 2, chunk_chars=4)
    said: list[str] = []

    async def listen() -> None:
        async for event in model.stream(ASK):
            assert isinstance(event, TextDelta)
            said.append(event.text)

    with pytest.raises(ProviderUnavailable, match="cut"):
        await listen()
    assert said == ["Once", " upo", "n"]
    with pytest.raises(ProviderUnavailable, match="cut"):
        await model.complete(ASK)


async def test_streams_come_in_pieces_of_the_size_asked_for() -> None:
    model = Scripted([["abc", {"call": "f", "arguments": {"é": 1}}]], chunk_chars=2)
    call = ToolCall("call_1", "f", {"é": 1})
    assert await events(model) == [
        TextDelta("ab"),
        TextDelta("c"),
        CallStarted(0, "call_1", "f"),
        CallDelta(0, '{"'),
        CallDelta(0, 'é"'),
        CallDelta(0, ": "),
        CallDelta(0, "1}"),
        CallReady(0, call),
        Finished(Reply(Message.assistant("abc", [call]), "calls", Usage(requests=1, estimated=True), "scripted")),
    ]


async def test_a_reply_is_said_as_it_is() -> None:
    content = (Reasoning("hm"), Opaque("openai", {"a": 1}), ToolCall("1", "f", "{}"))
    reply = Reply(Message("assistant", content), "refusal", Usage(1, 2), "m", "No.")
    model = Scripted([reply, reply, ToolCall("9", "g")])
    assert await model.complete(ASK) is reply
    assert (await events(model))[0] == ReasoningDelta("hm")
    assert (await model.complete(ASK)).calls == (ToolCall("9", "g"),)


async def test_requests_show_the_messages_as_they_were() -> None:
    model = Scripted(lambda _: "ok")
    growing = [Message.user("one")]
    await model.complete(Request(messages=growing))
    growing.append(Message.user("two"))
    await model.complete(Request(messages=growing))
    await model.complete(Request(messages=tuple(growing)))
    first, second, third = (request.messages for request in model.requests)
    assert first == [growing[0]]
    assert second == growing
    assert second[-1] is growing[1]
    assert second[:1] == [growing[0]]
    assert third == tuple(growing)
    assert repr(first) == repr([growing[0]])
    assert first != 3
    with pytest.raises(IndexError):
        first[1]


@pytest.mark.parametrize("turn", [3, None, {"name": "f"}, {"call": "f", "args": {}}, ["fine", 4.5]])
def test_a_turn_of_another_shape_is_refused_at_once(turn: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no turn of a script"):
        Scripted([turn])


def test_one_turn_instead_of_a_list_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="list of turns"):
        Scripted("done")
    with pytest.raises(ConfigurationError, match="chunk_chars=0"):
        Scripted([], chunk_chars=0)


async def test_it_claims_the_dialect_and_the_name_it_is_given() -> None:
    model = Scripted([], dialect="gemini", model="tiny")
    assert (model.dialect, model.model) == ("gemini", "tiny")
    await model.aclose()
