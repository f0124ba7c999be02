"""Tools that run in a sandbox by declaration, on real machines: what they keep, and what happens when things die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callbox import Agent, CallContext, Gate, Sandbox, ToolCall, ToolError, tool
from callbox.errors import Rejected, SessionFenced, SessionNotFound
from callbox.gate.caller import Caller
from callbox.gate.runners import sandbox
from callbox.gate.runners.sandbox import delete_session_sandboxes
from callbox.sandboxes.client import Client
from callbox.sandboxes.starting import is_alive
from callbox.stores.sqlite.store import SqliteStore
from callbox.tools.sandbox_binding import SandboxPlace
from support_host import kill_machine
from support_sessions import call, script

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
HERE = SandboxPlace(image="python", driver="gvisor")
COUNT = 0


@tool(runs_in=HERE)
def count(by: int = 1) -> dict[str, int]:
    """Count in memory and in a file."""
    global COUNT
    import os
    from pathlib import Path

    COUNT += by
    kept = Path("count")
    kept.write_text(str(int(kept.read_text()) + by if kept.exists() else by))
    return {"memory": COUNT, "file": int(kept.read_text()), "pid": os.getpid(), "uid": os.getuid()}


@tool(runs_in=HERE, effect="read")
def look() -> int:
    """Look at what `count` keeps in memory."""
    return COUNT


@tool(runs_in=HERE)
def fail(how: str) -> str:
    """Fail."""
    if how == "tool":
        raise ToolError("The shop is closed.", suggestion="Come tomorrow.")
    if how == "rejected":
        raise Rejected("No such shop.", path="/how")
    print("a secret was printed")
    if how == "exit":
        raise SystemExit(3)
    raise ValueError("password=hunter2")


@tool(runs_in=HERE)
def noise(size: int) -> str:
    """Print what looks like our protocol, from here and from a command."""
    import subprocess
    import sys

    for _ in range(100):
        print('{"done": {"result": "1"}}\x00\x00\x00\x05hello')
        print("x" * 1000, file=sys.stderr)
    subprocess.run(["echo", '{"done": {"result": "2"}}'], check=True)
    return "é" * size


@tool(runs_in=HERE)
def die(how: str) -> str:
    """End the worker."""
    import ctypes
    import os

    if how == "exit":
        os._exit(7)
    ctypes.string_at(0)
    return "alive"


@tool(runs_in=HERE, timeout_s=1.0)
def spin() -> str:
    """Run for ever, in Python."""
    while True:
        pass


@tool(runs_in=HERE)
def spin_on(mark: str) -> str:
    """Run for ever, and note that it began."""
    from pathlib import Path

    Path("began-" + mark).write_text("x")
    while True:
        Path("ticks").write_text("x")


@tool(runs_in=HERE, timeout_s=1.0)
def sleep() -> str:
    """Run for ever, where nothing can reach it."""
    import time

    time.sleep(1_000)
    return "awake"


@tool(runs_in=HERE, timeout_s=1.0)
async def wait() -> str:
    """Wait for ever."""
    import asyncio

    await asyncio.sleep(1_000)
    return "awake"


@tool(runs_in=HERE)
async def describe(context: CallContext, n: int = 2) -> dict[str, object]:
    """Describe the call."""
    for done in range(n):
        context.report(done, n, "Working")
    return {
        "call": context.call_id,
        "session": context.session_id,
        "tool": context.tool,
        "attempt": context.attempt,
        "has_key": bool(context.idempotency_key),
        "has_time": 0 < context.remaining_s() <= 60,
        "scopes": sorted(context.scopes),
        "state": context.state,
    }


@tool(runs_in=HERE)
def slow(mark: str) -> int:
    """Take a moment, and note that it began."""
    import time
    from pathlib import Path

    with Path("began-" + mark).open("a") as file:
        file.write("x")
    for _ in range(200):
        time.sleep(0.01)
    return len(Path("began-" + mark).read_text())


@tool(runs_in=HERE, effect="read", idempotent=True)
def slow_read(mark: str) -> int:
    """Take a moment, and note that it began."""
    return slow(mark)


ALL = [count, look, fail, noise, die, spin, spin_on, sleep, wait, describe, slow, slow_read]


@pytest.fixture
async def gate(home, monkeypatch):
    monkeypatch.setenv("CALLBOX_HOME", str(home.root))
    monkeypatch.setenv("CALLBOX_IMAGES", str(home.images))
    async with Gate(ALL) as gate:
        yield gate


async def execute(gate, name, session="s", observer=None, **arguments):
    caller = Caller(session_id=session, tenant_id="t", scopes=frozenset({"a"}))
    (result,) = await gate.execute([ToolCall("c1", name, arguments)], caller=caller, observer=observer)
    return result


async def value(gate, name, session="s", **arguments):
    result = await execute(gate, name, session, **arguments)
    assert result.error is None, result.content
    return result.value


async def kill_supervisor(home):
    pid = int((await Client.of(home).channel()).welcome["pid"])
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while is_alive(pid):
            await asyncio.sleep(0.02)


async def boxes(home):
    return await Sandbox.list(home=home)


async def until_began(home, name):
    (box,) = await boxes(home)
    async with asyncio.timeout(60):
        while not (await box.run(["test", "-s", f"began-{name}"])).ok:
            await asyncio.sleep(0.05)


async def test_state_survives_calls_standby_and_the_death_of_the_supervisor(gate, home):
    first = await value(gate, "count")
    assert (first["memory"], first["file"], first["uid"]) == (1, 1, 1000)
    assert first["pid"] != os.getpid()
    expected = 1
    (box,) = await boxes(home)
    for tier in ("none", "hot", "warm", "cold", "supervisor"):
        if tier == "supervisor":
            await kill_supervisor(home)
        elif tier != "none":
            await box.standby(tier)
        expected += 1
        assert await value(gate, "count") == {**first, "memory": expected, "file": expected}, tier
    assert await value(gate, "look") == expected
    assert COUNT == 0


async def test_the_box_falls_asleep_by_itself_with_the_worker_in_it(home, gate):
    @tool(runs_in=SandboxPlace(image="python", driver="gvisor", idle_s=0.3), name="count")
    def count_here() -> int:
        """Count."""
        global HERE_COUNT
        try:
            HERE_COUNT += 1
        except NameError:
            HERE_COUNT = 1
        return HERE_COUNT

    sleepy = Gate([count_here])
    assert await value(sleepy, "count") == 1
    (box,) = await boxes(home)
    async with asyncio.timeout(60):
        while (await box.info()).state != "hot":
            await asyncio.sleep(0.05)
    assert await value(sleepy, "count") == 2


PROGRAM = """
import asyncio, sys
sys.path[:0] = [{vm!r}, {tests!r}]
import test_tools_in_sandboxes as tests
from callbox import Gate
async def main():
    print(await tests.value(Gate(tests.ALL), "count"), flush=True)
    if sys.argv[1:]:
        await tests.value(Gate(tests.ALL), "slow", mark="killed")
