from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from callbox.calls.call import CallError, Repair, ToolCall
from callbox.calls.reading import deduplicate_ids, read_call
from callbox.limits import DEFAULT_LIMITS, Limits
from callbox.tools.tool import Tool
from callbox.values import JsonObject

WEATHER = Tool(
    "get_weather",
    "Gets the weather.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "scale": {"type": "number"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
            "note": {"type": ["string", "object"], "maxLength": 3},
        },
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {
            "place": {
                "type": "object",
                "properties": {
                    "lat": {"type": "number"},
                    "levels": {"type": "array", "items": {"type": "integer"}},
                    "more": {"$ref": "#/$defs/place"},
                },
                "required": ["lat"],
                "additionalProperties": False,
            }
        },
    },
)
PING = Tool("ping", "Answers.", {"type": "object", "properties": {}, "additionalProperties": False})
TOOLS = {tool.name: tool for tool in (WEATHER, PING)}


def read(arguments: Any, name: Any = "get_weather", limits: Limits = DEFAULT_LIMITS, **more: Any) -> ToolCall:
    call, _ = read_call(ToolCall("id", name, arguments), TOOLS.get, tuple(TOOLS), limits, **more)
    return call


def repaired(arguments: Any, name: str = "get_weather", **more: Any) -> tuple[Any, list[tuple[str, str]]]:
    call = read(arguments, name, **more)
    assert call.error is None, call.error
    return call.arguments, [(repair.kind, repair.path) for repair in call.repairs]


def error_of(arguments: Any, name: Any = "get_weather", **more: Any) -> CallError:
    call = read(arguments, name, **more)
    assert call.error is not None
    assert call.arguments is arguments
    assert call.repairs == ()
    return call.error


def codes(arguments: Any, name: str = "get_weather") -> list[tuple[str, str]]:
    error = error_of(arguments, name)
    assert error.code == "invalid_arguments"
    return [(problem.code, problem.path) for problem in error.problems]


# What is right


def test_valid_text_becomes_an_object_and_the_text_is_kept() -> None:
    text = '{"city": "Paris", "days": 3, "unit": "celsius"}'
    call, tool = read_call(
        ToolCall("id", "get_weather", text, vendor={"signature": "s"}), TOOLS.get, tuple(TOOLS), DEFAULT_LIMITS
    )
    assert call.arguments == json.loads(text)
    assert (call.raw, call.repairs, call.error, call.vendor) == (text, (), None, {"signature": "s"})
    assert tool is WEATHER


def test_a_valid_object_stays_the_same_object() -> None:
    arguments = {"city": "Paris", "place": None}
    call = read(arguments)
    assert call.arguments is arguments
    assert call.raw is None


def test_reading_a_call_again_changes_nothing() -> None:
    once = read('```json\n{"city": "P", "days": 2.0}\n```')
    twice, _ = read_call(once, TOOLS.get, tuple(TOOLS), DEFAULT_LIMITS)
    assert twice == once
    assert twice.raw == once.raw


def test_a_call_that_carries_an_error_keeps_it() -> None:
    broken = ToolCall("id", "get_weather", "{}", error=CallError("cancelled", "The call was cancelled."))
    assert read_call(broken, TOOLS.get, tuple(TOOLS), DEFAULT_LIMITS) == (broken, WEATHER)


# What cannot be read


@pytest.mark.parametrize(
    "text",
    [
        '{"city":' * 100_000,
        '{"days": ' + "9" * 5_000 + "}",
        '{"scale": 1e400}',
        '{"scale": NaN}',
        '{"scale": -Infinity}',
        '{"city": "a", "city": "b"}',
        '{"city": "\\ud800"}',
        '{"city": "\ud800"}',
        '{"city": "a\\u0000b"}',
        '{"city": "' + "x" * 10_000_000 + '"}',
        "{" + ",".join(f'"k{index}": 1' for index in range(500_000)) + "}",
        '{"city": "a"}{"city": "b"}',
        '{"city": "a"',
        "{'city': 'a'}",
        "city=Paris",
        "```json\n{'city': 1}\n```",
        "```json\n{}",
    ],
)
def test_hostile_or_broken_text_gets_a_short_answer(text: str) -> None:
    error = error_of(text)
    assert error.code == "malformed_json"
    assert error.suggestion
    assert len(error.render()) < 500


