"""Sessions: what was said and done is there in the next process, and nothing is done twice."""

from __future__ import annotations

import asyncio

import pytest

from callbox import Agent, CallContext, errors, tool
from callbox.providers.scripted import Scripted
from callbox.stores.memory import MemoryStore
from support_sessions import Stopped, call, die, dying, script


class World:
    """What tools have done, whoever asked."""

    def __init__(self):
        self.paid = []
        self.read = []
        self.put = []

    @property
    def tools(self):
        @tool
        async def pay(amount: int, context: CallContext) -> str:
            """Pay an amount."""
            self.paid.append((amount, context.idempotency_key))
            return f"paid {amount}"

        @tool(effect="read")
        async def look(place: str) -> str:
            """Look at a place."""
            self.read.append(place)
            return f"{place} is fine"

        @tool(idempotent=True)
        async def put(name: str, context: CallContext) -> str:
            """Put a thing."""
            self.put.append((name, context.idempotency_key))
            return "there"

        @tool(approval="always")
        async def refund(amount: int) -> str:
            """Refund an amount."""
            self.paid.append(("refund", amount))
            return "refunded"

        return [pay, look, put, refund]


@pytest.fixture
def world():
    return World()


@pytest.fixture
def store():
    return MemoryStore()


def agent(world, store, *turns):
    return Agent(model=script(*turns), tools=world.tools, store=store)


async def test_a_conversation_goes_on_in_another_process(world, store):
    first = await agent(world, store, [call("look", place="attic")], "All fine.").session("s").run("Look around")
    assert (first.stop, first.output) == ("done", "All fine.")
    later = agent(world, store, "Still fine.").session("s")
    run = await later.run("And now?")
    assert run.output == "Still fine."
    assert [message.role for message in run.messages] == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert world.read == ["attic"]


POINTS = ["reply.before", "reply.after", "intent.before", "intent.after", "outcome.before", "outcome.after"]


@pytest.mark.parametrize("point", POINTS)
async def test_a_tool_with_an_effect_runs_at_most_once(world, store, point):
    turns = ([call("pay", amount=5)], "Paid.")
    await die(agent(world, store, *turns).session("s", reach=dying(point)), "Pay 5")
    run = await agent(world, store, *turns).session("s").run("Pay 5")
    assert run.stop == "done"
    [result] = run.results
    assert [each.id for each in run.calls] == [result.call_id]
    hidden = point in ("intent.after", "outcome.before")
    assert (result.error.code if result.error else None) == ("outcome_unknown" if hidden else None)
    # Before the effect the crash prevented it, and it is not known any more; otherwise it happened once.
    assert len(world.paid) == (0 if point == "intent.after" else 1)


@pytest.mark.parametrize("point", POINTS)
async def test_an_idempotent_tool_runs_again_with_the_same_key(world, store, point):
    turns = ([call("put", name="x")], "Put.")
    await die(agent(world, store, *turns).session("s", reach=dying(point)), "Put x")
    run = await agent(world, store, *turns).session("s").run("Put x")
    assert run.stop == "done"
    assert run.messages[2].results[0].error is None
    assert len({key for _, key in world.put}) == 1
    assert len(world.put) == (2 if point == "outcome.before" else 1)


async def test_calls_that_had_a_result_are_not_run_again(world, store):
    turns = ([call("look", place="a"), call("pay", amount=1), call("look", place="b")], "Done.")
    seen = []

    def reach(point):
        seen.append(point)
        if seen.count("outcome.after") == 2:
            raise Stopped

    await die(agent(world, store, *turns).session("s", reach=reach), "Go")
    run = await agent(world, store, *turns).session("s").run("Go")
    assert run.stop == "done"
    assert (world.read, [amount for amount, _ in world.paid]) == (["a", "b"], [1])


