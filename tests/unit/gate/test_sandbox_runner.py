"""What the runner believes of what comes out of a sandbox, and what the worker makes of values. No machine needed."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import struct
import subprocess
import sys
import time

import pytest

from callbox import CallContext, Gate, ToolCall, errors, tool
from callbox.gate.runners import sandbox
from callbox.gate.runners.worker_link import _Frames, _read_hello, worker_source
from callbox.sandboxes.channel import Data, Eof
from callbox.sandboxes.home import Home


@tool
def plain() -> int:
    """Plain."""
    return 1


@pytest.mark.parametrize(
    ("outcome", "kind", "text"),
    [
        ({"error": "ToolError", "message": "no", "retryable": "yes"}, errors.ToolError, "no"),
        ({"error": "ToolError", "message": 3}, errors.ToolError, "The tool failed."),
        ({"error": "Rejected", "message": "no", "path": 3}, errors.Rejected, "no"),
        ({"failed": "ConnectionResetError", "text": "cut"}, ConnectionError, "cut"),
        ({"failed": "KeyError", "text": "'x'"}, KeyError, "'x'"),
        ({"failed": "UnicodeDecodeError", "text": "bad"}, ValueError, "bad"),
        ({"failed": "SystemExit", "text": "3"}, sandbox.RemoteFailure, "3"),
        ({"failed": "KeyboardInterrupt", "text": ""}, sandbox.RemoteFailure, ""),
        ({"failed": "StopIteration", "text": ""}, sandbox.RemoteFailure, ""),
        ({"failed": "not a name\n"}, sandbox.RemoteFailure, ""),
        ({"failed": "ImportError", "text": "numpy", "unloadable": True}, errors.DefinitionError, "cannot be loaded"),
        ({"stopped": True}, errors.ToolError, "stopped"),
        ({"result": "{"}, errors.GuestProtocolError, "no JSON"),
        ({"result": 3}, errors.GuestProtocolError, "no known kind"),
        ({}, errors.GuestProtocolError, "no known kind"),
    ],
)
def test_whatever_a_sandbox_says_becomes_an_error_of_ours(outcome, kind, text):
    with pytest.raises(kind, match=text or None) as raised:
        sandbox._value(outcome, plain)
    assert isinstance(raised.value, Exception)
    assert getattr(raised.value, "retryable", False) is False


@pytest.mark.parametrize("told", [None, [], [1, 2], ["x", None, None], [1, "x", None], [1, 2, 3], [True, None, None]])
def test_progress_that_is_none_is_dropped(told):
    heard = []
    sandbox._report(
        CallContext(call_id="c", tool="t", idempotency_key="k", report=lambda *each: heard.append(each)), told
    )
    assert heard == []


class FakeStream:
    def __init__(self, *items):
        self._items = list(items)

    async def __anext__(self):
        if not self._items:
            raise StopAsyncIteration
        return self._items.pop(0)


def framed(value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


async def test_frames_are_read_however_they_are_cut():
    data = framed({"a": 1}) + framed({"b": "é"})
    frames = _Frames(FakeStream(*(Data(0, data[at : at + 1]) for at in range(len(data)))))
    assert [await frames.read() for _ in range(3)] == [{"a": 1}, {"b": "é"}, None]


async def test_a_frame_that_is_cut_off_is_the_end():
    assert await _Frames(FakeStream(Data(0, framed({"a": 1})[:-1]), Eof())).read() is None


@pytest.mark.parametrize(
    "data", [struct.pack(">I", 2**31), framed(b"{"), framed([1]), framed(b"\xff"), framed(b"[" * 100_000)]
)
async def test_frames_that_cannot_be_are_refused(data):
    with pytest.raises(errors.GuestProtocolError):
        await _Frames(FakeStream(Data(0, data))).read()


@pytest.mark.parametrize(
    "said", [b"", b"{}", b"[1]", b'{"port": 0, "worker": "x"}', b'{"port": true, "worker": "x"}', b"\xff"]
)
def test_a_line_that_is_not_the_workers_is_not_taken_for_it(said):
    assert _read_hello(said + b"\n") is None


def test_names_tell_sessions_apart_and_do_not_show_them():
    marks = {sandbox.session_mark(*each) for each in ((None, "a"), ("a", "a"), ("", "a"), ("a", "b"), ("None", "a"))}
    marks |= {sandbox.life_mark("a"), sandbox.life_mark("b")}
    assert len(marks) == 7
    assert "customer" not in sandbox.session_mark("customer", "customer")


async def test_erasing_a_session_that_never_had_a_sandbox_starts_nothing(tmp_path):
    home = Home(tmp_path / "home", tmp_path / "images")
    assert await sandbox.delete_session_sandboxes("t", "s", home=home) == 0
    assert not (tmp_path / "home").exists()


@pytest.fixture
def worker(tmp_path):
    """The worker as a process of this host: what it does needs no sandbox to be looked at."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", worker_source()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    ) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            while OPEN:
                OPEN.pop().close()
            process.kill()


