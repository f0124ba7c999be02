from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from callbox.calls import validation
from callbox.calls.call import MISSING, Problem
from callbox.calls.explanation import FINDINGS_MAX
from callbox.calls.validation import explainer_of, tell
from callbox.limits import DEFAULT_LIMITS
from callbox.tools.tool import Tool


def problems_of(schema: dict[str, Any], arguments: Any) -> list[Problem]:
    schema = {"type": "object", **schema}
    tool = Tool("f", "Does something.", schema)
    explainer = explainer_of(tool)
    findings = explainer.explain(arguments)
    assert bool(findings) is not tool.validator.is_valid(arguments)
    found = tell(explainer.document, findings, arguments, DEFAULT_LIMITS)
    assert found.more == 0
    assert all(len(problem.message) < 500 for problem in found.told)
    return list(found.told)


def the_problem(schema: dict[str, Any], arguments: Any) -> Problem:
    [problem] = problems_of(schema, arguments)
    return problem


def one(schema: Any, value: Any) -> Problem:
    """The problem of one property."""
    problem = the_problem({"properties": {"x": schema}}, {"x": value})
    assert problem.path.startswith("/x")
    return problem


def codes(schema: dict[str, Any], arguments: Any) -> list[tuple[str, str]]:
    return [(problem.code, problem.path) for problem in problems_of(schema, arguments)]


