from __future__ import annotations

import json
from typing import Any

import pytest

from callbox.calls.streaming import CallAssembler, CompletionScanner

# (key, id, name, text) as dialects hand them over
Piece = tuple[Any, str | None, str | None, str]


def assembled(*pieces: Piece) -> list[tuple[str, str, str]]:
    assembler = CallAssembler()
    for key, call_id, name, text in pieces:
        call = assembler.locate(key, call_id, name)
        if text:
            call.fragments.append(text)
            call.scanner.feed(text)
    assert [call.index for call in assembler.calls] == list(range(len(assembler.calls)))
    return [(call.id, call.name, call.text) for call in assembler.calls]


def test_pieces_of_one_call_are_joined_by_their_index() -> None:
    assert assembled((0, "a", "f", ""), (0, None, None, '{"x"'), (0, None, None, ":1}")) == [("a", "f", '{"x":1}')]


def test_parallel_calls_may_be_interleaved() -> None:
    assert assembled(
        (0, "a", "f", ""),
        (1, "b", "g", ""),
        (1, None, None, "{"),
        (0, None, None, "{"),
        (1, None, None, "}"),
        (0, None, None, "}"),
    ) == [("a", "f", "{}"), ("b", "g", "{}")]


def test_indexes_may_come_in_any_order_and_skip() -> None:
    assert assembled((7, "a", "f", "{}"), (2, "b", "g", "{}")) == [("a", "f", "{}"), ("b", "g", "{}")]


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    assert assembled((0, "a", "f", '{"x":'), (0, "b", "g", '{"y":'), (0, "a", None, "1}"), (0, "b", None, "2}")) == [
        ("a", "f", '{"x":1}'),
        ("b", "g", '{"y":2}'),
    ]


def test_without_indexes_pieces_belong_to_the_call_begun_last() -> None:
    assert assembled(
        (None, "a", "f", "{"), (None, None, None, "}"), (None, "b", "g", "{"), (None, None, None, "}")
    ) == [
        ("a", "f", "{}"),
        ("b", "g", "{}"),
    ]


def test_without_indexes_ids_tell_interleaved_calls_apart() -> None:
    assert assembled((None, "a", "f", "{"), (None, "b", "g", "{"), (None, "a", None, "}"), (None, "b", None, "}")) == [
        ("a", "f", "{}"),
        ("b", "g", "{}"),
    ]


def test_an_id_and_a_name_that_are_repeated_with_every_piece_change_nothing() -> None:
    assert assembled((0, "a", "f", "{"), (0, "a", "f", "}"), (0, "a", "f", "")) == [("a", "f", "{}")]
    assert assembled((None, "a", "f", "{"), (None, "a", "f", "}")) == [("a", "f", "{}")]


def test_an_id_may_come_late() -> None:
    assert assembled((0, None, "f", "{"), (0, "a", None, "}")) == [("a", "f", "{}")]
    assert assembled((None, None, "f", "{"), (None, "a", None, "}")) == [("a", "f", "{}")]


def test_an_id_that_comes_after_a_closed_call_begins_another() -> None:
    assert assembled((None, None, "f", "{}"), (None, "b", None, "{}")) == [("", "f", "{}"), ("b", "", "{}")]


def test_an_index_may_come_late() -> None:
    assert assembled((None, "a", "f", "{"), (0, "a", None, "}"), (0, None, None, " ")) == [("a", "f", "{} ")]


def test_an_index_that_changes_with_every_piece_does_not_tear_a_call_apart() -> None:
    assert assembled((0, "a", "f", "{"), (1, "a", None, '"x":1'), (2, "a", None, "}")) == [("a", "f", '{"x":1}')]


def test_a_server_that_makes_up_an_id_for_every_piece_is_read_by_index() -> None:
    assert assembled((0, "a", "f", "{"), (0, "b", None, '"x"'), (0, "c", None, ":1}"), (1, "d", "g", "{}")) == [
        ("a", "f", '{"x":1}'),
        ("d", "g", "{}"),
    ]