@pytest.mark.parametrize("value", [b"{}", object(), (1,), {1: 2}, {"city": float("nan")}, {"city": "\ud800"}])
def test_python_values_that_are_no_json_get_an_answer(value: Any) -> None:
    assert error_of(value).code == "malformed_json"


def test_a_value_that_contains_itself_gets_an_answer() -> None:
    value: dict[str, Any] = {}
    value["city"] = value
    assert error_of(value).code == "malformed_json"


@pytest.mark.parametrize("text", ["[1]", "5", '"Paris"', "true", "[]", '[{"city": "a"}, {"city": "b"}]'])
def test_arguments_that_are_no_object_are_of_the_wrong_type(text: str) -> None:
    assert codes(text) == [("wrong_type", "")]
    if not isinstance(json.loads(text), str):
        assert codes(json.loads(text)) == [("wrong_type", "")]


def test_an_unknown_tool_is_answered_with_suggestions() -> None:
    error = error_of("{}", "getweather")
    assert error.code == "unknown_tool"
    assert error.suggestion == "Did you mean get_weather?"
    assert error.expected == "one of: get_weather, ping"
    call, tool = read_call(ToolCall("id", "nope", "{}"), TOOLS.get, tuple(TOOLS), DEFAULT_LIMITS)
    assert tool is None
    assert call.error is not None


@pytest.mark.parametrize("name", [None, 5, [], "", {"a": 1}])
def test_a_call_without_a_name_is_answered(name: Any) -> None:
    assert error_of("{}", name).code == "unknown_tool"


def test_broken_arguments_of_an_unknown_tool_are_broken_first() -> None:
    assert error_of("{", "nope").code == "malformed_json"


def test_all_problems_are_told_at_once() -> None:
    assert codes('{"days": "3", "unit": "kelvin", "ctiy": "P", "tags": ["a", 5]}') == [
        ("unexpected_property", "/ctiy"),
        ("wrong_type", "/days"),
        ("wrong_type", "/tags/1"),
        ("not_in_enum", "/unit"),
    ]


def test_more_problems_than_are_told_are_counted() -> None:
    error = error_of({"city": "P", "tags": [1] * 10}, limits=replace(DEFAULT_LIMITS, problems_max=3))
    assert len(error.problems) == 3
    assert "10 problems" in error.message


# Nothing at all


@pytest.mark.parametrize("nothing", ["", "  \n", None, "null"])
def test_nothing_means_no_arguments_where_none_are_needed(nothing: Any) -> None:
    assert repaired(nothing, "ping") == ({}, [("empty_means_no_arguments", "")])
    error = error_of(nothing)
    assert error.code == "malformed_json"
    assert error.suggestion == "Send a JSON object with city."


def test_nothing_is_an_error_where_something_is_needed_that_is_not_listed() -> None:
    tool = Tool("f", "Does something.", {"type": "object", "minProperties": 1})
    call, _ = read_call(ToolCall("id", "f", ""), {"f": tool}.get, ("f",), DEFAULT_LIMITS)
    assert call.error is not None
    assert call.error.suggestion == "Send a JSON object."


# Repairs

