"""Whether a value fits a schema, for choosing a branch of a union."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from callbox.dialects.fitting import dereferenced, fits, kind_of, same

CASES: list[tuple[Any, Any]] = [
    (None, {"type": "null"}),
    (True, {"type": "integer"}),
    (1, {"type": "number"}),
    (1.0, {"type": "integer"}),
    (1.5, {"type": "integer"}),
    (1, {"enum": [True, "1", 1.0]}),
    (True, {"enum": [1]}),
    ({"a": [1]}, {"const": {"a": [1.0]}}),
    ({"a": [1]}, {"const": {"a": [1, 2]}}),
    ({"a": 1}, {"const": {"b": 1}}),
    ("ab", {"pattern": "^b"}),
    ("ab", {"minLength": 2, "maxLength": 2}),
    ("abc", {"maxLength": 2}),
    (5, {"minimum": 5, "maximum": 5}),
    (5, {"exclusiveMinimum": 5}),
    (5, {"exclusiveMaximum": 5}),
    (4, {"minimum": 5}),
    (9, {"multipleOf": 3}),
    (10, {"multipleOf": 3}),
    (7.5, {"multipleOf": 2.5}),
    (7.5, {"multipleOf": 2}),
    ([1, "a"], {"items": {"type": "integer"}}),
    ([1], {"items": {"type": "integer"}, "minItems": 1, "maxItems": 1}),
    ([], {"minItems": 1}),
    ({"a": 1}, {"properties": {"a": {"type": "string"}}}),
    ({"a": 1}, {"required": ["b"]}),
    ({"a": 1}, {"properties": {}, "additionalProperties": False}),
    ({"a": 1}, {"properties": {"a": {"type": "integer"}}, "additionalProperties": False}),
    (1, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    (1, {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    (1, {"oneOf": [{"type": "integer"}, {"type": "string"}]}),
    (1, {"allOf": [{"type": "integer"}, {"minimum": 2}]}),
    (1, True),
    (1, False),
    (1, {"$ref": "#/$defs/S"}),
    ("s", {"$ref": "#/$defs/S"}),
    ("s", {"$ref": "#/$defs/S", "maxLength": 0}),
    ("s", {"$ref": "#/$defs/T"}),
]
ROOT = {"$defs": {"S": {"type": "string"}, "T": {"$ref": "#/$defs/S"}}}


@pytest.mark.parametrize(("value", "schema"), CASES)
def test_it_judges_as_the_validator_does(value: Any, schema: Any) -> None:
    whole = schema if isinstance(schema, bool) else {**ROOT, **schema}
    assert fits(value, schema, ROOT) == jsonschema_rs.validator_for(whole).is_valid(value)


@pytest.mark.parametrize(
    ("value", "schema"), [("a", {"pattern": r"\p{L}"}), ("a", {"pattern": 5}), (5, {"multipleOf": 0}), (5, {"not": {}})]
)
def test_what_it_does_not_know_it_takes_as_satisfied(value: Any, schema: Any) -> None:
    assert fits(value, schema, {})


def test_a_value_that_is_no_json_has_no_type() -> None:
    assert kind_of(object()) == "unknown"
    assert not same([1], {"a": 1})


def test_a_chain_of_references_that_leads_nowhere_is_empty() -> None:
    root = {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}
    assert dereferenced({"$ref": "#/$defs/A"}, root) == {}
    assert dereferenced({"$ref": "#/$defs/C"}, root) == {}
    assert dereferenced(True, root) == {}
