"""Anthropic's strict tools: what may be strict, what the request's limits allow, and what is said where it may not."""

from typing import Any

import pytest

from callbox.dialects.anthropic import DIALECT
from callbox.dialects.anthropic_strict import OPTIONAL_MAX, TOOLS_MAX, UNIONS_MAX
from callbox.dialects.dialect import Loss
from callbox.tools.tool import Tool

JsonObject = dict[str, Any]


def tool(properties: JsonObject, *, name: str = "t", **more: Any) -> Tool:
    return Tool(name, "Does it.", {"type": "object", "properties": properties, **more})


def one(schema: Any, **more: Any) -> Tool:
    return tool({"x": schema}, required=["x"], **more)


def strictly(made: Tool) -> tuple[JsonObject, tuple[Loss, ...]]:
    definitions = DIALECT.define([made], strict=True)
    return definitions[0], definitions.losses


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^[A-Z]{2,5}(?:-\\d+)?$"},
        {"type": "string", "format": "date-time"},
        {"type": "integer", "enum": [1, 2, None]},
        {"enum": ["a", 1.5, True]},
        {"const": None},
        {"type": ["string", "null"], "default": "a", "title": "T", "description": "d"},
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}, "minItems": 1}]},
    ],
)
def test_what_the_grammar_takes_is_sent_strictly_and_unchanged(schema: JsonObject) -> None:
    item, losses = strictly(one(schema))
    assert losses == ()
    assert item["strict"] is True
    assert item["input_schema"] == {
        "type": "object",
        "properties": {"x": schema},
        "required": ["x"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "integer", "minimum": 1}, "minimum"),
        ({"type": "number", "multipleOf": 0.5}, "multipleOf"),
        ({"type": "string", "maxLength": 5}, "maxLength"),
        ({"type": "string", "format": "regex"}, "format"),
        ({"type": "string", "pattern": "(?i)yes"}, "pattern"),
        ({"type": "string", "pattern": "^\\p{L}+$"}, "pattern"),
        ({"type": "string", "anyOf": [{"enum": ["a"]}, {"enum": ["b"]}]}, "anyOf"),
        (
            {"properties": {"a": {"type": "string"}}, "anyOf": [{"properties": {"b": {"type": "string"}}}]},
            "anyOf",
        ),
        ({"allOf": [{"type": "string"}], "minLength": 1}, "allOf"),
        ({"type": "string", "pattern": "\\bword\\b"}, "pattern"),
        ({"type": "string", "pattern": "^a{1,500}$"}, "pattern"),
        ({"type": "string", "pattern": "^a{500}$"}, "pattern"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, "minItems"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 2}, "maxItems"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "items": False}, "items"),
        ({"type": "array"}, "items"),
        ({"type": "array", "items": {}}, "type"),
        ({}, "type"),
        (True, "type"),
        ({"enum": [{"a": 1}]}, "enum"),
        ({"const": [1]}, "const"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "oneOf"),
        ({"allOf": [{"type": "string"}, {"type": "string", "format": "date"}]}, "allOf"),
        ({"not": {"type": "string"}}, "not"),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True},
            "additionalProperties",
        ),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "additionalProperties"),
        ({"type": "object"}, "properties"),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}, "required"),
    ],
)
def test_what_the_grammar_does_not_take_is_sent_whole_and_not_strictly(schema: Any, keyword: str) -> None:
    made = one(schema)
    item, losses = strictly(made)
    assert "strict" not in item
    assert item["input_schema"] == made.parameters
    assert keyword in {loss.keyword for loss in losses}
    assert losses[-1].keyword == "strict"
    assert keyword in losses[-1].message
    assert losses[0].path.startswith("/properties/x")


def test_hints_are_left_out_of_a_strict_schema_and_reported() -> None:
    item, losses = strictly(one({"type": "string", "examples": ["a"], "x-order": 1}))
    assert item["strict"] is True
    assert item["input_schema"]["properties"]["x"] == {"type": "string"}
    assert [(loss.path, loss.keyword) for loss in losses] == [
        ("/properties/x", "examples"),
        ("/properties/x", "x-order"),
    ]


def test_a_wrapper_around_one_schema_is_opened() -> None:
    item, losses = strictly(one({"allOf": [{"type": "string"}], "description": "d"}))
    assert item["input_schema"]["properties"]["x"] == {"description": "d", "type": "string"}
    assert losses == ()


def test_objects_are_closed_at_every_level() -> None:
    inner = {"properties": {"a": {"type": "string"}}}
    item, _ = strictly(one({"type": "array", "items": inner}))
    assert item["input_schema"]["properties"]["x"]["items"] == {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": [],
        "additionalProperties": False,
    }


def test_a_tool_that_takes_nothing_may_be_strict() -> None:
    item, losses = strictly(Tool("t", "Does it.", {"type": "object"}))
    assert (item["strict"], losses) == (True, ())


