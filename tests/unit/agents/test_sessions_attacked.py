"""Sessions under attack: approvals that somebody would use twice, models that never learn, sessions made anew."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

import pytest
from pydantic import Field

from callbox import Agent, CallContext, errors, tool
from callbox.agents.conversation import Context
from callbox.errors import Rejected
from callbox.limits import DEFAULT_LIMITS
from callbox.policy.policy import Allow, Ask, Deny
from callbox.providers.scripted import Scripted
from callbox.sessions.browsing import waiting
from callbox.stores.memory import MemoryStore
from support_sessions import Stopped, call, die, dying, script


@pytest.fixture
def store():
    return MemoryStore()


class Refunds:
    """A tool that a person approves."""

    def __init__(self):
        self.paid = []
        self.forbidden = False

    @property
    def tool(self):
        @tool(approval="always")
        async def refund(amount: int) -> str:
            """Refund an amount."""
            self.paid.append(amount)
            return "refunded"

        @refund.check
        async def fine(amount: int):
            if self.forbidden:
                raise Rejected(f"{amount} is too much.", "/amount")

        return refund

    def session(self, store, *turns, session="s", **options):
        return Agent(model=script(*turns), tools=[self.tool], store=store, **options).session(session)


@pytest.fixture
def refunds():
    return Refunds()


# --- approvals ---


async def test_a_yes_to_a_call_that_was_rejected_is_not_good_for_the_next_turn(refunds, store):
    # Servers that number the calls of each answer from 0 give the next turn's call the same id.
    turns = ([call("refund", "call_0", amount=9)], [call("refund", "call_0", amount=9)], "Done.")
    session = refunds.session(store, *turns)
    first = (await session.run("Refund 9")).approvals[0]
    await session.approve(first.id, by="kim")
    refunds.forbidden = True

    def look(messages):
        refunds.forbidden = not any(message.results for message in messages)
        return script(*turns)._function(messages)

    run = await Agent(model=Scripted(look), tools=[refunds.tool], store=store).session("s").resume()
    assert run.stop == "approval"
    assert run.approvals[0].id != first.id
    assert refunds.paid == []


async def test_a_question_of_an_earlier_turn_is_not_open_again(refunds, store):
    asks = [True]
    turns = ([call("pay", "call_0", amount=9)], [call("pay", "call_0", amount=500)], "Done.")
    paid = []

    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return "paid"

    def policy(question):
        return Ask() if asks[0] else Allow()

    session = Agent(model=script(*turns), tools=[pay], policy=policy, store=store).session("s")
    first = (await session.run("Pay")).approvals[0]
    asks[0] = False
    points = []

    def reach(point):
        points.append(point)
        if point == "reply.after" and points.count(point) == 1:
            raise Stopped

    again = Agent(model=script(*turns), tools=[pay], policy=policy, store=store).session("s", reach=reach)
    with pytest.raises((Stopped, BaseExceptionGroup)):
        await again.resume()
    assert paid == [9]
    assert await session.approvals() == []
    with pytest.raises(errors.ApprovalError):
        await session.approve(first.id, by="kim")


async def test_a_person_who_said_no_is_not_asked_again_in_the_same_run(refunds, store):
    turns = ([call("refund", amount=9)], [call("refund", amount=9)], "I may not.")
    session = refunds.session(store, *turns)
    first = (await session.run("Refund 9")).approvals[0]
    await session.refuse(first.id, by="kim", note="no")
    run = await session.resume()
    assert run.output == "I may not."
    assert [result.error.code for result in run.results] == ["approval_refused"] * 2
    later = await session.run("Really?")
    assert later.stop == "approval", "another run may ask again"


async def test_no_to_one_of_two_identical_calls_is_no_to_both(refunds, store):
    session = refunds.session(store, [call("refund", amount=9), call("refund", "other", amount=9)], "I may not.")
    first = (await session.run("Refund 9 twice")).approvals[0]
    await session.refuse(first.id, by="kim")
    run = await session.resume()
    assert (run.stop, refunds.paid) == ("done", [])


async def test_yes_to_one_of_two_identical_calls_is_yes_to_one(refunds, store):
    session = refunds.session(store, [call("refund", amount=9), call("refund", "other", amount=9)], "Done.")
    first = (await session.run("Refund 9 twice")).approvals[0]
    await session.approve(first.id, by="kim")
    run = await session.resume()
    assert (run.stop, refunds.paid) == ("approval", [9])


@pytest.mark.parametrize("decided", [None, True])
async def test_parent_and_fork_do_not_share_a_yes(refunds, store, decided):
    turns = ([call("refund", amount=9)], "Done.")
    session = refunds.session(store, *turns)
    first = (await session.run("Refund 9")).approvals[0]
    if decided:
        await session.approve(first.id, by="kim")
    fork = await session.fork("t")
    assert await fork.approvals() == [], "what nobody can decide there"
    await fork.note({"about": "a fork"})
    assert [each async for each in waiting(store, "default") if each.key.session == "t"] == []
    if not decided:
        await session.approve(first.id, by="kim")
        with pytest.raises(errors.ApprovalError, match="forked from"):  # it would be good for nothing
            await fork.approve(first.id, by="kim")
    assert (await session.resume()).stop == "done"
    run = await fork.resume()
    assert (run.stop, refunds.paid) == ("approval", [9])
    assert [each.id for each in await fork.approvals()] == [each.id for each in run.approvals]
    await fork.approve(run.approvals[0].id, by="kim")
    assert (await fork.resume()).stop == "done"
    assert refunds.paid == [9, 9]


class Versioned:
    """A policy that asks, in its own version."""

    def __init__(self, version):
        self.version = version

    def decide(self, question):
        return Ask()


def lenient(store, paid, *turns, policy=None, **options):
    """A session whose tool `refund` needs nobody's approval, unless the policy says so."""

    @tool
    async def refund(amount: int) -> str:
        """Refund an amount."""
        paid.append(amount)
        return "refunded"

    return Agent(model=script(*turns), tools=[refund], policy=policy, store=store, **options).session("s")


