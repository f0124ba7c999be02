"""What a model would stumble over in a toolset: findings, each with a fix. Pure; `callbox tools lint` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias, cast

from callbox.tools.schema_tree import at_pointer, children
from callbox.tools.tool import Tool
from callbox.tools.wording import DESTROYING, PLACEHOLDERS, READING, VERBS, first_verb, meaning, stem, words
from callbox.values import JsonObject, json_pointer

Severity: TypeAlias = Literal["error", "warning", "info"]
Rule: TypeAlias = Literal[
    "invalid-definition",
    "duplicate-tool",
    "ambiguous-pair",
    "vague-description",
    "repeats-name",
    "no-verb",
    "long-description",
    "undocumented-parameter",
    "untyped-parameter",
    "many-parameters",
    "many-optional-parameters",
    "deep-nesting",
    "effect-mismatch",
    "effect-unstated",
    "many-tools",
]

DESCRIPTION_CHARS_MAX = 1_024
"""OpenAI refuses longer descriptions of functions."""
PARAMETERS_MAX = 12
OPTIONAL_MAX = 8
NESTING_MAX = 4
TOOLS_MAX = 50
SIMILAR_MIN = 85.0
"""Similarity of two descriptions, in percent, from which they are thought to say the same; calibrated by the tests."""
RELATED_MIN = 55.0
"""The same for two tools whose names already say the same."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to improve.

    Attributes:
        rule: Stable code.
        severity: ``"error"``: a model cannot use it well. ``"warning"``: likely mistakes. ``"info"``: a suggestion.
        tools: Names of the tools it is about.
        message: What is found.
        fix: What to do.
        path: JSON Pointer into the parameters schema; ``""`` for the tool as a whole.
    """

    rule: Rule
    severity: Severity
    tools: tuple[str, ...]
    message: str
    fix: str
    path: str = ""

    def as_dict(self) -> JsonObject:
        """As JSON."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "tools": list(self.tools),
            "path": self.path,
            "message": self.message,
            "fix": self.fix,
        }


def lint(tools: Iterable[Tool]) -> list[Finding]:
    """Every finding about a toolset: what is wrong with each tool, then what is wrong between them."""
    every = list(tools)
    found: list[Finding] = []
    for tool in every:
        found += _description(tool)
        found += _parameters(tool)
        found += _effect(tool)
    found += _pairs(every)
    if len(every) > TOOLS_MAX:
        found.append(
            Finding(
                "many-tools",
                "info",
                (),
                f"{len(every)} tools: every request pays for all definitions, and models choose worse among many.",
                "Let context.selection send only the relevant ones, and pin those that must always be there.",
            )
        )
    return found


# One tool


def _description(tool: Tool) -> Iterator[Finding]:
    text = tool.description
    told = words(text)
    said = [stem(word) for word in told]
    names = {stem(word) for word in words(tool.name)}
    fix = "Say what it does, for what input, and when to use it, in one or two sentences."
    if PLACEHOLDERS & set(told):
        yield Finding("vague-description", "warning", (tool.name,), f"Placeholder text: {text[:80]!r}.", fix)
    elif len(told) > 1 and set(meaning(text)) <= set(meaning(tool.name)) | names and len(said) <= len(names) + 3:
        yield Finding(
            "repeats-name", "warning", (tool.name,), f"The description only repeats the name: {text[:80]!r}.", fix
        )
    elif len(set(meaning(text))) < 3:
        yield Finding(
            "vague-description", "warning", (tool.name,), f"The description is too short: {text[:80]!r}.", fix
        )
    elif not any(word in VERBS for word in said):
        yield Finding(
            "no-verb",
            "info",
            (tool.name,),
            "The description names a thing, but no action.",
            "Begin with a verb: what does a call do?",
        )
    if len(text) > DESCRIPTION_CHARS_MAX:
        yield Finding(
            "long-description",
            "warning",
            (tool.name,),
            f"The description has {len(text):,} characters; OpenAI takes {DESCRIPTION_CHARS_MAX:,}.",
            "Keep what helps to choose and to fill in the tool; move the rest to the parameters or the instructions.",
        )


def _parameters(tool: Tool) -> Iterator[Finding]:
    properties = cast("JsonObject", tool.parameters.get("properties") or {})
    required = set(cast("list[str]", tool.parameters.get("required") or []))
    silent = [name for name, schema in properties.items() if not _has(tool.parameters, schema, "description")]
    if silent:
        yield Finding(
            "undocumented-parameter",
            "warning",
            (tool.name,),
            f"No description: {', '.join(silent)}.",
            'Describe each in the docstring\'s "Args:", or with Annotated[T, "..."]: form, unit, an example.',
            path=json_pointer(["properties", silent[0]]),
        )
    for name, schema in properties.items():
        if not _says_type(tool.parameters, schema):
            yield Finding(
                "untyped-parameter",
                "warning",
                (tool.name,),
                f"Parameter {name} may be anything.",
                "Give it a type hint, so that wrong values are caught and the model knows what to send.",
                path=json_pointer(["properties", name]),
            )
    if len(properties) > PARAMETERS_MAX:
        yield Finding(
            "many-parameters",
            "warning",
            (tool.name,),
            f"{len(properties)} parameters; models err more with each.",
            "Split the tool by what it is used for.",
        )
    optional = len(set(properties) - required)
    if optional > OPTIONAL_MAX:
        yield Finding(
            "many-optional-parameters",
            "warning",
            (tool.name,),
            f"{optional} optional parameters; models fill in what they need not, or forget what they need.",
            "Drop those that are rarely used, or split the tool.",
        )
    depth, path = _nesting(tool.parameters)
    if depth > NESTING_MAX:
        yield Finding(
            "deep-nesting",
            "warning",
            (tool.name,),
            f"Arguments are nested {depth} levels deep.",
            "Flatten them: models lose track of what belongs where.",
            path=path,
        )


