from __future__ import annotations

from typing import Any

import pytest

from callbox.calls.advice import advise
from callbox.calls.call import ProblemCode
from callbox.calls.shapes import Document
from callbox.calls.suggestion import distance, misspelt, similar


@pytest.mark.parametrize(
    ("word", "option", "slips"),
    [
        ("city", "city", 0),
        ("userId", "user_id", 0),
        ("user-id", "USER ID", 0),
        ("citty", "city", 1),
        ("ctiy", "city", 1),
        ("cty", "city", 1),
        ("town", "city", None),
        ("aa", "a", 1),
        ("a", "b", None),
        ("", "a", None),
        ("_", "-", 0),
        ("start_time", "starttime_", 0),
        ("strat_tmie", "start_time", 2),
        ("x" * 101, "x" * 101, None),
    ],
)
def test_slips_are_counted_up_to_one_in_three(word: str, option: str, slips: int | None) -> None:
    assert distance(word, option) == slips


def test_the_nearest_option_is_meant() -> None:
    assert misspelt("celcius", ["fahrenheit", "celsius", "celcio"]) == "celsius"
    assert misspelt("kelvin", ["fahrenheit", "celsius"]) is None
    assert misspelt("x", []) is None


def test_similar_names_are_found_in_another_order_of_words_too() -> None:
    names = ["get_weather", "send_email", "get_weather_forecast", "delete_user"]
    assert similar("GetWeather", names) == ["get_weather"]
    assert similar("weather_get", names)[0] == "get_weather"
    assert "send_email" in similar("sendmail", names)
    assert similar("zzzzqqqq", names) == []
    assert similar("x" * 1_000, names) == []
    assert len(similar("get", [f"get_{n}" for n in range(50)])) <= 3


def advice(code: ProblemCode, schema: Any, value: Any) -> str | None:
    document = Document({"properties": {"x": schema}})
    return advise(code, value, document, [document.root.child("properties", "x")])


INTEGER, NUMBER, TEXT = {"type": "integer"}, {"type": "number"}, {"type": "string"}
LIST = {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        (INTEGER, "5", "Send the number 5 without quotes."),
        (INTEGER, " -5 ", "Send the number -5 without quotes."),
        (INTEGER, "5.0", "Send the number 5.0 without quotes."),
        (INTEGER, "5.5", "Send a whole number, like 5 or 6."),
        (NUMBER, "5.5", "Send the number 5.5 without quotes."),
        (INTEGER, "five", None),
        (INTEGER, "9" * 5_000, None),
        (INTEGER, 1.5, "Send a whole number, like 1 or 2."),
        (INTEGER, -1.5, "Send a whole number, like -2 or -1."),
        ({"type": "boolean"}, "True", "Send true without quotes."),
        ({"type": "boolean"}, "no", None),
        ({"type": "boolean"}, 1, "Send true."),
        ({"type": "boolean"}, 0, "Send false."),
        ({"type": "boolean"}, 2, None),
        ({"type": ["integer", "null"]}, "null", "Send null without quotes."),
        ({"type": ["integer", "null"]}, "None", "Send null without quotes."),
        (TEXT, 5, 'Send "5" in quotes.'),
        (TEXT, True, 'Send "true" in quotes.'),
        (TEXT, None, None),
        (TEXT, ["a"], "Send the item itself, not an array."),
        (TEXT, ["a", "b"], None),
        (TEXT, {"a": 1}, None),
        (LIST, "a", 'Send an array: ["a"].'),
        (LIST, 5, "Send an array: [5]."),
        (LIST, {"a": 1}, "Put the object into an array."),
        (LIST, None, None),
        (LIST, '["a"', "Send the array itself, not as text."),
        ({"type": "object"}, "{broken", "Send the object itself, not as text."),
        ({"type": "object"}, "text", None),
    ],
)
def test_a_value_of_the_wrong_type_tells_how_it_was_meant(schema: Any, value: Any, text: str | None) -> None:
    assert advice("wrong_type", schema, value) == text


def test_huge_fractions_are_not_spelt_out() -> None:
    assert advice("wrong_type", INTEGER, "9007199254740993.5e5") in (
        "Send a whole number.",
        "Send the number 9007199254740993.5e5 without quotes.",
    )


@pytest.mark.parametrize(
    ("options", "value", "text"),
    [
        (["celsius", "fahrenheit"], "Celsius", 'Did you mean "celsius"?'),
        (["celsius", "fahrenheit"], " celsius ", 'Did you mean "celsius"?'),
        (["celsius", "fahrenheit"], "kelvin", None),
        ([1, 2], "2", "Send 2 without quotes."),
        ([True], "true", "Send true without quotes."),
        (["1", "2"], 2, 'Send "2" in quotes.'),
        ([1, 2], 3, None),
        ([{"a": 1}, [1]], "a", None),
    ],
)
def test_a_value_that_is_not_in_the_list_is_told_the_nearest(options: Any, value: Any, text: str | None) -> None:
    assert advice("not_in_enum", {"enum": options}, value) == text


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        ({"format": "date"}, "2025/1/3", 'Send "2025-01-03".'),
        ({"format": "date"}, "20250103", 'Send "2025-01-03".'),
        ({"format": "date"}, "2025-01-03T10:00:00Z", 'Send "2025-01-03".'),
        ({"format": "date"}, "2025-13-03", None),
        ({"format": "date"}, "03.01.2025", None),
        ({"format": "date"}, "x" * 1_000, None),
        ({"format": "date-time"}, "2025-01-03T10:00", 'Add the time zone, like "2025-01-03T10:00:00Z".'),
        ({"format": "date-time"}, "2025-01-03 10:00:05", 'Add the time zone, like "2025-01-03T10:00:05Z".'),
        ({"format": "date-time"}, "tomorrow", None),
        ({"allOf": [{"format": "date"}]}, "2025/1/3", 'Send "2025-01-03".'),
        ({"pattern": "^x"}, "2025/1/3", None),
    ],
)
def test_dates_are_turned_round_only_where_that_is_clear(schema: Any, value: str, text: str | None) -> None:
    assert advice("invalid_format", schema, value) == text


def test_for_other_problems_only_the_model_can_know() -> None:
    assert advice("out_of_range", INTEGER, 5) is None