async def test_an_approval_pauses_the_run_until_somebody_decides(world, store):
    turns = ([call("look", place="a"), call("refund", amount=9), call("look", place="b")], "Done.")
    run = await agent(world, store, *turns).session("s").run("Refund 9")
    assert run.stop == "approval"
    [waiting] = run.approvals
    assert (waiting.tool, waiting.arguments, waiting.approved) == ("refund", {"amount": 9}, None)
    assert (world.read, world.paid) == (["a"], []), "nothing overtakes a call that waits"
    again = agent(world, store, *turns).session("s")
    assert [each.id for each in await again.approvals()] == [waiting.id], "it is asked once"
    assert (await again.resume()).approvals[0].id == waiting.id
    await again.approve(waiting.id, by="kim")
    with pytest.raises(errors.ApprovalError, match="already"):
        await again.refuse(waiting.id, by="lee")
    done = await agent(world, store, *turns).session("s").resume()
    assert (done.stop, world.read, world.paid) == ("done", ["a", "b"], [("refund", 9)])
    assert await again.approvals() == []


async def test_a_refusal_is_told_to_the_model(world, store):
    turns = ([call("refund", amount=9)], "I may not.")
    session = agent(world, store, *turns).session("s")
    run = await session.run("Refund 9")
    await session.refuse(run.approvals[0].id, by="kim", note="too much")
    run = await session.resume()
    assert run.output == "I may not."
    error = run.messages[2].results[0].error
    assert (error.code, error.message) == ("approval_refused", "kim refused this call: too much")
    assert world.paid == []


async def test_one_yes_is_good_for_one_call(world, store):
    turns = ([call("refund", amount=9)], [call("refund", amount=9)], "Done.")
    session = agent(world, store, *turns).session("s")
    first = (await session.run("Refund 9 twice")).approvals[0]
    await session.approve(first.id, by="kim")
    run = await session.resume()
    assert run.stop == "approval"
    assert run.approvals[0].id != first.id
    assert world.paid == [("refund", 9)]


@pytest.mark.parametrize("moved", [False, True])
async def test_a_changed_tool_voids_an_approval(world, store, moved):
    turns = ([call("refund", amount=9)], "Done.")

    def before(amount: int) -> str:
        """Refund an amount."""
        return "refunded"

    made = tool(name="refund", approval="always", runs_in="sandbox:python")(before) if moved else world.tools[-1]
    session = Agent(model=script(*turns), tools=[made], store=store).session("s")
    first = (await session.run("Refund 9")).approvals[0]
    await session.approve(first.id, by="kim")

    @tool(approval="always", description=before.__doc__ if moved else "Refund an amount, and something else too.")
    async def refund(amount: int) -> str:
        raise AssertionError("nobody has approved this one")

    run = await Agent(model=script(*turns), tools=[refund], store=store).session("s").resume()
    assert run.stop == "approval"
    assert run.approvals[0].id != first.id


async def test_a_new_prompt_does_not_overtake_an_approval(world, store):
    session = agent(world, store, [call("refund", amount=9)], "Done.").session("s")
    await session.run("Refund 9")
    with pytest.raises(errors.ApprovalPending):
        await session.run("Something else")


async def test_the_same_key_is_answered_once(world, store):
    turns = ([call("pay", amount=5)], "Paid.")
    first = await agent(world, store, *turns).session("s").run("Pay 5", key="m-1")
    again = await agent(world, store, *turns).session("s").run("Pay 5", key="m-1")
    assert (again.output, again.id) == (first.output, first.id)
    assert len(world.paid) == 1


async def test_two_runs_at_once_take_turns(world, store):
    turns = ([call("look", place="a")], "Done.")
    one, two = (agent(world, store, *turns).session("s") for _ in range(2))
    runs = await asyncio.gather(one.run("First"), two.run("Second"))
    assert [run.stop for run in runs] == ["done", "done"]
    placed = await one.journal.read()
    assert [each.seq for each in placed] == list(range(1, len(placed) + 1))


async def test_a_session_that_is_held_is_busy(world, store):
    session = agent(world, store, "Done.").session("s", busy_wait_s=0)
    await session.run("Hello")
    async with session.journal.writing():
        with pytest.raises(errors.SessionBusy):
            await session.run("Again")


