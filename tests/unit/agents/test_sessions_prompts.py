"""What is said in a session: prompts with keys, prompts that no model takes, nonsense of models, erased pasts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from callbox import Agent, CallContext, errors, tool
from callbox.agents import recorder
from callbox.calls.call import ToolCall
from callbox.clock import SystemClock
from callbox.gate.caller import Caller
from callbox.limits import Limits
from callbox.messages import Media, Message, Reply, Text
from callbox.providers.scripted import Scripted
from callbox.sessions.browsing import fork
from callbox.sessions.portable import import_session, read_document
from callbox.stores.memory import MemoryStore
from callbox.stores.store import ID_BYTES_MAX
from support_sessions import call, die, dying, script, tools


@pytest.fixture
def store():
    return MemoryStore()


# --- the prompt and its key ---


async def test_a_key_is_answered_once_although_its_run_was_unfinished(store):
    asked = []

    def say(messages):
        asked.append(messages[-1].text)
        return "Fine."

    def agent():
        return Agent(model=Scripted(say), store=store)

    await die(agent().session("s", reach=dying("reply.before")), "Pay 5", key="m-1")
    asked.clear()
    run = await agent().session("s").run("Pay  5", key="m-1")
    assert (run.output, asked) == ("Fine.", ["Pay 5"])
    assert [message.text for message in run.messages] == ["Pay 5", "Fine."]


async def test_the_answer_of_then_is_that_of_then(store):
    @tool(effect="read")
    async def look(place: str) -> str:
        """Look."""
        return place

    session = Agent(model=script([call("look", place="a")], "A."), tools=[look], store=store).session("s")
    first = await session.run("Look at a", key="m-1")
    other = Agent(model=script("B."), tools=[look], store=store).session("s")
    await other.run("Hello")
    again = await other.run("Look at a", key="m-1")
    assert replace(again, cost=first.cost) == first


async def test_the_key_of_a_rewound_run_is_free_and_a_fork_keeps_its_own(store):
    session = Agent(model=script("Fine."), store=store).session("s")
    await session.run("Hello")
    last = (await session.state()).seq
    first = await session.run("Pay", key="m-1")
    fork = await session.fork("t")
    await session.rewind(last)
    assert (await session.run("Pay", key="m-1")).id != first.id
    assert (await fork.run("Pay", key="m-1")).id == first.id


def locked(calls=()):
    """A model that does not know us until the list is emptied: of the keys that are wrong."""
    wrong = ["key"]

    def say(messages):
        asked = max(at for at, message in enumerate(messages) if message.role == "user")
        answers = sum(message.role == "assistant" for message in messages[asked:])
        if answers < len(calls):
            return [calls[answers]]
        if wrong:
            raise errors.ProviderAuthError("Not with this key.")
        return "Fine."

    return Scripted(say), wrong


async def test_a_failed_run_goes_on_under_its_key_and_does_nothing_twice(store):
    paid = []
    model, wrong = locked([call("pay", amount=5)])
    session = Agent(model=model, tools=tools(paid), store=store).session("s")
    for _ in range(2):
        with pytest.raises(errors.ProviderAuthError) as failed:
            await session.run("Pay 5", key="m-1")
    assert (await session.resume()).stop == "failed"
    wrong.clear()
    run = await session.run("Pay 5", key="m-1")
    assert (run.id, run.stop, run.output, paid) == (failed.value.run.id, "done", "Fine.", [("pay", 5)])
    assert [message.role for message in run.messages] == ["user", "assistant", "tool", "assistant"]
    again = await session.run("Pay 5", key="m-1")
    assert (again.id, again.output, paid) == (run.id, "Fine.", [("pay", 5)])
    await session.run("Hello")
    assert (await session.run("Pay 5", key="m-1")).output == "Fine."


async def test_prompts_of_a_time_without_a_valid_key_are_all_answered_later(store):
    model, wrong = locked()
    session = Agent(model=model, store=store).session("s")
    for n in range(3):
        with pytest.raises(errors.ProviderAuthError):
            await session.run(f"Message {n}", key=str(n))
    wrong.clear()
    runs = [await session.run(f"Message {n}", key=str(n)) for n in range(3)]
    assert [run.output for run in runs] == ["Fine."] * 3
    assert [(await session.run("?", key=str(n))).id for n in range(3)] == [run.id for run in runs]


async def test_a_failed_run_that_did_something_is_not_begun_anew_once_others_were(store):
    paid = []
    model, wrong = locked([call("pay", amount=5)])
    session = Agent(model=model, tools=tools(paid), store=store).session("s")
    with pytest.raises(errors.ProviderAuthError):
        await session.run("Pay 5", key="m-1")
    wrong.clear()
    await session.run("And again 5")
    assert (await session.run("Pay 5", key="m-1")).stop == "failed"
    assert paid == [("pay", 5)] * 2


@pytest.mark.parametrize("copied", ["forked", "imported"])
async def test_calls_of_a_copied_run_have_keys_of_their_own(store, copied):
    keys = []

    @tool(idempotent=True)
    async def put(name: str, context: CallContext) -> str:
        """Put."""
        keys.append((name, context.idempotency_key))
        return "there"

    def agent(name):
        return Agent(model=script([call("put", name=name)], "Fine."), tools=[put], store=store)

    await die(agent("parent").session("s", reach=dying("reply.before")), "Put it")
    if copied == "forked":
        await agent("copy").session("s").fork("t")
    else:
        await agent("copy").import_session(await agent("copy").session("s").export(), "t")
    await agent("parent").session("s").resume()
    await agent("copy").session("t").resume()
    assert [name for name, _ in keys] == ["parent", "copy"]
    assert len({key for _, key in keys}) == 2


@pytest.mark.parametrize(
    "prompt",
    [
        [Message.user("x"), Message.assistant("", [ToolCall("c", "look", {})])],
        [Message("tool", ())],
        [Message.user("x"), Message.tool([])],
        Message("user", (Media("image/png", b"not base64 text"),)),
        Message("user", (Text("x", {"cache": {1, 2}}),)),
    ],
)
async def test_a_prompt_that_no_model_takes_does_not_block_the_session(store, prompt):
    def agent():
        return Agent(model=script("Fine."), store=store)

    try:
        await agent().session("s").run(prompt)
    except errors.ConfigurationError:
        with pytest.raises(errors.SessionNotFound):
            await agent().session("s").state()
    run = await agent().session("s").run("Hello")
    assert run.output == "Fine."


async def test_instructions_in_a_prompt_are_sent(store):
    model = script("Fine.")
    agent = Agent(model=model, store=store, instructions="Be brief.")
    await agent.session("s").run([Message.system("The user is Kim."), Message.user("Hello")])
    said = [message.text for message in model.requests[0].messages]
    assert said == ["Be brief.", "The user is Kim.", "Hello"]


# --- erased and made anew ---


async def test_a_session_that_was_erased_can_be_made_anew_by_the_same_object(store):
    agent = Agent(model=script("Fine."), store=store)
    session = agent.session("s")
    await session.run("Hello")
    await agent.session("s").erase()
    await session.run("Hello again")
    assert [message.text for message in await agent.session("s").messages()] == ["Hello again", "Fine."]
    assert [message.text for message in await session.messages()] == ["Hello again", "Fine."]


async def test_a_reader_sees_the_session_that_was_made_anew(store):
    agent = Agent(model=script("Fine."), store=store)
    reader = agent.session("s")
    await agent.session("s").run("Hello")
    assert len(await reader.messages()) == 2
    await agent.session("s").erase()
    await agent.session("s").run("Hello again")
    assert [message.text for message in await reader.messages()] == ["Hello again", "Fine."]


# --- what models say ---


async def test_arguments_that_no_journal_can_hold_are_a_mistake_of_the_model(store):
    deep = []
    for _ in range(5_000):
        deep = [deep]

    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        raise AssertionError

    for number, wrong in enumerate([deep, {"amount": {1, 2}}, {"amount": b"x"}, {"amount": 10**5000}, object()]):
        said = Reply(Message("assistant", (Text("So."), ToolCall("c", "pay", wrong))), "calls")
        session = Agent(model=script(said, "I see."), tools=[pay], store=store).session(f"s{number}")
        run = await session.run("Pay")
        assert run.stop == "done", wrong
        assert run.results[0].error is not None
        assert len(await Agent(model=script(), store=store).session(f"s{number}").messages()) == 4


# --- what is no id, no number, no JSON ---


@pytest.mark.parametrize("name", ["", "a\0b", "a\ud800b", "a" * (ID_BYTES_MAX + 1), "ä" * (ID_BYTES_MAX // 2 + 1)])
async def test_what_not_every_store_keeps_is_no_id(store, name):
    agent = Agent(model=script("Fine."), store=store)
    await agent.session("s").run("Hello")
    with pytest.raises(errors.ConfigurationError) as refused:
        agent.session(name)
    assert len(refused.value.message) < 200
    document = read_document(await agent.session("s").export())
    with pytest.raises(errors.ConfigurationError):
        await import_session(store, name, document, session_id="t")
    with pytest.raises(errors.ConfigurationError):
        await fork(agent.session("s").journal, name)
    if name:
        with pytest.raises(errors.ConfigurationError):
            agent.session("s", caller=Caller(tenant_id=name))
    assert [info.key.session for info in await store.sessions("default")] == ["s"]


async def test_entries_are_followed_from_a_number_that_there_can_be(store):
    session = Agent(model=script("Fine."), store=store).session("s")
    await session.run("Hello")
    with pytest.raises(errors.ConfigurationError):
        session.events(-1)


async def test_notes_are_kept_as_they_will_be_read(store):
    session = Agent(model=script("Fine."), store=store).session("s")
    itself = {}
    itself["a"] = itself
    for wrong in ({"a": {1}}, {"a": float("nan")}, {"a": b"x"}, itself):
        with pytest.raises(errors.ConfigurationError):
            await session.note(wrong)
    await session.note({"seen": (1, 2), "by": "\ud800"})
    assert (await session.state()).notes == {"seen": [1, 2], "by": "\ud800"}


# --- results that are too large ---


async def test_a_result_that_cannot_be_kept_does_not_block_the_session(store, monkeypatch):
    monkeypatch.setattr(recorder, "EVENT_BYTES_MAX", 100_000)
    monkeypatch.setattr(recorder, "_CHARS_TOO_FEW", 1_000)
    done = []

    @tool
    async def pay(size: int) -> str:
        """Pay."""
        done.append(size)
        return "x" * size

    model = script([call("pay", size=90_000), call("pay", size=110_000)], "Fine.")
    session = Agent(model=model, tools=[pay], store=store, limits=Limits(result_chars_max=200_000)).session("s")
    run = await session.run("Pay")
    assert (run.output, done) == ("Fine.", [90_000, 110_000])
    assert [result.error and result.error.code for result in run.results] == [None, "tool_failed"]
    assert "larger" in run.results[1].content


# --- its time ---


async def test_a_run_that_goes_on_has_its_time_anew_and_keeps_what_else_it_spent(store, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(SystemClock, "monotonic", lambda _: now[0])

    @tool(approval="always")
    async def refund(amount: int) -> str:
        """Refund an amount."""
        now[0] += 9.0
        return "refunded"

    def agent():
        turns = [[call("refund", amount=amount)] for amount in (1, 2, 3)]
        limits = Limits(run_timeout_s=10.0, calls_per_run_max=2)
        return Agent(model=script(*turns, "Done."), tools=[refund], store=store, limits=limits)

    run = await agent().session("s").run("Refund twice")
    for _ in range(3):
        now[0] += 86_400.0
        assert run.stop == "approval"
        await agent().session("s").approve(run.approvals[0].id, by="kim")
        run = await agent().session("s").resume()
    assert run.stop == "calls"
    assert [result.error and result.error.code for result in run.results] == [None, None, "budget_exhausted"]
