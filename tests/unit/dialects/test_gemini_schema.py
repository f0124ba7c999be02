"""Gemini's two ways to say a schema: what goes which way, what is lost, and the way back."""

from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from callbox.dialects.gemini import DIALECT
from callbox.dialects.gemini_schema import declare
from callbox.tools.tool import Tool

JsonObject = dict[str, Any]


def tool(properties: JsonObject, **more: Any) -> Tool:
    return Tool("t", "Does it.", {"type": "object", "properties": properties, **more})


def one(schema: Any, **more: Any) -> Tool:
    """A tool with one parameter."""
    return tool({"x": schema}, **more)


def subset(schema: Any) -> Any:
    """How one parameter is said in ``parameters``."""
    declared = declare(one(schema))
    assert declared.key == "parameters"
    types.FunctionDeclaration.model_validate({"name": "t", "parameters": declared.schema})
    return declared.schema["properties"]["x"]


def losses(made: Tool) -> list[tuple[str, str]]:
    return [(loss.path, loss.keyword) for loss in declare(made).losses]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string", "maxLength": 3}, {"type": "STRING", "maxLength": 3}),
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}),
        ({"type": "string", "minimum": 3}, {"type": "STRING"}),
        (
            {"type": "number", "minimum": 0.5, "format": "double"},
            {"type": "NUMBER", "minimum": 0.5, "format": "double"},
        ),
        ({"type": "boolean", "format": "anything"}, {"type": "BOOLEAN"}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "INTEGER", "minimum": 1}),
        ({"type": "integer", "exclusiveMaximum": 9, "maximum": 3}, {"type": "INTEGER", "maximum": 3}),
        ({"type": "integer", "exclusiveMaximum": 9, "maximum": 30}, {"type": "INTEGER", "maximum": 8}),
        ({"type": ["string", "null"], "default": None}, {"type": "STRING", "default": None, "nullable": True}),
        (
            {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            {"type": "ARRAY", "items": {"type": "STRING"}, "maxItems": 2},
        ),
        (
            {"properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
            {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]},
        ),
        ({"enum": ["a", "b"], "description": "d"}, {"type": "STRING", "enum": ["a", "b"], "description": "d"}),
        ({"enum": ["a", None]}, {"type": "STRING", "enum": ["a"], "nullable": True}),
        ({"type": "string", "enum": ["a", None]}, {"type": "STRING", "enum": ["a"]}),
        ({"const": "a"}, {"type": "STRING", "enum": ["a"]}),
        ({"enum": [1, 2.5, True], "default": 1}, {"type": "STRING", "enum": ["1", "2.5", "true"], "default": "1"}),
        ({"enum": [1], "default": None}, {"type": "STRING", "enum": ["1"], "default": None}),
        ({"allOf": [{"type": "string"}], "title": "T"}, {"type": "STRING", "title": "T"}),
        (
            {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "d"},
            {"type": "STRING", "description": "d", "nullable": True},
        ),
        (
            {
                "anyOf": [{"type": "string", "description": "own"}, {"type": "integer"}, {"type": "null"}],
                "description": "d",
            },
            {
                "anyOf": [
                    {"type": "STRING", "description": "own", "nullable": True},
                    {"type": "INTEGER", "description": "d", "nullable": True},
                ]
            },
        ),
        (
            {"anyOf": [{"type": ["string", "integer"]}, {"type": "boolean"}]},
            {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}, {"type": "BOOLEAN"}]},
        ),
        (
            {"type": ["string", "integer", "null"], "minimum": 1},
            {
                "anyOf": [
                    {"type": "STRING", "nullable": True},
                    {"type": "INTEGER", "minimum": 1, "nullable": True},
                ]
            },
        ),
        (
            {"anyOf": [{"anyOf": [{"type": "string"}, {"type": "integer"}]}, {"type": "null"}]},
            {"anyOf": [{"type": "STRING", "nullable": True}, {"type": "INTEGER", "nullable": True}]},
        ),
        ({"type": "string", "x-order": 1, "$comment": "c"}, {"type": "STRING"}),
    ],
)
def test_what_the_subset_can_say_is_said_in_it(schema: JsonObject, said: JsonObject) -> None:
    assert subset(schema) == said
    assert losses(one(schema)) == []


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"description": "anything"},
        {"type": "null"},
        {"type": "string", "format": "email"},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "integer", "exclusiveMaximum": 1.5},
        {"type": "integer", "multipleOf": 5},
        {"type": "array"},
        {"type": "array", "prefixItems": [{"type": "string"}], "items": False},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]},
        {"type": "object", "properties": {"a-b": {"type": "string"}}},
        {"enum": [1, "1"]},
        {"enum": [""]},
        {"enum": [{"a": 1}]},
        {"enum": [None]},
        {"enum": []},
        {"not": {"type": "string"}},
        {"anyOf": [{"type": "string"}, True]},
        {"anyOf": [{"type": "string"}], "type": "string"},
        {"anyOf": [{"type": "string"}, {"enum": [1, 2]}]},
        {"anyOf": [{"enum": ["1", "2"]}, {"enum": [1, 3]}]},
        {"anyOf": [{"properties": {"a": {"enum": [1]}}}, {"properties": {"a": {"type": "string"}}}]},
        {"anyOf": [{"type": "array", "items": {"enum": [1]}}, {"type": "array", "items": {"type": "string"}}]},
        {"allOf": [{"type": "string"}, {"maxLength": 3}]},
        {"allOf": [True]},
    ],
)
def test_any_other_schema_is_sent_as_it_is(schema: Any) -> None:
    made = one(schema)
    declared = declare(made)
    assert declared.key == "parametersJsonSchema"
    assert declared.schema == made.parameters
    arguments = {"x": {"a": "1"}}
    assert DIALECT.restore(made, arguments) is arguments


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": "number", "exclusiveMinimum": 0}, [("/properties/x", "exclusiveMinimum")]),
        ({"type": "object", "additionalProperties": {"type": "string"}}, []),
        (
            {"type": "array", "uniqueItems": True, "items": {"type": "string", "pattern": "^a$", "format": "email"}},
            [("/properties/x", "uniqueItems"), ("/properties/x/items", "pattern")],
        ),
        ({"const": True}, []),
        ({"const": {"a": 1}}, [("/properties/x", "const")]),
        ({"type": "string", "format": "email", "x-a": 1, "default": "b"}, []),
    ],
)
def test_what_gemini_may_not_regard_is_reported(schema: Any, found: list[tuple[str, str]]) -> None:
    assert losses(one(schema)) == found