OPEN: list[Conversation] = []


class Conversation:
    def __init__(self, worker):
        self._worker = worker
        self._socket = socket.create_connection(("127.0.0.1", worker["port"]), timeout=20)
        self._file = self._socket.makefile("rb")
        OPEN.append(self)

    def send(self, frame):
        self._socket.sendall(framed(frame))

    def ask(self, do="call", **fields):
        self.send({"do": do, "worker": self._worker["worker"], **fields})
        return self.read()

    def read(self):
        head = self._file.read(4)
        return json.loads(self._file.read(struct.unpack(">I", head)[0])) if head else None

    def fileno(self):
        return self._socket.fileno()

    def close(self):
        self._file.close()
        self._socket.close()


SHIPPED = {
    "module": "m",
    "function": "f",
    "pieces": [["N", "N = []"], ["f", "def f(x):\n    N.append(x)\n    return {'n': len(N), 'x': x}"]],
}


def run(worker, key, *, shipped=SHIPPED, digest="d", again=False, **arguments):
    talk = Conversation(worker)
    try:
        fields = {"id": key, "digest": digest, "again": again, "arguments": arguments, "context": {}}
        answer = talk.ask(**fields)
        if "need" in answer:
            talk.send(shipped)
            answer = talk.read()
        return answer
    finally:
        talk.close()


def result(answer):
    return json.loads(answer["done"]["result"])


def test_the_same_call_runs_once_and_is_answered_each_time(worker):
    assert result(run(worker, "a", x=1)) == {"n": 1, "x": 1}
    assert result(run(worker, "a", x=1, again=True)) == {"n": 1, "x": 1}
    assert result(run(worker, "b", x=1)) == {"n": 2, "x": 1}


def test_a_call_whose_result_was_dropped_is_not_run_again(worker):
    for number in range(300):
        run(worker, str(number), x=0)
    assert run(worker, "0", x=0, again=True) == {"unknown": True}
    assert result(run(worker, "0", x=0))["n"] == 301


def test_what_has_arrived_is_forgotten_and_does_not_count_as_dropped(worker):
    for number in range(300):
        talk = Conversation(worker)
        fields = {"id": str(number), "digest": "d", "again": False, "arguments": {"x": 0}, "context": {}}
        if "need" in talk.ask(**fields, forget=[str(number - 1)]):
            talk.send(SHIPPED)
            talk.read()
        talk.close()
    assert result(run(worker, "never sent", x=0, again=True))["n"] == 301


def test_a_request_for_another_worker_is_refused(worker):
    assert Conversation({**worker, "worker": "other"}).ask(id="a") == {"stranger": True}


