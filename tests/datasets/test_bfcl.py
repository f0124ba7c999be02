"""Other people's functions, questions and answers through the whole call path but for running them.

The laws are in the names of the tests; what the data set itself gets wrong is pinned in `bfcl_faults`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from callbox.calls.call import Repair, ToolCall
from callbox.calls.reading import read_call
from callbox.dialects import NAMES, find_dialect
from callbox.limits import DEFAULT_LIMITS
from callbox.tools.tool import NAME, Tool
from datasets import bfcl
from datasets.bfcl_faults import FAULTS
from datasets.mutants import Mutant, mutants, tightened
from datasets.reference import accepts, types_of
from datasets.vendors import VENDORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MUTANTS_MIN = 20_000


@cache
def all_tools() -> tuple[Tool, ...]:
    """Every different function document as a tool."""
    multi_turn = {json.dumps(document): document for document in bfcl.multi_turn_functions()}
    return tuple(map(bfcl.make_tool, [*bfcl.documents().values(), *multi_turn.values()]))


@cache
def answered() -> tuple[tuple[bfcl.Question, dict[str, Tool], tuple[bfcl.Answer, ...]], ...]:
    """Every question with a ground truth, its tools by name, and its answers."""
    return tuple(
        (question, {tool.name: tool for tool in bfcl.tools_of(question)}, question.ground_truth)
        for category in bfcl.ANSWERED
        for question in bfcl.load(category)
        if question.ground_truth is not None
    )


def read(name: str, arguments: Any, tools: Mapping[str, Tool]) -> ToolCall:
    """A call as the gate reads it."""
    call, _ = read_call(ToolCall("c", name, arguments), tools.get, tuple(tools), DEFAULT_LIMITS)
    return call


def same_json(left: Any, right: Any) -> bool:
    """Equal as JSON, in type too: true is not 1, and 1 is not 1.0."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


# 1. Definitions


def assert_strict(schema: Any, *, all_required: bool) -> None:
    """The rule that OpenAI and Anthropic share: objects are closed; and OpenAI's own: nothing is optional."""
    if isinstance(schema, list):
        for item in schema:
            assert_strict(item, all_required=all_required)
    elif isinstance(schema, dict):
        if "object" in types_of(schema):
            assert schema.get("additionalProperties") is False, schema
            if all_required:
                assert sorted(schema.get("required", ())) == sorted(schema.get("properties", {})), schema
        for keyword, value in schema.items():
            inside = value.values() if keyword in ("properties", "$defs") else [value]
            if keyword in ("properties", "$defs", "items", "anyOf"):
                for item in inside:
                    assert_strict(item, all_required=all_required)


def test_every_function_document_makes_a_tool(counts: Counter[str]) -> None:
    for tool in all_tools():
        assert NAME.fullmatch(tool.name)
        assert tool.parameters["type"] == "object"
        for schema in (tool.parameters, tool.returns or {}):
            jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    counts["categories"] = len(bfcl.CATEGORIES)
    counts["questions"] = sum(len(bfcl.load(category)) for category in bfcl.CATEGORIES)
    counts["function documents"] = len(all_tools())
    assert len(all_tools()) > 3_000


def test_no_two_functions_of_a_question_share_a_tool_name() -> None:
    for category in bfcl.CATEGORIES:
        for question in bfcl.load(category):
            assert len({tool.name for tool in bfcl.tools_of(question)}) == len(question.functions)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strict", [False, True], ids=["plain", "strict"])
@pytest.mark.parametrize("name", NAMES)
def test_every_definition_is_one_that_the_vendors_own_sdk_takes(name: str, strict: bool, counts: Counter[str]) -> None:
    vendor = VENDORS[name]
    accept = vendor.sdk_type()
    for tool in all_tools():
        definitions = find_dialect(name).define((tool,), strict=strict)
        assert len(definitions) == 1
        accept(definitions[0])
        json.dumps(definitions, allow_nan=False)
        assert all(loss.tool == tool.name and loss.message for loss in definitions.losses)
        if strict and vendor.has_strict:
            function = vendor.functions(definitions)[0]
            is_strict = function.get("strict") is True
            counts[f"strict in {name}"] += is_strict
            assert is_strict or definitions.losses, f"{tool.name}: not strict, and no word about it"
            if is_strict:
                assert_strict(vendor.schema(function), all_required=vendor.strict_requires_all)
    counts[f"definitions in {len(NAMES)} dialects, plain and strict"] += len(all_tools())