def test_a_const_is_said_as_an_enum_of_one() -> None:
    declared = declare(tool({"x": {"const": 3}, "y": {"type": "string", "format": "email"}, "const": {"type": "null"}}))
    assert declared.schema["properties"]["x"] == {"enum": [3]}
    assert "const" in declared.schema["properties"]


@pytest.mark.parametrize(("hint", "value"), [("examples", ["a"]), ("deprecated", True), ("readOnly", False)])
def test_hints_without_a_keyword_are_reported_and_change_nothing_else(hint: str, value: Any) -> None:
    made = one({"type": ["string", "integer"], hint: value})
    assert declare(made).key == "parameters"
    assert losses(made) == [("/properties/x", hint)]
    assert declare(made).whole


def test_one_of_is_said_as_any_of_and_reported() -> None:
    made = one({"oneOf": [{"type": "string"}, {"type": "integer"}]})
    assert declare(made).schema["properties"]["x"] == {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}
    assert losses(made) == [("/properties/x", "oneOf")]


def test_a_tool_without_parameters_says_none() -> None:
    for schema in ({"type": "object"}, {"type": "object", "properties": {}, "additionalProperties": False}):
        assert DIALECT.define([Tool("t", "Does it.", schema)])[0]["functionDeclarations"] == [
            {"name": "t", "description": "Does it."}
        ]


def test_a_tool_that_takes_anything_is_sent_as_it_is() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}
    assert declare(Tool("t", "Does it.", schema)).key == "parametersJsonSchema"


# References


def test_references_are_replaced_by_what_they_lead_to() -> None:
    schema = {"$ref": "#/$defs/Size", "description": "How large."}
    made = one(schema, **{"$defs": {"Size": {"$ref": "#/$defs/Plain"}, "Plain": {"enum": [1, 2], "title": "Size"}}})
    assert declare(made).schema["properties"]["x"] == {
        "title": "Size",
        "description": "How large.",
        "type": "STRING",
        "enum": ["1", "2"],
    }
    assert DIALECT.restore(made, {"x": "2"}) == {"x": 2}