def test_source_that_does_not_load_says_why_and_leaves_nothing(worker):
    broken = {**SHIPPED, "pieces": [["nowhere", "import nowhere_at_all"], *SHIPPED["pieces"]]}
    outcome = run(worker, "a", shipped=broken, x=1)["done"]
    assert outcome["unloadable"] is True
    assert outcome["failed"] == "ModuleNotFoundError"
    assert result(run(worker, "a", x=1))["n"] == 1


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("{1}", [1]),
        ("b'a'", "a"),
        ("(1, 2)", [1, 2]),
        ("__import__('datetime').date(2026, 1, 2)", "2026-01-02"),
        ("__import__('pathlib').Path('/a')", "/a"),
        ("__import__('decimal').Decimal('1.5')", "1.5"),
        ("__import__('http').HTTPStatus.OK", 200),
        ("__import__('uuid').UUID(int=0)", "00000000-0000-0000-0000-000000000000"),
        ("__import__('dataclasses').make_dataclass('D', ['x'])(1)", {"x": 1}),
    ],
)
def test_values_that_json_does_not_know_are_written_plainly(worker, expression, expected):
    shipped = {**SHIPPED, "pieces": [["f", f"def f(x):\n    return {expression}"]]}
    assert result(run(worker, "a", shipped=shipped, x=1)) == expected


@pytest.mark.parametrize("expression", ["[] if N.append(N) else N", "{(1, 2): 3}"])
def test_a_value_that_cannot_be_written_is_a_failure_of_the_tool(worker, expression):
    shipped = {**SHIPPED, "pieces": [["N", "N = []"], ["f", f"def f(x):\n    return {expression}"]]}
    assert run(worker, "a", shipped=shipped, x=1)["done"]["failed"] in ("ValueError", "TypeError")
    assert result(run(worker, "b", digest="e", x=1))["x"] == 1


async def test_a_tool_in_a_sandbox_is_refused_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLBOX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CALLBOX_IMAGES", str(tmp_path / "images"))
    monkeypatch.setattr(sandbox.Sandbox, "open", lambda *_, **__: nothing())
    async with Gate([placed]) as gate:
        (answer,) = await gate.execute([ToolCall("c", "placed", {})])
    assert answer.error.code == "tool_failed"
    assert answer.error.message == "The tool failed with HostUnsuited."


async def nothing():
    await asyncio.sleep(0)
    raise errors.HostUnsuited("There is no kernel here.")


@tool(runs_in="sandbox:python")
def placed() -> int:
    """Placed."""
    return 1


def test_the_first_progress_of_a_call_is_heard(worker):
    shipped = {**SHIPPED, "pieces": [["f", "def f(x):\n    x.report(1)\n    return 1"]]}
    for number in range(50):
        talk = Conversation(worker)
        fields = {"id": str(number), "digest": "d", "again": False, "arguments": {}, "context": {}}
        answer = talk.ask(**fields, context_parameter="x")
        if "need" in answer:
            talk.send(shipped)
            answer = talk.read()
        assert answer == {"progress": [1, None, None]}
        assert result(talk.read()) == 1
        talk.close()


def test_a_call_that_is_stopped_before_it_began_never_runs(worker):
    blocking = {
        **SHIPPED,
        "pieces": [["f", "def f(x):\n    x.report(0)\n    while not x.is_cancelled():\n        pass\n    return 1"]],
    }
    talks = [Conversation(worker) for _ in range(17)]  # one more than run at once
    for number, talk in enumerate(talks):
        fields = {"id": str(number), "digest": "d", "arguments": {}, "context": {}, "context_parameter": "x"}
        talk.send({"do": "call", "worker": worker["worker"], **fields})
        if number == 0:
            assert talk.read() == {"need": True}
            talk.send(blocking)
        if number < 16:
            assert "progress" in talk.read()
    last = select.poll()
    last.register(talks[16].fileno(), select.POLLIN)
    deadline = time.monotonic() + 20
    while not last.poll(50):  # until it has arrived there is nothing to stop
        assert time.monotonic() < deadline
        assert Conversation(worker).ask("stop", id="16") == {"stopped": True}
    assert talks[16].read() == {"done": {"stopped": True}}
    for number in range(16):
        assert Conversation(worker).ask("stop", id=str(number)) == {"stopped": True}
        assert "done" in talks[number].read()
