"""A run told as it happens."""

import asyncio

import pytest

from callbox import Agent, CallContext, tool
from callbox.agents.events import CallFinished, CallProgress, CallRunning, ReplyEnded, RunEnded
from callbox.errors import ContextOverflow, ProviderUnavailable
from callbox.limits import Limits
from callbox.messages import CallDelta, CallReady, CallStarted, TextDelta
from callbox.providers.provider import Request
from callbox.providers.scripted import Scripted
from support import until


@tool(effect="read")
async def look(key: str) -> str:
    """Look at something."""
    return f"saw {key}"


def call(key, name="look"):
    return {"call": name, "arguments": {"key": key}}


async def collect(stream):
    return [event async for event in stream]


async def test_events_tell_the_whole_story_in_order():
    agent = Agent(Scripted([["Let me look. ", call("a")], "Seen."]), [look])
    events = await collect(agent.stream("?"))
    kinds = [type(event) for event in events]
    assert kinds[-1] is RunEnded
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Let me look. Seen."
    order = [CallStarted, CallReady, CallRunning, CallFinished]
    assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)
    assert kinds.count(ReplyEnded) == 2
    assert any(isinstance(event, CallDelta) for event in events)
    assert events[-1].run.output == "Seen."


async def test_a_streamed_run_is_the_same_run():
    script = [[call("a"), call("b")], call("c"), {"call": "nope", "arguments": "{"}, "Done."]
    streamed = (await collect(Agent(Scripted(script), [look]).stream("?")))[-1].run
    whole = await Agent(Scripted(script), [look]).run("?")
    assert streamed.messages == whole.messages
    assert (streamed.output, streamed.stop, streamed.calls) == (whole.output, whole.stop, whole.calls)


async def test_a_read_starts_while_the_model_is_still_writing():
    agent = Agent(Scripted([[call("a"), call("b")], "Done."]), [look])
    kinds = [(type(event), getattr(event, "index", None)) async for event in agent.stream("?")]
    running = next(index for index, (kind, _) in enumerate(kinds) if kind is CallRunning)
    second_ready = next(index for index, (kind, at) in enumerate(kinds) if kind is CallReady and at == 1)
    assert running < second_ready


async def test_a_write_waits_for_the_whole_reply():
    @tool(effect="write")
    async def put(key: str) -> str:
        """Put something."""
        return key

    events = await collect(Agent(Scripted([[call("a", "put"), call("b")], "Done."]), [put, look]).stream("?"))
    kinds = [type(event) for event in events]
    assert kinds.index(CallRunning) > kinds.index(ReplyEnded)


async def test_progress_is_told():
    @tool(effect="read")
    async def work(context: CallContext) -> str:
        """Work."""
        context.report(1, 2, "half")
        return "ok"

    events = await collect(Agent(Scripted([{"call": "work", "arguments": {}}, "Done."]), [work]).stream("?"))
    [progress] = [event for event in events if isinstance(event, CallProgress)]
    assert (progress.progress, progress.total, progress.message) == (1, 2, "half")


