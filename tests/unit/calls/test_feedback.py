from __future__ import annotations

import copy
import json
import pickle

import pytest

from callbox.calls import feedback
from callbox.calls.call import MISSING, CallError, Problem, ToolCall, ToolResult

PROBLEM = Problem("wrong_type", "/days", "No.", "integer", "3", "Send 3.")


def test_one_problem_stands_at_the_top_and_in_the_list() -> None:
    told = feedback.invalid_arguments([PROBLEM]).as_dict()
    assert told == {
        "error": "invalid_arguments",
        "message": "No.",
        "path": "/days",
        "expected": "integer",
        "received": "3",
        "suggestion": "Send 3.",
        "problems": [
            {
                "code": "wrong_type",
                "path": "/days",
                "message": "No.",
                "expected": "integer",
                "received": "3",
                "suggestion": "Send 3.",
            }
        ],
    }


def test_several_problems_stand_in_the_list_only() -> None:
    told = feedback.invalid_arguments([PROBLEM, PROBLEM]).as_dict()
    assert set(told) == {"error", "message", "problems"}
    assert "2 problems" in told["message"]
    assert "7 problems; 2 are listed" in feedback.invalid_arguments([PROBLEM, PROBLEM], 5).message
    assert "path" not in feedback.invalid_arguments([PROBLEM], 5).as_dict()


def test_an_unknown_tool_lists_a_bounded_number_of_names() -> None:
    error = feedback.unknown_tool("x" * 10_000, [f"tool_{n}" for n in range(1_000)])
    assert len(error.render()) < 2_000
    assert "and 950 more" in str(error.expected)
    assert error.suggestion is None


def test_without_tools_the_model_is_told_to_do_without() -> None:
    error = feedback.unknown_tool("f", ())
    assert error.suggestion is not None
    assert error.expected is None


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (feedback.malformed_json("No."), "malformed_json", False),
        (feedback.unknown_tool(None, ["f"]), "unknown_tool", False),
        (feedback.rejected_by_check("No.", "/a", suggestion="Do."), "rejected_by_check", False),
        (feedback.denied("No."), "denied", False),
        (feedback.denied(""), "denied", False),
        (feedback.approval_required(""), "approval_required", False),
        (feedback.approval_refused(), "approval_refused", False),
        (feedback.approval_refused("Not today."), "approval_refused", False),
        (feedback.rate_limited("3 calls a minute"), "rate_limited", True),
        (feedback.rate_limited("3 calls a minute", 2.5), "rate_limited", True),
        (feedback.budget_exhausted("the 3 calls of this run"), "budget_exhausted", False),
        (feedback.timeout(2.5), "timeout", False),
        (feedback.timeout(2.5, may_have_run=False), "timeout", True),
        (feedback.cancelled(), "cancelled", False),
        (feedback.tool_failed("No.", suggestion="Do.", retryable=True), "tool_failed", True),
        (feedback.outcome_unknown("pay"), "outcome_unknown", False),
        (feedback.sandbox_lost(), "sandbox_lost", True),
    ],
)
def test_every_error_is_short_json_with_its_code(error: CallError, code: str, retryable: bool) -> None:
    told = json.loads(error.render())
    assert told["error"] == code
    assert told["message"].endswith(".")
    assert error.retryable is retryable
    assert len(error.render()) < 300


def test_details_are_said() -> None:
    assert "2.5 seconds" in str(feedback.rate_limited("3 calls", 2.5).suggestion)
    assert "2.5 seconds" in feedback.timeout(2.5).message
    assert feedback.timeout(1, may_have_run=False).suggestion is None
    assert feedback.approval_refused("Not today.").message == "Not today."
    assert "pay" in feedback.outcome_unknown("pay").message


def test_an_error_is_sent_as_ascii_json() -> None:
    error = feedback.tool_failed("caf\u00e9 \ud800")
    assert error.render().isascii()
    result = ToolResult.failed(ToolCall("1", "f"), error)
    assert result.is_error
    assert result.content == error.render()


def test_what_is_missing_stays_missing_in_a_copy() -> None:
    error = feedback.invalid_arguments([Problem("missing_required", "/a", "No.")])
    for same in (copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert same.received is MISSING
        assert same.render() == error.render()
    assert repr(MISSING) == "MISSING"
