"""The gate as your own loop uses it."""

import json

import pytest

from callbox import Allow, Deny, Gate, ToolCall, Toolset, errors, tool
from callbox.gate.caller import Budget
from callbox.limits import Limits
from callbox.messages import CallReady, Finished
from support import until


@tool(effect="read")
async def get_order(order_id: str) -> dict:
    """Look up one order.

    Args:
        order_id: The order's id.
    """
    return {"order_id": order_id}


def chat(*calls):
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}
                        for key, name, arguments in calls
                    ],
                },
            }
        ],
    }


async def test_read_execute_write_for_openai():
    gate = Gate(Toolset([get_order]))
    calls = gate.read("openai", chat(("c1", "get_order", '{"order_id": "A-1"}'), ("c2", "get_ordr", "{}")))
    assert [(call.id, call.name, call.arguments) for call in calls] == [
        ("c1", "get_order", {"order_id": "A-1"}),
        ("c2", "get_ordr", "{}"),
    ]
    assert calls[1].error.code == "unknown_tool"
    results = await gate.execute(calls)
    messages = gate.write("openai", results)
    assert [(message["role"], message["tool_call_id"]) for message in messages] == [
        ("tool", "c1"),
        ("tool", "c2"),
    ]
    assert json.loads(messages[0]["content"]) == {"order_id": "A-1"}
    assert "get_order" in json.loads(messages[1]["content"])["suggestion"]


async def test_read_execute_write_for_anthropic():
    gate = Gate([get_order])
    response = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": "tool_use",
        "content": [{"type": "tool_use", "id": "t1", "name": "get_order", "input": {"order_id": "A"}}],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    results = await gate.execute(gate.read("anthropic", response))
    [message] = gate.write("anthropic", results)
    assert message["role"] == "user"
    assert message["content"][0]["tool_use_id"] == "t1"


def test_a_repaired_call_says_so():
    [call] = Gate([get_order]).read("openai", chat(("c", "get_order", '```json\n{"order_id": "A"}\n```')))
    assert call.arguments == {"order_id": "A"}
    assert [repair.kind for repair in call.repairs] == ["code_fence"]


def test_a_response_without_calls_gives_none():
    assert Gate([get_order]).read("openai", chat()) == []
    assert Gate([get_order]).read("openai", "no response at all") == []


def test_an_unknown_dialect_is_a_mistake_of_the_program():
    with pytest.raises(errors.ConfigurationError, match="openai"):
        Gate([get_order]).read("opnai", {})


def test_functions_become_tools():
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    assert Gate([add]).toolset.names == ("add",)


async def test_a_conversations_own_tools_are_exempt_from_the_policy():
    @tool(effect="read")
    async def reread() -> str:
        """Read something of the conversation again."""
        return "again"

    gate = Gate([get_order], policy=lambda question: Allow() if question.tool.name == "get_order" else Deny())
    wider = gate.with_own_tools([reread])
    [result] = await wider.execute(wider.read("openai", chat(("c", "reread", ""))))
    assert result.content == "again"
    assert gate.toolset.names == ("get_order",)
    [unknown] = wider.read("openai", chat(("c", "nope", "{}")))
    assert "reread" not in unknown.error.expected
    assert gate.with_own_tools([]) is gate


def chunk(**delta):
    return {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}


def piece(index, key=None, name=None, arguments=""):
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"index": index, "function": function} | ({"id": key, "type": "function"} if key else {})


async def test_a_stream_in_your_own_loop_starts_reads_early():
    seen = []

    @tool(effect="read")
    async def look(key: str) -> str:
        """Look at something."""
        seen.append(key)
        return key

    chunks = [
        chunk(role="assistant", content="Let me see. "),
        chunk(tool_calls=[piece(0, "c1", "look", '{"key": ')]),
        chunk(tool_calls=[piece(0, arguments='"a"}')]),
        chunk(tool_calls=[piece(1, "c2", "look", '{"key": "b"')]),
    ]
    gate = Gate([look])
    async with gate.stream("openai") as turn:
        events = [event for part in chunks for event in turn.feed(part)]
        assert [event.call.id for event in events if isinstance(event, CallReady)] == ["c1"]
        await until(lambda: seen == ["a"])
        turn.feed(chunk(tool_calls=[piece(1, arguments="}")]))
        results = await turn.results()
    assert [result.content for result in results] == ["a", "b"]
    assert seen == ["a", "b"]
    assert [call.arguments for call in turn.calls] == [{"key": "a"}, {"key": "b"}]
    assert turn.reply.message.text == "Let me see. "
    assert not any(isinstance(event, Finished) for event in events)


