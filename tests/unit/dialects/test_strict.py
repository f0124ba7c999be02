"""OpenAI's strict mode: what is rewritten, what is refused and why, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest

from callbox.dialects.dialect import Loss
from callbox.dialects.strict import Shape, restore, shape
from callbox.tools.tool import Tool

JsonObject = dict[str, Any]


def make(properties: JsonObject, required: list[str] | None = None, **more: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": required or [], **more}
    return Tool("t", "Any tool.", schema)


def one(schema: Any, *, required: bool = True, **more: Any) -> Shape:
    return shape(make({"x": schema}, ["x"] if required else [], **more), strict=True)


def rewritten(schema: JsonObject, *, required: bool = True, **more: Any) -> Any:
    found = one(schema, required=required, **more)
    assert found.strict, found.losses
    return found.parameters["properties"]["x"]


def reasons(schema: Any, **more: Any) -> list[tuple[str, str]]:
    found = one(schema, **more)
    assert not found.strict
    first, *rest = found.losses
    assert (first.path, first.keyword) == ("", "strict")
    return [(loss.path, loss.keyword) for loss in rest]


# What is rewritten


def test_a_tool_without_parameters_is_an_empty_closed_object() -> None:
    assert shape(Tool("t", "Any tool.", {"type": "object"}), strict=True).parameters == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


def test_every_property_becomes_required_and_objects_are_closed_at_every_level() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "string"}}, "title": "Inner"}
    assert rewritten({"type": "array", "items": inner, "minItems": 1}) == {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"a": {"type": ["string", "null"]}},
            "required": ["a"],
            "additionalProperties": False,
            "title": "Inner",
        },
    }


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, {"type": ["string", "null"]}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"type": "null"}, {"type": "null"}),
        ({"enum": ["a", 1]}, {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "integer", "enum": [1]}]}),
        ({"type": "string", "enum": ["a", "b"]}, {"type": ["string", "null"], "enum": ["a", "b", None]}),
        ({"enum": ["a", None]}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"enum": [None]}, {"type": "null"}),
        ({"const": "k"}, {"type": ["string", "null"], "enum": ["k", None]}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "array", "items": {"type": "string"}}, {"type": "array", "items": {"type": "string"}}),
    ],
)
def test_what_is_optional_takes_null_for_left_out(schema: JsonObject, expected: JsonObject) -> None:
    found = rewritten(schema, required=False)
    if "anyOf" in expected and {"type": "null"} not in expected["anyOf"]:
        expected = {"anyOf": [*expected["anyOf"], {"type": "null"}]}
    elif expected["type"] == "array" if "type" in expected else False:
        expected = {"anyOf": [expected, {"type": "null"}]}
    assert found == expected


def test_the_description_stays_outside_when_an_optional_object_takes_null() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "description": "It."}
    found = rewritten(schema, required=False)
    assert found["description"] == "It."
    assert found["anyOf"][1] == {"type": "null"}
    assert "description" not in found["anyOf"][0]


def test_several_types_become_branches_with_the_keywords_that_concern_each() -> None:
    schema = {"type": ["string", "integer", "null"], "pattern": "^a", "minimum": 3, "description": "Either."}
    assert rewritten(schema) == {
        "anyOf": [{"type": "string", "pattern": "^a"}, {"type": "integer", "minimum": 3}, {"type": "null"}],
        "description": "Either.",
    }


def test_a_type_that_goes_without_saying_is_said() -> None:
    assert rewritten({"properties": {"a": {"type": "null"}}})["type"] == "object"
    assert rewritten({"items": {"type": "null"}}) == {"type": "array", "items": {"type": "null"}}


def test_nested_unions_are_one_union() -> None:
    inner = {"anyOf": [{"type": "integer"}, {"type": "boolean"}]}
    assert rewritten({"anyOf": [inner, {"type": "null"}]}) == {
        "anyOf": [{"type": "integer"}, {"type": "boolean"}, {"type": "null"}]
    }


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": 5}, {"type": "integer", "const": 5}),
        ({"type": "number", "enum": [1, 2.5]}, {"type": "number", "enum": [1, 2.5]}),
        ({"type": "string", "enum": ["ab", "abc"], "maxLength": 2}, {"type": "string", "enum": ["ab"]}),
        ({"type": "string", "enum": ["a", 7]}, {"type": "string", "enum": ["a"]}),
        ({"type": "string", "format": "uuid"}, {"type": "string", "format": "uuid"}),
        ({"type": "string", "minLength": 0}, {"type": "string"}),
        ({"type": "integer", "pattern": "^a"}, {"type": "integer"}),
        ({"type": "integer", "x-unit": "days", "$comment": "c"}, {"type": "integer"}),
    ],
)
def test_what_says_the_same_in_fewer_words(schema: JsonObject, expected: JsonObject) -> None:
    assert rewritten(schema) == expected


@pytest.mark.parametrize(
    ("schema", "description"),
    [
        ({"type": "integer", "default": 5}, "Default: 5."),
        ({"type": "integer", "default": None}, None),
        ({"type": "integer", "default": 5, "description": "Days"}, "Days. Default: 5."),
        ({"type": "integer", "default": 5, "description": "Days, usually 5"}, "Days, usually 5"),
        ({"type": "string", "examples": ["a", "b", "c", "d"]}, 'Examples: "a", "b", "c".'),
        ({"type": "string", "example": "a", "description": "An id!"}, 'An id! Examples: "a".'),
        ({"type": "string", "format": "password"}, "Format: password."),
    ],
)
def test_hints_without_a_keyword_move_into_the_description(schema: JsonObject, description: str | None) -> None:
    assert rewritten(schema).get("description") == description


def test_recursion_stays_a_reference_and_old_definitions_move() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/definitions/Node"}}}
    tool = make({"x": {"$ref": "#/definitions/Node"}}, ["x"], definitions={"Node": node})
    assert shape(tool, strict=True).parameters == {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/Node"}},
        "required": ["x"],
        "additionalProperties": False,
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
                "required": ["next"],
                "additionalProperties": False,
            }
        },
    }


def test_a_tool_that_contains_itself_refers_to_its_root() -> None:
    tool = make({"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, ["child"])
    assert shape(tool, strict=True).parameters["properties"]["child"] == {"anyOf": [{"$ref": "#"}, {"type": "null"}]}


def test_a_reference_with_a_description_is_written_out() -> None:
    colour = {"type": "string", "enum": ["red", "blue"], "description": "A colour."}
    more = {"$defs": {"Colour": colour}}
    expected = {"type": "string", "enum": ["red", "blue"], "description": "Of the roof."}
    assert rewritten({"$ref": "#/$defs/Colour", "description": "Of the roof."}, **more) == expected
    assert rewritten({"allOf": [{"$ref": "#/$defs/Colour"}], "description": "Of the roof."}, **more) == expected


def test_a_description_beside_a_reference_to_the_schema_it_stands_in_is_dropped_and_said() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node", "description": "The next."}}}
    found = one({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": node}})
    assert found.strict
    assert [(loss.path, loss.keyword) for loss in found.losses] == [("/$defs/Node/properties/next", "description")]


def test_definitions_that_double_with_each_reference_stay_references() -> None:
    def link(number: int) -> JsonObject:
        ref = {"$ref": f"#/$defs/D{number + 1}", "description": "Two of them."}
        return {"type": "object", "properties": {"a": ref, "b": dict(ref)}, "required": ["a", "b"]}

    defs = {f"D{number}": link(number) for number in range(8)} | {"D8": {"type": "string"}}
    found = one({"$ref": "#/$defs/D0"}, **{"$defs": defs})
    assert any(loss.keyword == "description" for loss in found.losses)


def test_branches_of_one_of_that_exclude_each_other_become_any_of() -> None:
    def kind(name: str) -> JsonObject:
        properties = {"name": {"type": "string"}, "kind": {"const": name}}
        return {"type": "object", "properties": properties, "required": ["kind", "name"]}

    more = {"$defs": {"Cat": kind("cat"), "Dog": kind("dog")}}
    refs = [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
    tool = make({"x": {"oneOf": refs, "discriminator": {"propertyName": "kind"}}}, ["x"], **more)
    found = shape(tool, strict=True)
    assert found.strict
    assert found.parameters["properties"]["x"] == {"anyOf": refs}
    # The API wants objects of a union told apart by their first property.
    assert list(found.parameters["$defs"]["Cat"]["properties"]) == ["kind", "name"]


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "string"}, {"type": "integer"}],
        [{"enum": ["a", "b"]}, {"enum": ["c"]}],
        [{"const": "a"}, {"type": "integer"}],
        [{"type": "string", "pattern": "^b"}, {"const": "a"}],
    ],
)
def test_scalar_branches_that_exclude_each_other(branches: list[JsonObject]) -> None:
    assert len(rewritten({"oneOf": branches})["anyOf"]) == 2


def test_objects_of_a_union_are_told_apart_by_a_member_that_only_one_has() -> None:
    first = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    second = {"type": "object", "properties": {"a": {"type": "string"}, "c": {"type": "string"}}}
    found = rewritten({"anyOf": [first, second]})
    assert [next(iter(branch["properties"])) for branch in found["anyOf"]] == ["b", "c"]


def test_a_union_of_unions_is_told_apart_as_one() -> None:
    def thing(kind: str) -> JsonObject:
        properties = {"name": {"type": "string"}, "kind": {"const": kind}}
        return {"type": "object", "properties": properties, "required": ["kind", "name"]}

    defs = {"Pet": {"anyOf": [thing("cat"), thing("dog")]}}
    found = one({"anyOf": [{"$ref": "#/$defs/Pet"}, thing("car")]}, **{"$defs": defs})
    assert found.strict
    assert next(iter(found.parameters["$defs"]["Pet"]["anyOf"][0]["properties"])) == "kind"


# What is refused


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "string", "minLength": 1}, "minLength"),
        ({"type": "string", "maxLength": 9}, "maxLength"),
        ({"type": "string", "format": "uri"}, "format"),
        ({"type": "array"}, "items"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "items": False, "prefixItems": [{"type": "string"}]}, "prefixItems"),
        ({"type": "array", "items": {"type": "string"}, "contains": {"const": "a"}}, "contains"),
        ({"type": "object"}, "properties"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "additionalProperties"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "minProperties": 1}, "minProperties"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}, "required"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "patternProperties": {}}, "patternProperties"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "propertyNames": {}}, "propertyNames"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "dependentRequired": {}}, "dependentRequired"),
        ({"type": "string", "not": {"const": "a"}}, "not"),
        ({"type": "string", "if": {"const": "a"}, "then": True}, "if"),
        ({"allOf": [{"type": "string"}, {"pattern": "a"}]}, "allOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"oneOf": [{"const": "a"}, {"type": "string"}]}, "oneOf"),
        ({"anyOf": [{"type": "string"}], "minLength": 2}, "minLength"),
        ({"enum": [["a"]]}, "enum"),
        ({"type": "string", "const": 5}, "enum"),
        ({}, "type"),
        (True, "type"),
        ({"description": "anything"}, "type"),
    ],
)
def test_what_strict_mode_cannot_say_is_refused_with_its_place(schema: Any, keyword: str) -> None:
    assert ("/properties/x", keyword) in reasons(schema)


def test_a_reference_into_the_middle_of_a_schema_is_refused() -> None:
    tool = make({"y": {"type": "string"}, "x": {"$ref": "#/properties/y"}}, ["x"])
    assert ("/properties/x", "$ref") in [(loss.path, loss.keyword) for loss in shape(tool, strict=True).losses]


def test_a_constraint_beside_a_reference_is_refused() -> None:
    found = reasons({"$ref": "#/$defs/S", "pattern": "a"}, **{"$defs": {"S": {"type": "string"}}})
    assert ("/properties/x", "pattern") in found


def test_two_definitions_of_one_name_are_refused() -> None:
    both = {"$defs": {"A": {"type": "string"}}, "definitions": {"A": {"type": "integer"}}}
    tool = make({"x": {"$ref": "#/$defs/A"}, "y": {"$ref": "#/definitions/A"}}, ["x", "y"], **both)
    assert not shape(tool, strict=True).strict


def test_objects_of_a_union_that_nothing_tells_apart_are_refused() -> None:
    member = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    other = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert ("/properties/x", "anyOf") in reasons({"anyOf": [member, other]})


def test_one_definition_that_two_unions_order_differently_is_refused() -> None:
    def thing(**members: str) -> JsonObject:
        return {"type": "object", "properties": {name: {"type": kind} for name, kind in members.items()}}

    defs = {"A": thing(p="string", q="string"), "B": thing(p="string", r="string"), "C": thing(q="string", s="string")}
    unions = {
        "x": {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}, {"type": "object", "properties": {}}]},
        "y": {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/C"}]},
    }
    found = shape(make(unions, ["x", "y"], **{"$defs": defs}), strict=True)
    assert not found.strict


def test_the_refusal_names_all_reasons_and_the_schema_is_sent_as_it_is() -> None:
    tool = make({"a": {"type": "string", "minLength": 1}, "b": {"type": "object"}, "c": {"type": "array"}})
    found = shape(tool, strict=True)
    assert not found.strict
    assert "minLength at /properties/a, properties at /properties/b" in found.losses[0].message
    # An array without items is refused by the API even without strict mode; {} says the same.
    assert found.parameters["properties"]["c"] == {"type": "array", "items": {}}
    assert tool.parameters["properties"]["c"] == {"type": "array"}


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_combined_at_the_root_is_offered_as_properties_and_reported(strict: bool) -> None:
    branches = [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"$ref": "#/$defs/B"}]
    more = {"anyOf": branches, "$defs": {"B": {"properties": {"b": {"type": "string"}}}}}
    found = shape(make({"c": {"type": "string"}}, **more), strict=strict)
    assert not found.strict
    assert found.parameters.keys() == {"type", "properties", "required", "$defs"}
    assert found.parameters["properties"].keys() == {"a", "b", "c"}
    assert Loss("t", "/anyOf", "anyOf", found.losses[-1].message) == found.losses[-1]


# Limits


def nested(levels: int) -> JsonObject:
    schema: JsonObject = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def test_ten_levels_and_no_more() -> None:
    assert one(nested(9)).strict
    assert ("", "properties") in reasons(nested(10))


def test_levels_count_through_references() -> None:
    more = {"$defs": {"Deep": nested(9)}}
    assert one({"$ref": "#/$defs/Deep"}, **more).strict
    assert ("", "properties") in reasons({"type": "array", "items": {"$ref": "#/$defs/Deep"}}, **more)


def test_a_thousand_constants_and_no_more() -> None:
    assert one({"type": "integer", "enum": list(range(1000))}).strict
    assert ("", "enum") in reasons({"type": "integer", "enum": list(range(1001))})


def test_large_enums_of_long_strings_are_refused() -> None:
    assert one({"type": "string", "enum": [f"{number:060}" for number in range(250)]}).strict
    assert ("/properties/x", "enum") in reasons({"type": "string", "enum": [f"{number:060}" for number in range(251)]})


def test_five_thousand_properties_and_no_more() -> None:
    assert shape(make({f"p{number}": {"type": "null"} for number in range(5000)}), strict=True).strict
    found = shape(make({f"p{number}": {"type": "null"} for number in range(5001)}), strict=True)
    assert [loss.keyword for loss in found.losses] == ["strict", "properties"]


def test_names_and_constants_together_have_a_limit() -> None:
    found = shape(make({f"{number:0>1300}": {"type": "null"} for number in range(100)}), strict=True)
    assert [loss.keyword for loss in found.losses] == ["strict", "properties"]


# Without strict mode


def test_without_strict_mode_a_schema_stays_as_it_is() -> None:
    tool = make({"a": {"type": "string", "minLength": 1, "default": "x"}}, ["a"])
    assert shape(tool, strict=False) == Shape(tool.parameters, strict=False)


# Coming back


PERSON = make(
    {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "nick": {"type": ["string", "null"]},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/Pet"}},
        "home": {"allOf": [{"$ref": "#/$defs/Home"}]},
    },
    ["name"],
    **{
        "$defs": {
            "Pet": {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
                        "required": ["kind"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {"kind": {"const": "dog"}, "trick": {"type": ["string", "null"]}},
                        "required": ["kind", "trick"],
                        "additionalProperties": False,
                    },
                ]
            },
            "Home": {"type": "object", "properties": {"street": {"type": "string"}}},
        }
    },
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": "A", "age": None, "nick": None}, {"name": "A", "nick": None}),
        ({"name": None}, {"name": None}),
        ({"name": "A", "unknown": None}, {"name": "A", "unknown": None}),
        ({"pets": [{"kind": "cat", "lives": None}]}, {"pets": [{"kind": "cat"}]}),
        ({"pets": [{"kind": "dog", "trick": None}]}, {"pets": [{"kind": "dog", "trick": None}]}),
        ({"pets": [{"kind": "fish", "lives": None}]}, {"pets": [{"kind": "fish", "lives": None}]}),
        ({"pets": None, "home": {"street": None}}, {"home": {}}),
        ({"pets": [None, "x"]}, {"pets": [None, "x"]}),
    ],
)
def test_a_null_that_means_left_out_is_left_out(arguments: JsonObject, expected: JsonObject) -> None:
    assert restore(PERSON, arguments) == expected


def test_arguments_without_a_null_are_not_even_copied() -> None:
    arguments = {"name": "A", "pets": [{"kind": "cat"}]}
    assert restore(PERSON, arguments) is arguments


def test_arguments_deeper_than_any_tool_takes_come_back_as_they_are() -> None:
    deep: Any = None
    for _ in range(100_000):
        deep = {"street": deep}
    recursive = make(
        {"a": {"$ref": "#/$defs/R"}}, **{"$defs": {"R": {"properties": {"street": {"$ref": "#/$defs/R"}}}}}
    )
    arguments = {"a": deep}
    assert restore(recursive, arguments) is arguments
    while deep is not None:  # Python would free it recursively.
        deep = deep.pop("street")
