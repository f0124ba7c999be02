"""A session whose task is cancelled, whenever: nothing is lost, nothing is done twice, nothing stays behind."""

from __future__ import annotations

import asyncio
import gc

import pytest

from callbox import Agent, CallContext, errors, tool
from callbox.providers.scripted import Scripted
from callbox.sessions.entries import Noted
from callbox.stores.memory import MemoryStore
from callbox.stores.sqlite.store import SqliteStore


class Slow:
    """A store whose every answer takes a while: it has done what was asked although nobody may wait any more."""

    def __init__(self, inner, pauses=2, quick=()):
        self._inner = inner
        self._pauses = pauses
        self._quick = ("follow", "aclose", *quick)

    def __getattr__(self, name):
        method = getattr(self._inner, name)
        if name in self._quick:
            return method

        async def slow(*args, **kwargs):
            return await asyncio.shield(asyncio.ensure_future(self._slow(method, args, kwargs)))

        return slow

    async def _slow(self, method, args, kwargs):
        for _ in range(self._pauses):
            await asyncio.sleep(0)
        try:
            return await method(*args, **kwargs)
        finally:
            for _ in range(self._pauses):
                await asyncio.sleep(0)


class World:
    def __init__(self):
        self.paid = []
        self.put = set()
        self.inside = 0

    @property
    def tools(self):
        @tool
        async def pay(amount: int) -> str:
            """Pay."""
            await asyncio.sleep(0)
            self.paid.append(amount)
            await asyncio.sleep(0)
            return "paid"

        @tool(effect="read")
        async def look(place: str) -> str:
            """Look."""
            self.inside += 1
            try:
                await asyncio.sleep(0)
                return place
            finally:
                self.inside -= 1

        @tool(idempotent=True)
        async def put(context: CallContext) -> str:
            """Put."""
            self.put.add(context.idempotency_key)
            await asyncio.sleep(0)
            return "there"

        return [pay, look, put]


def call(tool_name, **arguments):
    return {"call": tool_name, "arguments": arguments}


TURNS = (
    [call("look", place="a"), call("look", place="b"), call("pay", amount=1), call("look", place="c")],
    [call("put"), call("pay", amount=2)],
    "Done.",
)


def say(messages):
    asked = max(at for at, message in enumerate(messages) if message.role == "user")
    return TURNS[sum(message.role == "assistant" for message in messages[asked:])]


def session(world, store, **options):
    agent = Agent(model=Scripted(say), tools=world.tools, store=store)
    return agent.session("s", busy_wait_s=0.0, **options)


async def cancelled(work, after, times):
    """Start `work`, and cancel it after so many turns of the loop, `times` times in a row. Whether it had ended."""
    task = asyncio.ensure_future(work)
    for _ in range(after):
        await asyncio.sleep(0)
        if task.done():
            break
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    [outcome] = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, asyncio.CancelledError):
        return False
    if isinstance(outcome, BaseException):
        raise outcome
    return True


@pytest.fixture
async def unheard():
    """What the loop was told that nobody else was."""
    told = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    yield told
    gc.collect()
    loop.set_exception_handler(None)


def check(world, run):
    assert run.stop == "done"
    assert len(run.calls) == len(run.results) == 6
    assert [each.id for each in run.calls] == [each.call_id for each in run.results]
    codes = [result.error.code if result.error else None for result in run.results]
    assert {code for place, code in enumerate(codes) if place not in (2, 5)} == {None}
    assert {codes[2], codes[5]} <= {None, "outcome_unknown"}
    for amount, place in ((1, 2), (2, 5)):
        assert world.paid.count(amount) == 1 or (world.paid.count(amount) == 0 and codes[place] is not None)
    assert len(world.put) == 1
    assert world.inside == 0


@pytest.mark.parametrize(("times", "pauses"), [(1, 0), (1, 2), (3, 1)])
async def test_cancelled_at_any_moment_it_goes_on_at_once(unheard, times, pauses):
    before = asyncio.all_tasks()
    ended, after = False, 0
    while not ended:
        world, store = World(), Slow(MemoryStore(), pauses)
        ended = await cancelled(session(world, store).run("Go", key="m-1"), after, times)
        for _ in range(5):  # what the store of this test does for nobody
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before, after
        check(world, await session(world, store).run("Go", key="m-1"))
        after += 1
    assert after > 30
    gc.collect()
    assert unheard == []