async def test_leaving_early_cancels_the_calls_and_leaves_a_conversation_that_can_go_on():
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool(effect="read")
    async def wait() -> str:
        """Wait for ever."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    agent = Agent(Scripted([call("a"), {"call": "wait", "arguments": {}}, "Went on."]), [look, wait])
    stream = agent.stream("?")
    async for event in stream:
        if isinstance(event, CallRunning) and event.call.name == "wait":
            await until(begun.is_set)
            break
    await stream.aclose()
    assert ended.is_set()
    assert [message.role for message in stream.messages] == ["user", "assistant", "tool"]
    run = await agent.run("and now?", history=stream.messages)
    assert run.output == "Went on."


async def test_cancelling_the_consumer_cancels_the_calls():
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool(effect="write")
    async def wait() -> str:
        """Wait for ever."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    agent = Agent(Scripted([{"call": "wait", "arguments": {}}]), [wait])
    task = asyncio.create_task(collect(agent.stream("?")))
    await until(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(ended.is_set)


async def test_a_provider_that_fails_in_the_middle_raises_with_the_run_so_far():
    agent = Agent(Scripted([call("a"), ["Half an ans", ProviderUnavailable("cut")]]), [look])
    with pytest.raises(ProviderUnavailable) as caught:
        await collect(agent.stream("?"))
    assert len(caught.value.run.results) == 1


async def test_an_early_call_is_ended_when_the_stream_breaks():
    ended = asyncio.Event()

    @tool(effect="read")
    async def wait() -> str:
        """Wait for ever."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    broken = [{"call": "wait", "arguments": {}}, "more text", ProviderUnavailable("cut")]
    with pytest.raises(ProviderUnavailable):
        await collect(Agent(Scripted([broken]), [wait]).stream("?"))
    assert ended.is_set()


async def test_an_overflow_is_retried_before_anything_was_said():
    @tool(effect="read")
    async def dump(part: int) -> str:
        """Dump a lot."""
        return f"{part} " * 5_000

    calls = [{"call": "dump", "arguments": {"part": part}} for part in range(8)]
    events = await collect(Agent(Scripted([*calls, ContextOverflow("long"), "done"]), [dump]).stream("?"))
    assert events[-1].run.output == "done"


async def test_an_overflow_that_cannot_be_helped_is_raised():
    with pytest.raises(ContextOverflow):
        await collect(Agent(Scripted(lambda messages: ContextOverflow("long"))).stream("?"))


async def test_calls_of_a_model_that_may_not_call_are_not_run():
    agent = Agent(Scripted([["No. ", call("a")]]), [look], request=Request(messages=(), tool_choice="none"))
    events = await collect(agent.stream("?"))
    assert not any(isinstance(event, CallRunning) for event in events)
    assert events[-1].run.output == "No. "
    assert events[-1].run.messages[-1].calls == ()


async def test_breaking_out_of_the_loop_ends_the_run():
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool(effect="write")
    async def wait() -> str:
        """Wait for ever."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async for event in Agent(Scripted([{"call": "wait", "arguments": {}}]), [wait]).stream("?"):
        if isinstance(event, CallRunning):
            await begun.wait()
            break
    await until(ended.is_set)


async def test_another_task_may_close_the_stream():
    begun = asyncio.Event()

    @tool(effect="write")
    async def wait() -> str:
        """Wait for ever."""
        begun.set()
        await asyncio.Event().wait()

    stream = Agent(Scripted([{"call": "wait", "arguments": {}}]), [wait]).stream("?")
    reader = asyncio.create_task(collect(stream))
    await begun.wait()
    await stream.aclose()
    await stream.aclose()
    assert not any(isinstance(event, RunEnded) for event in await reader)
    assert [event async for event in stream] == []


async def test_a_stream_is_a_context_manager():
    async with Agent(Scripted(["a"])).stream("?") as stream:
        events = await collect(stream)
    assert events[-1].run.output == "a"
    assert [event async for event in stream] == []


async def test_a_stream_that_was_never_read_needs_no_closing():
    stream = Agent(Scripted(["a"])).stream("?")
    await stream.aclose()
    assert [message.role for message in stream.messages] == ["user"]


async def test_a_run_out_of_time_ends_with_its_last_event():
    class Late(Scripted):
        async def stream(self, request):
            await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=request.timeout_s)
            raise ProviderUnavailable("late")
            yield

    events = await collect(Agent(Late([]), limits=Limits(run_timeout_s=0.05)).stream("?"))
    assert events[-1].run.stop == "time"


async def test_a_tools_early_result_is_kept_although_the_tool_changes_its_arguments():
    runs = []

    @tool(effect="read")
    async def eat(items: list[str]) -> str:
        """Eat the items."""
        runs.append(list(items))
        items.clear()
        return "ok"

    script = [[{"call": "eat", "arguments": {"items": ["a"]}}, call("b")], "Done."]
    events = await collect(Agent(Scripted(script), [eat, look]).stream("?"))
    assert runs == [["a"]]
    assert [event.result.is_error for event in events if isinstance(event, CallFinished)] == [False, False]
    assert events[-1].run.calls[0].arguments == {"items": ["a"]}