# References


def test_definitions_that_are_used_are_sent_once_and_closed() -> None:
    definitions = {
        "Line": {"type": "object", "properties": {"sku": {"$ref": "#/$defs/a~1b"}}},
        "a/b": {"type": "string"},
        "Unused": {"type": "integer", "minimum": 1},
    }
    item, losses = strictly(
        tool({"one": {"$ref": "#/$defs/Line"}, "two": {"$ref": "#/$defs/Line"}}, **{"$defs": definitions})
    )
    assert losses == ()
    assert item["input_schema"]["$defs"] == {
        "Line": {
            "type": "object",
            "properties": {"sku": {"$ref": "#/$defs/a~1b"}},
            "required": [],
            "additionalProperties": False,
        },
        "a/b": {"type": "string"},
    }


@pytest.mark.parametrize(
    ("schema", "definitions"),
    [
        ({"$ref": "#/$defs/A"}, {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}}),
        (
            {"$ref": "#/$defs/A"},
            {
                "A": {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}},
                "B": {"type": "array", "items": {"$ref": "#/$defs/A"}},
            },
        ),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, {}),
        ({"$ref": "#/$defs/A"}, {"A": True}),
        ({"$ref": "#/$defs/A", "minLength": 3}, {"A": {"type": "string"}}),
    ],
)
def test_references_that_the_grammar_does_not_take_keep_the_tool_from_being_strict(
    schema: JsonObject, definitions: JsonObject
) -> None:
    item, losses = strictly(one(schema, **{"$defs": definitions}))
    assert "strict" not in item
    assert {loss.keyword for loss in losses} & {"$ref", "minLength"}


def test_what_is_said_beside_a_reference_is_left_out_and_reported() -> None:
    item, losses = strictly(one({"$ref": "#/$defs/A", "description": "d"}, **{"$defs": {"A": {"type": "string"}}}))
    assert item["input_schema"]["properties"]["x"] == {"$ref": "#/$defs/A"}
    assert [loss.keyword for loss in losses] == ["description"]


# Limits of one request


def strict_names(tools: list[Tool]) -> tuple[list[str], list[str]]:
    definitions = DIALECT.define(tools, strict=True)
    strict = [item["name"] for item in definitions if item.get("strict")]
    assert {loss.keyword for loss in definitions.losses} <= {"strict"}
    return strict, [loss.tool for loss in definitions.losses]


def test_no_more_tools_are_strict_than_a_request_may_have() -> None:
    strict, refused = strict_names([tool({}, name=f"t{at}") for at in range(TOOLS_MAX + 2)])
    assert len(strict) == TOOLS_MAX
    assert refused == ["t20", "t21"]


def test_a_tool_with_too_many_optional_parameters_makes_room_for_the_next() -> None:
    many = tool({f"p{at}": {"type": "string"} for at in range(OPTIONAL_MAX - 1)}, name="many")
    two = tool({"a": {"type": "string"}, "b": {"type": "string"}}, name="two")
    one_more = tool({"a": {"type": "string"}}, name="one_more")
    assert strict_names([many, two, one_more]) == (["many", "one_more"], ["two"])


def test_parameters_of_several_types_are_counted_wherever_they_are() -> None:
    either = {"type": ["string", "null"]}
    names = [f"p{at}" for at in range(UNIONS_MAX)]
    full = tool(dict.fromkeys(names, either), name="full", required=names)
    nested = tool(
        {"list": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}},
        name="nested",
        required=["list"],
    )
    plain = tool({"a": {"type": "string"}}, name="plain", required=["a"])
    assert strict_names([full, nested, plain]) == (["full", "plain"], ["nested"])


def test_a_shared_definition_counts_wherever_it_is_used() -> None:
    line = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(OPTIONAL_MAX // 2)}}
    pair = {"type": "object", "properties": {"l": {"$ref": "#/$defs/Line"}}, "required": ["l"]}
    uses = {"a": {"$ref": "#/$defs/Pair"}, "b": {"$ref": "#/$defs/Line"}, "c": {"$ref": "#/$defs/Line"}}

    def using(*names: str) -> Tool:
        chosen = {name: uses[name] for name in names}
        return tool(chosen, name="".join(names), required=list(names), **{"$defs": {"Line": line, "Pair": pair}})

    assert strict_names([using("a", "b", "c")]) == ([], ["abc"])
    assert strict_names([using("a", "b")]) == (["ab"], [])


def test_what_is_combined_at_the_root_is_offered_without_strict_mode() -> None:
    made = tool({"a": {"type": "string"}}, anyOf=[{"required": ["a"]}])
    item, losses = strictly(made)
    assert "strict" not in item
    assert "anyOf" not in item["input_schema"]
    assert [loss.keyword for loss in losses] == ["anyOf", "strict"]
