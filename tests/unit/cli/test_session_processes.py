"""An agent in one process, people at commands in others, one SQLite file between them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from callbox.sessions.browsing import all_sessions
from callbox.sessions.journal import Journal
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import SessionKey

pytestmark = pytest.mark.slow

DEADLINE_S = 60
COMMAND = [sys.executable, "-c", "from callbox.cli.main import app; app()"]
TESTS = Path(__file__).resolve().parents[2]
AGENT = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from support_sessions import agent, call

async def main():
    done = []
    made = agent(None, done, [call("refund", amount=9)], "Done.")
    session = made.session("s")
    async with made:
        if sys.argv[1] == "hold":
            await session.journal.ensure()
            async with session.journal.writing():
                print("held", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
            return
        run = await (session.run("Refund 9") if sys.argv[1] == "run" else session.resume())
        print(run.stop, done, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def env(tmp_path):
    return {**os.environ, "CALLBOX_HOME": str(tmp_path / "home"), "COLUMNS": "200"}


def agent(env, what):
    done = subprocess.run(
        [sys.executable, "-c", AGENT.format(tests=str(TESTS)), what],
        env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def ask(env, *words, code=0):
    done = subprocess.run(
        [*COMMAND, *words], env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def hear_interrupts():
    """Ctrl-C is ignored in what a shell without a terminal runs in the background, and by all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(argv, env):
    process = subprocess.Popen(
        argv, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=hear_interrupts,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_approval_given_in_another_process_is_used_once(env):
    assert agent(env, "run") == "approval []"
    [waits] = json.loads(ask(env, "approvals", "ls", "--json"))
    ask(env, "approvals", "approve", waits["id"], "--by", "kim")
    assert agent(env, "resume") == "done [('refund', 9)]"
    assert agent(env, "resume") == "done []"
    assert "already, by kim" in ask(env, "approvals", "approve", waits["id"], "--session", "s", code=1)


def test_a_journal_is_followed_while_another_process_writes_it(env):
    agent(env, "run")
    with running([*COMMAND, "session", "tail", "s", "-f", "--after", "1", "--json"], env) as tail:
        seen = [json.loads(tail.stdout.readline()) for _ in range(2)]
        assert [each["kind"] for each in seen] == ["replied", "asked"]
        ask(env, "approvals", "approve", seen[1]["body"]["approval"], "--by", "kim")
        assert json.loads(tail.stdout.readline())["kind"] == "decided"
        agent(env, "resume")
        rest = [json.loads(tail.stdout.readline()) for _ in range(4)]
        assert [each["kind"] for each in rest] == ["intended", "answered", "replied", "ended"]
        assert [each["seq"] for each in [*seen, *rest]] == [2, 3, 5, 6, 7, 8]
        ask(env, "session", "erase", "s", "--yes")
        assert tail.wait(DEADLINE_S) == 0
        assert "erased" in tail.stderr.read()


def test_following_is_stopped_with_ctrl_c(env):
    agent(env, "run")
    with running([*COMMAND, "session", "tail", "s", "-f"], env) as tail:
        assert "began" in tail.stdout.readline()
        tail.stdout.readline()
        tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        assert tail.wait(DEADLINE_S) == 130


def test_a_session_that_is_worked_on_says_so_and_is_free_when_its_process_dies(env):
    agent(env, "run")
    [waits] = json.loads(ask(env, "approvals", "ls", "--json"))
    with running([sys.executable, "-c", AGENT.format(tests=str(TESTS)), "hold"], env) as holder:
        assert holder.stdout.readline() == "held\n"
        said = ask(env, "approvals", "approve", waits["id"], "--by", "kim", code=1)
        assert "session_busy" in said
        assert str(holder.pid) in said
        assert "waiting (in use)" in ask(env, "session", "ls")
        holder.send_signal(signal.SIGKILL)
        holder.wait(DEADLINE_S)
        ask(env, "approvals", "approve", waits["id"], "--by", "kim")


async def test_a_collection_is_stopped_with_ctrl_c_and_done_again(env):
    store = SqliteStore(Path(env["CALLBOX_HOME"]) / "sessions.db")
    keys = [SessionKey("default", f"s{number}") for number in range(1_500)]
    await asyncio.gather(*[Journal(store, key).ensure(expires_at=1.0) for key in keys])
    with running([*COMMAND, "session", "gc"], env) as gc:
        async with asyncio.timeout(DEADLINE_S):
            while any([await store.info(key) is not None for key in keys[:9]]):
                await asyncio.sleep(0.01)
        gc.send_signal(signal.SIGINT)
        assert gc.wait(DEADLINE_S) == 130
        erased = int(re.search(r"erased ([\d,]+)", gc.stdout.read())[1].replace(",", ""))
    left = [info.key.session async for info in all_sessions(store, "default")]
    assert 0 < erased < 1_500
    assert erased <= 1_500 - len(left) <= erased + 1, "the one under way may be gone, too"
    await store.aclose()
    assert len(json.loads(ask(env, "session", "gc", "--json"))) == len(left)


def test_two_at_once_decide_once(env):
    agent(env, "run")
    [waits] = json.loads(ask(env, "approvals", "ls", "--json"))
    words = ["approvals", "approve", waits["id"], "--session", "s", "--by"]
    with running([*COMMAND, *words, "kim"], env) as kim, running([*COMMAND, *words, "lee"], env) as lee:
        assert sorted((kim.wait(DEADLINE_S), lee.wait(DEADLINE_S))) == [0, 1]
    assert agent(env, "resume") == "done [('refund', 9)]"


def test_a_piped_export_is_imported(env, tmp_path):
    agent(env, "run")
    exported = subprocess.run(
        [*COMMAND, "session", "export", "s"], env=env, capture_output=True, timeout=DEADLINE_S, check=True
    ).stdout
    done = subprocess.run(
        [*COMMAND, "session", "import", "-", "--store", f"sqlite:///{tmp_path}/other.db", "--json"],
        env=env, input=exported, capture_output=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["status"] == "waiting"
