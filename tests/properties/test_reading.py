"""Laws of reading: whatever a model writes gets one answer; what is right is left as it is."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import assume, given, reject
from hypothesis import strategies as st

from callbox.calls.call import ToolCall
from callbox.calls.explanation import Explainer
from callbox.calls.plain_values import check_plain
from callbox.calls.reading import deduplicate_ids, read_call
from callbox.calls.streaming import CallAssembler, CompletionScanner
from callbox.calls.strict_json import StrictJsonError, parse
from callbox.limits import DEFAULT_LIMITS
from callbox.tools.tool import Tool

PARAMETERS = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0},
        "b": {"type": ["string", "null"], "enum": ["x", "y", None]},
        "c": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        "d": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "string", "pattern": "^(a+)+$"}]},
        "e": {"type": "number"},
    },
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {
        "node": {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": "leaf"}, "value": {"type": "integer"}},
                    "required": ["kind"],
                },
                {
                    "type": "object",
                    "properties": {"kind": {"const": "list"}, "of": {"items": {"$ref": "#/$defs/node"}}},
                    "required": ["kind", "of"],
                },
            ]
        }
    },
}
TOOL = Tool("f", "Does something.", PARAMETERS)
TOOLS = {"f": TOOL}

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
names = st.sampled_from(["a", "b", "c", "d", "e", "kind", "of", "value", "aa", "A", "arguments"]) | texts
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(["x", "y", "leaf", "list", '{"kind": "leaf"}', "[]", "5", ""])
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
objects = st.dictionaries(names, json_values, max_size=5)

nodes = st.deferred(
    lambda: (
        st.fixed_dictionaries({"kind": st.just("leaf")}, optional={"value": st.integers()})
        | st.fixed_dictionaries({"kind": st.just("list"), "of": st.lists(nodes, max_size=3)})
    )
)
valid = st.fixed_dictionaries(
    {"a": st.integers(min_value=0)},
    optional={
        "b": st.sampled_from(["x", "y", None]),
        "c": st.lists(nodes, max_size=3),
        "d": nodes | st.just("aaa"),
        "e": st.floats(allow_nan=False, allow_infinity=False),
    },
)


def read(arguments: Any, name: Any = "f") -> ToolCall:
    call, tool = read_call(ToolCall("1", name, arguments), TOOLS.get, tuple(TOOLS), DEFAULT_LIMITS)
    assert (call.id, call.name) == ("1", name)
    if call.error is None:
        assert tool is TOOL
        assert TOOL.validator.is_valid(call.arguments)
    else:
        assert call.arguments is arguments
        rendered = call.error.render()
        assert rendered.isascii()
        assert json.loads(rendered)["error"] == call.error.code
        assert len(rendered) < 50_000
    return call


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


# No input makes it raise


@given(st.text() | st.from_regex(r'[\s{}\[\]",:0-9.eE+\-\\utrfalsn]*'))
def test_any_text_is_answered(text: str) -> None:
    read(text)


@given(objects, st.data())
def test_any_damaged_json_is_answered(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    at = data.draw(st.integers(0, len(text)))
    read(text[:at] + data.draw(st.text(max_size=3)) + text[data.draw(st.integers(at, len(text))) :])


@given(json_values)
def test_any_json_value_is_answered_alike_as_text_and_as_an_object(value: Any) -> None:
    as_text, as_value = read(json.dumps(value)), read(value)
    if isinstance(value, dict):
        assert as_text.error == as_value.error
        assert as_text.repairs == as_value.repairs
        if as_text.error is None:
            assert as_json(as_text.arguments) == as_json(as_value.arguments)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.binary()
        | st.builds(object)
        | st.complex_numbers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text() | st.integers() | st.none(), inner)
            | st.tuples(inner)
            | st.sets(st.integers())
        ),
        max_leaves=10,
    )
)
def test_any_python_value_is_answered(value: Any) -> None:
    read(value)


@given(st.text() | st.none() | st.integers() | st.lists(st.integers()))
def test_any_name_is_answered(name: Any) -> None:
    assume(name != "f")
    error = read("{}", name).error
    assert error is not None
    assert error.code == "unknown_tool"


# What is right stays as it is


@given(valid)
def test_valid_arguments_come_back_as_they_were(arguments: dict[str, Any]) -> None:
    text = json.dumps(arguments)
    call = read(text)
    assert call.error is None
    assert call.repairs == ()
    assert call.raw == text
    assert as_json(call.arguments) == as_json(arguments)


@given(json_values)
def test_reading_again_changes_nothing(arguments: Any) -> None:
    once = read(json.dumps(arguments))
    twice, _ = read_call(once, TOOLS.get, tuple(TOOLS), DEFAULT_LIMITS)
    assert twice == once
    assert twice.raw == once.raw
    assert as_json(twice.arguments) == as_json(once.arguments)


@given(valid)
def test_encoding_twice_is_repaired_and_said(arguments: dict[str, Any]) -> None:
    call = read(json.dumps(json.dumps(arguments)))
    assert call.error is None
    assert [repair.kind for repair in call.repairs] == ["json_in_string"]
    assert as_json(call.arguments) == as_json(arguments)


# The strict reader


@given(json_values, st.booleans(), st.sampled_from([None, 1]))
def test_the_strict_reader_agrees_with_python_on_plain_documents(
    value: Any, ensure_ascii: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
    assert as_json(parse(text, DEFAULT_LIMITS)) == as_json(json.loads(text))


def outcome(text: str) -> tuple[Any, StrictJsonError | None]:
    try:
        return parse(text, DEFAULT_LIMITS), None
    except StrictJsonError as error:
        return None, error


@given(st.text())
def test_what_the_strict_reader_takes_python_takes_too_and_what_it_refuses_has_a_reason(text: str) -> None:
    value, error = outcome(text)
    if error is None:
        assert as_json(value) == as_json(json.loads(text))
        check_plain(value, DEFAULT_LIMITS)
    else:
        assert 0 < len(error.message.encode()) < 400


@given(st.floats())
def test_numbers_are_those_that_python_reads_or_refused(number: float) -> None:
    value, error = outcome(json.dumps(number))
    if math.isfinite(number):
        assert value == number
    else:
        assert error is not None
        assert error.kind == "number"


# Explanations


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    inside = st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    some = st.lists(inner, min_size=1, max_size=3)
    wanted = st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=2)
    return st.one_of(
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["object", ["object", "null"]]),
                "properties": inside,
                "required": wanted,
                "additionalProperties": st.booleans() | inner,
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner, max_size=1),
                "propertyNames": st.sampled_from([{"enum": ["a", "b"]}, {"maxLength": 1}, True]),
                "dependentRequired": st.dictionaries(st.sampled_from(["a", "b"]), wanted, max_size=1),
                "dependentSchemas": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=1),
                "minProperties": st.integers(0, 2),
                "maxProperties": st.integers(0, 2),
                "unevaluatedProperties": st.booleans(),
            },
        ),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.just("array"),
                "items": inner,
                "prefixItems": some,
                "contains": inner,
                "minContains": st.integers(0, 2),
                "maxContains": st.integers(0, 2),
                "uniqueItems": st.booleans(),
                "minItems": st.integers(0, 2),
                "maxItems": st.integers(0, 2),
                "unevaluatedItems": st.booleans(),
            },
        ),
        st.fixed_dictionaries(
            {},
            optional={
                "anyOf": some,
                "oneOf": some,
                "allOf": some,
                "not": inner,
                "if": inner,
                "then": inner,
                "else": inner,
            },
        ),
    )


leaves = st.one_of(
    st.booleans(),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": st.integers(-5, 5), "exclusiveMaximum": st.integers(-5, 9), "multipleOf": st.just(2)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={"minLength": st.integers(0, 3), "maxLength": st.integers(0, 3), "pattern": st.just("^x")},
    ),
    st.fixed_dictionaries({"enum": st.lists(scalars, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"const": json_values}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"$ref": "#/$defs/d"}, {"$ref": "#"}]),
)
schemas = st.recursive(leaves, _schemas, max_leaves=8)
small_values = st.recursive(
    st.none() | st.booleans() | st.integers(-6, 9) | st.sampled_from([1.5, 2.0, "", "x", "xyz", "abcd"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c", "ab"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), schemas, max_size=3), schemas, small_values)
def test_there_is_an_explanation_just_when_the_engine_says_no_and_it_points_into_the_value(
    properties: dict[str, Any], shared: Any, value: Any
) -> None:
    # A reference that consumes nothing would never end; as a property it does.
    definition = {"properties": {"a": shared}} if isinstance(shared, dict) else shared
    schema = {"type": "object", "properties": properties, "$defs": {"d": definition}}
    try:
        tool = Tool("g", "Does something.", schema)
    except ValueError:
        reject()
    findings = Explainer(schema).explain(value)
    assert bool(findings) is not tool.validator.is_valid(value)
    for finding in findings:
        if finding.code == "missing_required":
            assert finding.path[-1] not in _at(value, finding.path[:-1])
        else:
            assert _at(value, finding.path) is finding.value or _at(value, finding.path) == finding.value
    call, _ = read_call(ToolCall("1", "g", json.dumps(value)), {"g": tool}.get, ("g",), DEFAULT_LIMITS)
    if call.error is not None and isinstance(value, dict) and value:
        assert call.error.problems
        assert len({(p.code, p.path) for p in call.error.problems}) == len(call.error.problems)


# Streams


@given(json_values, st.data())
def test_any_chunking_is_complete_at_the_same_character(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=False) + data.draw(st.sampled_from(["", " ", "}", " {", "x", "\n"]))
    whole = CompletionScanner()
    whole.feed(text)
    pieces = CompletionScanner()
    at = 0
    while at < len(text):
        size = data.draw(st.integers(1, 20))
        pieces.feed("")
        pieces.feed(text[at : at + size])
        at += size
    assert pieces.complete == whole.complete
    try:
        is_container = isinstance(json.loads(text), (dict, list))
    except ValueError:
        is_container = False
    assert whole.complete == is_container


@given(st.lists(objects, min_size=1, max_size=4), st.booleans(), st.booleans(), st.data())
def test_any_interleaving_of_parallel_calls_reads_alike(
    arguments: list[dict[str, Any]], with_keys: bool, repeat_ids: bool, data: st.DataObject
) -> None:
    waiting = {number: json.dumps(one) for number, one in enumerate(arguments)}
    assembler = CallAssembler()
    begun: list[int] = []
    while waiting:
        number = data.draw(st.sampled_from(sorted(waiting)))
        size = data.draw(st.sampled_from([100, 20, 5]))
        piece, waiting[number] = waiting[number][:size], waiting[number][size:]
        is_first = number not in begun
        begun += [number] if is_first else []
        call_id = f"id{number}" if is_first or repeat_ids or not with_keys else None
        call = assembler.locate(number if with_keys else None, call_id, f"f{number}" if is_first else None)
        assembler.locate(number if with_keys else None, f"id{number}" if not with_keys else None, None)
        call.fragments.append(piece)
        call.scanner.feed(piece)
        if not waiting[number]:
            del waiting[number]
    assert [call.name for call in assembler.calls] == [f"f{number}" for number in begun]
    for call, number in zip(assembler.calls, begun, strict=True):
        assert call.id == f"id{number}"
        assert json.loads(call.text) == arguments[number]
        assert call.scanner.complete


calls = st.builds(
    ToolCall,
    st.sampled_from(["", "a", "b", "a-2", "c" * 40, "c" * 60]),
    st.sampled_from(["f", "g"]),
    st.sampled_from(["{}", '{"a":1}', {"a": 1}, {"a": True}, {"a": 1.0}, None]),
)


@given(st.lists(calls, max_size=8))
def test_ids_are_unique_after_deduplication_and_no_different_call_is_lost(given_calls: list[ToolCall]) -> None:
    kept = deduplicate_ids(given_calls)
    assert len({call.id for call in kept}) == len(kept)
    assert all(call.id for call in kept)
    assert deduplicate_ids(kept) == kept
    told = [(call.name, as_json(call.arguments)) for call in given_calls]
    assert list(dict.fromkeys(told)) == list(dict.fromkeys((call.name, as_json(call.arguments)) for call in kept))