RIGHT = {"city": "P"}


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ('```json\n{"city": "P"}\n```', [("code_fence", "")]),
        ('\n```\n{"city": "P"}```\n', [("code_fence", "")]),
        (json.dumps(json.dumps(RIGHT)), [("json_in_string", "")]),
        (json.dumps(json.dumps(json.dumps(RIGHT))), [("json_in_string", "")] * 2),
        (
            json.dumps('```json\n{"city": "P"}\n```'),
            [("code_fence", ""), ("json_in_string", "")],
        ),
        ('[{"city": "P"}]', [("list_of_one", "")]),
        ('{"arguments": {"city": "P"}}', [("wrapped_arguments", "/arguments")]),
        ('{"parameters": {"city": "P"}}', [("wrapped_arguments", "/parameters")]),
        ('{"name": "get_weather", "arguments": {"city": "P"}}', [("wrapped_arguments", "/arguments")]),
        ('{"city": "P", "days": null}', [("null_means_omitted", "/days")]),
        (
            '{"city": "P", "unit": null, "tags": null}',
            [("null_means_omitted", "/tags"), ("null_means_omitted", "/unit")],
        ),
        (
            '{"arguments": {"city": "P", "days": null}}',
            [("wrapped_arguments", "/arguments"), ("null_means_omitted", "/days")],
        ),
    ],
)
def test_what_is_lossless_is_repaired_and_said(arguments: str, kinds: list[tuple[str, str]]) -> None:
    value, found = repaired(arguments)
    assert value == RIGHT
    assert sorted(found) == sorted(kinds)


def test_objects_and_lists_that_were_sent_as_text_are_read() -> None:
    place = {"lat": 1, "levels": [1], "more": {"lat": 2}}
    value, found = repaired({"city": "P", "tags": '["a"]', "place": json.dumps(place)})
    assert value == {"city": "P", "tags": ["a"], "place": place}
    assert sorted(found) == [("json_in_string", "/place"), ("json_in_string", "/tags")]


def test_text_in_text_is_read_level_by_level() -> None:
    inner = {"lat": 1, "levels": "[1, 2]"}
    value, found = repaired({"city": "P", "place": {"lat": 0, "more": inner}})
    assert value["place"]["more"]["levels"] == [1, 2]
    assert found == [("json_in_string", "/place/more/levels")]


def test_what_is_in_a_string_must_fit_where_it_stands() -> None:
    assert codes({"city": "P", "tags": "[1]"}) == [("wrong_type", "/tags")]
    assert codes({"city": "P", "tags": '{"a": 1}'}) == [("wrong_type", "/tags")]
    assert codes({"city": "P", "tags": '["a"'}) == [("wrong_type", "/tags")]
    assert codes({"city": "P", "tags": '["a", "a": NaN]'}) == [("wrong_type", "/tags")]
    assert codes({"city": "P", "place": '{"lat": 1, "lat": 2}'}) == [("wrong_type", "/place")]


def test_text_is_left_alone_where_text_is_allowed() -> None:
    assert codes({"city": "P", "note": '{"a": 1}'}) == [("too_long", "/note")]
    assert repaired({"city": '{"a": 1}'}) == ({"city": '{"a": 1}'}, [])


def test_embedded_json_counts_towards_the_limits_where_it_ends_up() -> None:
    value: Any = {"lat": 1}
    for _ in range(40):
        value = {"lat": 1, "more": value}
    outer: Any = {"lat": 1, "more": json.dumps(value)}
    for _ in range(40):
        outer = {"lat": 1, "more": outer}
    error = error_of({"city": "P", "place": outer})
    assert error.code == "malformed_json"
    assert "deeply" in error.message


def test_scalars_keep_the_type_that_the_model_gave_them() -> None:
    assert codes({"city": "P", "days": "3"}) == [("wrong_type", "/days")]
    assert codes({"city": 5}) == [("wrong_type", "/city")]
    assert codes({"city": "P", "days": True}) == [("wrong_type", "/days")]


def test_a_required_property_is_not_left_out_for_a_null() -> None:
    assert codes({"city": None}) == [("wrong_type", "/city")]
    assert codes({"city": "P", "tags": [None]}) == [("wrong_type", "/tags/0")]


def test_an_unexpected_property_is_not_dropped_even_if_it_is_null() -> None:
    assert codes({"city": "P", "other": None}) == [("unexpected_property", "/other")]


def test_null_stays_where_the_schema_takes_it() -> None:
    assert repaired({"city": "P", "place": None}) == ({"city": "P", "place": None}, [])


def test_what_is_repaired_is_not_told_as_a_problem() -> None:
    assert codes({"citty": "P", "days": None, "tags": '["a"]'}) == [("unexpected_property", "/citty")]


