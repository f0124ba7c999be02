"""Laws of OpenAI's strict mode: what the rewritten schema takes is, restored, what the original takes; and back."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
from hypothesis import assume, given
from hypothesis import strategies as st

from callbox.dialects.strict import restore, shape
from callbox.tools.tool import Tool

JsonObject = dict[str, Any]

names = st.sampled_from(["a", "b", "c", "kind", "next"])
scalars = st.one_of(
    st.just({"type": "string"}),
    st.just({"type": "integer"}),
    st.just({"type": "boolean"}),
    st.just({"type": ["number", "null"]}),
    st.just({"type": ["string", "integer", "null"], "minimum": 3, "pattern": "^a"}),
    st.just({"type": "null"}),
    st.builds(lambda low: {"type": "integer", "minimum": low, "default": low}, st.integers(-3, 3)),
    st.just({"type": "string", "pattern": "^[ab]*$", "examples": ["ab"]}),
    st.just({"enum": ["x", "y", 3, None]}),
    st.just({"type": "string", "enum": ["x", "longer"], "maxLength": 3}),
    st.just({"const": "k"}),
    st.just({"type": ["string", "null"], "enum": ["x", None]}),
    st.just({"$ref": "#/$defs/Node"}),
    st.just({"$ref": "#/$defs/Node", "description": "One more."}),
    st.just({"allOf": [{"$ref": "#/$defs/Node"}], "description": "One more."}),
)


def _object(members: JsonObject, required: set[str], closed: bool, extra: JsonObject) -> JsonObject:
    schema: JsonObject = {
        "type": "object",
        "properties": {**extra, **members} or {"a": {"type": "string"}},
        "required": sorted({*(required & members.keys()), *extra}),
    }
    return {**schema, "additionalProperties": False} if closed else schema


def objects(inner: st.SearchStrategy[JsonObject], extra: JsonObject | None = None) -> st.SearchStrategy[JsonObject]:
    return st.builds(
        _object,
        st.dictionaries(names, inner, max_size=3),
        st.sets(names, max_size=3),
        st.booleans(),
        st.just(extra or {}),
    )


def _deeper(inner: st.SearchStrategy[JsonObject]) -> st.SearchStrategy[JsonObject]:
    told = st.tuples(
        objects(inner, {"kind": {"const": "first"}}),
        objects(inner, {"kind": {"const": "second"}}),
    )
    return st.one_of(
        objects(inner),
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 3}, inner),
        st.builds(lambda left, right: {"anyOf": [left, right]}, inner, inner),
        st.builds(lambda left: {"anyOf": [left, {"type": "null"}], "default": None}, inner),
        st.builds(lambda pair: {"oneOf": list(pair)}, told),
    )


schemas = st.recursive(scalars, _deeper, max_leaves=6)
NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}, "label": {"type": "string"}},
    "required": ["value"],
}


@st.composite
def tools(draw: st.DrawFn) -> Tool:
    parameters = {**draw(objects(schemas)), "$defs": {"Node": NODE}}
    try:
        return Tool("t", "Any tool.", parameters)
    except ValueError:
        # A `oneOf` whose "kind" was overwritten, or alike: no definition that callbox takes.
        assume(False)
        raise


plain_values = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["x", "ab", "k", "first", "second", 2.5])
)


def instances(schema: JsonObject, root: JsonObject, level: int = 0) -> st.SearchStrategy[Any]:
    """Values that mostly fit the schema."""
    if "$ref" in schema:
        return instances(root["$defs"]["Node"], root, level + 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            return st.one_of([instances(branch, root, level + 1) for branch in schema[keyword]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return st.sampled_from(kinds).flatmap(lambda kind: _of_kind(kind, schema, root, level))


def _of_kind(kind: str, schema: JsonObject, root: JsonObject, level: int) -> st.SearchStrategy[Any]:
    if kind == "object":
        required = schema.get("required", [])
        must = {name: instances(schema["properties"][name], root, level + 1) for name in required if level < 8}
        may = {
            name: instances(member, root, level + 1)
            for name, member in schema["properties"].items()
            if name not in required and level < 4
        }
        return st.fixed_dictionaries(must, optional=may)
    if kind == "array":
        return st.lists(instances(schema["items"], root, level + 1), max_size=2)
    return {
        "string": st.sampled_from(["", "a", "ab", "x"]),
        "integer": st.integers(-5, 9),
        "number": st.integers(-5, 5) | st.just(2.5),
        "boolean": st.booleans(),
        "null": st.none(),
    }[kind]


def forward(value: Any, original: JsonObject, root: JsonObject) -> Any:
    """An instance of the original schema in strict mode's terms: what was left out is null."""
    while "$ref" in original:
        original = root["$defs"]["Node"]
    for keyword in ("anyOf", "oneOf", "allOf"):
        for branch in original.get(keyword, ()):
            if valid(value, branch, root):
                return forward(value, branch, root)
    if isinstance(value, list):
        return [forward(item, original["items"], root) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: forward(value[name], member, root) if name in value else None
        for name, member in original["properties"].items()
    }