async def test_a_stream_can_be_read_without_early_starts():
    seen = []

    @tool(effect="read")
    async def look(key: str) -> str:
        """Look at something."""
        seen.append(key)
        return key

    async with Gate([look]).stream("openai", eager=False) as turn:
        turn.feed(chunk(tool_calls=[piece(0, "c1", "look", '{"key": "a"}')]))
        assert seen == []
        assert [result.content for result in await turn.results()] == ["a"]


async def test_a_stream_that_is_cut_answers_the_call_it_did_not_finish():
    async with Gate([get_order]).stream("openai") as turn:
        turn.feed(chunk(tool_calls=[piece(0, "c1", "get_order", '{"order_id": "A')]))
        [result] = await turn.results()
    assert result.error.code == "malformed_json"


async def test_closing_twice_is_fine():
    async with Gate([get_order]) as gate:
        await gate.aclose()


async def test_the_same_call_twice_runs_once_and_is_answered_twice():
    runs = []

    @tool(effect="write")
    async def pay(amount: int) -> str:
        """Pay an amount."""
        runs.append(amount)
        return f"paid {amount}"

    calls = [
        ToolCall("c1", "pay", {"amount": 5}),
        ToolCall("c1", "pay", {"amount": 5}),
        ToolCall("c1", "pay", {"amount": 6}),
        ToolCall("c2", "pay", {"amount": 5}),
        ToolCall("c1", "pay", {"amount": 6}),
    ]
    results = await Gate([pay]).execute(calls)
    assert [result.content for result in results] == ["paid 5", "paid 5", "paid 6", "paid 5", "paid 6"]
    assert runs == [5, 6, 5]


async def test_a_reply_of_very_many_calls_under_one_id_is_answered_quickly():
    calls = [ToolCall("same", "get_order", {"order_id": str(index)}) for index in range(5_000)]
    results = await Gate([get_order]).execute(calls)
    assert len(results) == 5_000
    assert [result.is_error for result in results[126:130]] == [False, False, True, True]


async def test_asking_twice_for_a_streams_results_runs_nothing_twice():
    paid = []

    @tool(effect="write")
    async def pay(amount: int) -> str:
        """Pay an amount."""
        paid.append(amount)
        return "paid"

    async with Gate([pay]).stream("openai") as turn:
        turn.feed(chunk(tool_calls=[piece(0, "c1", "pay", '{"amount": 5}')]))
        assert await turn.results() == await turn.results()
    assert paid == [5]


async def test_calls_of_a_filtered_stream_are_not_run():
    paid = []

    @tool(effect="write")
    async def pay(amount: int) -> str:
        """Pay an amount."""
        paid.append(amount)
        return "paid"

    async with Gate([pay]).stream("openai") as turn:
        turn.feed(chunk(tool_calls=[piece(0, "c1", "pay", '{"amount": 5}')]))
        turn.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]})
        assert await turn.results() == []
    assert (paid, turn.calls) == ([], [])


async def test_no_more_calls_start_early_than_a_turn_may_have():
    ran = []

    @tool(effect="read")
    async def look(key: str) -> str:
        """Look at something."""
        ran.append(key)
        return key

    async with Gate([look], limits=Limits(calls_per_turn_max=2)).stream("openai") as turn:
        for index in range(5):
            turn.feed(chunk(tool_calls=[piece(index, f"c{index}", "look", f'{{"key": "{index}"}}')]))
        results = await turn.results()
    assert ran == ["0", "1"]
    assert [result.is_error for result in results] == [False, False, True, True, True]


async def test_one_budget_for_all_turns_of_your_own_loop_learns_of_mistakes():
    gate, budget = Gate([get_order], limits=Limits(corrections_max=2)), Budget(Limits(corrections_max=2))
    for _ in range(3):
        assert budget.exhausted is None
        await gate.execute([ToolCall("c", "nope", {})], budget=budget)
    assert budget.exhausted == "corrections"


async def test_a_policy_that_is_a_coroutine_function_is_refused_at_once():
    async def policy(question):
        return Allow()

    with pytest.raises(errors.ConfigurationError, match="coroutine"):
        Gate([get_order], policy=policy)