def test_a_repair_that_helps_beside_one_that_does_not_is_kept() -> None:
    assert codes({"city": None, "days": None}) == [("wrong_type", "/city")]


def test_a_wrapper_with_anything_else_beside_it_stays() -> None:
    assert ("unexpected_property", "/extra") in codes({"arguments": {"city": "P"}, "extra": 1})
    assert ("unexpected_property", "/name") in codes({"name": "ping", "arguments": {"city": "P"}})
    assert ("unexpected_property", "/arguments") in codes({"arguments": {"city": 5}})


def test_a_wrapper_that_the_tool_knows_is_an_argument() -> None:
    tool = Tool(
        "f",
        "Does something.",
        {"type": "object", "properties": {"input": {"type": "object"}, "x": {}}, "required": ["x"]},
    )
    call, _ = read_call(ToolCall("id", "f", {"input": {"x": 1}}), {"f": tool}.get, ("f",), DEFAULT_LIMITS)
    assert call.error is not None


def test_a_string_that_only_looks_like_json_is_no_arguments_object() -> None:
    assert codes(json.dumps("[1, 2]")) == [("wrong_type", "")]
    assert codes(json.dumps("{broken")) == [("wrong_type", "")]
    encoded = json.dumps(RIGHT)
    for _ in range(5):
        encoded = json.dumps(encoded)
    assert codes(encoded) == [("wrong_type", "")]


def test_the_models_own_object_is_never_changed() -> None:
    arguments = {"city": "P", "days": None, "place": {"lat": 1, "more": '{"lat": 2}', "levels": [1.0]}}
    before = json.dumps(arguments)
    value, found = repaired(arguments)
    assert value == {"city": "P", "place": {"lat": 1, "more": {"lat": 2}, "levels": [1]}}
    assert len(found) == 3
    assert json.dumps(arguments) == before


def test_a_whole_number_that_was_written_as_a_float_becomes_an_integer_where_one_is_wanted() -> None:
    value, found = repaired('{"city": "P", "days": 3.0, "scale": 3.0, "place": {"lat": 2.0, "levels": [1e2, 5]}}')
    assert json.dumps(value) == ('{"city": "P", "days": 3, "scale": 3.0, "place": {"lat": 2.0, "levels": [100, 5]}}')
    assert sorted(found) == [("integer_as_float", "/days"), ("integer_as_float", "/place/levels/0")]
    assert repaired({"city": "P", "scale": 2.0}) == ({"city": "P", "scale": 2.0}, [])
    assert repaired('{"city": "v1.0"}') == ({"city": "v1.0"}, [])


def test_many_repairs_are_done_in_bounded_time() -> None:
    value, found = repaired({"city": "P", "place": {"lat": 1, "levels": [1.0] * 90_000}})
    assert value["place"]["levels"] == [1] * 90_000
    assert 0 < len(found) <= 10_000
    schema = {
        "type": "object",
        "properties": {"x": {"items": {"properties": {"a": {"type": "string"}}}}},
    }
    tool = Tool("f", "Does something.", schema)
    call, _ = read_call(ToolCall("id", "f", {"x": [{"a": None}] * 3_000}), {"f": tool}.get, ("f",), DEFAULT_LIMITS)
    assert call.error is None
    assert call.arguments == {"x": [{}] * 3_000}
    assert len(call.repairs) == 3_000
    call, _ = read_call(ToolCall("id", "f", {"x": [{"a": None}] * 40_000}), {"f": tool}.get, ("f",), DEFAULT_LIMITS)
    assert call.error is not None


def test_a_null_that_cannot_be_left_out_for_another_reason_stays() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {}},
        "minProperties": 2,
    }
    tool = Tool("f", "Does something.", schema)
    call, _ = read_call(ToolCall("id", "f", {"a": None, "b": 1}), {"f": tool}.get, ("f",), DEFAULT_LIMITS)
    assert call.error is not None
    assert [(problem.code, problem.path) for problem in call.error.problems] == [("wrong_type", "/a")]