async def test_a_fork_shares_the_past_and_runs_nothing_again(world, store):
    session = agent(world, store, [call("pay", amount=5)], "Paid.").session("s")
    await session.run("Pay 5")
    fork = await session.fork("t")
    assert await fork.messages() == await session.messages()
    await agent(world, store, "Fork.").session("t").run("Go on there")
    assert len(await session.messages()) == 4
    assert len(await fork.messages()) == 6
    assert len(world.paid) == 1
    with pytest.raises(errors.SessionError):
        await session.fork("t")


async def test_rewinding_takes_back_words_and_not_deeds(world, store):
    session = agent(world, store, [call("pay", amount=5)], "Paid.").session("s")
    await session.run("Pay 5")
    last = (await session.state()).seq
    await agent(world, store, "Other.").session("s").run("More")
    await session.rewind(last)
    assert len(await session.messages()) == 4
    assert (await agent(world, store, "Instead.").session("s").run("More")).output == "Instead."
    assert len(world.paid) == 1
    with pytest.raises(errors.SessionError):
        await session.rewind(99)


async def test_an_erased_session_is_gone_and_its_fork_keeps_it(world, store):
    session = agent(world, store, "Done.").session("s")
    await session.run("Hello")
    fork = await session.fork("t")
    with pytest.raises(errors.SessionHasForks):
        await session.erase()
    assert await fork.erase()
    assert await session.erase()
    with pytest.raises(errors.SessionNotFound):
        await agent(world, store, "Done.").session("s").state()


async def test_events_are_told_as_they_are_written(world, store):
    session = agent(world, store, [call("look", place="a")], "Done.").session("s")
    await session.journal.ensure()
    seen = []

    async def watch():
        async for placed in session.events():
            seen.append(type(placed.entry).__name__)
            if seen[-1] == "Ended":
                return

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        tasks.create_task(session.run("Look"))
    assert seen == ["Began", "Replied", "Intended", "Answered", "Replied", "Ended"]


async def test_what_cannot_be_written_down_does_not_run(world, store):
    session = agent(world, store, [call("pay", amount=5)], "Paid.").session("s")

    class Broken(type(store)):
        async def append(self, lease, after, events, *, status):
            if any(event.kind == "intended" for event in events):
                raise errors.JournalConflict("Somebody else wrote.")
            await super().append(lease, after, events, status=status)

    broken = Broken()
    session = agent(world, broken, [call("pay", amount=5)], "Paid.").session("s")
    with pytest.raises(errors.JournalConflict):
        await session.run("Pay 5")
    assert world.paid == []


async def test_a_request_that_can_never_succeed_does_not_block_the_session(world, store):
    with pytest.raises(errors.ProviderBadRequest):
        await Agent(model=Scripted([errors.ProviderBadRequest]), store=store).session("s").run("What?")
    run = await agent(world, store, "Fine.").session("s").run("And this?")
    assert run.output == "Fine."


async def test_a_run_that_met_an_outage_goes_on_later(world, store):
    with pytest.raises(errors.ProviderUnavailable):
        await Agent(model=Scripted([errors.ProviderUnavailable]), store=store).session("s").run("What?")
    session = agent(world, store, "Fine.").session("s")
    assert (await session.resume()).output == "Fine."
    assert len(await session.messages()) == 2


async def test_a_fork_in_the_middle_does_not_run_what_its_parent_runs(world, store):
    turns = ([call("pay", amount=5), call("look", place="a"), call("put", name="x")], "Done.")
    await die(agent(world, store, *turns).session("s", reach=dying("reply.after")), "Pay 5")
    fork = await agent(world, store, *turns).session("s").fork("t")
    codes = [result.error.code if result.error else None for result in (await fork.resume()).results]
    assert codes == ["outcome_unknown", None, None]
    assert world.paid == []
    assert (await agent(world, store, *turns).session("s").resume()).stop == "done"
    assert [amount for amount, _ in world.paid] == [5]
