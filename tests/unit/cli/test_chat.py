"""`callbox chat` as a person meets it."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import callbox.agents.agent
from callbox.cli.main import app
from callbox.errors import ConfigurationError, ProviderUnavailable
from callbox.messages import Message, Reply
from callbox.providers.scripted import Scripted

TOOLS = '''
import asyncio
from callbox import CallContext, tool

@tool(effect="read")
async def get_order(order_id: str, context: CallContext) -> dict:
    """Look up one order."""
    context.report(1, 2, "half way")
    return {"order_id": order_id, "state": "\\x1b[31mshipped"}

@tool(effect="write", approval="always")
async def refund(order_id: str) -> str:
    """Refund one order."""
    return f"refunded {order_id}"

@tool(effect="read", approval="always")
async def open_letter(sender: str) -> str:
    """Open a letter."""
    return f"opened {sender}'s"

@tool(effect="read")
async def wait() -> str:
    """Wait for ever."""
    await asyncio.Event().wait()
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "shop_tools.py").write_text(TOOLS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("shop_tools", None)


@pytest.fixture
def say(monkeypatch, project):
    def run(script, *arguments, typed=""):
        model = Scripted(script)
        monkeypatch.setattr(callbox.agents.agent, "find_provider", lambda spec: model)
        result = CliRunner().invoke(app, ["chat", "--tools", "shop_tools", *arguments], input=typed)
        return result, model

    return run


ORDER = {"call": "get_order", "arguments": {"order_id": "A-1"}}


def test_one_question_is_answered_with_its_calls_shown(say):
    result, _ = say([["Let me look. ", ORDER], "Shipped."], "Where is A-1?")
    assert result.exit_code == 0
    for line in ("Let me look.", '→ get_order(order_id="A-1")', "half way", "Shipped.", "1 calls"):
        assert line in result.output


def test_what_tools_say_cannot_drive_the_terminal(say):
    result, _ = say([ORDER, "\x1b]52;c;aGk=\x07done\u202e"], "?")
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output
    assert "done" in result.output


def test_a_conversation_goes_on_line_by_line(say):
    result, model = say(["One.", "Two."], typed="first\n\nsecond\n")
    assert result.exit_code == 0
    assert "One." in result.output
    assert "Two." in result.output
    assert [message.text for message in model.requests[1].messages] == ["first", "One.", "second"]


@pytest.mark.parametrize(("typed", "content"), [("y\n", "refunded A-1"), ("n\n", "approval_refused")])
def test_a_sensitive_call_is_put_to_the_person(say, typed, content):
    result, _ = say([{"call": "refund", "arguments": {"order_id": "A-1"}}, "Done."], "Refund it.", typed=typed)
    assert "Run it?" in result.output
    assert content in result.output


def test_a_run_that_ends_otherwise_says_so(say):
    refusal = Reply(Message("assistant", ()), "refusal", refusal="I will not.")
    result, _ = say([refusal], "?")
    assert result.exit_code == 1
    assert "[refusal] I will not." in result.output


def test_a_provider_that_fails_is_named_and_the_conversation_goes_on(say):
    result, _ = say([ProviderUnavailable("The model is down."), "Back."], typed="one\ntwo\n")
    assert "provider_unavailable: The model is down." in result.output
    assert "Back." in result.output
    assert result.exit_code == 0


NO_KEY = ConfigurationError("No API key for Vendor.", hint="Set VENDOR_KEY.")


def test_a_missing_key_is_one_line_and_a_wrong_configuration(say):
    result, _ = say([NO_KEY], "?")
    assert "configuration_error: No API key for Vendor. Set VENDOR_KEY." in result.output
    assert "Traceback" not in result.output
    assert result.exit_code == 2


def test_a_missing_key_does_not_end_a_conversation(say):
    result, _ = say([NO_KEY, "Back."], typed="one\ntwo\n")
    assert "No API key" in result.output
    assert "Back." in result.output
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tools", "no_such_module"], "no_such_module"), (["--model", "nobody:x"], "nobody")],
)
def test_what_cannot_work_is_said_before_anything_starts(project, arguments, message):
    result = CliRunner().invoke(app, ["chat", "?", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_tools_that_are_wrong_are_refused(project):
    (project / "bad.json").write_text('[{"name": "f", "description": "", "parameters": {"type": "object"}}]')
    result = CliRunner().invoke(app, ["chat", "?", "--tools", "bad.json"])
    assert result.exit_code == 2


def test_a_module_that_cannot_be_imported_is_said_in_a_line(project):
    (project / "broken_tools.py").write_text("import a_module_that_is_missing")
    result = CliRunner().invoke(app, ["chat", "?", "-t", "broken_tools"])
    assert result.exit_code == 2
    assert "ModuleNotFoundError: No module named 'a_module_that_is_missing'" in " ".join(result.output.split())


DRIVER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
import callbox.agents.agent
from callbox.providers.scripted import Scripted
model = Scripted(json.loads(sys.argv[1]))
callbox.agents.agent.find_provider = lambda spec: model
from callbox.cli.main import app
app(["chat", "--tools", "shop_tools"])
"""


