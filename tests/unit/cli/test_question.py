"""`callbox demo question` as a person meets it, with a scripted model; test_local_model.py has the real one."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner, Result

import callbox.agents.agent
from callbox.cli.main import app
from callbox.errors import ConfigurationError, ProviderUnavailable
from callbox.messages import Message, Reply
from callbox.providers.scripted import Scripted

ORDER = {"call": "get_order", "arguments": {"order_id": "A-1042"}}
PARCEL = {"call": "track_parcel", "arguments": {"parcel": "TRK-58"}}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(key, raising=False)


def show(monkeypatch: pytest.MonkeyPatch, script: list[Any], *arguments: str) -> Result:
    monkeypatch.setattr(callbox.agents.agent, "find_provider", lambda spec: Scripted(script))
    return CliRunner().invoke(app, ["demo", "question", *arguments])


def test_question_calls_results_answer_and_costs_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    result = show(monkeypatch, [ORDER, PARCEL, "It is a blue kettle, and it arrives on Friday."])
    assert result.exit_code == 0
    lines = [line.strip() for line in result.output.splitlines()]
    assert lines[0].startswith("Question  What is in order A-1042")
    assert "SmolLM2-135M" in result.output
    assert any(line.startswith('→ get_order(order_id="A-1042")') for line in lines)
    assert any('"parcel": "TRK-58"' in line for line in lines)
    assert any(line.startswith('→ track_parcel(parcel="TRK-58")') for line in lines)
    assert "Answer    It is a blue kettle, and it arrives on Friday." in lines
    assert "2 calls in 3 turns" in result.output
    assert "--model" not in result.output


def test_made_up_ids_are_answered_with_the_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [
        {"call": "get_order", "arguments": {"order_id": "A-1"}},
        {"call": "track_parcel", "arguments": {"parcel": "TRK-1"}},
    ]
    result = show(monkeypatch, [wrong, "I do not know."])
    assert "There is no order A-1" in result.output
    assert "There is no parcel TRK-1" in result.output


def test_another_model_is_offered_to_who_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    offered = show(monkeypatch, ["Hello"])
    assert "callbox demo question --model anthropic:MODEL" in offered.output
    assert "secret" not in offered.output
    used = show(monkeypatch, ["Hello"], "--model", "openai:some-model")
    assert "Model     openai:some-model" in used.output
    assert "You have a key" not in used.output


def test_what_is_missing_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ConfigurationError("The weights are not installed.", hint="pip install them")
    result = show(monkeypatch, [missing])
    assert result.exit_code == 2
    assert "pip install them" in result.output


def test_a_failed_model_and_an_unfinished_answer_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(monkeypatch, [ProviderUnavailable("down")]).exit_code == 1
    cut = show(monkeypatch, [Reply(Message.assistant("It is"), "length")])
    assert cut.exit_code == 1
    assert "[length]" in cut.output


def test_ctrl_c_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(spec: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(callbox.agents.agent, "find_provider", interrupt)
    result = CliRunner().invoke(app, ["demo", "question"])
    assert result.exit_code == 130
    assert "cancelled" in result.output