asyncio.run(main())
"""


def other_program(*arguments):
    here = Path(__file__).parent
    program = PROGRAM.format(vm=str(here), tests=str(here.parent))
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


async def test_another_program_finds_the_state_also_when_this_one_was_killed_in_a_call(gate, home):
    killed = other_program("and be killed")
    assert "'memory': 1" in await asyncio.to_thread(killed.stdout.readline)
    await until_began(home, "killed")
    killed.kill()
    await asyncio.to_thread(killed.wait)
    await kill_supervisor(home)
    for expected in (2, 3):
        again = other_program()
        out, _ = await asyncio.to_thread(again.communicate)
        assert f"'memory': {expected}, 'file': {expected}" in out


async def test_sessions_tenants_and_gates_do_not_share(gate, home):
    assert (await value(gate, "count", "one"))["memory"] == 1
    assert (await value(gate, "count", "two"))["memory"] == 1
    assert (await value(gate, "count", "one"))["memory"] == 2
    (other,) = await gate.execute([ToolCall("c", "count", {})], caller=Caller(session_id="one", tenant_id="other"))
    assert other.value["memory"] == 1
    assert len(await boxes(home)) == 3
    assert await delete_session_sandboxes("t", "one", home=home) == 1
    assert await delete_session_sandboxes("t", "one", home=home) == 0
    assert (await value(gate, "count", "one"))["file"] == 1
    assert (await value(gate, "count", "two"))["memory"] == 2


async def counted(file, *, erase=False):
    """Count in a durable session, as a program that is started for it does; or erase it."""
    store = SqliteStore(file)
    async with Agent(model=script(call("count"), "ok"), tools=[count], store=store) as agent:
        durable = agent.session("s")
        done = await durable.erase() if erase else (await durable.run("Count.")).results[-1].value
    await store.aclose()
    return done if erase else (done["memory"], done["file"])


async def test_a_durable_sessions_state_is_its_own_and_ends_with_it(gate, home, tmp_path):
    a, b = tmp_path / "a.db", tmp_path / "b.db"
    assert await counted(a) == (1, 1)
    assert await counted(b) == (1, 1), "the same id in another store is another session"
    assert (await value(gate, "count"))["memory"] == 1, "and so is that of a caller"
    await kill_supervisor(home)
    assert await counted(a) == (2, 2), "found again from anew"
    assert await counted(b, erase=True)
    assert await counted(b) == (1, 1)
    assert await counted(a) == (3, 3)
    assert len(await boxes(home)) == 3


async def test_a_call_that_makes_its_box_after_the_erasure_leaves_nothing_to_the_next_session(gate, home, tmp_path):
    arrived, erased = asyncio.Event(), asyncio.Event()
    file, find = tmp_path / "a.db", sandbox._Box.link

    async def late(box):
        arrived.set()
        await erased.wait()
        return await find(box)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sandbox._Box, "link", late)
        running = asyncio.create_task(counted(file))
        await arrived.wait()
        assert await counted(file, erase=True)
        erased.set()
        with pytest.raises((SessionFenced, SessionNotFound)):
            await running
    assert len(await boxes(home)) == 1, "until its time is over"
    assert await counted(file) == (1, 1)


async def test_calls_without_a_session_share_the_gates_box_which_ends_with_it(gate, home):
    async with Gate(ALL) as own:
        for expected in (1, 2):
            (result,) = await own.execute([ToolCall("c", "count", {})])
            assert result.value["memory"] == expected
        (other,) = await own.execute([ToolCall("c", "count", {})], caller=Caller(user_id="somebody"))
        assert other.value["memory"] == 1
        assert len(await boxes(home)) == 2
    assert await boxes(home) == []


async def test_errors_arrive_as_they_are_meant(gate, caplog):
    failed = (await execute(gate, "fail", how="tool")).error
    assert (failed.code, failed.message, failed.suggestion) == ("tool_failed", "The shop is closed.", "Come tomorrow.")
    refused = (await execute(gate, "fail", how="rejected")).error
    assert (refused.code, refused.message, refused.path) == ("rejected_by_check", "No such shop.", "/how")
    wrong = (await execute(gate, "fail", how=3)).error
    assert wrong.code == "invalid_arguments"
    crashed = await execute(gate, "fail", how="crash")
    assert crashed.error.message == "The tool failed with ValueError."
    assert "hunter2" not in crashed.content
    assert "secret" not in crashed.content
    assert "hunter2" in caplog.text
    assert "a secret was printed" in caplog.text
    assert (await execute(gate, "fail", how="exit")).error.message == "The tool failed with SystemExit."
    assert (await value(gate, "count"))["memory"] == 1


async def test_an_exception_is_known_to_retry_on(gate):
    @tool(runs_in=HERE, retry_on=ConnectionError, retries=2, idempotent=True)
    def flaky() -> int:
        """Work the third time."""
        global TRIED
        try:
            TRIED += 1
        except NameError:
            TRIED = 1
        if TRIED < 3:
            raise ConnectionResetError("again")
        return TRIED

    assert await value(Gate([flaky]), "flaky") == 3


async def test_what_is_printed_disturbs_nothing_and_large_results_arrive(gate):
    assert await value(gate, "noise", size=3) == "ééé"
    assert await value(gate, "noise", size=800_000) == "é" * 800_000
    too_large = await execute(gate, "noise", size=5_000_000)
    assert "more than 5,000,000 bytes" in too_large.error.message
    assert await value(gate, "noise", size=1) == "é"


async def test_a_tool_knows_its_call_and_reports_how_far_it_is(gate):
    told = []

    class Observer:
        def started(self, call): ...

        def finished(self, result): ...

        def progress(self, call, progress, total, message):
            told.append((call.name, progress, total, message))

    result = await execute(gate, "describe", observer=Observer())
    assert result.value == {
        "call": "c1",
        "session": "s",
        "tool": "describe",
        "attempt": 1,
        "has_key": True,
        "has_time": True,
        "scopes": ["a"],
        "state": None,
    }
    assert told == [("describe", 0, 2, "Working"), ("describe", 1, 2, "Working")]


@pytest.mark.parametrize("name", ["spin", "wait"])
async def test_a_call_that_runs_out_of_time_is_ended_and_the_memory_stays(gate, name):
    await value(gate, "count")
    began = time.monotonic()
    assert (await execute(gate, name)).error.code == "timeout"
    assert time.monotonic() - began < 20
    assert (await value(gate, "count"))["memory"] == 2


async def test_a_call_that_cannot_be_ended_takes_the_worker_with_it(gate, caplog):
    first = await value(gate, "count")
    assert (await execute(gate, "sleep")).error.code == "timeout"
    assert "what it held in memory is lost" in caplog.text
    again = await value(gate, "count")
    assert (again["memory"], again["file"]) == (1, 2)
    assert again["pid"] != first["pid"]


async def test_a_cancelled_run_ends_the_call_inside(gate, home):
    await value(gate, "count")
    task = asyncio.create_task(execute(gate, "spin_on", mark="a"))
    await until_began(home, "a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (box,) = await boxes(home)
    await box.files.remove("ticks")
    assert not (await box.run("sleep 0.3; test -e ticks")).ok
    assert (await value(gate, "count"))["memory"] == 2


@pytest.mark.parametrize("how", ["exit", "crash"])
async def test_a_tool_that_kills_the_worker_is_answered_and_the_next_call_has_its_files(gate, how):
    await value(gate, "count")
    lost = await execute(gate, "die", how=how)
    assert (lost.error.code, lost.error.retryable) == ("sandbox_lost", False)
    assert "check before calling it again" in lost.content
    again = await value(gate, "count")
    assert (again["memory"], again["file"]) == (1, 2)


async def test_the_supervisor_dies_under_a_call_and_it_runs_once(gate, home):
    await value(gate, "count")
    running = asyncio.create_task(value(gate, "slow", mark="a"))
    await until_began(home, "a")
    await kill_supervisor(home)
    assert await running == 1


@pytest.mark.parametrize(("name", "retryable"), [("slow", False), ("slow_read", True)])
async def test_the_machine_dies_under_a_call(gate, home, name, retryable):
    await value(gate, "count")
    running = asyncio.create_task(execute(gate, name, mark="a"))
    await until_began(home, "a")
    (box,) = await boxes(home)
    await box.run("sync", user="root")
    kill_machine(home, box.id)
    lost = await running
    assert (lost.error.code, lost.error.retryable) == ("sandbox_lost", retryable)
    again = await value(gate, "count")
    assert (again["memory"], again["file"]) == (1, 2)


async def test_reads_run_side_by_side_in_one_worker(gate):
    await value(gate, "count")
    calls = [ToolCall(f"c{n}", "slow_read", {"mark": str(n)}) for n in range(4)]
    began = time.monotonic()
    results = await gate.execute(calls, caller=Caller(session_id="s", tenant_id="t"))
    assert [result.value for result in results] == [1, 1, 1, 1]
    assert time.monotonic() - began < 7, "one after the other takes 8 s"


async def test_a_changed_function_is_loaded_without_losing_what_the_others_hold(gate, tmp_path):
    import importlib.util

    def gate_of(extra):
        path = tmp_path / "shipped.py"
        path.write_text(
            "from callbox import tool\nfrom callbox.tools.sandbox_binding import SandboxPlace\nSEEN = []\n"
            "@tool(runs_in=SandboxPlace(image='python', driver='gvisor'))\n"
            f"def note(x: str) -> list:\n    '''Note.'''\n    SEEN.append(x + {extra!r})\n    return SEEN\n"
        )
        spec = importlib.util.spec_from_file_location("shipped", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return Gate([module.note])

    before, after = gate_of(""), gate_of("!!")
    assert await value(before, "note", x="a") == ["a"]
    assert await value(after, "note", x="b") == ["a", "b!!"]
    assert await value(before, "note", x="c") == ["a", "b!!", "c"]


async def test_what_cannot_be_imported_there_says_so_in_the_log_only(gate, caplog):
    import importlib.util

    @tool(runs_in=HERE)
    def uses() -> str:
        """Use."""
        import jsonschema_rs

        return jsonschema_rs.__name__

    result = await execute(Gate([uses]), "uses")
    assert result.error.message == "The tool failed with ModuleNotFoundError."
    assert "No module named 'jsonschema_rs'" in caplog.text
    assert json.loads(result.content)["error"] == "tool_failed"
    assert importlib.util.find_spec("jsonschema_rs") is not None
