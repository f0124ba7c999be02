"""An agent's runs with a scripted model."""

import asyncio
import json

import pytest

from callbox import Agent, Allow, Ask, CallContext, Deny, ToolCall, Toolset, tool
from callbox.agents.conversation import Context
from callbox.errors import ConfigurationError, ContextOverflow, ProviderUnavailable
from callbox.gate.caller import Caller
from callbox.limits import Limits
from callbox.messages import Message, Reply, Usage
from callbox.providers.provider import Request
from callbox.providers.scripted import Scripted
from support import until


@tool(effect="read")
async def get_order(order_id: str) -> dict:
    """Look up one order.

    Args:
        order_id: The order's id.
    """
    return {"order_id": order_id, "state": "shipped"}


ONE_CALL = {"call": "get_order", "arguments": {"order_id": "A-1"}}


async def test_a_call_is_run_and_its_result_goes_back_to_the_model():
    model = Scripted([ONE_CALL, "It has been shipped."])
    run = await Agent(model, [get_order], "Be brief.").run("Where is A-1?")
    assert (run.output, run.stop, run.turns) == ("It has been shipped.", "done", 2)
    assert [message.role for message in run.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [call.arguments for call in run.calls] == [{"order_id": "A-1"}]
    assert json.loads(run.results[0].content)["state"] == "shipped"
    assert run.messages[3].results[0].call_id == run.messages[2].calls[0].id


async def test_parallel_calls_are_answered_in_one_message():
    model = Scripted([[ONE_CALL, {"call": "get_order", "arguments": {"order_id": "B-2"}}], "Both."])
    run = await Agent(model, [get_order]).run("Where are they?")
    assert [result.value["order_id"] for result in run.messages[2].results] == ["A-1", "B-2"]


async def test_the_model_may_correct_itself():
    model = Scripted(
        [
            {"call": "get_ordr", "arguments": {}},
            {"call": "get_order", "arguments": {"id": "A-1"}},
            {"call": "get_order", "arguments": '{"order_id": "A-1"'},
            ONE_CALL,
            "Shipped.",
        ]
    )
    run = await Agent(model, [get_order]).run("Where is A-1?")
    assert (run.output, run.stop) == ("Shipped.", "done")
    codes = [result.error.code if result.error else None for result in run.results]
    assert codes == ["unknown_tool", "invalid_arguments", "malformed_json", None]


async def test_a_model_that_only_errs_is_asked_to_close_and_ends_with_an_answer():
    asked = [0]

    def turn(messages):
        asked[0] += 1
        return {"call": "nope", "arguments": {}} if asked[0] <= 3 else "I cannot."

    model = Scripted(turn)
    run = await Agent(model, [get_order], limits=Limits(corrections_max=2)).run("Do it.")
    assert (run.stop, run.output) == ("corrections", "I cannot.")
    assert model.requests[-1].tool_choice == "none"
    assert len(run.results) == 3


async def test_a_model_that_never_stops_calling_ends_with_a_clear_result():
    run = await Agent(Scripted(lambda messages: ONE_CALL), [get_order], limits=Limits(calls_per_run_max=3)).run("?")
    assert run.stop == "calls"
    assert "used up" in run.output
    assert [result.is_error for result in run.results] == [False, False, False, True]
    assert all(not message.calls or index + 1 < len(run.messages) for index, message in enumerate(run.messages))


async def test_a_run_whose_time_is_spent_ends():
    run = await Agent(Scripted(["never asked"]), [], limits=Limits(run_timeout_s=1e-9)).run("?")
    assert (run.stop, run.turns) == ("time", 0)
    assert "time" in run.output


async def test_a_forced_call_is_forced_once():
    model = Scripted([ONE_CALL, "Shipped."])
    await Agent(model, [get_order], request=Request(messages=(), tool_choice="get_order")).run("?")
    assert [request.tool_choice for request in model.requests] == ["get_order", "auto"]


async def test_no_tools_stay_no_tools():
    model = Scripted(["a"])
    await Agent(model, [get_order], request=Request(messages=(), tool_choice="none")).run("?")
    assert model.requests[0].tool_choice == "none"


async def test_history_goes_on():
    agent = Agent(Scripted(["one", "two"]), [], "Be brief.")
    first = await agent.run("1?")
    second = await agent.run("2?", history=first.messages)
    assert [message.text for message in second.messages] == ["Be brief.", "1?", "one", "2?", "two"]


async def test_a_prompt_may_be_messages():
    run = await Agent(Scripted(["a", "b"])).run(Message.user("one message"))
    assert run.messages[0].text == "one message"
    run = await Agent(Scripted(["a"])).run([Message.user("1"), Message.user("2")])
    assert [message.text for message in run.messages] == ["1", "2", "a"]


@pytest.mark.parametrize("finish", ["refusal", "length", "filter"])
async def test_why_the_model_stopped_is_said(finish):
    reply = Reply(Message.assistant("Sorry."), finish, refusal="Sorry." if finish == "refusal" else None)
    run = await Agent(Scripted([reply])).run("?")
    assert (run.stop, run.output) == (finish, "Sorry.")


async def test_a_refusal_without_text_is_the_output():
    run = await Agent(Scripted([Reply(Message("assistant", ()), "refusal", refusal="I will not.")])).run("?")
    assert run.output == "I will not."
    assert [message.role for message in run.messages] == ["user"]


async def test_a_paused_reply_is_continued():
    run = await Agent(Scripted([Reply(Message.assistant("thinking"), "paused"), "Answer."])).run("?")
    assert (run.output, run.turns) == ("Answer.", 2)


async def test_usage_adds_up():
    replies = [Reply(Message.assistant("", ()), "paused", Usage(10, 2, requests=1)), "done"]
    run = await Agent(Scripted(replies)).run("?")
    assert (run.usage.input_tokens, run.usage.output_tokens, run.usage.requests) == (10, 2, 2)


async def test_a_failing_provider_raises_and_loses_nothing():
    agent = Agent(Scripted([ONE_CALL, ProviderUnavailable("down")]), [get_order])
    with pytest.raises(ProviderUnavailable) as caught:
        await agent.run("?")
    run = caught.value.run
    assert (run.stop, len(run.results)) == ("failed", 1)
    assert [message.role for message in run.messages] == ["user", "assistant", "tool"]


async def test_a_context_that_overflowed_is_made_smaller_and_sent_again():
    @tool(effect="read")
    async def dump(part: int) -> str:
        """Dump a lot."""
        return f"{part} " * 5_000

    sizes = []

    def model(messages):
        sizes.append(sum(len(message.text) for message in messages))
        if len(sizes) <= 8:
            return {"call": "dump", "arguments": {"part": len(sizes)}}
        return ContextOverflow("too long") if len(sizes) == 9 else "done"

    run = await Agent(Scripted(model), [dump]).run("?")
    assert run.output == "done"
    assert sizes[9] < sizes[8]
    assert len(run.results) == 8
    assert all(len(result.content) > 5_000 for result in run.results)
    assert run.cost.last.saved_by_clearing > 0


async def test_a_context_that_cannot_be_smaller_is_the_callers_problem():
    with pytest.raises(ContextOverflow):
        await Agent(Scripted(lambda messages: ContextOverflow("too long"))).run("a question")


async def test_the_caller_reaches_the_tools():
    seen = []

    @tool(effect="read")
    async def who(context: CallContext) -> str:
        """Say who asks."""
        seen.append((context.user_id, context.run_id))
        return "you"

    agent = Agent(Scripted([{"call": "who", "arguments": {}}, "you"]), [who])
    run = await agent.run("?", caller=Caller(user_id="ann"))
    assert seen == [("ann", run.id)]


async def test_cancelling_a_run_reaches_the_tool():
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool(effect="read")
    async def wait() -> str:
        """Wait for ever."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(Agent(Scripted([{"call": "wait", "arguments": {}}]), [wait]).run("?"))
    await until(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_run_sync_works_twice():
    agent = Agent(Scripted([ONE_CALL, "one", "two"]), [get_order])
    assert agent.run_sync("?").output == "one"
    assert agent.run_sync("?").output == "two"


async def test_run_sync_inside_a_loop_says_what_to_do():
    with pytest.raises(ConfigurationError, match="await agent"):
        Agent(Scripted(["a"])).run_sync("?")


async def test_an_agent_closes_what_it_opened():
    async with Agent(Scripted(["a"]), Toolset([get_order])) as agent:
        assert agent.toolset.names == ("get_order",)
        assert (await agent.run("?")).output == "a"


def long_conversation():
    @tool(effect="read")
    async def dump(part: int) -> str:
        """Dump a lot."""
        return f"part {part}: " + "lorem ipsum dolor " * 300

    return dump


async def test_old_results_are_cleared_under_a_budget_and_can_be_read_again():
    asked = []

    def model(messages):
        asked.append([message.text for message in messages])
        if len(asked) <= 10:
            return {"call": "dump", "arguments": {"part": len(asked)}}
        if len(asked) == 11:
            stub = next(text for text in asked[-1] if '"cleared"' in text)
            return {"call": "read_result", "arguments": {"handle": json.loads(stub)["handle"]}}
        return "done"

    scripted = Scripted(model)
    agent = Agent(scripted, [long_conversation()], context=Context(budget_tokens=6_000))
    run = await agent.run("Read it all.")
    assert run.output == "done"
    assert run.results[-1].name == "read_result"
    assert run.results[-1].content.startswith("part 1: ")
    assert "read_result" not in [tool.name for tool in scripted.requests[0].tools]
    assert "read_result" in [tool.name for tool in scripted.requests[-1].tools]
    assert run.cost.total.saved_by_clearing > 0
    assert run.cost.last.history <= 6_000


async def test_older_turns_are_summarised_by_the_model_if_asked():
    summaries = []

    def model(messages):
        if messages[0].role == "system" and "shorten the record" in messages[0].text:
            summaries.append(messages)
            return "So far: parts were read."
        calls = sum(bool(message.calls) for message in messages)
        if any("So far: parts were read." in message.text for message in messages) or calls > 30:
            return "done"
        return {"call": "say", "arguments": {"text": "words " * 200}}

    @tool(effect="read")
    async def say(text: str) -> str:
        """Say something."""
        return "ok"

    agent = Agent(Scripted(model), [say], context=Context(budget_tokens=4_000, summarize=True))
    run = await agent.run("Talk.")
    assert (run.output, len(summaries)) == ("done", 1)


async def test_a_summary_that_fails_does_not_end_the_run():
    def model(messages):
        if messages[0].role == "system":
            return ProviderUnavailable("down")
        if any("left out" in message.text for message in messages if message.role == "user"):
            return "done"
        return {"call": "say", "arguments": {"text": "words " * 200}}

    @tool(effect="read")
    async def say(text: str) -> str:
        """Say something."""
        return "ok"

    agent = Agent(Scripted(model), [say], context=Context(budget_tokens=4_000, summarize=True))
    assert (await agent.run("Talk.")).stop in ("done", "calls")


async def test_only_the_tools_that_a_question_needs_are_sent_and_the_others_can_be_found():
    def make(name, description):
        async def run() -> str:
            return f"{name} ran"

        return tool(run, name=name, description=description, effect="read")

    tools = [make(f"report_{index}", f"Write the sales report of region {index}.") for index in range(30)]
    tools.append(make("send_fax", "Send a fax to a phone number."))
    turns = [
        {"call": "find_tools", "arguments": {"query": "send a fax"}},
        {"call": "send_fax", "arguments": {}},
        "Sent.",
    ]
    model = Scripted(turns)
    run = await Agent(model, tools, context=Context(tools_max=5)).run("Sales report of region 7?")
    assert run.output == "Sent."
    first, second = ([tool.name for tool in request.tools] for request in model.requests[:2])
    assert len(first) == 6
    assert "report_7" in first
    assert "send_fax" not in first
    assert "send_fax" in second
    assert run.cost.total.saved_by_selection > 0


async def test_a_history_that_no_vendor_would_take_is_refused():
    broken = [Message.user("?"), Message.assistant("", (ToolCall("c1", "get_order", {}),))]
    with pytest.raises(ConfigurationError, match="result"):
        await Agent(Scripted(["a"]), [get_order]).run("go on", history=broken)


# What a hostile model must not achieve


@pytest.mark.parametrize("code", ["denied", "approval_refused"])
async def test_a_model_that_insists_on_what_is_refused_is_stopped(code):
    asked = []

    def approver(call, tool, ask):
        asked.append(call.id)
        return False

    policy = (lambda question: Deny()) if code == "denied" else (lambda question: Ask())
    model = Scripted(lambda messages: ONE_CALL)
    agent = Agent(model, [get_order], policy=policy, approver=approver, limits=Limits(corrections_max=3))
    run = await agent.run("?")
    assert run.stop == "corrections"
    assert {result.error.code for result in run.results} == {code}
    assert len(model.requests) == 5
    assert len(asked) <= 1


async def test_a_reply_that_pauses_for_ever_is_stopped():
    run = await Agent(
        Scripted(lambda messages: Reply(Message("assistant", ()), "paused")), limits=Limits(turns_per_run_max=4)
    ).run("?")
    assert (run.stop, run.turns) == ("turns", 5)


@pytest.mark.parametrize("finish", ["refusal", "filter"])
async def test_calls_of_a_reply_that_was_held_back_are_not_run(finish):
    paid = []

    @tool(effect="write")
    async def pay() -> str:
        """Pay."""
        paid.append(1)
        return "paid"

    reply = Reply(Message.assistant("", (ToolCall("c", "pay", {}),)), finish)
    run = await Agent(Scripted([reply]), [pay]).run("?")
    assert (paid, run.stop, run.calls) == ([], finish, [])
    assert run.output.startswith("No answer")


async def test_an_answer_after_the_last_call_of_the_budget_is_an_answer():
    run = await Agent(Scripted([ONE_CALL, "All good."]), [get_order], limits=Limits(calls_per_run_max=1)).run("?")
    assert (run.stop, run.output) == ("done", "All good.")


async def test_a_provider_that_ran_out_of_the_runs_time_ends_the_run_and_not_the_program():
    class Slow(Scripted):
        async def complete(self, request):
            await asyncio.wait_for(asyncio.Event().wait(), request.timeout_s)

    class Late(Slow):
        async def complete(self, request):
            try:
                await super().complete(request)
            except TimeoutError:
                raise ProviderUnavailable("No whole answer in time.") from None

    run = await Agent(Late([]), limits=Limits(run_timeout_s=0.05)).run("?")
    assert (run.stop, run.output) == ("time", "No answer: the time of this run is used up.")


# Other traps


async def test_the_history_of_another_agent_does_not_bring_its_instructions():
    first = await Agent(Scripted(["one"]), [], "You are A.").run("1?")
    model = Scripted(["two"])
    await Agent(model, [], "You are B.").run("2?", history=first.messages)
    assert [message.text for message in model.requests[0].messages] == ["You are B.", "1?", "one", "2?"]


async def test_a_tool_of_ones_own_may_be_called_read_result():
    @tool(effect="read")
    async def read_result(part: int) -> str:
        """Read the result of a part."""
        return f"part {part}: " + "lorem ipsum dolor " * 300

    model = Scripted(
        lambda messages: {"call": "read_result", "arguments": {"part": len(messages)}} if len(messages) < 24 else "done"
    )
    await Agent(model, [read_result], context=Context(budget_tokens=6_000)).run("?")
    assert [tool.name for tool in model.requests[-1].tools] == ["read_result", "read_result_2"]


async def test_what_was_cleared_can_be_read_again_whatever_the_policy_names():
    handles = []

    def model(messages):
        stubs = [json.loads(m.text) for m in messages if m.role == "tool" and '"cleared"' in m.text]
        if handles:
            return "done"
        if stubs:
            handles.append(stubs[0]["handle"])
            return {"call": "read_result", "arguments": {"handle": handles[0]}}
        return {"call": "dump", "arguments": {"part": 1}}

    def policy(question):
        return Allow() if question.tool.name == "dump" else Deny()

    run = await Agent(Scripted(model), [long_conversation()], policy=policy, context=Context(budget_tokens=6_000)).run(
        "?"
    )
    assert run.results[-1].name == "read_result"
    assert not run.results[-1].is_error


def test_a_run_prints_without_its_whole_conversation():
    run = Agent(Scripted(["x" * 1_000])).run_sync("secret question")
    assert "secret question" not in repr(run)


async def test_the_cost_of_a_run_without_a_budget_is_counted_when_somebody_asks():
    counted = []

    class Counting:
        def count(self, text):
            counted.append(text)
            return len(text)

    script = [ONE_CALL, ONE_CALL, "Shipped."]
    late = await Agent(Scripted(script), [get_order], context=Context(counter=Counting())).run("?")
    before = len(counted)
    assert late.cost.requests == 3
    assert len(counted) > before
    at_once = Context(counter=Counting(), budget_tokens=1_000_000)
    other = await Agent(Scripted(script), [get_order], context=at_once).run("?")
    assert (late.cost.total, late.cost.last) == (other.cost.total, other.cost.last)