# 2. Right calls


def test_every_ground_truth_call_is_valid_but_for_the_pinned_faults(counts: Counter[str]) -> None:
    """Each allowed value of each argument is tried, not only the first."""
    faults: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for question, tools, answers in answered():
        for answer in answers:
            for number, arguments in enumerate(bfcl.calls_of(answer)):
                call = read(answer.tool, json.dumps(arguments), tools)
                counts["ground-truth calls"] += number == 0
                counts["other allowed values"] += number > 0
                assert call.repairs or call.error or same_json(call.arguments, arguments)
                found = {f"{repair.kind} {repair.path}" for repair in call.repairs}
                if call.error is not None:
                    assert call.error.code == "invalid_arguments", call.error
                    found |= {f"{problem.code} {problem.path}" for problem in call.error.problems}
                if found:
                    faults[question.id, answer.tool] |= found
    pinned = {(fault.question, fault.tool): set(fault.problems) for fault in FAULTS}
    assert len(pinned) == len(FAULTS)
    assert dict(faults) == pinned
    counts["faults of the data set pinned"] = len(FAULTS)


def test_what_is_generated_from_an_answer_is_right_by_the_leaderboards_rules() -> None:
    for question, _, answers in answered():
        for answer in answers:
            assert all(bfcl.is_right(answer.tool, arguments, answer) for arguments in bfcl.calls_of(answer))
        calls = [(answer.function, next(bfcl.calls_of(answer))) for answer in answers]
        assert bfcl.all_right(calls[::-1], question)
        assert not bfcl.all_right(calls[1:], question)


# 3. Wrong calls


def verdict(mutant: Mutant, call: ToolCall) -> str | None:
    """None when the call was answered rightly, else what is wrong with that."""
    error = call.error
    if mutant.malformed:
        found = "nothing" if error is None else error.code
        return None if found == "malformed_json" else f"{found} instead of malformed_json"
    if mutant.repair is not None:
        if error is not None:
            return f"not repaired: {error.message}"
        if call.repairs != (Repair(*mutant.repair),):
            return f"repaired with {call.repairs}, not {mutant.repair}"
        return None if same_json(call.arguments, mutant.restored) else f"repaired into {call.arguments}"
    if error is None:
        return f"repaired with {call.repairs}" if call.repairs else "undetected"
    if error.code != "invalid_arguments":
        return f"{error.code} instead of invalid_arguments"
    if mutant.meant is not None and f'"{mutant.meant}"' not in (error.suggestion or ""):
        return f"suggested {error.suggestion}, not {mutant.meant}"
    reported = sorted((problem.code, problem.path) for problem in error.problems)
    return None if reported == sorted(mutant.problems) else f"reported {reported}, not {sorted(mutant.problems)}"


def right_calls() -> Iterator[tuple[Tool, dict[str, Any], Random]]:
    """Every ground-truth call that is no fault, with a source of chance that is the same in every run."""
    for question, tools, answers in answered():
        for place, answer in enumerate(answers):
            arguments = next(bfcl.calls_of(answer))
            if accepts(tools[answer.tool].parameters, arguments):
                yield tools[answer.tool], arguments, Random(f"{question.id}/{place}")


def judge(made: Iterable[tuple[Tool, Mutant]], counts: Counter[str], what: str) -> None:
    """Read every mutant; fail with the first few that got another answer than the right one."""
    wrong: list[str] = []
    for tool, mutant in made:
        call = read(tool.name, mutant.text, {tool.name: tool})
        counts[what] += 1
        counts["undetected"] += call.error is None and not call.repairs
        counts["repaired"] += call.error is None and bool(call.repairs)
        problem = verdict(mutant, call)
        if problem is not None:
            wrong.append(f"{tool.name} {mutant.kind} {mutant.text[:200]}: {problem}")
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:20])
    assert counts["undetected"] == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_mutant_goes_undetected_and_each_gets_its_one_right_answer(counts: Counter[str]) -> None:
    made = ((tool, mutant) for tool, arguments, random in right_calls() for mutant in mutants(tool, arguments, random))
    judge(made, counts, "mutants")
    assert counts["mutants"] >= MUTANTS_MIN


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_step_beyond_a_bound_is_told_as_that(counts: Counter[str]) -> None:
    def made() -> Iterator[tuple[Tool, Mutant]]:
        for tool, arguments, random in right_calls():
            schema, beyond = tightened(tool.parameters, arguments, random)
            bounded = Tool(tool.name, tool.description, schema)
            assert read(tool.name, json.dumps(arguments), {tool.name: bounded}).error is None
            yield from ((bounded, mutant) for mutant in beyond)

    judge(made(), counts, "mutants beyond added bounds")