@pytest.mark.parametrize("dropped", ["approval=", "the policy's question", "for an approver"])
async def test_a_no_holds_when_nothing_asks_any_more(refunds, store, dropped):
    turns = (*[[call("refund", each, amount=amount)] for each, amount in (("a", 9), ("b", 9), ("c", 8))], "Done.")
    asks = Versioned("1")
    first = refunds.session(store, *turns)
    if dropped != "approval=":
        first = lenient(store, refunds.paid, *turns, policy=asks)
    run = await first.run("Refund 9")
    await first.refuse(run.approvals[0].id, by="kim", note="too much")
    options = {"policy": asks, "approver": lambda *_: True} if dropped == "for an approver" else {}
    run = await lenient(store, refunds.paid, *turns, **options).resume()
    codes = [result.error.code if result.error else None for result in run.results]
    assert codes == ["approval_refused", "approval_refused", None], "the call, its like, and another one"
    assert "too much" in run.results[0].content
    assert refunds.paid == [8]


async def test_a_yes_after_a_no_to_an_older_tool_counts(refunds, store):
    turns = ([call("refund", amount=9)], "Done.")
    session = refunds.session(store, *turns)
    await session.refuse((await session.run("Refund 9")).approvals[0].id, by="kim")
    session = lenient(store, refunds.paid, *turns, policy=Versioned("2"))
    await session.approve((await session.resume()).approvals[0].id, by="kim")
    run = await lenient(store, refunds.paid, *turns).resume()
    assert (run.stop, refunds.paid) == ("done", [9])


async def test_a_question_that_nothing_asks_any_more_is_void(refunds, store):
    turns = ([call("refund", amount=9)], "Done.")
    session = refunds.session(store, *turns)
    first = (await session.run("Refund 9")).approvals[0]
    run = await lenient(store, refunds.paid, *turns).resume()
    assert (run.stop, refunds.paid) == ("done", [9])
    with pytest.raises(errors.ApprovalError, match="Nothing waits"):
        await session.refuse(first.id, by="kim")


async def test_a_changed_policy_voids_an_approval(refunds, store):
    turns = ([call("refund", amount=9)], "Done.")
    session = refunds.session(store, *turns, policy=Versioned("1"))
    first = (await session.run("Refund 9")).approvals[0]
    await session.approve(first.id, by="kim")
    run = await refunds.session(store, *turns, policy=Versioned("2")).resume()
    assert (run.stop, refunds.paid) == ("approval", [])
    assert run.approvals[0].id != first.id


# --- what a crash must not change ---


async def test_a_resumed_call_is_read_again_when_its_tool_has_changed(store):
    paid = []

    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return "paid"

    turns = ([call("pay", amount=500)], "Done.")
    await die(Agent(model=script(*turns), tools=[pay], store=store).session("s", reach=dying("reply.after")), "Pay")

    @tool(name="pay")
    async def pay_less(amount: Annotated[int, Field(le=100)]) -> str:
        """Pay."""
        paid.append(amount)
        return "paid"

    run = await Agent(model=script(*turns), tools=[pay_less], store=store).session("s").resume()
    assert [result.error.code for result in run.results] == ["invalid_arguments"]
    assert paid == []


