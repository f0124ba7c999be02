from __future__ import annotations

import json
from typing import Any

import pytest

from callbox.calls.shapes import Document
from callbox.calls.wording import kind_of, listing, literal, one_of, plural, shorten, with_article


def described(schema: Any, **definitions: Any) -> str:
    document = Document({"properties": {"x": schema}, "$defs": definitions})
    return document.describe(document.root.child("properties", "x"))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (True, "any value"),
        ({}, "any value"),
        (False, "nothing"),
        ({"properties": {"a": {}}}, "object"),
        ({"type": "number", "minimum": 0.5, "exclusiveMaximum": 2}, "number at least 0.5 and below 2"),
        ({"type": ["integer", "null"]}, "integer or null"),
        ({"type": ["number", "string"]}, "string or number"),
        ({"type": "string", "minLength": 2, "maxLength": 5}, "string (2 to 5 characters)"),
        ({"type": "string", "format": "color"}, "string (color)"),
        ({"type": "array", "items": {"type": "integer", "minimum": 1}}, "array of (integer at least 1)"),
        ({"type": "array", "items": {"type": "array", "items": {}}}, "array of (array of (any value))"),
        ({"type": "array", "items": True}, "array"),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1},
            "object with a, b (at least 1 property)",
        ),
        ({"$ref": "#/$defs/d"}, "string (at most 3 characters)"),
        ({"allOf": [{"type": "integer"}, {"minimum": 2}]}, "integer at least 2"),
        ({"anyOf": [{"$ref": "#/$defs/d"}, {"type": "null"}]}, "string (at most 3 characters) or null"),
        ({"oneOf": [{"const": "a"}, {"const": 1}]}, "one of: a, 1"),
        ({"type": "string", "anyOf": [{"format": "date"}, {"type": "null"}]}, "any value"),
        ({"$ref": "#/$defs/loop"}, "object with child"),
        ({"$ref": "#/nowhere"}, "any value"),
        ({"$ref": "http://example.com"}, "any value"),
        ({"type": "array", "items": {"$ref": "#/$defs/list"}}, None),
    ],
)
def test_schemas_in_a_few_words(schema: Any, words: str | None) -> None:
    text = described(
        schema,
        d={"type": "string", "maxLength": 3},
        loop={"type": "object", "properties": {"child": {"$ref": "#/$defs/loop"}}},
        list={"type": "array", "items": {"$ref": "#/$defs/list"}},
    )
    assert words is None or text == words
    assert len(text) <= 300


def test_long_lists_are_cut_and_counted() -> None:
    assert one_of([f"v{n}" for n in range(25)]).endswith('"v19" and 5 more')
    assert len(described({"enum": ["x" * 1_000] * 30})) <= 300
    assert described({"anyOf": [{"type": "string", "maxLength": n} for n in range(1, 12)]}).endswith("or 5 other forms")
    assert listing([]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("celsius", "one of: celsius, b"),
        ("half_day", "one of: half_day, b"),
        ("two words", 'one of: "two words", b'),
        ("", 'one of: "", b'),
        ("true", 'one of: "true", b'),
        ("5", 'one of: "5", b'),
        (5, "one of: 5, b"),
        (None, "one of: null, b"),
        ({"a": 1}, 'one of: {"a": 1}, b'),
    ],
)
def test_options_are_quoted_where_they_could_be_taken_for_something_else(value: Any, text: str) -> None:
    assert one_of([value, "b"]) == text


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000,
        10**4_000,
        ["x"] * 10_000,
        [["x" * 90]],
        {"a": {"b": ["x" * 50] * 3}},
        {str(n): n for n in range(10_000)},
        [10**90, 10**90],
        [0.1] * 30,
        [[[[[[1] * 40]]]]],
        object(),
        b"x",
        "\ud800" * 1_000,
    ],
)
def test_shortened_values_are_short_json(value: Any) -> None:
    assert len(json.dumps(shorten(value))) <= 700
    assert len(literal(value)) <= 400


def test_short_values_stay_what_they_are() -> None:
    for value in (None, True, 5, -2.5, "x", [1, "a"], {"a": [1.5, None]}, []):
        assert shorten(value) == value
    assert shorten("x" * 101) == "x" * 99 + "…"
    assert shorten([1] * 60) == "an array of 60 items"
    assert shorten({"k" * 90: 1, "j" * 90: 2}) == "an object of 2 properties"
    assert shorten(object()) == "a Python object"


def test_kinds_are_those_of_json_schema() -> None:
    values = [None, True, 1, 1.0, 1.5, "x", {}, []]
    assert [kind_of(value) for value in values] == [
        "null",
        "boolean",
        "integer",
        "integer",
        "number",
        "string",
        "object",
        "array",
    ]


def test_small_grammar() -> None:
    assert [plural(1, "item"), plural(2, "property"), plural(1_000, "byte")] == [
        "1 item",
        "2 properties",
        "1,000 bytes",
    ]
    assert [with_article(kind) for kind in ("string", "object", "null")] == ["a string", "an object", "null"]