class Terminal:
    """A real terminal with the command in it."""

    def __init__(self, folder, script):
        self.own, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, json.dumps(script)],
            stdin=other,
            stdout=other,
            stderr=other,
            cwd=folder,
            env={**os.environ, "TERM": "dumb", "NO_COLOR": "1"},
            start_new_session=True,
        )
        os.close(other)
        self.seen = ""

    def type(self, text):
        os.write(self.own, text.encode())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def wait_for(self, text, times=1):
        deadline = time.monotonic() + 60
        while self.seen.count(text) < times:
            assert time.monotonic() < deadline, self.seen
            assert self.process.poll() is None, self.seen
            if select.select([self.own], [], [], 0.1)[0]:
                self.seen += os.read(self.own, 4096).decode(errors="replace")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.own)


@pytest.fixture
def terminal(project):
    opened = []

    def start(*script):
        opened.append(Terminal(project, script))
        opened[-1].wait_for("> ")
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_ctrl_c_cancels_the_answer_and_leaves_the_conversation_usable(terminal):
    chat = terminal({"call": "wait", "arguments": {}}, "Still here.")
    chat.type("go\n")
    chat.wait_for("wait()")
    chat.interrupt()
    chat.wait_for("cancelled")
    chat.type("and now?\n")
    chat.wait_for("Still here.")
    chat.type("\x04")
    assert chat.process.wait(30) == 0


def test_ctrl_c_at_the_approval_prompt_reads_nothing_more(terminal):
    chat = terminal({"call": "refund", "arguments": {"order_id": "A-1"}}, "Still here.")
    chat.type("go\n")
    chat.wait_for("Run it?")
    chat.interrupt()
    chat.wait_for("cancelled")
    chat.type("yes, and now?\n")
    chat.wait_for("Still here.")
    assert "refunded" not in chat.seen
    chat.type("\x04")
    assert chat.process.wait(30) == 0


def test_calls_side_by_side_are_asked_about_one_after_the_other(terminal):
    letters = [{"call": "open_letter", "arguments": {"sender": name}} for name in ("Ann", "Bob")]
    chat = terminal(letters, "Done.")
    chat.type("go\n")
    chat.wait_for("Run it?")
    assert "Ann" in chat.seen
    assert "Bob" not in chat.seen
    chat.type("y\n")
    chat.wait_for("Run it?", times=2)
    chat.type("n\n")
    chat.wait_for("Done.")
    assert chat.seen.count("opened ") == 1
    assert chat.seen.count("approval_refused") == 1


def test_what_was_typed_before_the_question_is_no_answer_to_it(terminal):
    letters = [{"call": "open_letter", "arguments": {"sender": name}} for name in ("Ann", "Bob")]
    chat = terminal(letters, "Done.")
    chat.type("go\n")
    chat.wait_for("Run it?")
    chat.type("y\ny\n")
    chat.wait_for("Run it?", times=2)
    chat.type("\x04")
    chat.wait_for("Done.")
    assert chat.seen.count("opened ") == 1