async def test_a_call_that_is_run_again_is_not_paid_for_twice(store):
    keys = []

    @tool(idempotent=True)
    async def put(context: CallContext) -> str:
        """Put."""
        keys.append(context.idempotency_key)
        return "there"

    limits = replace(DEFAULT_LIMITS, calls_per_run_max=1)
    turns = ([call("put")], "Done.")
    made = [Agent(model=script(*turns), tools=[put], store=store, limits=limits) for _ in range(2)]
    await die(made[0].session("s", reach=dying("outcome.before")), "Put")
    run = await made[1].session("s").resume()
    assert [result.error for result in run.results] == [None]
    assert len(keys) == 2
    assert len(set(keys)) == 1


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_model_that_never_learns_is_stopped_whatever_crashes(store, crashes):
    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        raise AssertionError

    asked = []

    def say(messages):
        asked.append(len(messages))
        return "I give up." if len(asked) > 20 else [call("pay", amount="much"), call("nothing")]

    limits = replace(DEFAULT_LIMITS, corrections_max=3)

    def session():
        agent = Agent(model=Scripted(say), tools=[pay], store=store, limits=limits)
        return agent.session("s", reach=dying("reply.after") if crashes else lambda _: None)

    run = None
    for _ in range(40):
        try:
            run = await session().run("Pay", key="m-1")
            break
        except (Stopped, BaseExceptionGroup):
            continue
    assert run is not None
    assert run.stop == "corrections"
    assert len(asked) == 5


async def test_refusals_are_mistakes_however_often_the_run_is_resumed(refunds, store):
    amounts = iter(range(100))

    def say(messages):
        return [call("refund", amount=next(amounts))]

    limits = replace(DEFAULT_LIMITS, corrections_max=3)
    session = Agent(model=Scripted(say), tools=[refunds.tool], store=store, limits=limits).session("s")
    run = await session.run("Refund")
    asked = 0
    while run.stop == "approval":
        asked += 1
        assert asked < 20, "a person is asked again and again"
        await session.refuse(run.approvals[0].id, by="kim")
        run = await session.resume()
    assert (run.stop, asked) == ("corrections", 4)


async def test_a_run_without_calls_left_stays_without(store):
    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        return "paid"

    choices = []
    turns = ([call("pay", amount=1), call("pay", amount=2)], "Enough.")

    class Watched(Scripted):
        async def complete(self, request):
            choices.append(request.tool_choice)
            return await super().complete(request)

    limits = replace(DEFAULT_LIMITS, calls_per_run_max=1)

    def agent():
        return Agent(model=Watched(script(*turns)._function), tools=[pay], store=store, limits=limits)

    seen = []

    def reach(point):
        seen.append(point)
        if seen.count("outcome.after") == 2:
            raise Stopped

    await die(agent().session("s", reach=reach), "Pay")
    run = await agent().session("s").resume()
    assert run.stop == "calls"
    assert choices == ["auto", "none"]


async def test_a_cleared_result_can_be_read_after_a_crash(store):
    @tool(effect="read")
    async def look(place: str) -> str:
        """Look."""
        return f"{place} " + "word " * 2000

    turns = (
        [call("look", place="attic")],
        [call("look", place="cellar")],
        [call("look", place="roof")],
        [call("read_result", handle="res_1", max_chars=20)],
        "Done.",
    )

    def agent():
        context = Context(budget_tokens=6_000, keep_recent_turns=1)
        return Agent(model=script(*turns), tools=[look], store=store, context=context)

    seen = []

    def reach(point):
        seen.append(point)
        if seen.count("reply.after") == 4:
            raise Stopped

    await die(agent().session("s", reach=reach), "Look")
    run = await agent().session("s").resume()
    assert [result.error for result in run.results] == [None] * 4
    assert run.results[-1].content.startswith("attic word")


async def test_tools_that_were_found_are_there_after_a_crash(store):
    def made(number):
        @tool(name=f"tool_{number}", effect="read")
        async def run() -> str:
            """Run it."""
            return "fine"

        return run

    names = []
    turns = ([call("find_tools", query="tool_7", limit=3)], "Done.")

    class Watched(Scripted):
        async def complete(self, request):
            names.append([each.name for each in request.tools])
            return await super().complete(request)

    def agent():
        tools = [made(number) for number in range(12)]
        return Agent(model=Watched(script(*turns)._function), tools=tools, store=store, context=Context(tools_max=4))

    await die(agent().session("s", reach=dying("outcome.after")), "Use tool_1")
    run = await agent().session("s").resume()
    found = {each["name"] for each in json.loads(run.results[0].content)["found"]}
    assert len(found) == 3
    assert not found & set(names[0])
    assert found <= set(names[-1])


@pytest.mark.parametrize("effect", ["write", "read"])
async def test_what_refuses_a_call_after_a_crash_does_not_say_that_it_was_not_run(store, effect):
    denied = []

    @tool(idempotent=True, effect=effect)
    async def put() -> str:
        """Put."""
        return "there"

    def policy(question):
        return Deny() if denied else Allow()

    def session(**options):
        agent = Agent(model=script([call("put")], "Done."), tools=[put], policy=policy, store=store)
        return agent.session("s", **options)

    await die(session(reach=dying("outcome.before")), "Put")
    denied.append(True)
    run = await session().resume()
    assert [result.error.code for result in run.results] == ["outcome_unknown" if effect == "write" else "denied"]
    assert run.results == list(run.messages[2].results)
