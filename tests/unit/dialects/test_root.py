"""The root of a tool's parameters as a plain object."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from callbox.dialects.root import object_root, resolve
from callbox.tools.tool import Tool

DEFS = {
    "$defs": {
        "A": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        "B": {"$ref": "#/$defs/A", "description": "Of B."},
    }
}


def root(**more: Any) -> tuple[dict[str, Any], list[str]]:
    schema, losses = object_root(Tool("t", "Any tool.", {"type": "object", **more}))
    return schema, [f"{loss.path} {loss.keyword}" for loss in losses]


def test_a_plain_object_stays_and_loses_nothing() -> None:
    assert root(properties={"a": True}) == ({"type": "object", "properties": {"a": True}}, [])


def test_an_object_without_properties_gets_none() -> None:
    assert root() == ({"type": "object", "properties": {}}, [])


def test_a_reference_at_the_root_is_followed_through_its_chain() -> None:
    schema, losses = root(**{"$ref": "#/$defs/B"}, **DEFS)
    assert schema["properties"] == {"a": {"type": "string"}}
    assert (schema["required"], schema["description"], losses) == (["a"], "Of B.", [])
    assert "$ref" not in schema


def test_members_of_all_of_are_required_as_they_were() -> None:
    more = {"properties": {"c": {"type": "null"}}, "required": ["c"]}
    schema, losses = root(allOf=[{"$ref": "#/$defs/A"}], **more, **DEFS)
    assert schema["properties"].keys() == {"a", "c"}
    assert schema["required"] == ["c", "a"]
    assert losses == ["/allOf allOf"]


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_members_of_alternatives_are_offered_and_not_required(keyword: str) -> None:
    schema, losses = root(**{keyword: [{"$ref": "#/$defs/A"}, {"required": ["c"]}]}, **DEFS)
    assert schema["properties"] == {"a": {"type": "string"}}
    assert "required" not in schema
    assert losses == [f"/{keyword} {keyword}"]


def test_what_excludes_is_left_out_and_reported() -> None:
    schema, losses = root(**{"not": {"required": ["a"]}})
    assert schema == {"type": "object", "properties": {}}
    assert losses == ["/not not"]


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", True),
        ("#/$defs/A", True),
        ("#/properties/x/anyOf/1", True),
        ("#/properties/x/anyOf/2", False),
        ("#/$defs/odd~1name%20", True),
        ("#/$defs/Missing", False),
        ("other.json#/$defs/A", False),
        (5, False),
    ],
)
def test_local_references_are_resolved(reference: Any, found: bool) -> None:
    schema = {"$defs": {"A": {}, "odd/name ": {}}, "properties": {"x": {"anyOf": [{}, {}]}}}
    assert (resolve(schema, reference) is not None) == found


def test_a_chain_of_references_that_bites_its_tail_ends() -> None:
    # A Tool refuses such a schema.
    loop = SimpleNamespace(name="t", parameters={"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}})
    schema, _ = object_root(cast("Tool", loop))
    assert schema["properties"] == {}
