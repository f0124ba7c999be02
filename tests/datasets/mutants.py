"""Wrong versions of right calls: each made by one change, each with the one answer that is right for it.

A mutator consults the schema, so that a mutant is wrong for certain: 5.0 is an integer, a string is fine
where anything is. It asks `reference`, not the validator under test.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from callbox.values import json_pointer
from datasets.reference import accepts, fits_type, is_type, types_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

    from callbox.tools.tool import Tool

Path = tuple[str | int, ...]

ITEMS_CHANGED_MAX = 2
"""Of one array: the first and one more. A list of fifty would give fifty times the same mutant."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong call.

    Attributes:
        kind: What was done to it.
        text: The arguments as a model would send them.
        problems: What must be reported, code and JSON Pointer each, and nothing else.
        repair: Kind and JSON Pointer of the one repair that loses nothing; None where only a report is right.
        restored: What that repair must give.
        malformed: It is no JSON object: the answer is ``malformed_json``.
        arguments: The changed arguments, where the change can be said in JSON.
        touched: The top-level argument that was changed.
        meant: What the suggestion must name.
    """

    kind: str
    text: str
    problems: frozenset[tuple[str, str]] = frozenset()
    repair: tuple[str, str] | None = None
    restored: Any = None
    malformed: bool = False
    arguments: Any = None
    touched: str | None = None
    meant: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A value in valid arguments, with the schema that it fits."""

    path: Path
    schema: Mapping[str, Any]
    value: Any
    required: bool


# Where things can go wrong


def places(schema: Mapping[str, Any], value: Any, random: Random, path: Path = ()) -> Iterator[Place]:
    """Every value in valid arguments, the whole object first."""
    yield from _places(schema, value, random, path, required=True)


def _places(schema: Mapping[str, Any], value: Any, random: Random, path: Path, *, required: bool) -> Iterator[Place]:
    yield Place(path, schema, value, required)
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                must = name in schema.get("required", ())
                yield from _places(child, value[name], random, (*path, name), required=must)
    elif isinstance(value, list) and value and "items" in schema:
        chosen = {0, *random.sample(range(len(value)), min(len(value), ITEMS_CHANGED_MAX - 1))}
        for index in sorted(chosen):
            yield from _places(schema["items"], value[index], random, (*path, index), required=True)


def _put(root: Any, path: Path, new: Any) -> Any:
    """A copy of the arguments in which the value at that path is another one."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    if isinstance(root, list):
        return [_put(item, rest, new) if index == step else item for index, item in enumerate(root)]
    return {name: _put(item, rest, new) if name == step else item for name, item in root.items()}


# The mutators. Each yields the mutants that one place allows.


def dropped(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Leave a required property out."""
    for name in place.schema.get("required", ()) if isinstance(place.value, dict) else ():
        kept = {key: value for key, value in place.value.items() if key != name}
        yield _structural("dropped", place, root, kept, ("missing_required", (*place.path, name)))


