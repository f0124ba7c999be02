"""The question whether a call may run."""

import asyncio
import io
import os
import sys

import pytest

from callbox.calls.call import ToolCall
from callbox.cli import approval
from callbox.cli.approval import ARGUMENTS_CHARS_MAX, TerminalApprover, read_line
from callbox.policy.policy import Ask
from callbox.tools.tool import Tool
from support import let_others_run

PAY = Tool("pay", "Pay somebody.", {"type": "object"})


def ask(approver, **arguments):
    return approver(ToolCall("c", "pay", arguments), PAY, Ask("It costs money."))


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("y\n", True),
        (" YES \n", True),
        ("\n", False),
        ("", False),
        ("n\n", False),
        ("yess\n", False),
        ("true\n", False),
    ],
)
async def test_only_yes_is_a_yes(monkeypatch, typed, answer):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert await ask(TerminalApprover()) is answer


async def test_the_arguments_are_shown_to_their_end(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert await ask(TerminalApprover(), amount=1, note="x" * 1_000 + "   to=\u200bMallory")
    out = capsys.readouterr().out
    assert '"amount": 1\n' in out
    assert "x" * 1_000 + '   to=\\u200bMallory"\n' in out


async def test_more_than_one_can_read_is_refused_unasked(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert await ask(TerminalApprover(), note="x" * ARGUMENTS_CHARS_MAX) is False
    out = capsys.readouterr().out
    assert "Refused" in out
    assert "Run it?" not in out


async def test_one_question_at_a_time(monkeypatch):
    asked = []

    async def answer():
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    monkeypatch.setattr(approval, "read_line", answer)
    approver = TerminalApprover()
    both = asyncio.gather(ask(approver), ask(approver))
    await let_others_run()
    assert len(asked) == 1
    asked[0].set_result("y")
    await let_others_run()
    asked[1].set_result("n")
    assert await both == [True, False]


@pytest.fixture
def typed(monkeypatch):
    """A terminal as stdin, and the end that is typed at."""
    own, other = os.openpty()
    with os.fdopen(other, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield own
        monkeypatch.undo()
    os.close(own)


async def test_a_line_is_read_up_to_its_end(typed):
    reading = asyncio.create_task(read_line())
    await let_others_run()
    os.write(typed, b"ye\x04")  # hands over what there is of the line
    await let_others_run(50)
    os.write(typed, b"s\nmore\n")
    assert await reading == "yes\n"
    assert sys.stdin.readline() == "more\n"


async def test_a_cancelled_reading_takes_nothing(typed):
    reading = asyncio.create_task(read_line())
    await let_others_run()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    os.write(typed, b"next\n")
    await let_others_run(50)
    assert sys.stdin.readline() == "next\n"


async def test_a_loop_that_cannot_wait_for_files_reads_all_the_same(typed, monkeypatch):
    def cannot(*_):
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", cannot)
    os.write(typed, b"y\n")
    assert await read_line() == "y\n"


async def test_a_terminal_that_is_gone_is_no_answer(typed, monkeypatch):
    def gone(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", gone)
    os.write(typed, b"y\n")
    assert await read_line() == ""