async def test_cancelled_again_and_again_it_gets_there(unheard):
    before = asyncio.all_tasks()
    for step in (1, 2, 7, 16, 31):
        world, store = World(), Slow(MemoryStore())
        at = 0
        while not await cancelled(session(world, store).run("Go", key="m-1"), at, 1):
            at += step
        check(world, await session(world, store).run("Go", key="m-1"))
    assert asyncio.all_tasks() == before
    gc.collect()
    assert unheard == []


async def test_a_lease_that_was_taken_for_somebody_who_left_is_given_back(tmp_path, unheard):
    store = SqliteStore(tmp_path / "sessions.db")
    try:
        for after in range(60):
            world = World()
            agent = Agent(model=Scripted(say), tools=world.tools, store=store)
            await cancelled(agent.session(f"s{after}").run("Go", key="m-1"), after, 1)
            check(world, await agent.session(f"s{after}", busy_wait_s=0.0).run("Go", key="m-1"))
    finally:
        await store.aclose()
    gc.collect()
    assert unheard == []


def test_a_loop_that_closes_in_the_middle_leaves_a_session_that_goes_on():
    async def leave(world, after):
        # A lease that comes when the loop is closed is nobody's: the process ends, or it runs out.
        store = Slow(MemoryStore(), after % 3, quick=["acquire"])
        left = asyncio.ensure_future(session(world, store).run("Go", key="m-1"))
        for _ in range(after):
            await asyncio.sleep(0)
        return store, left

    async def go_on(world, store):
        check(world, await session(world, store).run("Go", key="m-1"))

    for after in range(200):
        world = World()
        store, _ = asyncio.run(leave(world, after))
        asyncio.run(go_on(world, store))


class Failing(MemoryStore):
    """Refuses appends that hold an entry of a kind, after letting some through."""

    def __init__(self, kind, error, let_through=0):
        super().__init__()
        self._kind = kind
        self._error = error
        self._left = let_through

    async def append(self, lease, after, events, *, status):
        await asyncio.sleep(0)
        if any(event.kind == self._kind for event in events):
            if self._left == 0:
                raise self._error
            self._left -= 1
        await super().append(lease, after, events, status=status)


@pytest.mark.parametrize(
    ("kind", "let_through"),
    [("began", 0), ("ended", 0), *[(kind, n) for kind in ("replied", "intended", "answered") for n in range(3)]],
)
@pytest.mark.parametrize(
    "error", [errors.SessionFenced("Taken over."), errors.JournalConflict("No."), OSError("Full.")]
)
async def test_what_could_not_be_written_ends_the_run_and_leaves_nothing(unheard, kind, let_through, error):
    before = asyncio.all_tasks()
    world, store = World(), Failing(kind, error, let_through)
    with pytest.raises(type(error)):
        await session(world, store).run("Go", key="m-1")
    assert asyncio.all_tasks() == before
    store._kind = ""
    check(world, await session(world, store).run("Go", key="m-1"))
    gc.collect()
    assert unheard == []


async def test_a_writer_that_failed_writes_nothing_more():
    store = Failing("noted", errors.JournalConflict("No."))
    made = session(World(), store)
    await made.journal.ensure()
    async with made.journal.writing() as writer:
        outcomes = await asyncio.gather(
            *[writer.write(Noted(values={"n": n})) for n in range(3)], return_exceptions=True
        )
        assert [type(each) for each in outcomes] == [errors.JournalConflict] * 3
        store._kind = ""
        with pytest.raises(errors.JournalConflict):
            await writer.write(Noted(values={"n": 9}))
    assert (await made.state()).notes == {}
    with pytest.raises(errors.JournalConflict):
        await writer.write(Noted(values={"n": 10}))
    async with made.journal.writing() as writer:
        await writer.write(Noted(values={"n": 11}))
    assert (await made.state()).notes == {"n": 11}


async def test_nothing_is_written_with_a_writer_that_was_closed():
    made = session(World(), MemoryStore())
    await made.journal.ensure()
    async with made.journal.writing() as writer:
        pass
    with pytest.raises(errors.SessionError):
        await writer.write(Noted(values={"n": 1}))
    assert (await made.state()).notes == {}