OPEN = {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
CLOSED = {**OPEN, "additionalProperties": False}


def test_a_missing_property_has_its_own_path_and_says_what_is_wanted() -> None:
    problem = the_problem(CLOSED, {})
    assert (problem.code, problem.path, problem.expected) == ("missing_required", "/city", "string")
    assert problem.received is MISSING
    assert "received" not in problem.as_dict()


def test_a_missing_property_that_is_nowhere_described_is_told_all_the_same() -> None:
    assert the_problem({"required": ["x"]}, {}).expected is None


def test_all_problems_are_told_at_once_sorted_by_path() -> None:
    schema = {
        "properties": {"b": {"type": "array", "items": {"type": "integer"}}, "a": {"enum": ["x"]}},
        "required": ["c"],
    }
    values = {"b": [1, "2", *range(8), None], "a": "y"}
    assert codes(schema, values) == [
        ("not_in_enum", "/a"),
        ("wrong_type", "/b/1"),
        ("wrong_type", "/b/10"),
        ("missing_required", "/c"),
    ]


@pytest.mark.parametrize(
    ("schema", "value", "code", "expected"),
    [
        ({"type": "integer"}, "x", "wrong_type", "integer"),
        ({"type": "integer", "minimum": 1, "maximum": 10}, 1.5, "wrong_type", "integer between 1 and 10"),
        ({"type": ["string", "null"]}, 5, "wrong_type", "string or null"),
        ({"type": "boolean"}, 1, "wrong_type", "boolean"),
        ({"type": "number"}, True, "wrong_type", "number"),
        ({"type": "object", "properties": {"a": {}}}, [], "wrong_type", "object with a"),
        ({"type": "array", "items": {"type": "string"}}, {}, "wrong_type", "array of strings"),
        ({"enum": ["a", "b"]}, "c", "not_in_enum", "one of: a, b"),
        ({"const": 5}, 6, "not_in_enum", "exactly 5"),
        ({"enum": [1, True, "1"]}, 2, "not_in_enum", 'one of: 1, true, "1"'),
        ({"type": "integer", "minimum": 1}, 0, "out_of_range", "integer at least 1"),
        ({"type": "number", "exclusiveMinimum": 0}, 0, "out_of_range", "number above 0"),
        ({"type": "number", "exclusiveMaximum": 9}, 9, "out_of_range", "number below 9"),
        ({"type": "integer", "maximum": 9}, 10, "out_of_range", "integer at most 9"),
        ({"type": "integer", "multipleOf": 5}, 7, "out_of_range", "integer a multiple of 5"),
        ({"type": "string", "maxLength": 3}, "abcd", "too_long", "string (at most 3 characters)"),
        ({"type": "string", "minLength": 1}, "", "too_short", "string (at least 1 character)"),
        ({"type": "array", "minItems": 1, "maxItems": 2}, [], "too_short", "array (1 to 2 items)"),
        ({"type": "array", "maxItems": 1}, [1, 2], "too_long", "array (at most 1 item)"),
        ({"type": "array", "minItems": 2, "maxItems": 2}, [1], "too_short", "array (exactly 2 items)"),
        ({"type": "array", "uniqueItems": True}, [1, 1], "not_unique", "array (all different)"),
        ({"type": "object", "minProperties": 1}, {}, "too_short", "object (at least 1 property)"),
        ({"type": "object", "maxProperties": 0}, {"a": 1}, "too_long", "object (at most 0 properties)"),
        ({"type": "string", "format": "date"}, "x", "invalid_format", "string (date, like 2025-01-31)"),
        ({"type": "string", "pattern": "^A-"}, "x", "invalid_format", "string (matching ^A-)"),
        ({"not": {"type": "string"}}, "x", "not_allowed", "any value"),
        ({"contains": {"type": "string"}}, [1], "not_allowed", "any value"),
        ({"contains": {}, "minContains": 2}, [1], "not_allowed", "any value"),
        ({"contains": {}, "maxContains": 1}, [1, 2], "not_allowed", "any value"),
        ({"prefixItems": [{}], "items": False}, [1, 2], "too_long", "any value"),
        ({"prefixItems": [{}], "unevaluatedItems": False}, [1, 2], "too_long", "any value"),
        ({"contains": {"const": 1}, "unevaluatedItems": False}, [1, 2], "no_match", "any value"),
        ({"type": "string", "contentEncoding": "base64"}, 1, "wrong_type", "string (base64)"),
        (False, 1, "unexpected_property", None),
    ],
)
def test_each_keyword_has_its_code_and_says_what_is_wanted(
    schema: Any, value: Any, code: str, expected: str | None
) -> None:
    problem = one(schema, value)
    assert (problem.code, problem.path) == (code, "/x")
    assert problem.expected == expected
    assert problem.received == value


def test_items_are_found_wherever_they_stand() -> None:
    schema = {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}
    assert codes({"properties": {"x": schema}}, {"x": [1, 2, "3"]}) == [
        ("wrong_type", "/x/0"),
        ("wrong_type", "/x/2"),
    ]
    only = {"properties": {"x": {"prefixItems": [{"type": "string"}]}}}
    assert codes(only, {"x": [1, 2]}) == [("wrong_type", "/x/0")]


def test_names_with_slashes_and_tildes_have_a_valid_pointer() -> None:
    assert codes({"properties": {"a/b~c%d": {"type": "string"}}}, {"a/b~c%d": 1}) == [("wrong_type", "/a~1b~0c%d")]


# One mistake, one problem


def test_a_value_of_the_wrong_type_is_not_also_out_of_its_list_or_range() -> None:
    schema = {"type": "integer", "enum": [1, 2], "minimum": 1}
    assert one(schema, "x").code == "wrong_type"
    assert one(schema, 0.5).code == "wrong_type"
    assert one(schema, 3).code == "not_in_enum"
    combined = {"allOf": [{"type": "string"}, {"enum": ["a"]}, {"minLength": 1}]}
    assert one(combined, 1).code == "wrong_type"
    assert one(combined, "").code == "not_in_enum"


def test_two_bounds_of_different_kinds_are_two_problems() -> None:
    schema = {"properties": {"x": {"type": "string", "minLength": 5, "pattern": "^A", "format": "date"}}}
    assert codes(schema, {"x": "b"}) == [("invalid_format", "/x"), ("too_short", "/x")]


def test_what_is_asked_for_twice_is_missing_once() -> None:
    part = {"required": ["a"], "properties": {"a": {"type": "integer"}}}
    schema = {"allOf": [part, part, {"$ref": "#/$defs/p"}], "$defs": {"p": part}, "required": ["a"]}
    assert codes(schema, {}) == [("missing_required", "/a")]
    assert codes(schema, {"a": "x"}) == [("wrong_type", "/a")]


def test_the_number_of_properties_is_no_problem_beside_the_property_that_is_missing_or_too_much() -> None:
    assert codes({**CLOSED, "minProperties": 1}, {}) == [("missing_required", "/city")]
    assert codes({**CLOSED, "maxProperties": 1}, {"city": "P", "zzz": 1}) == [("unexpected_property", "/zzz")]


def test_each_unexpected_property_is_a_problem_of_its_own() -> None:
    assert codes(CLOSED, {"city": "P", "foo": 1, "bar": 2}) == [
        ("unexpected_property", "/bar"),
        ("unexpected_property", "/foo"),
    ]
    problem = the_problem(CLOSED, {"city": "P", "foo": 1})
    assert problem.expected == "one of the properties: city, days"
    assert problem.suggestion == 'Leave "foo" out.'


# Misspelt names


@pytest.mark.parametrize("wrong", ["citty", "cty", "ctiy", "City", "CITY", "ci_ty", "citys"])
def test_a_misspelt_required_property_is_one_problem(wrong: str) -> None:
    problem = the_problem(CLOSED, {wrong: "P"})
    assert (problem.code, problem.path) == ("unexpected_property", f"/{wrong}")
    assert problem.suggestion == f'Rename "{wrong}" to "city".'


def test_a_misspelt_optional_property_is_one_problem() -> None:
    problem = the_problem(CLOSED, {"city": "P", "dais": 3})
    assert (problem.code, problem.path) == ("unexpected_property", "/dais")
    assert problem.suggestion == 'Rename "dais" to "days".'


def test_a_property_that_is_there_is_not_suggested_again() -> None:
    assert the_problem(CLOSED, {"city": "P", "citty": "P"}).suggestion == 'Leave "citty" out.'


def test_two_misspelt_names_get_the_nearest_each() -> None:
    schema = {
        "properties": {"start_date": {}, "end_date": {}},
        "required": ["start_date", "end_date"],
        "additionalProperties": False,
    }
    problems = problems_of(schema, {"startDate": 1, "endd_date": 2})
    assert [(problem.path, problem.suggestion) for problem in problems] == [
        ("/endd_date", 'Rename "endd_date" to "end_date".'),
        ("/startDate", 'Rename "startDate" to "start_date".'),
    ]


def test_names_that_are_not_alike_stay_two_problems() -> None:
    assert codes(CLOSED, {"location": "P"}) == [
        ("missing_required", "/city"),
        ("unexpected_property", "/location"),
    ]


def test_where_others_are_allowed_the_missing_property_is_told_how_it_was_misspelt() -> None:
    problem = the_problem(OPEN, {"citty": "P", "days": 3})
    assert (problem.code, problem.path) == ("missing_required", "/city")
    assert problem.suggestion == 'Rename "citty" to "city".'
    # A property that is known is no misspelling of another.
    near = {"properties": {"date": {}, "data": {}}, "required": ["date"]}
    assert the_problem(near, {"data": 1}).suggestion is None


def test_misspellings_are_found_in_nested_objects() -> None:
    problem = the_problem({"properties": {"x": {"type": "array", "items": CLOSED}}}, {"x": [{"citty": "P"}]})
    assert (problem.code, problem.path) == ("unexpected_property", "/x/0/citty")


# Where other properties are refused


def test_patterns_and_additional_schemas_judge_other_properties() -> None:
    schema = {"patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": {"type": "integer"}}
    assert codes(schema, {"x-a": 1, "x-b": "ok", "n": 1, "m": "no"}) == [
        ("wrong_type", "/m"),
        ("wrong_type", "/x-a"),
    ]
    assert codes({**schema, "additionalProperties": False}, {"x-a": "ok", "n": 1}) == [("unexpected_property", "/n")]
    assert codes({"patternProperties": {"^x": False}}, {"x": 1}) == [("unexpected_property", "/x")]


def test_names_that_are_refused_are_unexpected() -> None:
    problem = the_problem({"propertyNames": {"enum": ["city", "days"]}}, {"cty": 1})
    assert (problem.code, problem.path) == ("unexpected_property", "/cty")
    assert problem.suggestion == 'Rename "cty" to "city".'
    assert codes({"propertyNames": {"maxLength": 1}}, {"a": 1, "bb": 1}) == [("unexpected_property", "/bb")]


def test_unevaluated_properties_know_what_any_part_describes() -> None:
    schema = {
        "$ref": "#/$defs/base",
        "allOf": [{"properties": {"b": {}}}],
        "anyOf": [{"properties": {"c": {}}}, {"properties": {"c2": {}}}],
        "if": {"properties": {"d": {}}},
        "dependentSchemas": {"a": {"properties": {"e": {}}}},
        "patternProperties": {"^x": {}},
        "unevaluatedProperties": False,
        "$defs": {"base": {"properties": {"a": {}}, "patternProperties": {"^y": {}}}},
    }
    everything = {"a": 1, "b": 1, "c": 1, "c2": 1, "d": 1, "e": 1, "xx": 1, "yy": 1}
    assert codes(schema, {**everything, "zz": 1}) == [("unexpected_property", "/zz")]
    assert codes({**schema, "unevaluatedProperties": {"type": "string"}}, {"zz": 1}) == [("wrong_type", "/zz")]


def test_what_only_a_branch_not_taken_describes_is_still_refused() -> None:
    schema = {
        "anyOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"required": ["b"]}],
        "unevaluatedProperties": False,
    }
    assert codes(schema, {"b": 1}) != []


def test_dependent_names_and_schemas() -> None:
    schema = {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"c": {"required": ["d"]}}}
    assert codes(schema, {"a": 1, "c": 1}) == [("missing_required", "/b"), ("missing_required", "/d")]