def test_a_new_id_after_a_closed_call_is_a_new_call_even_without_a_name() -> None:
    assert assembled((0, "a", "f", "{}"), (0, "b", None, "{}")) == [("a", "f", "{}"), ("b", "", "{}")]


def test_a_server_that_gives_all_calls_one_id_is_read_by_index() -> None:
    assert assembled((0, "call", "f", "{"), (1, "call", "g", "{"), (0, "call", None, "}"), (1, "call", None, "}")) == [
        ("call", "f", "{}"),
        ("call", "g", "{}"),
    ]


def test_a_late_id_that_another_call_has_stays_with_its_index() -> None:
    assert assembled((0, "call", "f", "{"), (1, None, "g", "{"), (1, "call", None, "}"), (0, None, None, "}")) == [
        ("call", "f", "{}"),
        ("call", "g", "{}"),
    ]


def test_another_name_after_a_closed_call_begins_another() -> None:
    assert assembled((0, None, "f", "{}"), (0, None, "g", "{}")) == [("", "f", "{}"), ("", "g", "{}")]
    assert assembled((None, None, "f", "{}"), (None, None, "g", "{}")) == [("", "f", "{}"), ("", "g", "{}")]
    assert assembled((None, "a", "f", "{}"), (None, "a", "g", "{}")) == [("a", "f", "{}"), ("a", "g", "{}")]


def test_a_name_may_come_late() -> None:
    assert assembled((0, "a", None, "{"), (0, None, "f", "}")) == [("a", "f", "{}")]


def test_a_name_may_come_in_pieces_or_longer_each_time_before_the_arguments() -> None:
    assert assembled((0, "a", "get_", ""), (0, None, "weather", ""), (0, None, None, "{}")) == [
        ("a", "get_weather", "{}")
    ]
    assert assembled((0, "a", "get_", ""), (0, None, "get_weather", "{}")) == [("a", "get_weather", "{}")]


def test_a_name_stays_once_the_arguments_have_begun() -> None:
    assert assembled((0, "a", "f", "{"), (0, None, "g", "}")) == [("a", "f", "{}")]


def test_text_for_no_call_begins_a_call_without_a_name() -> None:
    assert assembled((None, None, None, "{}")) == [("", "", "{}")]
    assert assembled((3, None, None, "{"), (3, None, None, "}")) == [("", "", "{}")]


def test_an_open_call_is_a_call_whose_arguments_are_text() -> None:
    assembler = CallAssembler()
    call = assembler.locate(0, "a", "f")
    call.fragments.append('{"x":')
    made = call.as_call()
    assert (made.id, made.name, made.arguments) == ("a", "f", '{"x":')


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", False),
        ("  ", False),
        ("{}", True),
        (" {} \n", True),
        ("[]", True),
        ('{"a": "}"}', True),
        ('{"a": "\\"}', False),
        ('{"a": "\\\\"}', True),
        ('{"a": {"b": [1, 2]}}', True),
        ('{"a": {"b": [1, 2]}', False),
        ("{}}", False),
        ("{} {}", False),
        ("{}[", False),
        ("{} x", False),
        ("x {}", False),
        ("{]", False),
        ("[}", False),
        ("{]}", False),
        ('"{}"', False),
        ("]", False),
    ],
)
def test_a_value_is_complete_when_its_brackets_are_closed_and_nothing_else_is_there(text: str, complete: bool) -> None:
    whole = CompletionScanner()
    assert whole.feed(text) is complete
    single = CompletionScanner()
    for character in text:
        single.feed(character)
    assert single.complete is complete


def test_complete_is_said_at_the_last_bracket_and_not_before() -> None:
    scanner = CompletionScanner()
    text = json.dumps({"a": ["}", {"b": '\\"'}], "c": "]"})
    assert [scanner.feed(character) for character in text] == [False] * (len(text) - 1) + [True]


def test_depth_needs_no_recursion() -> None:
    scanner = CompletionScanner()
    assert scanner.feed("[" * 100_000) is False
    assert scanner.feed("]" * 99_999) is False
    assert scanner.feed("]") is True