def test_a_value_that_several_schemas_refuse_is_repaired_once() -> None:
    twice = {"allOf": [{"type": "integer"}, {"type": "integer"}], "type": "integer"}
    tool = Tool("f", "Does something.", {"type": "object", "properties": {"a": {"allOf": [twice, twice]}}})
    for value, left in ((None, {}), (3.0, {"a": 3})):
        call, _ = read_call(ToolCall("id", "f", {"a": value}), {"f": tool}.get, ("f",), DEFAULT_LIMITS)
        assert (call.error, call.arguments) == (None, left)
        assert len(call.repairs) == 1


# Restoring


def shout(tool: Tool, arguments: JsonObject) -> JsonObject:
    """A vendor that writes null for what is left out, and enums in capitals."""
    restored = {key: value for key, value in arguments.items() if value is not None}
    if isinstance(restored.get("unit"), str):
        restored["unit"] = restored["unit"].lower()
    return restored


def test_arguments_in_a_vendors_terms_are_restored_before_they_are_judged() -> None:
    assert repaired('{"city": "P", "unit": "CELSIUS", "days": null}', restore=shout) == (
        {"city": "P", "unit": "celsius"},
        [],
    )


def test_repaired_arguments_are_restored_too() -> None:
    text = '{"arguments": {"city": "P", "unit": "CELSIUS"}}'
    assert repaired(text, restore=shout) == (
        {"city": "P", "unit": "celsius"},
        [("wrapped_arguments", "/arguments")],
    )


def test_problems_are_told_in_the_tools_own_terms() -> None:
    error = error_of('{"city": "P", "unit": "KELVIN"}', restore=shout)
    assert error.received == "kelvin"


# Ids


def call(call_id: Any, arguments: Any = "{}", name: str = "f") -> ToolCall:
    return ToolCall(call_id, name, arguments)


def test_different_ids_stay_as_they_are() -> None:
    calls = [call("a"), call("b")]
    kept = deduplicate_ids(calls)
    assert kept == calls
    assert kept is not calls


def test_the_same_call_again_is_left_out() -> None:
    calls = [call("a", '{"x": 1}'), call("b"), call("a", '{"x": 1}'), call("b", {}), call("b", {})]
    assert [(one.id, one.arguments) for one in deduplicate_ids(calls)] == [
        ("a", '{"x": 1}'),
        ("b", "{}"),
        ("b-2", {}),
    ]


def test_another_call_under_the_same_id_gets_an_id_of_its_own_and_says_so() -> None:
    calls = [call("a", '{"x": 1}'), call("a", '{"x": 2}'), call("a", '{"x": 1}', "g"), call("a-2")]
    kept = deduplicate_ids(calls)
    assert [one.id for one in kept] == ["a", "a-3", "a-4", "a-2"]
    assert [one.arguments for one in kept] == [one.arguments for one in calls]
    assert kept[1].repairs == (Repair("duplicate_id", ""),)
    assert deduplicate_ids(kept) == kept
    assert deduplicate_ids(calls) == kept


def test_true_is_not_the_same_as_one() -> None:
    assert len(deduplicate_ids([call("a", {"x": 1}), call("a", {"x": True})])) == 2
    assert len(deduplicate_ids([call("a", {"x": 1, "y": 2}), call("a", {"y": 2, "x": 1})])) == 1


def test_arguments_that_are_no_json_are_compared_by_identity() -> None:
    value = {1: object()}
    assert len(deduplicate_ids([call("a", value), call("a", value)])) == 1
    assert len(deduplicate_ids([call("a", {1: object()}), call("a", value)])) == 2


@pytest.mark.parametrize("missing", ["", None, 5, []])
def test_a_call_without_an_id_gets_one(missing: Any) -> None:
    first, second = deduplicate_ids([call(missing), call(missing)])
    assert isinstance(first.id, str)
    assert first.id.startswith("call_")
    assert first.id != second.id


def test_a_derived_id_stays_within_the_vendors_limit() -> None:
    kept = deduplicate_ids([call("c" * 40), call("c" * 40, "[]"), call("d" * 60), call("d" * 60, "[]")])
    assert [len(one.id) for one in kept] == [40, 40, 60, 60]
