"""Which calls count as right: the rules that the accuracy benchmark is scored by."""

from __future__ import annotations

from typing import Any

import pytest

from datasets import bfcl

ANSWER = bfcl.Answer(
    "trip.book",
    {
        "to": ["New York, NY", "NYC"],
        "seats": [2],
        "price": [99.5, ""],
        "window": [True, ""],
        "meals": [["soup", "Fish"], ""],
        "payer": [{"name": ["Ann"], "age": [30, ""]}, ""],
        "bags": [[{"kg": [10]}, {"kg": [20, 21]}], ""],
        "extras": [],
    },
)
RIGHT: dict[str, Any] = {"to": "NYC", "seats": 2, "extras": []}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"to": "new york ny"},
        {"seats": 2.0},
        {"price": 99.5, "window": True},
        {"meals": ["SOUP", "fish"]},
        {"payer": {"name": "ann"}},
        {"payer": {"name": "Ann", "age": 30}},
        {"bags": [{"kg": 10}, {"kg": 21}]},
    ],
)
def test_these_are_right(more: dict[str, Any]) -> None:
    assert bfcl.is_right("trip.book", {**RIGHT, **more}, ANSWER)
    assert bfcl.is_right("trip_book", {**RIGHT, **more}, ANSWER)


@pytest.mark.parametrize(
    "more",
    [
        {"to": "Newark"},
        {"seats": 3},
        {"seats": True},
        {"seats": "2"},
        {"window": 1},
        {"unknown": 1},
        {"meals": ["soup"]},
        {"meals": ["fish", "soup"]},
        {"payer": {"age": 30}},
        {"payer": {"name": "Ann", "age": 31}},
        {"payer": {"name": "Ann", "size": 5}},
        {"bags": [{"kg": 10}]},
        {"bags": [{"kg": 20}, {"kg": 10}]},
        {"bags": {"kg": 10}},
        {"extras": ["towel"]},
        {"to": None},
    ],
)
def test_these_are_wrong(more: dict[str, Any]) -> None:
    assert not bfcl.is_right("trip.book", {**RIGHT, **more}, ANSWER)


@pytest.mark.parametrize("missing", ["to", "seats", "extras"])
def test_what_may_not_be_left_out_is_missed(missing: str) -> None:
    arguments = {name: value for name, value in RIGHT.items() if name != missing}
    assert not bfcl.is_right("trip.book", arguments, ANSWER)


def test_another_function_is_wrong() -> None:
    assert not bfcl.is_right("trip.cancel", RIGHT, ANSWER)


def question(*answers: bfcl.Answer, category: str = "parallel") -> bfcl.Question:
    return bfcl.Question("q", category, (), (), answers or None)


def test_parallel_calls_count_in_any_order() -> None:
    both = question(bfcl.Answer("f", {"x": [1]}), bfcl.Answer("f", {"x": [2]}))
    assert bfcl.all_right([("f", {"x": 2}), ("f", {"x": 1})], both)
    assert not bfcl.all_right([("f", {"x": 1}), ("f", {"x": 1})], both)
    assert not bfcl.all_right([("f", {"x": 1})], both)
    assert not bfcl.all_right([("f", {"x": 1}), ("f", {"x": 2}), ("f", {"x": 2})], both)


def test_a_call_that_fits_two_answers_is_given_to_the_one_that_needs_it() -> None:
    loose, tight = bfcl.Answer("f", {"x": [1, 2]}), bfcl.Answer("f", {"x": [1]})
    assert bfcl.all_right([("f", {"x": 1}), ("f", {"x": 2})], question(loose, tight))


def test_without_a_ground_truth_it_counts_whether_anything_is_called() -> None:
    call = ("f", {})
    assert bfcl.all_right([], question(category="irrelevance"))
    assert not bfcl.all_right([call], question(category="live_irrelevance"))
    assert bfcl.all_right([call], question(category="live_relevance"))
    assert not bfcl.all_right([], question(category="live_relevance"))
