"""Grammars for calls: what they accept, what they refuse, what they say they cannot hold."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbox.errors import ProviderBadRequest
from callbox.providers.local_grammar import (
    Follower,
    byte_tokenizer,
    call_grammar,
    compile_problem,
    losses_of,
)
from callbox.providers.local_narrowing import Bounds, longest, narrow
from callbox.tools.tool import Tool

pytest.importorskip("llguidance")


def tool(schema: dict, name: str = "t") -> Tool:
    return Tool(name, "A tool.", schema)


def props(**properties: object) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def accepts(lark: str, text: str) -> bool:
    """The whole text is a sentence of the grammar: it fits, and the end may come after it."""
    import llguidance

    matcher = llguidance.LLMatcher(byte_tokenizer(), llguidance.LLMatcher.grammar_from_lark(lark), log_level=0)
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def allows(schema: dict, *values: object) -> list[bool]:
    lark = call_grammar([tool(schema)], text=False, calls_max=1).lark
    return [accepts(lark, f"CALL t {json.dumps(value, separators=(',', ':'))}") for value in values]


def test_a_call_needs_a_known_name_and_fitting_arguments() -> None:
    lark = call_grammar(
        [tool(props(city={"type": "string"}), "get_weather"), tool(props(n={"type": "integer"}), "count")],
        text=False,
        calls_max=1,
    ).lark
    assert accepts(lark, 'CALL get_weather {"city":"Oslo"}')
    assert accepts(lark, 'CALL count {"n":3}')
    assert not accepts(lark, 'CALL get_weather {"n":3}')
    assert not accepts(lark, 'CALL get_whether {"city":"Oslo"}')
    assert not accepts(lark, "It is sunny.")
    assert not accepts(lark, "")


def test_text_is_allowed_only_where_it_is_and_never_looks_like_a_call() -> None:
    lark = call_grammar([tool(props(n={"type": "integer"}))], text=True, calls_max=2).lark
    assert accepts(lark, "It is sunny.\nReally, you may CALL me.")
    assert accepts(lark, 'CALL t {"n":1}\nCALL t {"n":2}')
    assert not accepts(lark, "CALL t(1)")
    assert not accepts(lark, "CALLING t")
    assert not accepts(lark, "Well:\nCALL t 1")


def test_no_more_calls_than_asked_for() -> None:
    lark = call_grammar([tool(props(n={"type": "integer"}))], text=False, calls_max=2).lark
    line = 'CALL t {"n":1}'
    assert accepts(lark, line)
    assert accepts(lark, f"{line}\n{line}")
    assert not accepts(lark, f"{line}\n{line}\n{line}")


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"enum": ["a", 1, None]}, ["a", 1, None], ["b", 2, False]),
        ({"const": {"k": [1]}}, [{"k": [1]}], [{"k": [2]}]),
        ({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, ["AB-12"], ["ab-12", "AB-"]),
        ({"type": "string", "format": "date"}, ["2026-03-14"], ["2026-13-14", "tomorrow"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd"]),
        ({"type": "integer", "minimum": 1, "maximum": 5}, [1, 5], [0, 6, 1.5]),
        ({"type": "integer", "exclusiveMinimum": 0}, [1, 99], [0, -1]),
        ({"type": "integer", "maximum": -(10**16)}, [-(10**16)], [0]),
        ({"type": "number"}, [0, -2.25, 1.5], ["1"]),
        ({"type": "number", "minimum": 0, "maximum": 1}, [0, 0.5, 1], [1.5, -0.1]),
        ({"type": "number", "multipleOf": 0.5}, [1.5, 2], [1.25]),
        ({"type": ["string", "null"]}, ["x", None], [1]),
        ({"type": ["integer"]}, [1], ["x"]),
        ({"type": "boolean"}, [True], ["true"]),
        ({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]}, [1, "ab"], ["abc", True]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
            [[1, "a"]],
            [[1], [1, "a", 2], ["a", 1]],
        ),
        ({"properties": {"a": {"type": "integer"}}, "required": ["a"]}, [{"a": 1}], [{}, {"a": 1, "b": 2}, 1]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"x": 1}], [{"x": "1"}]),
        ({"type": "object", "required": ["zz"], "properties": {"a": {"type": "integer"}}}, [{"a": 1, "zz": "x"}], [{}]),
        ({"type": "object", "patternProperties": {"^x_": {"type": "integer"}}}, [{"x_a": 1}], [{"y": 1}, {"x_a": "1"}]),
        ({}, ["x", 1, None, [1, "a"], {"k": True}], []),
        ({"description": "anything"}, ["x"], []),
        ({"pattern": "^a+$"}, ["aa"], ["b"]),
        ({"minimum": 3}, [3], [2]),
        ({"items": {"type": "integer"}}, [[1]], [["x"]]),
    ],
)
def test_values_are_held_to_the_schema(schema: dict, good: list, bad: list) -> None:
    whole = props(v=schema)
    assert allows(whole, *({"v": value} for value in good)) == [True] * len(good)
    assert allows(whole, *({"v": value} for value in bad)) == [False] * len(bad)


def test_references_and_recursion_are_followed() -> None:
    schema = {
        **props(tree={"$ref": "#/$defs/node"}),
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"type": "integer"},
                    "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["v"],
            }
        },
    }
    assert allows(schema, {"tree": {"v": 1, "kids": [{"v": 2}]}}, {"tree": {"v": 1, "kids": [{"w": 2}]}}) == [
        True,
        False,
    ]


def test_the_halves_of_an_all_of_are_not_closed_against_each_other() -> None:
    schema = {
        "type": "object",
        "properties": {
            "v": {
                "allOf": [
                    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
                ]
            }
        },
        "required": ["v"],
    }
    assert allows(schema, {"v": {"a": 1, "b": 2}}, {"v": {"a": 1}}) == [True, False]


def test_alternatives_beside_properties_are_merged_with_them() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    }
    assert allows(schema, {"a": 1}, {"b": 1}, {"c": 1}) == [True, True, False]


def test_a_branch_keeps_what_it_says_of_other_members() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "anyOf": [{"type": "object", "additionalProperties": {"type": "boolean"}, "required": ["b"]}],
    }
    assert allows(schema, {"b": True}, {"b": "x"}) == [True, False]


def test_what_cannot_be_held_is_reported_and_left_to_the_gate() -> None:
    schema = props(
        tags={"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        kind={"oneOf": [{"type": "string"}, {"type": "integer"}]},
        code={"type": "string", "pattern": r"\bred\b"},
    )
    found = {(loss.path, loss.keyword) for loss in losses_of([tool(schema)])}
    assert found == {
        ("/properties/tags", "uniqueItems"),
        ("/properties/kind", "oneOf"),
        ("/properties/code", "pattern"),
    }
    assert allows(schema, {"tags": ["x", "x"], "kind": 1, "code": "q"}) == [True]
    assert losses_of([tool(props(n={"type": "integer"}))]) == ()


def test_unknown_formats_mean_nothing_as_json_schema_says() -> None:
    schema = props(v={"type": "string", "format": "colour"})
    assert allows(schema, {"v": "red"}) == [True]
    assert losses_of([tool(schema)]) == ()


def test_a_schema_that_nothing_can_satisfy_is_refused_not_ignored() -> None:
    with pytest.raises(ProviderBadRequest, match=r"'t' cannot be put into a grammar.*constrained=False"):
        call_grammar([tool(props(v=False))], text=False, calls_max=1)


def test_tools_that_compile_alone_but_not_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import callbox.providers.local_grammar as module

    monkeypatch.setattr(module, "compile_problem", lambda lark: "too large" if "calls:" in lark else "")
    with pytest.raises(ProviderBadRequest, match="t, u cannot be compiled: too large"):
        call_grammar([tool(props()), tool(props(), "u")], text=False, calls_max=1)


def test_hints_to_the_compiler_inside_a_schema_are_not_passed_on() -> None:
    # A definition may come from a stranger's server: it must not loosen its own constraint.
    schema = props(v={"type": "integer", "x-guidance": {"lenient": True}})
    narrowed, _ = narrow("t", {**schema, "x-guidance": {"lenient": True}}, Bounds())
    assert "x-guidance" not in json.dumps(narrowed)


def test_everything_has_a_length() -> None:
    bounds = Bounds(string_chars_max=5, items_max=2, members_max=1)
    narrowed, _ = narrow(
        "t",
        {
            "type": "object",
            "properties": {
                "s": {"type": "string"},
                "short": {"type": "string", "maxLength": 3},
                "long": {"type": "string", "minLength": 9},
                "when": {"type": "string", "format": "uri"},
                "a": {"type": "array"},
                "o": {"type": "object"},
            },
        },
        bounds,
    )
    properties = narrowed["properties"]
    assert [properties[name]["maxLength"] for name in ("s", "short", "long")] == [5, 3, 9]
    assert properties["when"]["maxLength"] == 64
    assert properties["a"]["maxItems"] == 2
    assert properties["o"]["maxProperties"] == 1
    lark = f"start: %json {json.dumps(narrowed['properties']['a'])}"
    assert not accepts(lark, "[1,2,3]")
    assert not accepts(f"start: %json {json.dumps({'type': 'number', 'multipleOf': 1e-9})}", "0." + "3" * 10)


def test_filled_arrays_are_not_empty_unless_they_may_hold_nothing() -> None:
    schema = props(
        a={"type": "array", "items": {"type": "integer"}},
        b={"type": "array", "maxItems": 0},
        c={"type": "array", "items": {"type": "integer"}, "minItems": 2},
    )
    lark = call_grammar([tool(schema)], text=False, calls_max=1, guided=True).lark
    assert accepts(lark, 'CALL t {"a":[1],"b":[],"c":[1,2]}')
    assert not accepts(lark, 'CALL t {"a":[],"b":[],"c":[1,2]}')
    assert not accepts(lark, 'CALL t {"a":[1],"b":[],"c":[1]}')
    assert allows(schema, {"a": [], "b": [], "c": [1, 2]}) == [True]


def test_an_array_of_choices_is_no_longer_than_the_choices() -> None:
    schema = props(v={"type": "array", "items": {"enum": ["x", "y"]}})
    assert allows(schema, {"v": ["x", "y"]}, {"v": ["x", "y", "x"]}) == [True, False]


def test_the_longest_call_fits_the_budget_of_tokens() -> None:
    schema = props(
        where={"type": "string"},
        tags={"type": "array", "items": {"type": "string"}},
        prices={"type": "array", "items": {"type": "number"}},
    )
    for tokens_max, text_of, fits in ((4000, 240, True), (256, 240, False), (256, 30, True), (64, 30, False)):
        lark = call_grammar([tool(schema)], text=False, calls_max=1, tokens_max=tokens_max).lark
        value = json.dumps({"where": "x" * text_of, "tags": ["y"], "prices": [1]}, separators=(",", ":"))
        assert accepts(lark, f"CALL t {value}") is fits
    guided = call_grammar([tool(props(v={"type": "string"}))], text=False, calls_max=1, guided=True).lark
    assert accepts(guided, f'CALL t {{"v":"{"x" * 240}"}}')
    assert not accepts(guided, f'CALL t {{"v":"{"x" * 241}"}}')


@pytest.mark.parametrize(
    ("schema", "chars"),
    [
        ({"enum": ["a", "bcd"]}, 5),
        ({"const": 12}, 2),
        ({"type": "string", "maxLength": 5}, 7),
        ({"type": "boolean"}, 5),
        ({"type": "number"}, 27),
        ({"type": "array", "maxItems": 3, "items": {"type": "null"}}, 20),
        ({"type": "array", "maxItems": 0, "prefixItems": [{"type": "null"}], "items": False}, 8),
        ({"type": "object", "properties": {"ab": {"type": "null"}}}, 13),
        ({"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 2}, 12),
        ({"type": "object", "patternProperties": {"x": {"type": "null"}}}, 7),
        ({"anyOf": [{"const": 1}, {"const": 123}]}, 3),
        ({"allOf": [{"const": 1}, {"const": 123}]}, 4),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, 5),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, 64),
        ({"$ref": "#/elsewhere"}, 64),
        ({}, 0),
    ],
)
def test_the_longest_value_is_known(schema: dict, chars: int) -> None:
    assert longest(schema) == chars


def test_compile_problem_says_what_is_wrong() -> None:
    assert compile_problem('start: "a"') == ""
    assert compile_problem("start: @@@") != ""


def test_a_follower_notices_the_first_piece_that_does_not_fit() -> None:
    follower = Follower('start: "yes" | "no"')
    assert [follower.feed(piece) for piece in ("y", "e", "x")] == [True, True, False]


SCALARS = st.one_of(
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-99, 99),
        st.integers(0, 99),
    ),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 9)),
    st.builds(lambda values: {"enum": values}, st.lists(st.text('ab"\\\n é', max_size=4), min_size=1, unique=True)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": ["integer", "null"]}]),
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 3}, inner),
        st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=2)),
        st.dictionaries(st.sampled_from(["a", "b", "c d"]), inner, max_size=3).map(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": list(properties)[:1],
                "additionalProperties": False,
            }
        ),
    ),
    max_leaves=6,
)


@given(schema=SCHEMAS, data=st.data())
def test_what_the_grammar_lets_through_fits_the_original_schema(schema: dict, data: st.DataObject) -> None:
    """Walk the grammar at random, as a model of no sense at all would, and validate what comes out."""
    import llguidance

    whole = props(v=schema)
    lark = call_grammar([tool(whole)], text=False, calls_max=1).lark
    matcher = llguidance.LLMatcher(byte_tokenizer(), llguidance.LLMatcher.grammar_from_lark(lark), log_level=0)
    written = bytearray()
    for _ in range(400):
        mask = matcher.compute_bitmask()
        # Letters, digits and structure only: the rest of Unicode is not what is tested here.
        allowed = [byte for byte in b' "abcCALLt{}[]:,\\n019-.truefalsnl\xc3\xa9' if mask[byte // 8] >> byte % 8 & 1]
        if not allowed or matcher.is_stopped():
            break
        # Closing what is open is always possible, so that the walk ends.
        byte = data.draw(st.sampled_from(sorted(set(allowed))))
        assert matcher.consume_token(byte)
        written.append(byte)
    if matcher.is_accepting():
        value = json.loads(written.decode().removeprefix("CALL t "))
        jsonschema_rs.validate(whole, value)
