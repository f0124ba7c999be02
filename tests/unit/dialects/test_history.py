"""Calls and results as text in a history, and back."""

from __future__ import annotations

from typing import Any

import pytest

from callbox.calls.call import CallError, Problem, ToolCall
from callbox.dialects.history import (
    arguments_text,
    encodable,
    parsed_call,
    recognised_error,
    written_arguments,
    written_id,
    written_name,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [('{"a": 1}', '{"a": 1}'), (None, ""), ({"a": "é"}, '{"a": "é"}'), ([1], "[1]"), (object(), "<object>")],
)
def test_arguments_are_kept_as_text_whatever_a_server_sends(value: Any, text: str) -> None:
    assert arguments_text(value) == text


def test_arguments_that_contain_themselves_are_named() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    assert arguments_text(loop) == "<dict>"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (ToolCall("a", "f", {"x": 1}, raw='{ "x":1 }'), '{ "x":1 }'),
        (ToolCall("a", "f", {"x": 1}), '{"x": 1}'),
        (ToolCall("a", "f", '{"x": '), '{"x": '),
        (ToolCall("a", "f", {}, raw=""), "{}"),
        (ToolCall("a", "f", "  "), "{}"),
        (ToolCall("a", "f", ""), "{}"),
        (ToolCall("a", "f", {"x": "\ud800"}), '{"x": "\\ud800"}'),
    ],
)
def test_arguments_go_back_as_the_model_wrote_them(call: ToolCall, text: str) -> None:
    assert written_arguments(call) == text


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1', '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1} {}'])
def test_arguments_that_are_not_one_object_stay_text(text: str) -> None:
    call = ToolCall("a", "f", text)
    assert parsed_call(call) is call


def test_arguments_that_are_one_object_are_read_and_kept_as_they_were() -> None:
    found = parsed_call(ToolCall("a", "f", '{ "x":1 }', vendor={"openai": {"k": 1}}))
    assert (found.arguments, found.raw, found.vendor) == ({"x": 1}, '{ "x":1 }', {"openai": {"k": 1}})
    assert parsed_call(found) is found


def test_names_and_ids_become_what_vendors_take() -> None:
    assert written_name("get_order") == "get_order"
    assert written_name("functions.get order") == "functions_get_order"
    assert written_id("call_1", 40) == "call_1"
    long = written_id("x" * 41, 40)
    assert len(long) <= 40
    assert long == written_id("x" * 41, 40) != written_id("y" * 41, 40)


def test_text_without_surrogates_is_not_touched() -> None:
    text = "é" * 10
    assert encodable(text) == text
    assert encodable("a\udfffb") == "a\\udfffb"


@pytest.mark.parametrize(
    "error",
    [
        CallError("timeout", "It took too long."),
        CallError("unknown_tool", "No such tool.", suggestion="Use get_order."),
        CallError("invalid_arguments", "Wrong.", path="/a", expected="a number", received=None),
        CallError(
            "invalid_arguments",
            "Two problems.",
            problems=(
                Problem("missing_required", "/a", "Missing."),
                Problem("wrong_type", "/b", "Wrong.", expected="a number", received="é", suggestion="Send 5."),
            ),
        ),
    ],
)
def test_our_own_errors_are_known_again(error: CallError) -> None:
    assert recognised_error(error.render()) == error


@pytest.mark.parametrize(
    "content",
    [
        "fine",
        '{"error": "timeout"',
        '{"error": "timeout"}',
        '{"error": "not_found", "message": "No such order."}',
        '{"error": "timeout", "message": 5}',
        '{"error": "timeout", "message": "It took too long.", "more": 1}',
        '{"error": "timeout", "message": "It took too long.", "path": 5}',
        '{"error": "' + "[" * 100_000,
        '{"error": "x", "y": ' + "[" * 100_000,
    ],
)
def test_what_only_looks_like_our_error_is_a_tools_own_answer(content: str) -> None:
    assert recognised_error(content) is None