def _resolved(root: JsonObject, schema: Any) -> JsonObject:
    """The schema, through references; without end if it is a cycle, which no tool has."""
    while isinstance(schema, dict) and "$ref" in schema:
        given = cast("JsonObject", schema)
        found = at_pointer(root, str(given["$ref"]).removeprefix("#"))
        if found is None or not isinstance(found[1], dict):
            return given
        schema = {**cast("JsonObject", found[1]), **{key: value for key, value in given.items() if key != "$ref"}}
    return cast("JsonObject", schema) if isinstance(schema, dict) else {}


def _has(root: JsonObject, schema: Any, keyword: str) -> bool:
    return bool(_resolved(root, schema).get(keyword))


def _says_type(root: JsonObject, schema: Any) -> bool:
    known = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "not", "if", "$dynamicRef", "$ref"}
    return not known.isdisjoint(_resolved(root, schema)) or schema is False


def _nesting(root: JsonObject) -> tuple[int, str]:
    """The deepest object or array in the arguments, and where; a recursive schema counts once."""
    deepest, where = 1, ""
    todo: list[tuple[Any, int, tuple[str | int, ...], frozenset[str]]] = [(root, 1, (), frozenset())]
    steps = 0
    while todo and steps < 10_000:
        steps += 1
        value, depth, path, seen = todo.pop()
        if not isinstance(value, dict):
            continue
        schema = cast("JsonObject", value)
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in seen:
                continue
            seen |= {reference}
            schema = _resolved(root, schema)
        if depth > deepest and (schema.get("type") in ("object", "array") or "properties" in schema):
            deepest, where = depth, json_pointer(path)
        for step, child in children(schema):
            if step[0] not in ("$defs", "definitions"):
                inside = step[0] in ("properties", "items", "prefixItems", "additionalProperties", "patternProperties")
                todo.append((child, depth + inside, path + step, seen))
    return deepest, where


def _effect(tool: Tool) -> Iterator[Finding]:
    verb = first_verb(tool.name)
    if tool.effect == "read" and verb in DESTROYING:
        yield Finding(
            "effect-mismatch",
            "error",
            (tool.name,),
            f"It says effect={tool.effect!r}, but its name says {verb!r}: calls that read run early and side by side.",
            'Say effect="destructive", or rename it.',
        )
    elif tool.effect == "write" and verb in READING:
        yield Finding(
            "effect-unstated",
            "info",
            (tool.name,),
            "Its name says that it only reads, but it is run as a write: alone, and never early.",
            'Say effect="read" if it changes nothing.',
        )


# Between tools


@dataclass(frozen=True, slots=True)
class _Profile:
    """What tells a tool from others."""

    tool: Tool
    name: frozenset[str]
    verb: str | None
    said: frozenset[str]
    text: str


def _profile(tool: Tool) -> _Profile:
    # "get" says little: `weather` and `get_weather` are one name.
    said = [word for word in meaning(tool.description[:1_000]) if word != "get"]
    verb = first_verb(tool.name) or first_verb(tool.description[:1_000])
    name = frozenset(meaning(tool.name)) - {"get", "api"}
    return _Profile(tool, name, verb, frozenset(said), " ".join(sorted(said)))


def _pairs(tools: Sequence[Tool]) -> Iterator[Finding]:
    from rapidfuzz import fuzz

    for one, two in combinations([_profile(tool) for tool in tools], 2):
        names = (one.tool.name, two.tool.name)
        if one.text == two.text and one.tool.parameters == two.tool.parameters and one.verb == two.verb:
            yield Finding(
                "duplicate-tool",
                "error",
                names,
                "They have the same description and the same parameters: a model can only guess.",
                "Keep one, or say in both what it is for that the other is not.",
            )
            continue
        similar = fuzz.ratio(one.text, two.text, score_cutoff=RELATED_MIN)
        if similar and _is_ambiguous(one, two, similar):
            yield Finding(
                "ambiguous-pair",
                "warning",
                names,
                f"Their descriptions are {similar:.0f}% alike, and nothing tells them apart.",
                'Say in each when to use it and not the other ("for orders that are already paid").',
            )


def _is_ambiguous(one: _Profile, two: _Profile, similar: float) -> bool:
    if one.text == two.text:
        return True
    if _differ(one.verb, two.verb):
        return False  # create_order and delete_order have nearly the same words, and nobody confuses them
    if one.name == two.name:
        return True  # get_weather and fetch_weather
    if similar < SIMILAR_MIN:
        return False
    # Each has a word of its own: users and orders, by id and by email.
    own_one, own_two = one.said - two.said, two.said - one.said
    return not (own_one and own_two)


def _differ(one: str | None, two: str | None) -> bool:
    return one is not None and two is not None and one != two
