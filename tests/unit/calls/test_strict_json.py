from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from callbox.calls.strict_json import StrictJsonError, integral_floats_read, parse
from callbox.limits import DEFAULT_LIMITS


def refused(text: str, **limits: int) -> StrictJsonError:
    with pytest.raises(StrictJsonError) as caught:
        parse(text, replace(DEFAULT_LIMITS, **limits))
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        ' \t\r\n{"a": 1} \n',
        '{"a": [1, -2.5, 1e3, true, false, null, "x"], "b": {"c": []}}',
        '"\\u00e9\\n\\ud83d\\ude00"',
        '"\\\\ud800 \\\\u0000"',
        "12345678901234567890123456789",
        "-0.0",
        "0",
        "[]",
        '"é😀"',
        '{"a": "[[[[{{{{,,,,"}',
    ],
)
def test_json_is_read_as_python_reads_it(text: str) -> None:
    assert parse(text, DEFAULT_LIMITS) == json.loads(text)


def test_whole_numbers_of_any_size_are_exact() -> None:
    assert parse("[9007199254740993, -1]", DEFAULT_LIMITS) == [2**53 + 1, -1]


@pytest.mark.parametrize(
    ("text", "kind", "position"),
    [
        ("", "empty", None),
        (" \n\t", "empty", None),
        ('{"a": 1, "a": 2}', "duplicate_key", None),
        ('{"b": {"a": 1, "a": 1}}', "duplicate_key", None),
        ('{"a": NaN}', "number", 6),
        ('{"a": Infinity}', "number", 6),
        ('{"a": -Infinity}', "number", 6),
        ('{"1e400": 1e400}', "number", 10),
        ('{"a": -1e400}', "number", 6),
        ('{"a": 1e-400}', "number", 6),
        ('"\\ud800"', "surrogate", 1),
        ('"\\udc00"', "surrogate", 1),
        ('"\\ud800\\ud800\\udc00"', "surrogate", 1),
        ('"\\ud800\\\\udc00"', "surrogate", 1),
        ('"\\ud800\\u0041"', "surrogate", 1),
        ('"\ud800"', "surrogate", 1),
        ('{"\udfff": 1}', "surrogate", 2),
        ('{"a": "\\u0000"}', "nul", 7),
        ('{"a": 1} {"a": 1}', "two_values", 9),
        ("{}[]", "two_values", 2),
        ("{} and more", "trailing_text", 3),
        ("1}", "trailing_text", 1),
        ('{"a": 1', "truncated", 7),
        ('{"a": ', "truncated", 6),
        ('{"a', "truncated", 3),
        ('{"a": "b\\', "truncated", 9),
        ('{"a": "\\u12', "truncated", 11),
        ('{"a": tr', "truncated", 8),
        ("[-", "truncated", 2),
        ("[1,", "truncated", 3),
        ("\ufeff{}", "syntax", 0),
        ("{'a': 1}", "syntax", 1),
        ('{"a": True}', "syntax", 6),
        ('{"a": 1,}', "syntax", 8),
        ("[1,]", "syntax", 3),
        ('{"a": "x\ny"}', "syntax", 8),
        ('{"a": "\0"}', "syntax", 7),
        ('{"a": "\\x"}', "syntax", None),
        ('{"a": "\\u12"}', "syntax", None),
        ('{"a" 1}', "syntax", 5),
        ('{"a": 01}', "syntax", 7),
        ('{"a": +1}', "syntax", 6),
        ('{"a": .5}', "syntax", 6),
        ("{} // done", "trailing_text", 3),
        ("\u00a0{}", "syntax", 0),
        ("get_weather(city='P')", "syntax", 0),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(text: str, kind: str, position: int | None) -> None:
    error = refused(text)
    assert error.kind == kind
    assert error.suggestion
    assert position is None or error.position == position


def test_the_message_says_where_and_shows_a_little_of_it() -> None:
    error = refused('{\n  "city": "Paris",\n  "days": tomorrow\n}')
    assert "line 3, column 11" in error.message
    assert "tomorrow" in error.message


def test_the_message_never_shows_much_of_the_text() -> None:
    for text in ("x" * 100_000, '{"' + "k" * 5_000 + '": 1, "' + "k" * 5_000 + '": 2}', "9" * 5_000):
        assert len(refused(text).message) < 200


def test_the_message_can_always_be_encoded() -> None:
    for text in ('"\ud800"', '{"\ud800": 1, "\ud800": 2}', '{"a": \udfff'):
        refused(text).message.encode()


def test_hints_name_the_common_mistakes() -> None:
    assert "double quotes" in str(refused("{'a': 1}").suggestion)
    assert "true" in str(refused('{"a": True}').suggestion)
    assert "null" in str(refused('{"a": None}').suggestion)
    assert "comma" in str(refused('{"a": 1,}').suggestion)
    assert "comma" in str(refused("[1,]").suggestion)
    assert "\\n" in str(refused('{"a": "x\ny"}').suggestion)
    assert "backslash" in str(refused('{"a": "\\d+"}').suggestion)
    assert "one call for each" in str(refused("{}{}").suggestion)


def test_a_number_of_too_many_digits_is_refused_before_it_is_converted() -> None:
    limit = DEFAULT_LIMITS.number_digits_max
    assert parse("-" + "9" * limit, DEFAULT_LIMITS) == -(10**limit) + 1
    assert refused("9" * (limit + 1)).kind == "number"
    assert refused("0." + "1" * limit).kind == "number"
    # A conversion of ten million digits would take minutes.
    assert refused("9" * 10_000_000, arguments_bytes_max=20_000_000).kind == "number"


def test_pythons_own_limit_on_digits_is_a_refusal_too() -> None:
    digits = sys.get_int_max_str_digits() + 1
    assert refused("9" * digits, number_digits_max=1_000_000).kind == "number"


def test_depth_is_exact_and_needs_no_recursion() -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    limit = DEFAULT_LIMITS.arguments_depth_max
    assert parse(nested(limit), DEFAULT_LIMITS) is not None
    assert parse("[" * (limit - 1) + "{}" + "]" * (limit - 1), DEFAULT_LIMITS) is not None
    assert refused(nested(limit + 1)).kind == "too_deep"
    assert refused("[" * limit + "{ }" + "]" * limit).kind == "too_deep"
    assert refused('{"a":' * 100_000).kind == "too_deep"
    assert refused("[" * 100_000, arguments_depth_max=1_000_000).kind == "too_deep"


def test_brackets_in_strings_are_no_depth() -> None:
    text = json.dumps({"a": "[{" * 1_000, "b": '"\\"[[[['})
    assert parse(text, DEFAULT_LIMITS) == json.loads(text)


def test_the_number_of_values_is_exact() -> None:
    assert parse("[1, 2, {}]", replace(DEFAULT_LIMITS, arguments_values_max=3)) == [1, 2, {}]
    assert parse(json.dumps({"a": [1, 2], "b": ", , , , ,"}), replace(DEFAULT_LIMITS, arguments_values_max=4))
    assert refused("[" + "1, " * 150 + "1]", arguments_values_max=150).kind == "too_many_values"
    many = "{" + ",".join(f'"{key}":1' for key in range(500_000)) + "}"
    assert refused(many, arguments_bytes_max=100_000_000).kind == "too_many_values"


@pytest.mark.parametrize(("text", "fits"), [("x" * 8, True), ("x" * 9, False), ("é" * 4, True), ("é" * 5, False)])
def test_size_is_counted_in_utf8_bytes(text: str, fits: bool) -> None:
    limits = replace(DEFAULT_LIMITS, arguments_bytes_max=10)
    if fits:
        assert parse(f'"{text}"', limits) == text
    else:
        assert refused(f'"{text}"', arguments_bytes_max=10).kind == "too_large"


def test_ten_megabytes_are_refused_by_their_size_alone() -> None:
    assert refused('{"a": "' + "x" * 10_000_000 + '"}').kind == "too_large"


@pytest.mark.parametrize("text", ['"' + '\\"' * 400_000, "[" * 200_000, '{"a":"' * 100_000, "\\" * 400_000])
def test_hostile_text_takes_linear_time(text: str) -> None:
    assert refused(text).kind in ("truncated", "too_deep", "syntax")


def test_depth_that_python_cannot_recurse_to_is_refused_near_the_top_of_the_stack() -> None:
    def deeper(levels: int) -> Any:
        return deeper(levels - 1) if levels else parse("[" * 60 + "]" * 60, DEFAULT_LIMITS)

    outcomes = set()
    for levels in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit(), 5):
        try:
            deeper(levels)
            outcomes.add("read")
        except StrictJsonError as error:
            outcomes.add(error.kind)
        except RecursionError:
            outcomes.add("no stack for anything")
    assert "read" in outcomes
    assert outcomes <= {"read", "too_deep", "no stack for anything"}


def test_floats_that_are_whole_are_noticed() -> None:
    before = integral_floats_read()
    parse('{"a": 1.5, "b": 3, "c": "3.0"}', DEFAULT_LIMITS)
    between = integral_floats_read()
    parse('{"a": 3.0}', DEFAULT_LIMITS)
    after = integral_floats_read()
    assert between == before + 1
    assert after != between + 1