def valid(value: Any, schema: JsonObject, root: JsonObject) -> bool:
    return jsonschema_rs.validator_for({"$defs": root.get("$defs", {}), **schema}).is_valid(value)


@given(tool=tools(), data=st.data())
def test_what_strict_mode_takes_is_restored_to_what_the_tool_takes(tool: Tool, data: st.DataObject) -> None:
    rewritten = shape(tool, strict=True)
    assume(rewritten.strict)
    strict = rewritten.parameters
    value = data.draw(_strict_instances(strict, strict))
    assume(valid(value, strict, strict))
    restored = restore(tool, value)
    assert valid(restored, tool.parameters, tool.parameters), (value, restored)


@given(tool=tools(), data=st.data())
def test_what_the_tool_takes_can_be_said_in_strict_mode(tool: Tool, data: st.DataObject) -> None:
    rewritten = shape(tool, strict=True)
    assume(rewritten.strict)
    value = data.draw(instances(tool.parameters, tool.parameters))
    assume(valid(value, tool.parameters, tool.parameters))
    assert valid(forward(value, tool.parameters, tool.parameters), rewritten.parameters, rewritten.parameters)


def _strict_instances(schema: JsonObject, root: JsonObject, level: int = 0) -> st.SearchStrategy[Any]:
    """Values that mostly fit a rewritten schema: every member is there, null where it may be."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return _strict_instances(root["$defs"][name], root, level + 1)
    if "anyOf" in schema:
        branches = schema["anyOf"]
        if level > 5 and {"type": "null"} in branches:
            return st.none()
        return st.one_of([_strict_instances(branch, root, level + 1) for branch in branches])
    if schema.get("type") == "object":
        return st.fixed_dictionaries(
            {name: _strict_instances(member, root, level + 1) for name, member in schema["properties"].items()}
        )
    return instances(schema, root, level)


@given(tool=tools())
def test_every_rewritten_schema_keeps_the_rules(tool: Tool) -> None:
    rewritten = shape(tool, strict=True)
    assert rewritten.strict or any(loss.keyword == "strict" for loss in rewritten.losses)
    if rewritten.strict:
        check_rules(rewritten.parameters)


def check_rules(schema: JsonObject) -> None:
    allowed = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const", "$ref"}
    allowed |= {"$defs", "description", "title", "pattern", "format", "minimum", "maximum", "minItems", "maxItems"}
    allowed |= {"exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    assert schema.keys() <= allowed
    assert "$ref" not in schema or schema.keys() == {"$ref"}
    if "object" in str(schema.get("type")):
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
    inside = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    for child in [*inside, *([schema["items"]] if "items" in schema else [])]:
        check_rules(child)
