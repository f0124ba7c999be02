"""Walking schemas without mistaking data for schemas."""

from __future__ import annotations

from typing import Any

import pytest

from callbox.tools.schema_tree import at_pointer, children, close_objects, rebuild, walk

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"default": {"type": "string"}, "a/b": True},
    "default": {"properties": {"x": {"no": "schema"}}},
    "anyOf": [{"items": {"type": "null"}}],
    "not": {},
    "$defs": {"d": {"enum": [{"type": "string"}]}},
}


def test_only_schemas_are_walked():
    assert [path for path, _ in walk(SCHEMA)] == [
        (),
        ("properties", "default"),
        ("anyOf", 0),
        ("anyOf", 0, "items"),
        ("not",),
        ("$defs", "d"),
    ]
    assert (("properties", "a/b"), True) in list(children(SCHEMA))


def test_keywords_of_the_wrong_type_are_walked_over():
    assert list(walk({"allOf": {}, "properties": [], "items": 5})) == [
        ((), {"allOf": {}, "properties": [], "items": 5})
    ]
    assert rebuild({"allOf": {}, "properties": [], "items": 5}, lambda _, child: child) == {
        "allOf": {},
        "properties": [],
        "items": 5,
    }


def test_rebuilding_with_no_change_is_a_copy():
    made = rebuild(SCHEMA, lambda _, child: child)
    assert made == SCHEMA
    assert made is not SCHEMA


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", ((), SCHEMA)),
        ("/anyOf/0/items/type", (("anyOf", 0, "items", "type"), "null")),
        ("/properties/a~1b", (("properties", "a/b"), True)),
        ("/properties/a~1b/deeper", None),
        ("/anyOf/1", None),
        ("/anyOf/x", None),
        ("/nothing", None),
    ],
)
def test_a_pointer_leads_to_a_value_or_to_nothing(pointer: str, found: Any):
    assert at_pointer(SCHEMA, pointer) == found


def obj(*, add: Any = None, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({} if add is None else {"additionalProperties": add})}


def test_objects_that_list_properties_are_closed():
    given = obj(a=obj(b={"type": "string"}), c={"type": "array", "items": obj(d={})})
    assert close_objects(given) == obj(
        add=False,
        a=obj(add=False, b={"type": "string"}),
        c={"type": "array", "items": obj(add=False, d={})},
    )
    assert "additionalProperties" not in given


def test_what_says_something_about_others_or_lists_none_stays():
    free = {"type": "object"}
    empty = obj()
    said = obj(add={"type": "string"}, a={})
    unevaluated = {**obj(a={}), "unevaluatedProperties": True}
    given = obj(add=True, a=free, b=empty, c=said, d=unevaluated)
    assert close_objects(given) == given


def test_the_outermost_object_is_closed_even_if_it_takes_nothing():
    assert close_objects(obj()) == obj(add=False)
    assert close_objects({**obj(), "allOf": [{}]}) == {**obj(), "allOf": [{}]}


def test_nothing_inside_a_composition_is_closed():
    composed = {"allOf": [obj(a={}), {"anyOf": [{"$ref": "#/$defs/base"}]}]}
    given = {**obj(x=composed, y={"$ref": "#/$defs/alone"}), "$defs": {"base": obj(b={}), "alone": obj(c={})}}
    made = close_objects(given)
    assert made["properties"]["x"] == composed
    assert made["$defs"]["base"] == obj(b={})
    assert made["$defs"]["alone"] == obj(add=False, c={})
    assert made["additionalProperties"] is False


def test_a_reference_with_rules_beside_it_is_a_composition():
    given = {
        **obj(x={"$ref": "#/$defs/base", "properties": {"more": {}}}, y={"$ref": "#/$defs/said", "description": "d"}),
        "$defs": {"base": obj(b={}), "said": obj(c={})},
    }
    made = close_objects(given)
    assert made["$defs"] == {"base": obj(b={}), "said": obj(add=False, c={})}
    assert made["properties"] == given["properties"]
