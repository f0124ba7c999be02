"""Arguments that come in pieces, each with the JSON Path of its place."""

from typing import Any

import pytest

from callbox.dialects.gemini_arguments import PartialArguments


def built(*pieces: Any, begun: Any = None) -> PartialArguments:
    arguments = PartialArguments(begun)
    for piece in pieces:
        arguments.take([piece])
    return arguments


def text(path: Any, value: str) -> dict[str, Any]:
    return {"jsonPath": path, "stringValue": value}


def test_texts_for_one_place_are_one_text() -> None:
    arguments = built(text("$.a", "x"), text("$.a", "y"), text("$.b", "z"), text("$.c[0]", ""), text("$.a", "w"))
    assert arguments.value() == {"a": "w", "b": "z", "c": [""]}
    assert arguments.sound


@pytest.mark.parametrize(
    ("piece", "value"),
    [
        ({"numberValue": 3.0}, 3),
        ({"number_value": 0.5}, 0.5),
        ({"numberValue": 1e300}, 1e300),
        ({"boolValue": False}, False),
        ({"nullValue": "NULL_VALUE"}, None),
    ],
)
def test_values_of_every_type(piece: dict[str, Any], value: Any) -> None:
    found = built({"json_path": "$.a", **piece}).value()["a"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.a.b[0].c", {"a": {"b": [{"c": "x"}]}}),
        ("$['a b']['it\\'s']", {"a b": {"it's": "x"}}),
        ('$["a\\"b"]', {'a"b': "x"}),
        ("$.größe", {"größe": "x"}),
        ("$.a[0][0]", {"a": [["x"]]}),
    ],
)
def test_a_path_names_one_place(path: str, value: Any) -> None:
    arguments = built(text(path, "x"))
    assert arguments.value() == value
    assert arguments.sound


@pytest.mark.parametrize(
    "path",
    [None, 5, "", "a", "$", "$.", "$..a", "$[*]", "$[-1]", "$[0]", "$['a'", '$["\\x"]', "$.a[999999999999]", "$.a[1]"],
)
def test_a_path_that_names_no_place_makes_the_arguments_unsound(path: Any) -> None:
    arguments = built(text("$.ok", "x"), text(path, "y"))
    arguments.value()
    assert not arguments.sound


def test_a_place_that_is_both_object_and_list_is_unsound() -> None:
    for second in ("$.a[0]", "$.a.b.c", "$.t.u"):
        arguments = built(text("$.a.b", "x"), {"jsonPath": "$.t", "numberValue": 1}, text(second, "y"))
        arguments.value()
        assert not arguments.sound


def test_items_may_be_written_again() -> None:
    arguments = built(text("$.a[0].b", "x"), text("$.a[1]", "y"), text("$.a[0].c", "z"), text("$.a[1]", "!"))
    assert arguments.value() == {"a": [{"b": "x", "c": "z"}, "!"]}


def test_what_was_begun_is_kept_and_not_changed() -> None:
    begun = {"a": {"b": 1}}
    assert built(text("$.a.c", "x"), begun=begun).value() == {"a": {"b": 1, "c": "x"}}
    assert begun == {"a": {"b": 1}}


def test_garbage_is_unsound_and_never_raises() -> None:
    for garbage in (None, 5, "x", {"a": 1}):
        arguments = PartialArguments(garbage)
        arguments.take(garbage)
        assert arguments.value() == ({"a": 1} if isinstance(garbage, dict) else {})
        arguments.take([garbage])
        assert not arguments.sound