def extra(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Add a property that nobody asked for, unlike any that there is."""
    if isinstance(place.value, dict) and place.schema.get("additionalProperties") is False:
        name = f"zzq{random.randrange(10_000)}"
        more = {**place.value, name: random.choice((1, "x", None, True, [], {}))}
        yield _structural("extra", place, root, more, ("unexpected_property", (*place.path, name)))


def misspelt(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Write the name of a property with two letters swapped, one missing, or one doubled."""
    if not isinstance(place.value, dict) or place.schema.get("additionalProperties") is not False:
        return
    for name in place.value:
        wrong = _misspell(name, place.schema["properties"], random)
        if wrong is not None:
            renamed = {wrong if key == name else key: value for key, value in place.value.items()}
            mutant = _structural("misspelt", place, root, renamed, ("unexpected_property", (*place.path, wrong)))
            # At the top a name goes and a name comes: such a change cannot be laid over another.
            yield replace(mutant, touched=None, meant=name)


def _misspell(name: str, taken: Mapping[str, Any], random: Random) -> str | None:
    if len(name) < 4:
        return None  # Of so short a name nothing recognisable is left.
    at = random.randrange(1, len(name) - 1)
    candidates = [
        name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        name[:at] + name[at + 1 :],
        name[:at] + name[at] + name[at:],
    ]
    random.shuffle(candidates)
    return next((wrong for wrong in candidates if wrong != name and wrong not in taken), None)


_OTHERS: tuple[Any, ...] = (None, True, False, 7, -2.5, "seven", [], ["x", 1], {}, {"k": "v"})


def retyped(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Put a value of another JSON type there."""
    others = [other for other in _OTHERS if other is not None or not place.path or isinstance(place.path[-1], int)]
    wrong = [other for other in others if not fits_type(place.schema, other)]
    if wrong and place.path:
        yield _changed("retyped", place, root, random.choice(wrong), "wrong_type")


def stringified(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Write a number or a boolean as a string. To read it back would be a guess, so it is told."""
    if isinstance(place.value, (int, float)) and not fits_type(place.schema, ""):
        yield _changed("stringified", place, root, json.dumps(place.value), "wrong_type")


def listed(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Put the value into a list of its own."""
    if place.path and types_of(place.schema) and not fits_type(place.schema, []):
        yield _changed("listed", place, root, [place.value], "wrong_type")


def fractional(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Give an integer a fraction."""
    if is_type(place.value, "integer") and not fits_type(place.schema, 0.5):
        fraction = random.choice((0.5, 0.25, 0.001))
        if float(place.value + fraction) != place.value:  # above 2**52 a fraction is lost on the way
            yield _changed("fractional", place, root, place.value + fraction, "wrong_type")


def null(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Say null. For a required argument that is wrong; for an optional one it can only mean "left out"."""
    if not place.path or fits_type(place.schema, None) or isinstance(place.path[-1], int):
        return
    if place.required:
        yield _changed("null_for_required", place, root, None, "wrong_type")
    else:
        said = _put(root, place.path, None)
        restored = _without(root, place.path)
        yield _repairable("null_for_optional", place, said, "null_means_omitted", restored)


def _without(root: Any, path: Path) -> Any:
    step, rest = path[0], path[1:]
    if isinstance(root, list):
        return [_without(item, rest) if index == step else item for index, item in enumerate(root)]
    return {name: _without(item, rest) if name == step else item for name, item in root.items() if name != step or rest}


def not_in_enum(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Use a value of the right type that is not allowed: near one that is, and far from all."""
    if "enum" not in place.schema:
        return
    texts = [member for member in place.schema["enum"] if isinstance(member, str) and member]
    near = [form for text in texts for form in (text + "s", text.swapcase(), f" {text}", text[:-1])]
    random.shuffle(near)
    numbers = [max((n for n in place.schema["enum"] if is_type(n, "number")), default=0) + 1]
    for candidates in (near, ["zzq"], numbers, [""]):
        for wrong in candidates:
            if fits_type(place.schema, wrong) and not accepts(place.schema, wrong):
                yield _changed("not_in_enum", place, root, wrong, "not_in_enum")
                break


def ill_formatted(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Write a date that is none."""
    if place.schema.get("format") == "date" and isinstance(place.value, str):
        for wrong in ("yesterday", "2023-02-30", "01/02/2023", place.value + "T00:00:00Z"):
            yield _changed("ill_formatted", place, root, wrong, "invalid_format")


def out_of_range(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Exceed a bound."""
    if "maximum" in place.schema and is_type(place.value, "number"):
        for more in (1, 1_000_000):
            yield _changed("out_of_range", place, root, place.schema["maximum"] + more, "out_of_range")


def doubly_encoded(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Send an object or a list as a string of JSON. It says the same, so it must be repaired."""
    if isinstance(place.value, (dict, list)) and types_of(place.schema) and not fits_type(place.schema, ""):
        kind = "doubly_encoded_inside" if place.path else "doubly_encoded"
        encoded = _put(root, place.path, json.dumps(place.value))
        yield _repairable(kind, place, encoded, "json_in_string", root)


def wrapped(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Send the arguments in what means nothing: a code fence, a list, a key that only says "arguments"."""
    if place.path:
        return
    fenced = f"```json\n{json.dumps(root, indent=2)}\n```"
    yield Mutant("fenced", fenced, repair=("code_fence", ""), restored=root)
    yield _repairable("in_a_list", place, [root], "list_of_one", root)
    key = random.choice(("arguments", "parameters", "input"))
    if key not in place.schema["properties"]:
        text = json.dumps({key: root})
        yield Mutant("under_a_key", text, repair=("wrapped_arguments", f"/{key}"), restored=root)


def integer_as_float(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Write an integer as 5.0. It is the same number, but a function that wants an int must get one."""
    if isinstance(place.value, int) and types_of(place.schema) == ("integer",) and abs(place.value) < 2**53:
        written = _put(root, place.path, float(place.value))
        yield _repairable("integer_as_float", place, written, "integer_as_float", root)


def malformed(place: Place, root: Any, random: Random) -> Iterator[Mutant]:
    """Send what is not one JSON object: cut off, followed by more, with a key twice, with NaN."""
    if place.path:
        return
    text = json.dumps(root)
    yield Mutant("truncated", text[: random.randrange(1, len(text))], malformed=True)
    yield Mutant("trailing", text + random.choice(("}", " {}", ", ", " done", text)), malformed=True)
    if root:
        name, value = random.choice(list(root.items()))
        yield Mutant("duplicate_key", f"{{{json.dumps(name)}: {json.dumps(value)}, {text[1:]}", malformed=True)
        not_a_number = random.choice((math.nan, math.inf, -math.inf))
        yield Mutant("not_a_number", json.dumps({**root, name: not_a_number}), malformed=True)


MUTATORS: tuple[Callable[[Place, Any, Random], Iterator[Mutant]], ...] = (
    dropped,
    extra,
    misspelt,
    retyped,
    stringified,
    listed,
    fractional,
    null,
    not_in_enum,
    ill_formatted,
    out_of_range,
    doubly_encoded,
    wrapped,
    integer_as_float,
    malformed,
)


# The data set's schemas hardly have bounds. So they are given some: each just holds for the right call.


def tightened(schema: Mapping[str, Any], root: Mapping[str, Any], random: Random) -> tuple[Any, list[Mutant]]:
    """The schema with one more bound on every value, and for each bound a mutant that breaks it."""
    made: list[Mutant] = []
    return _tightened(schema, root, random, (), root, made), made


def _tightened(schema: Mapping[str, Any], value: Any, random: Random, path: Path, root: Any, made: list[Mutant]) -> Any:
    if "enum" in schema or "format" in schema or "maximum" in schema:
        return schema  # One step too far would be two problems, or another one.
    if isinstance(value, dict):
        properties = {
            name: _tightened(child, value[name], random, (*path, name), root, made) if name in value else child
            for name, child in schema.get("properties", {}).items()
        }
        return {**schema, "properties": properties} if properties else schema
    bounds = list(_bounds(value))
    if not bounds:
        return schema
    keyword, bound, code, beyond = random.choice(bounds)
    made.append(_reported(keyword, _put(root, path, beyond), code, path))
    return {**schema, keyword: bound}


def _bounds(value: Any) -> Iterator[tuple[str, Any, str, Any]]:
    """Keyword, its value, the code of its problem, and a value that is just beyond it."""
    if is_type(value, "number") and abs(value) < 2**53:
        yield "maximum", value, "out_of_range", value + 1
        yield "minimum", value, "out_of_range", value - 1
        yield "exclusiveMaximum", value + 1, "out_of_range", value + 1
    elif isinstance(value, str):
        yield "maxLength", len(value), "too_long", value + "x"
        if value:
            yield "minLength", len(value), "too_short", value[:-1]
        if value.isascii() and value.isalnum():
            yield "pattern", f"^{value}$", "invalid_format", value + "x"
    elif isinstance(value, list) and value:
        yield "maxItems", len(value), "too_long", [*value, value[-1]]
        yield "minItems", len(value), "too_short", value[:-1]
        if all(value.count(item) == 1 for item in value):
            yield "uniqueItems", True, "not_unique", [*value, value[-1]]


def mutants(tool: Tool, arguments: Mapping[str, Any], random: Random) -> Iterator[Mutant]:
    """All mutants of one valid call, and one in which two things are wrong at once."""
    made = [
        mutant
        for place in places(tool.parameters, arguments, random)
        for mutate in MUTATORS
        for mutant in mutate(place, arguments, random)
    ]
    yield from made
    single = [mutant for mutant in made if mutant.touched is not None]
    random.shuffle(single)
    for first, second in pairwise(single):
        if first.touched != second.touched:
            yield _both(arguments, first, second)
            break


def _both(root: Mapping[str, Any], first: Mutant, second: Mutant) -> Mutant:
    """Both changes in one call, which must report just the two problems."""
    merged = dict(root)
    for mutant in (first, second):
        assert mutant.touched is not None
        if mutant.touched in mutant.arguments:
            merged[mutant.touched] = mutant.arguments[mutant.touched]
        else:
            del merged[mutant.touched]
    return Mutant("two_changes", json.dumps(merged), first.problems | second.problems, arguments=merged)


def _repairable(kind: str, place: Place, arguments: Any, repair: str, restored: Any) -> Mutant:
    """What can only have been meant in one way; the one repair is at its own place."""
    return Mutant(kind, json.dumps(arguments), repair=(repair, json_pointer(place.path)), restored=restored)


def _changed(kind: str, place: Place, root: Any, value: Any, code: str) -> Mutant:
    """One value is another one; the one problem is at its own place."""
    assert not accepts(place.schema, value), (kind, place, value)
    arguments = _put(root, place.path, value)
    return _reported(kind, arguments, code, place.path)


def _structural(kind: str, place: Place, root: Any, value: Any, problem: tuple[str, Path]) -> Mutant:
    """An object has other members; the one problem is at the member that came or went."""
    assert not accepts(place.schema, value), (kind, place, value)
    arguments = _put(root, place.path, value)
    return _reported(kind, arguments, *problem)


def _reported(kind: str, arguments: Any, code: str, path: Path) -> Mutant:
    problems = frozenset({(code, json_pointer(path))})
    return Mutant(kind, json.dumps(arguments), problems, arguments=arguments, touched=str(path[0]))
