"""One turn: what runs together, what waits, what starts early; one result per call whatever happens."""

import asyncio
import json

import pytest

from callbox import Gate, ToolCall, tool
from support import let_others_run, until


class World:
    """Tools that write down when they begin and end, and end when they are let."""

    def __init__(self):
        self.log = []
        self.open = asyncio.Event()
        self.open.set()

    def tool(self, name, effect):
        async def run(key: str = "") -> str:
            self.log.append(f"+{name}{key}")
            await self.open.wait()
            await let_others_run()
            self.log.append(f"-{name}{key}")
            return f"{name}{key}"

        return tool(run, name=name, effect=effect, description=f"Tool {name}.")


@pytest.fixture
def world():
    return World()


@pytest.fixture
def gate(world):
    return Gate([world.tool("r", "read"), world.tool("w", "write")])


def calls(*names):
    return [ToolCall(f"c{index}", name[0], {"key": name[1:]}) for index, name in enumerate(names)]


async def test_reads_run_together(world, gate):
    results = await gate.execute(calls("r1", "r2", "r3"))
    assert world.log[:3] == ["+r1", "+r2", "+r3"]
    assert [result.content for result in results] == ["r1", "r2", "r3"]


async def test_writes_run_one_at_a_time_in_the_models_order(world, gate):
    await gate.execute(calls("w1", "w2"))
    assert world.log == ["+w1", "-w1", "+w2", "-w2"]


async def test_a_write_waits_for_the_reads_before_it_and_holds_those_after_it(world, gate):
    results = await gate.execute(calls("r1", "r2", "w1", "r3"))
    assert world.log.index("+w1") > world.log.index("-r1")
    assert world.log.index("+w1") > world.log.index("-r2")
    assert world.log.index("+r3") > world.log.index("-w1")
    assert [result.content for result in results] == ["r1", "r2", "w1", "r3"]


async def test_a_failed_call_takes_nobody_with_it(gate):
    mixed = [
        ToolCall("a", "r", {"key": "1"}),
        ToolCall("b", "nope", {}),
        ToolCall("c", "r", '{"key": '),
        ToolCall("d", "w", {"key": 5}),
        ToolCall("e", "w", {"key": "2"}),
    ]
    results = await gate.execute(mixed)
    assert [result.call_id for result in results] == ["a", "b", "c", "d", "e"]
    codes = [result.error.code if result.error else None for result in results]
    assert codes == [None, "unknown_tool", "malformed_json", "invalid_arguments", None]
    for result in results[1:4]:
        assert json.loads(result.content)["error"] == result.error.code


async def test_an_empty_turn_has_no_results(gate):
    assert await gate.execute([]) == []


async def test_cancelling_ends_every_running_call(world, gate):
    world.open.clear()
    task = asyncio.create_task(gate.execute(calls("r1", "r2")))
    await until(lambda: len(world.log) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [line for line in world.log if line[0] == "-"]


# Early start


async def test_a_read_starts_early_and_runs_once(world, gate):
    async with gate.turn() as turn:
        [first, second] = calls("r1", "r2")
        assert turn.offer(first, [])
        await until(lambda: world.log[-1:] == ["-r1"])
        results = await turn.finish([first, second])
    assert world.log.count("+r1") == 1
    assert [result.content for result in results] == ["r1", "r2"]


@pytest.mark.parametrize(
    ("offered", "before"),
    [
        ("w1", []),
        ("r1", ["w"]),
        ("r1", ["r", "w"]),
        ("r1", ["nope"]),
    ],
)
async def test_nothing_overtakes_a_write_or_an_unknown_call(world, gate, offered, before):
    async with gate.turn() as turn:
        assert not turn.offer(calls(offered)[0], before)
        await let_others_run()
    assert world.log == []


async def test_an_invalid_read_does_not_start(world, gate):
    async with gate.turn() as turn:
        assert not turn.offer(ToolCall("a", "r", {"key": 5}), [])
        assert not turn.offer(ToolCall("a", "r", '{"key": "x"'), [])
        assert not turn.offer(ToolCall("a", "nope", {}), [])


async def test_the_same_call_is_not_started_twice(world, gate):
    async with gate.turn() as turn:
        [call] = calls("r1")
        assert turn.offer(call, [])
        assert not turn.offer(call, [])
        await turn.finish([call])
    assert world.log.count("+r1") == 1


async def test_what_began_early_but_reads_otherwise_in_the_end_is_dropped(world, gate):
    world.open.clear()
    async with gate.turn() as turn:
        assert turn.offer(ToolCall("a", "r", {"key": "old"}), [])
        await until(lambda: world.log == ["+rold"])
        world.open.set()
        results = await turn.finish([ToolCall("a", "r", {"key": "new"})])
    assert [result.content for result in results] == ["rnew"]
    assert "-rold" not in world.log


async def test_what_began_early_but_turns_out_malformed_is_dropped(world, gate):
    world.open.clear()
    async with gate.turn() as turn:
        assert turn.offer(ToolCall("a", "r", '{"key": "x"}'), [])
        await until(lambda: world.log == ["+rx"])
        [result] = await turn.finish([ToolCall("a", "r", '{"key": "x"} and more')])
    assert result.error.code == "malformed_json"
    assert "-rx" not in world.log


async def test_leaving_the_turn_ends_what_it_began(world, gate):
    world.open.clear()
    with pytest.raises(ZeroDivisionError):
        async with gate.turn() as turn:
            turn.offer(calls("r1")[0], [])
            await until(lambda: world.log == ["+r1"])
            raise ZeroDivisionError
    world.open.set()
    await let_others_run()
    assert world.log == ["+r1"]


async def test_cancelling_while_an_early_call_is_awaited_ends_it(world, gate):
    world.open.clear()

    async def run():
        async with gate.turn() as turn:
            [call] = calls("r1")
            turn.offer(call, [])
            await turn.finish([call])

    task = asyncio.create_task(run())
    await until(lambda: world.log == ["+r1"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.open.set()
    await let_others_run()
    assert world.log == ["+r1"]


async def test_an_observer_is_told_of_every_call(gate):
    told = []

    class Watcher:
        def started(self, call):
            told.append(("started", call.id))

        def progress(self, call, progress, total, message):
            raise AssertionError

        def finished(self, result):
            told.append(("finished", result.call_id))

    await gate.execute([*calls("w1"), ToolCall("bad", "nope")], observer=Watcher())
    assert sorted(told) == [("finished", "bad"), ("finished", "c0"), ("started", "c0")]