def test_conditions_are_followed() -> None:
    schema = {
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"required": ["x"]},
        "else": {"required": ["y"]},
    }
    assert codes(schema, {"kind": "a"}) == [("missing_required", "/x")]
    assert codes(schema, {"kind": "b"}) == [("missing_required", "/y")]


def test_references_are_followed_in_every_form() -> None:
    schema = {
        "properties": {
            "a": {"$ref": "#/$defs/a%20b"},
            "b": {"$ref": "#anchor"},
            "c": {"$dynamicRef": "#dynamic"},
            "d": {"$ref": "#/properties/e/anyOf/0"},
            "e": {"anyOf": [{"type": "string"}]},
        },
        "$defs": {
            "a b": {"type": "integer"},
            "n": {"$anchor": "anchor", "type": "integer"},
            "m": {"$dynamicAnchor": "dynamic", "type": "integer"},
        },
    }
    values = {"a": "x", "b": "x", "c": "x", "d": 1}
    assert [path for _, path in codes(schema, values)] == ["/a", "/b", "/c", "/d"]


# Alternatives

SHAPES = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}},
            "required": ["kind", "r"],
        },
        {
            "type": "object",
            "properties": {"kind": {"const": "square"}, "a": {"type": "number"}},
            "required": ["kind", "a"],
        },
    ]
}


