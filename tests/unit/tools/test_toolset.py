"""Groups of tools, and tools from definitions as vendors write them."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from callbox import CallContext, Toolset, tool
from callbox.errors import ConfigurationError, DefinitionError
from callbox.tools.tool import ExternalBinding, Tool

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "where": {"type": "object", "properties": {"x": {"type": "integer"}}}},
    "required": ["city"],
}
CLOSED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "where": {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False},
    },
    "required": ["city"],
    "additionalProperties": False,
}
COMMON = {"name": "get_weather", "description": "Get the weather."}


@pytest.mark.parametrize(
    "definition",
    [
        {"type": "function", "function": {**COMMON, "parameters": PARAMETERS, "strict": True}},
        {"type": "function", **COMMON, "parameters": PARAMETERS},
        {**COMMON, "input_schema": PARAMETERS},
        {"type": "custom", **COMMON, "input_schema": PARAMETERS},
        {"functionDeclarations": [{**COMMON, "parametersJsonSchema": PARAMETERS}]},
        {"function_declarations": [{**COMMON, "parameters_json_schema": PARAMETERS}]},
        {
            "functionDeclarations": [
                {
                    **COMMON,
                    "parameters": {
                        "type": "OBJECT",
                        "properties": {
                            "city": {"type": "STRING"},
                            "where": {"type": "OBJECT", "properties": {"x": {"type": "INTEGER"}}},
                        },
                        "required": ["city"],
                    },
                }
            ]
        },
        {**COMMON, "inputSchema": PARAMETERS},
        {**COMMON, "parameters": PARAMETERS},
    ],
)
def test_five_vendors_say_the_same(definition: dict[str, Any]):
    (made,) = Toolset.from_schemas([definition])
    assert (made.name, made.description, made.parameters) == ("get_weather", "Get the weather.", CLOSED)
    assert made.binding is None
    assert made.effect == "write"


def test_definitions_may_stay_open():
    (made,) = Toolset.from_schemas([{**COMMON, "parameters": PARAMETERS}], close=False)
    assert made.parameters == PARAMETERS


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"properties": {}}])
def test_a_function_without_parameters_takes_none(parameters: Any):
    (made,) = Toolset.from_schemas([{"type": "function", **COMMON, "parameters": parameters}])
    assert made.parameters == {"type": "object", "properties": {}, "additionalProperties": False}


def test_several_shapes_may_be_mixed_and_one_entry_may_hold_several():
    toolset = Toolset.from_schemas(
        [
            {"functionDeclarations": [{"name": "a", "description": "A."}, {"name": "b", "description": "B."}]},
            {"name": "c", "description": "C.", "inputSchema": {"type": "object"}},
        ],
        name="mixed",
    )
    assert toolset.names == ("a", "b", "c")
    assert toolset.name == "mixed"


def test_geminis_own_schema_language_becomes_json_schema():
    schema = {
        "type": "OBJECT",
        "properties": {
            "color": {"type": "STRING", "format": "enum", "enum": ["RED"], "nullable": True},
            "size": {"type": "INTEGER", "minimum": 1, "example": 3},
            "items": {"type": "ARRAY", "items": {"type": "NUMBER"}, "minItems": "1", "max_items": 3},
            "any": {"any_of": [{"type": "STRING"}, {"type": "BOOLEAN"}], "nullable": True},
            "free": {"type": "TYPE_UNSPECIFIED", "nullable": True, "description": "Anything."},
            "ref": {"type": "STRING", "allOf": [{"minLength": 1}], "nullable": True},
            "odd": True,
        },
        "propertyOrdering": ["color"],
    }
    (made,) = Toolset.from_schemas([{"functionDeclarations": [{**COMMON, "parameters": schema}]}])
    assert made.parameters["properties"] == {
        "color": {"type": ["string", "null"], "enum": ["RED", None]},
        "size": {"type": "integer", "minimum": 1, "examples": [3]},
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
        "any": {"anyOf": [{"anyOf": [{"type": "string"}, {"type": "boolean"}]}, {"type": "null"}]},
        "free": {"description": "Anything."},
        "ref": {"anyOf": [{"type": "string", "allOf": [{"minLength": 1}]}, {"type": "null"}]},
        "odd": True,
    }
    assert "propertyOrdering" not in made.parameters


@pytest.mark.parametrize(
    ("annotations", "effect", "idempotent"),
    [
        (None, "write", False),
        ({}, "write", False),
        ({"readOnlyHint": True}, "read", False),
        ({"readOnlyHint": True, "destructiveHint": True}, "read", False),
        ({"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True}, "destructive", True),
        ({"destructiveHint": False}, "write", False),
        ({"title": "Weather"}, "write", False),
    ],
)
def test_mcps_annotations_say_the_effect(annotations: Any, effect: str, idempotent: bool):
    definition = {**COMMON, "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"}}
    if annotations is not None:
        definition["annotations"] = annotations
    (made,) = Toolset.from_schemas([definition])
    assert (made.effect, made.idempotent) == (effect, idempotent)
    assert made.returns == {"type": "object"}
    assert made.title == (annotations or {}).get("title")


def test_the_effect_that_the_caller_says_counts_more():
    definition = {**COMMON, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
    (made,) = Toolset.from_schemas([definition], effect="egress")
    assert made.effect == "egress"


def test_objects_of_an_sdk_are_read():
    class Definition(BaseModel):
        name: str = "get_weather"
        description: str | None = "Get the weather."
        inputSchema: dict[str, Any] = PARAMETERS
        annotations: None = None

    (made,) = Toolset.from_schemas([Definition()])
    assert made.parameters == CLOSED


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (5, "not an object"),
        (SimpleNamespace(name="x"), "not an object"),
        ({"type": "web_search"}, "Definition 0 has no name .type 'web_search'.*leave them out"),
        ({"functionDeclarations": ["x"]}, "has no name"),
        ({"name": "f", "description": "D.", "parameters": "x"}, "not an object"),
        ({"name": "f", "description": "D.", "parameters": {"type": "string"}}, 'must have type "object"'),
        ({"name": "f"}, "no description"),
        (
            {
                "functionDeclarations": [
                    {"name": "f", "description": "D.", "parameters": {"maxProperties": "9" * 5_000}}
                ]
            },
            "must have type",
        ),
        ({"name": "a.b", "description": "D."}, 'Use name="a_b"'),
    ],
)
def test_a_wrong_definition_is_refused_with_the_fix(definition: Any, message: str):
    with pytest.raises(DefinitionError, match=message):
        Toolset.from_schemas([definition])


def test_a_hostile_depth_is_refused_before_it_is_walked():
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(100_000):
        inner["items"] = {}
        inner = inner["items"]
    for definition in (
        {"name": "f", "description": "D.", "parameters": {"type": "object", "properties": {"a": deep}}},
        {"functionDeclarations": [{"name": "f", "description": "D.", "parameters": {"properties": {"a": deep}}}]},
    ):
        with pytest.raises(DefinitionError, match="nested deeper"):
            Toolset.from_schemas([definition])
    while deep:  # taken apart by hand: freeing it would recurse
        deep = deep.pop("items")


DEFINITION_KEYS = [
    *("name", "description", "parameters", "input_schema", "inputSchema", "function", "functionDeclarations", "type"),
    *("annotations", "items", "properties", "nullable", "enum", "any_of", "minItems", "format", "example", "title"),
    *("readOnlyHint", "parametersJsonSchema", "outputSchema", "$ref", "anyOf"),
]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "STRING", "object", "#"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(DEFINITION_KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(ODD)
def test_any_definition_makes_tools_or_is_refused(definition: Any):
    for each in (definition, {"name": "a", "description": "A.", "parameters": definition}):
        for entry in (each, {"functionDeclarations": [each]}):
            try:
                made = Toolset.from_schemas([entry])
            except DefinitionError:
                continue
            assert all(tool.validator for tool in made)


# Running them


async def test_one_function_runs_them_all():
    def short(name: str, arguments: dict[str, Any]) -> Any:
        return name, arguments

    def long(name: str, arguments: dict[str, Any], context: Any) -> Any:
        return name, arguments, context

    async def slow(name: str, arguments: dict[str, Any]) -> Any:
        return name, arguments

    def any_number(*given: Any) -> Any:
        return given

    class Runner:
        async def __call__(self, name: str, arguments: dict[str, Any], context: Any) -> Any:
            return name, context

    def run(function: Any) -> Any:
        (made,) = Toolset.from_schemas([COMMON], function)
        assert isinstance(made.binding, ExternalBinding)
        return made.binding.run("n", {"a": 1}, "context"), made.binding.is_async

    assert run(short) == (("n", {"a": 1}), False)
    assert run(long) == (("n", {"a": 1}, "context"), False)
    assert run(any_number) == (("n", {"a": 1}, "context"), False)
    answer, is_async = run(slow)
    assert (await answer, is_async) == (("n", {"a": 1}), True)
    answer, is_async = run(Runner())
    assert (await answer, is_async) == (("n", "context"), True)
    with pytest.raises(DefinitionError, match="Write def run"):
        run(lambda name: name)


def test_a_tool_without_a_function_cannot_be_called_by_hand():
    (made,) = Toolset.from_schemas([COMMON])
    with pytest.raises(ConfigurationError, match="call it through a Gate"):
        made()


# Smaller and renamed toolsets


@tool(effect="read")
def look(a: str) -> str:
    """Look at something."""
    return a


@tool
def touch(a: str) -> str:
    """Touch something."""
    return a


BOTH = Toolset([look, touch], name="both")


def test_only_some_of_the_tools():
    assert BOTH.only("touch", "look").names == ("touch", "look")
    assert BOTH.without("touch").names == ("look",)
    assert BOTH.filter(lambda each: each.effect == "read").names == ("look",)
    assert BOTH.only().names == ()
    assert BOTH.only("look").name == "both"
    for narrow in (BOTH.only, BOTH.without):
        with pytest.raises(ConfigurationError, match=r"no tool 'smell'.*look, touch"):
            narrow("smell")


def test_a_prefix_keeps_toolsets_apart():
    both = BOTH.prefixed("a_") + BOTH.prefixed("b_")
    assert both.names == ("a_look", "a_touch", "b_look", "b_touch")
    assert both["a_look"]("x") == "x"
    assert both["a_look"].version != look.version
    with pytest.raises(DefinitionError):
        BOTH.prefixed("no.")


def test_a_renamed_external_tool_still_hears_its_own_name():
    toolset = Toolset.from_schemas([COMMON], lambda name, arguments: name).prefixed("x_").prefixed("y_")
    binding = toolset["y_x_get_weather"].binding
    assert isinstance(binding, ExternalBinding)
    assert binding.run("y_x_get_weather", {}, None) == "get_weather"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effect": "none"}, "unknown effect"),
        ({"retries": 1}, "a second run might do its work twice"),
        ({"timeout_s": 0}, "timeout_s is too small.*more than 0"),
        ({"concurrency": 0}, "concurrency is too small"),
        ({"retries": -1}, "retries is too small"),
        ({"description": " "}, "no description"),
        ({"name": "x" * 65}, "not a tool name"),
    ],
)
def test_a_contradictory_tool_is_refused(options: dict[str, Any], message: str):
    given = {"name": "t", "description": "Do it.", "parameters": {"type": "object"}, **options}
    with pytest.raises(DefinitionError, match=message):
        Tool(**given)


def test_a_check_may_only_ask_for_what_the_tool_takes():
    def wrong(b: str) -> None:
        return None

    with pytest.raises(DefinitionError, match=r"asks for 'b'.*The tool takes: a"):
        look.check(wrong)
    assert look.checks == []


def test_a_check_may_leave_out_what_is_optional_and_ask_for_the_context():
    @tool
    def f(a: str, b: str = "") -> None:
        """Do it."""

    @f.check
    async def both(ctx: CallContext, a: str, b: str = "") -> None:
        return None

    (check,) = f.checks
    assert check.parameters == ("a", "b")
    assert check.optional == {"b"}
    assert check.context_parameter == "ctx"
    assert check.is_async


def test_a_copy_of_what_holds_a_tool_shares_it():
    assert deepcopy({"tools": [look]})["tools"][0] is look


def test_definitions_of_a_vendor():
    (definition,) = BOTH.only("look").definitions("mcp")
    assert definition["inputSchema"] == look.parameters