def test_what_stands_beside_a_reference_holds_too() -> None:
    made = one({"$ref": "#/$defs/A", "minLength": 3}, **{"$defs": {"A": {"type": "string", "minLength": 1}}})
    declared = declare(made)
    assert declared.key == "parametersJsonSchema"
    assert declared.schema["properties"]["x"] == {"allOf": [{"type": "string", "minLength": 1}, {"minLength": 3}]}


def test_a_schema_that_contains_itself_keeps_its_references() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node", "description": "d"}}}
    made = one({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": node}})
    declared = declare(made)
    assert declared.key == "parametersJsonSchema"
    assert declared.schema["$defs"]["Node"]["properties"]["next"] == {"$ref": "#/$defs/Node"}
    assert losses(made) == [("/properties/x", "$ref"), ("/$defs/Node/properties/next", "$ref")]
    assert not declared.whole


def test_references_that_double_at_every_step_are_kept() -> None:
    count = 12
    pairs = {
        f"D{at}": {"type": "object", "properties": {side: {"$ref": f"#/$defs/D{at + 1}"} for side in "ab"}}
        for at in range(count)
    }
    made = one({"$ref": "#/$defs/D0"}, **{"$defs": {**pairs, f"D{count}": {"type": "string"}}})
    assert declare(made).key == "parametersJsonSchema"


def test_what_is_combined_at_the_root_is_offered_and_reported() -> None:
    made = tool({"x": {"type": "string"}}, anyOf=[{"required": ["x"]}, {"properties": {"y": {"type": "integer"}}}])
    declared = declare(made)
    assert declared.schema["properties"].keys() == {"x", "y"}
    assert [loss.keyword for loss in declared.losses] == ["anyOf"]
    assert not declared.whole


# Strict mode


def test_strict_names_the_tools_that_gemini_holds_only_in_part() -> None:
    whole, part = tool({"a": {"type": "string"}}), one({"type": "number", "exclusiveMinimum": 0})
    strict = DIALECT.define([whole, part], strict=True)
    assert strict == DIALECT.define([whole, part])
    assert [loss.keyword for loss in strict.losses] == ["exclusiveMinimum", "strict"]


# The way back


def test_arguments_come_back_in_the_schemas_own_terms() -> None:
    made = tool(
        {
            "size": {"enum": [1, 2, "large"]},
            "deep": {"type": "object", "properties": {"on": {"const": True}, "free": {"type": "string"}}},
            "list": {"type": "array", "items": {"anyOf": [{"enum": [1.5, 2]}, {"type": "boolean"}, {"type": "null"}]}},
            "either": {"anyOf": [{"enum": [7]}, {"type": "object", "properties": {"n": {"enum": [8]}}}]},
            "nested": {"type": "array", "items": {"type": "array", "items": {"const": 0}}},
        }
    )
    assert declare(made).key == "parameters"
    sent = {
        "size": "2",
        "deep": {"on": "true", "free": "1", "new": "1"},
        "list": ["1.5", True, None, "3", 2],
        "either": {"n": "8"},
        "nested": [["0", "1"], "0"],
        "unknown": "1",
    }
    assert DIALECT.restore(made, sent) == {
        "size": 2,
        "deep": {"on": True, "free": "1", "new": "1"},
        "list": [1.5, True, None, "3", 2],
        "either": {"n": 8},
        "nested": [[0, "1"], "0"],
        "unknown": "1",
    }
    assert sent["size"] == "2"
    assert DIALECT.restore(made, {"size": "large", "either": "7"}) == {"size": "large", "either": 7}


def test_arguments_that_need_no_way_back_are_the_very_same() -> None:
    arguments = {"x": "1"}
    assert DIALECT.restore(one({"type": "string"}), arguments) is arguments


scalars = st.one_of(
    st.text(min_size=1, max_size=4), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)


@given(values=st.lists(scalars, min_size=1, max_size=6, unique_by=lambda value: (type(value), value)), data=st.data())
def test_every_value_of_an_enum_comes_back_as_itself(values: list[Any], data: st.DataObject) -> None:
    made = one({"type": "array", "items": {"enum": values}})
    declared = declare(made)
    chosen = data.draw(st.lists(st.sampled_from(range(len(values))), max_size=4))
    if declared.key == "parameters":
        offered = declared.schema["properties"]["x"]["items"]["enum"]
        back = DIALECT.restore(made, {"x": [offered[at] for at in chosen]})["x"]
    else:
        back = DIALECT.restore(made, {"x": [values[at] for at in chosen]})["x"]
    assert [(type(item), item) for item in back] == [(type(values[at]), values[at]) for at in chosen]