def test_a_null_alternative_is_ignored_where_a_value_was_given() -> None:
    optional = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
    assert one(optional, 0).code == "out_of_range"
    problem = one(optional, "x")
    assert (problem.code, problem.expected) == ("wrong_type", "integer at least 1 or null")


def test_the_tag_chooses_the_alternative() -> None:
    problem = one(SHAPES, {"kind": "square"})
    assert (problem.code, problem.path) == ("missing_required", "/x/a")
    problem = one(SHAPES, {"kind": "circle", "r": "big"})
    assert (problem.code, problem.path) == ("wrong_type", "/x/r")


def test_a_wrong_tag_is_not_in_the_list_of_tags() -> None:
    problem = one(SHAPES, {"kind": "triangle", "r": 1})
    assert (problem.code, problem.path) == ("not_in_enum", "/x/kind")
    assert problem.expected == "one of: circle, square"
    assert one(SHAPES, {"kind": "sqare", "a": 1}).suggestion == 'Did you mean "square"?'
    assert one(SHAPES, {"kind": 5}).code == "wrong_type"


def test_a_missing_tag_is_missing() -> None:
    problem = one(SHAPES, {"r": 1})
    assert (problem.code, problem.path) == ("missing_required", "/x/kind")


def test_without_tags_what_fits_best_is_explained() -> None:
    schema = {
        "oneOf": [
            {"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
            {"properties": {"b": {}, "c": {}}, "required": ["b", "c"], "additionalProperties": False},
        ]
    }
    assert one(schema, {"a": "x"}).path == "/x/a"
    assert one(schema, {"b": 1}).path == "/x/c"


def test_an_optional_tag_that_is_absent_decides_nothing() -> None:
    schema = {
        "anyOf": [
            {"properties": {"k": {"const": 1}, "a": {}}, "required": ["a"]},
            {"properties": {"k": {"const": 2}, "b": {}}, "required": ["b", "c"]},
        ]
    }
    assert one(schema, {}).path == "/x/a"


def test_patterns_count_as_expected_when_alternatives_are_compared() -> None:
    schema = {
        "anyOf": [
            {"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": False, "required": ["xa"]},
            {"type": "object", "additionalProperties": False, "required": ["a", "b"]},
        ]
    }
    assert one(schema, {"xb": 1}).path == "/x/xa"


def test_arrays_are_compared_by_their_items() -> None:
    schema = {
        "anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "string"}}]
    }
    assert one(schema, [1, 2, "3"]).path == "/x/2"
    problem = one(schema, [1, "2"])
    assert (problem.code, problem.path) == ("no_match", "/x")
    assert problem.expected == "one of: array of integers, array of strings"


def test_alternatives_that_fit_equally_well_are_named() -> None:
    schema = {
        "anyOf": [
            {"title": "ByName", "required": ["name"]},
            {"$ref": "#/$defs/id"},
            {"properties": {"kind": {"const": "k"}, "z": {}}, "required": ["z"]},
        ]
    }
    problem = the_problem(
        {"properties": {"x": schema}, "$defs": {"id": {"type": "object", "required": ["id"]}}}, {"x": {}}
    )
    assert (problem.code, problem.path) == ("no_match", "/x")
    assert problem.expected == 'one of: ByName, object, object where kind="k"'
    assert "none of these forms" in problem.message


def test_a_value_that_fits_more_than_one_of_oneof_is_told_so() -> None:
    problem = one({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, 5)
    assert problem.code == "no_match"
    assert "more than one" in problem.message


def test_alternatives_of_plain_values_share_their_code() -> None:
    dates = {"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]}
    problem = one(dates, "soon")
    assert problem.code == "invalid_format"
    assert problem.expected == ("string (date, like 2025-01-31) or string (date-time, like 2025-01-31T14:00:00Z)")
    lists = {"anyOf": [{"enum": ["a"]}, {"enum": ["b"]}]}
    assert one(lists, "c").code == "not_in_enum"
    mixed = {"anyOf": [{"type": "string", "maxLength": 1}, {"type": "string", "pattern": "^x"}]}
    assert one(mixed, "abc").code == "no_match"
    either = {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "string", "minLength": 9}]}
    assert one(either, "abc").code == "no_match"
    refused = {"anyOf": [{"type": "string", "not": {}}, {"type": "string", "not": {}}]}
    assert one(refused, "abc").code == "no_match"


def test_recursive_alternatives_cost_no_exponential_time() -> None:
    schema = {
        "properties": {"x": {"$ref": "#/$defs/n"}},
        "$defs": {
            "n": {
                "anyOf": [
                    {"type": "object", "properties": {"k": {"$ref": "#/$defs/n"}}, "required": ["k", "q"]},
                    {"type": "object", "properties": {"k": {"$ref": "#/$defs/n"}}, "required": ["k", "w"]},
                ]
            }
        },
    }
    value: Any = "bad"
    for _ in range(60):
        value = {"k": value}
    assert problems_of(schema, {"x": value})


def test_a_reference_of_a_value_to_its_own_kind_is_followed_down() -> None:
    schema = {"properties": {"child": {"$ref": "#"}, "n": {"type": "integer"}}}
    value: Any = {"n": "x"}
    for _ in range(50):
        value = {"child": value}
    assert codes(schema, value) == [("wrong_type", "/child" * 50 + "/n")]


# Bounds


def test_problems_are_capped_and_the_rest_is_counted() -> None:
    tool = Tool("f", "Does something.", {"type": "object", "properties": {"x": {"items": {"type": "string"}}}})
    explainer = explainer_of(tool)
    arguments = {"x": list(range(30))}
    found = tell(explainer.document, explainer.explain(arguments), arguments, replace(DEFAULT_LIMITS, problems_max=5))
    assert [problem.path for problem in found.told] == [f"/x/{index}" for index in range(5)]
    assert found.more == 25


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {"x": {"items": {"type": "string"}}}}, {"x": [1] * 90_000}),
        ({"additionalProperties": False}, {f"k{index}": 1 for index in range(90_000)}),
        ({"additionalProperties": {"type": "string"}}, {f"k{index}": 1 for index in range(90_000)}),
        ({"propertyNames": {"maxLength": 1}}, {f"k{index}": 1 for index in range(90_000)}),
        ({"required": [f"r{index}" for index in range(500)]}, {"x": ["x" * 5] * 90_000}),
    ],
)
def test_the_work_for_a_hostile_value_is_bounded(schema: dict[str, Any], arguments: Any) -> None:
    tool = Tool("f", "Does something.", {"type": "object", **schema})
    findings = explainer_of(tool).explain(arguments)
    assert 0 < len(findings) <= FINDINGS_MAX
    found = tell(explainer_of(tool).document, findings, arguments, DEFAULT_LIMITS)
    assert len(found.told) == DEFAULT_LIMITS.problems_max


def test_catastrophic_patterns_take_linear_time() -> None:
    assert one({"type": "string", "pattern": "^(a+)+$"}, "a" * 50_000 + "b").code == "invalid_format"


def test_long_names_and_values_are_shortened() -> None:
    name = "k" * 100_000
    problem = the_problem({"additionalProperties": False}, {name: "v" * 100_000})
    assert len(str(problem.as_dict())) < 1_000
    problem = one({"type": "integer"}, {"a": ["x"] * 1_000})
    assert problem.received == "an object of 1 property"
    assert one({"type": "string"}, 10**390).received == "an integer of about 388 digits"


def test_one_explainer_is_made_per_version_of_a_tool_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "_EXPLAINERS_MAX", 2)
    monkeypatch.setattr(validation, "_explainers", {})
    tools = [Tool(f"f{index}", "Does something.", {"type": "object"}) for index in range(4)]
    first = explainer_of(tools[0])
    assert explainer_of(tools[0]) is first
    for tool in tools:
        explainer_of(tool)
    assert len(validation._explainers) <= 2