def test_a_misspelt_tool_name_is_answered_with_the_right_one() -> None:
    for question, tools, answers in answered():
        for answer in answers:
            wrong = answer.tool[:-1] + answer.tool[-1] * 2
            if wrong in tools:
                continue
            error = read(wrong, "{}", tools).error
            assert error is not None
            assert error.code == "unknown_tool", question.id
            assert answer.tool in (error.suggestion or ""), question.id


# 4. There and back


def obey(own: Mapping[str, Any], given: Mapping[str, Any], value: Any) -> Any:
    """The value as a model writes it that was given the vendor's form of the schema.

    That is: null for what may not be left out any more, names that the vendor took, text in an enum of texts.
    """
    if "enum" in given and value not in given["enum"] and not (value is None and given.get("nullable")):
        return json.dumps(value)
    options = [given, *given.get("anyOf", ())]
    given = next((option for option in options if "properties" in option or "items" in option), given)
    if isinstance(value, list) and "items" in own and "items" in given:
        return [obey(own["items"], given["items"], item) for item in value]
    if not isinstance(value, dict) or "properties" not in own or "properties" not in given:
        return value
    written = dict(value)
    pairs = zip(own["properties"].items(), given["properties"].items(), strict=True)
    for (name, child), (given_name, given_child) in pairs:
        if name in value:
            del written[name]
            written[given_name] = obey(child, given_child, value[name])
        elif given_name in given.get("required", ()) and name not in own.get("required", ()):
            written[given_name] = None
    return written


def without_default_nulls(own: Mapping[str, Any], value: Any) -> Any:
    """The value without the nulls of arguments that may be null or left out.

    Where nothing may be left out, a model says null for both; which of them it meant cannot be told.
    """
    if isinstance(value, list) and "items" in own:
        return [without_default_nulls(own["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    properties, required = own.get("properties", {}), own.get("required", ())
    return {
        name: without_default_nulls(properties.get(name, {}), item)
        for name, item in value.items()
        if item is not None or name in required
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "strict"),
    [(name, False) for name in NAMES] + [(name, True) for name in NAMES if VENDORS[name].has_strict],
)
def test_right_calls_come_back_from_every_dialect_as_they_were(name: str, strict: bool, counts: Counter[str]) -> None:
    vendor, own = VENDORS[name], find_dialect(name)
    for question, tools, answers in answered():
        offered = tuple(tools.values())
        given = {
            tool.name: function
            for tool, function in zip(offered, vendor.functions(own.define(offered, strict=strict)), strict=True)
        }
        wanted = [
            (tools[answer.tool], arguments)
            for answer in answers
            if accepts(tools[answer.tool].parameters, arguments := next(bfcl.calls_of(answer)))
        ]
        written = [
            (given[tool.name]["name"], obey(tool.parameters, vendor.schema(given[tool.name]), arguments))
            for tool, arguments in wanted
        ]
        for (tool, _), (_, arguments) in zip(wanted, written, strict=True):
            schema = vendor.as_json_schema(vendor.schema(given[tool.name]))
            assert jsonschema_rs.is_valid(schema, arguments), (question.id, schema, arguments)
        reply = own.read(vendor.response(written), offered)
        assert len(reply.calls) == len(wanted)
        for call, (tool, arguments) in zip(reply.calls, wanted, strict=True):
            got, found = read_call(call, tools.get, tuple(tools), DEFAULT_LIMITS, own.restore)
            assert got.error is None, (question.id, got.error)
            assert found is tool
            back = got.arguments
            if strict and vendor.strict_requires_all:
                back, arguments = (without_default_nulls(tool.parameters, one) for one in (back, arguments))
            assert same_json(back, arguments), (question.id, written)
            counts["round trips"] += 1
