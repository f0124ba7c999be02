"""Schemas that would hang, fetch or never end are refused where they are defined, with the fix."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from callbox.errors import DefinitionError
from callbox.tools.schema import BYTES_MAX, DEPTH_MAX, compile_schema
from callbox.tools.tool import Tool


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def refused(schema: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        compile_schema(schema, "t")
    assert caught.value.hint
    assert "'t'" in caught.value.message
    return str(caught.value)


def test_a_schema_is_compiled_once():
    one, two = of(a={"type": "integer"}), of(a={"type": "integer"})
    assert compile_schema(one) is compile_schema(two, "other")
    assert compile_schema(one).is_valid({"a": 1})
    assert not compile_schema(one).is_valid({"a": "1"})


def test_formats_are_checked():
    assert not compile_schema(of(day={"type": "string", "format": "date"})).is_valid({"day": "2025-02-30"})


@pytest.mark.parametrize("schema", [None, [], "object", True])
def test_a_schema_that_is_no_object_is_refused(schema: Any):
    assert "not a JSON Schema object" in refused(schema)


@pytest.mark.parametrize("schema", [{}, {"type": "string"}, {"type": ["object", "null"]}, {"properties": {}}])
def test_arguments_must_be_an_object(schema: Any):
    assert 'must have type "object"' in refused(schema)


@pytest.mark.parametrize(
    "reference",
    ["https://example.com/a.json", "a.json", "file:///etc/passwd", "//example.com/x", "urn:x:y", "other#/$defs/a"],
)
@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_remote_references_are_refused_and_nothing_is_fetched(reference: str, keyword: str):
    assert "nothing is ever fetched" in refused(of(a={"items": {keyword: reference}}))


def test_a_property_called_ref_is_no_reference():
    schema = of(**{"$ref": {"type": "string"}})
    assert compile_schema(schema).is_valid({"$ref": "https://example.com"})


def test_a_default_that_looks_like_a_reference_is_data():
    compile_schema(of(a={"type": "object", "default": {"$ref": "https://example.com"}}))


@pytest.mark.parametrize("reference", ["#/$defs/nothing", "#nothing", "#/properties/a/items/7", "#/required"])
def test_a_reference_to_nothing_is_refused(reference: str):
    assert "points to nothing" in refused({**of(a={"$ref": reference}), "required": []})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "$ref": "#"},
        {"type": "object", "allOf": [{"$ref": "#"}]},
        of(a={"$ref": "#/properties/a"}),
        {**of(a={"$ref": "#/$defs/x"}), "$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}},
        {**of(), "$defs": {"x": {"anyOf": [{"type": "null"}, {"not": {"$ref": "#/$defs/x"}}]}}},
        {**of(), "$defs": {"x": {"if": {"oneOf": [{"$ref": "#/$defs/x"}]}}}},
        {**of(), "$defs": {"x": {"dependentSchemas": {"a": {"$ref": "#/$defs/x"}}}}},
        {**of(), "$defs": {"x": {"$anchor": "me", "allOf": [{"$ref": "#me"}]}}},
        {**of(), "$defs": {"x": {"$dynamicAnchor": "me", "then": {"$dynamicRef": "#me"}}}},
        {**of(), "$defs": {"a/b~c": {"$ref": "#/$defs/a~1b~0c"}}},
        {**of(), "$defs": {"a b": {"$ref": "#/$defs/a%20b"}}},
        {**of(a={"$ref": "#/x-parts/p"}), "x-parts": {"p": {"anyOf": [{"$ref": "#/x-parts/p"}]}}},
    ],
)
def test_a_cycle_that_consumes_nothing_is_refused(schema: dict[str, Any]):
    assert "never ends" in refused(schema)


@pytest.mark.parametrize(
    "schema",
    [
        of(a={"$ref": "#"}),
        of(a={"type": "array", "items": {"$ref": "#/properties/a"}}),
        {**of(a={"$ref": "#/$defs/t"}), "$defs": {"t": of(left={"$ref": "#/$defs/t"}, right={"$ref": "#/$defs/t"})}},
        {**of(), "additionalProperties": {"$ref": "#"}},
        {
            **of(a={"$ref": "#t"}),
            "$defs": {"t": {"$anchor": "t", "anyOf": [{"type": "null"}, {"items": {"$ref": "#t"}}]}},
        },
        {**of(a={"allOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/x"}]}), "$defs": {"x": True}},
    ],
)
def test_a_schema_may_refer_to_itself_through_a_part_of_the_value(schema: dict[str, Any]):
    assert compile_schema(schema).is_valid({})


def doubling(levels: int, link: Any) -> dict[str, Any]:
    definitions = {f"a{n}": link({"$ref": f"#/$defs/a{n + 1}"}) for n in range(levels)}
    return {**of(a={"$ref": "#/$defs/a0"}), "$defs": {**definitions, f"a{levels}": {"type": "integer"}}}


@pytest.mark.parametrize(
    "link",
    [
        lambda nxt: {"allOf": [nxt, nxt]},
        lambda nxt: {"anyOf": [nxt, {"not": nxt}]},
        lambda nxt: {"if": nxt, "then": nxt},
        lambda nxt: {"allOf": [{"properties": {"x": nxt}}, {"properties": {"x": nxt}}]},
        lambda nxt: {"properties": {"x": nxt, "y": nxt}},
    ],
)
def test_definitions_that_double_are_refused_before_anybody_expands_them(link: Any):
    assert "written out" in refused(doubling(40, link))
    assert "written out" in refused(doubling(400, link))
    assert compile_schema(doubling(5, link)).is_valid({})


def test_a_long_chain_is_no_doubling():
    schema = doubling(3_000, lambda nxt: nxt)
    assert compile_schema(schema).is_valid({"a": 1})


def test_depth_is_limited_before_anything_recursive_sees_it():
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(200_000):
        deep = {"items": deep}
    assert "nested deeper" in refused(of(a=deep))
    while "items" in deep:  # taken apart by hand: freeing it would recurse
        deep = deep.pop("items")
    fine: dict[str, Any] = {"type": "string"}
    for _ in range(DEPTH_MAX - 4):
        fine = {"items": fine}
    compile_schema(of(a=fine))


def test_a_value_that_contains_itself_is_refused():
    loop: dict[str, Any] = {"type": "object", "properties": {}}
    loop["properties"]["a"] = loop
    assert "nested deeper" in refused(loop)
    wide: list[Any] = []
    for _ in range(60):
        wide = [wide, wide]
    assert "too large" in refused(of(a={"enum": wide}))


def test_size_is_limited():
    assert "more than" in refused(of(a={"enum": ["x" * BYTES_MAX]}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"x"])
def test_what_is_not_json_is_refused(value: Any):
    assert "not JSON" in refused(of(a={"default": value}))


@pytest.mark.parametrize("pattern", ["(?!a)b", "(?=a)", "(?<=a)b", r"(a)\1", "(a", "((a{1000}){1000}){1000}"])
def test_patterns_that_a_linear_engine_cannot_run_are_refused(pattern: str):
    assert "cannot be used" in refused(of(a={"type": "string", "pattern": pattern}))
    assert "cannot be used" in refused({**of(), "patternProperties": {pattern: {}}})


def test_catastrophic_patterns_are_harmless():
    validator = compile_schema(of(a={"type": "string", "pattern": "^(a+)+$"}))
    assert not validator.is_valid({"a": "a" * 50_000 + "!"})


@pytest.mark.parametrize(
    "schema",
    [
        of(a={"type": "integr"}),
        of(a={"minimum": "1"}),
        of(a={"enum": "x"}),
        of(a=5),
        {"type": "object", "properties": []},
        {"type": "object", "required": "a"},
        {"type": "object", "allOf": {}},
        of(a={"$ref": 5}),
        of(a={"$id": 5}),
    ],
)
def test_an_invalid_schema_is_refused(schema: dict[str, Any]):
    refused(schema)


@pytest.mark.parametrize("schema", [of(a={"const": "\ud800"}), of(**{"\ud800": {}}), of(a={"pattern": "\ud800"})])
def test_lone_surrogates_are_refused(schema: dict[str, Any]):
    assert "no valid JSON Schema" in refused(schema)


def test_the_message_names_the_place():
    assert "at /properties/a/minimum" in refused(of(a={"minimum": "1"}))


def test_other_drafts_and_identities():
    compile_schema({**of(), "$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/a"})
    assert "unknown $schema" in refused({**of(), "$schema": "https://example.com/meta"})
    assert "$id inside" in refused(of(a={"$id": "https://example.com/b"}))


def test_a_tool_carries_its_validator_and_refuses_a_wrong_schema():
    made = Tool("t", "Do it.", of(a={"type": "integer"}))
    assert made.validator.is_valid({"a": 1})
    with pytest.raises(DefinitionError):
        Tool("t", "Do it.", {"type": "array"})


KEYWORDS = [
    *("type", "properties", "$ref", "allOf", "anyOf", "items", "$defs", "a", "not", "if", "then", "enum", "pattern"),
    *("required", "additionalProperties", "$id", "$anchor", "const", "minimum", "$dynamicRef"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYWORDS),
            inner
            | st.sampled_from(["object", "#", "#/$defs/a", "#/properties/a", "#a", "a", "(?=x)", "x+", "#/allOf/0"]),
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON)
@example({"$dynamicRef": "#/$defs/a", "$defs": None})
def test_any_value_either_compiles_or_is_refused_as_a_definition(value: Any):
    try:
        validator = compile_schema({"type": "object", **value} if isinstance(value, dict) else value)
    except DefinitionError:
        return
    validator.is_valid({"a": {"a": [1, "x"]}})
