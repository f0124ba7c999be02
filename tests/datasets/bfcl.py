"""The Berkeley Function Calling Leaderboard's questions, as callbox tools and calls.

The data is installed, not copied: the wheel ``bfcl-eval`` (Apache-2.0) is wanted for its ``data`` folder
only, and its code is never imported. Why, and how it is mapped: docs/decisions/0007-other-peoples-data.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbox.tools.tool import sanitize_name
from callbox.tools.toolset import Toolset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from callbox.tools.tool import Tool

VERSION = "2026.3.23"
"""The release whose faults are pinned in `bfcl_faults`."""

ANSWERED = (
    "simple_python",
    "simple_java",
    "simple_javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
"""Single-turn categories whose questions have ground-truth calls."""

UNANSWERED = ("irrelevance", "live_irrelevance", "live_relevance")
"""Single-turn categories that only ask whether any call is made: none, none, at least one."""

CATEGORIES = (*ANSWERED, *UNANSWERED)

OMITTED = ""
"""In a list of allowed values: the argument may be left out."""

_LEFT_OUT = object()

_TYPES = {
    "Any": None,
    "any": None,
    "": None,
    "string": "string",
    "String": "string",
    "char": "string",
    "integer": "integer",
    "int": "integer",
    "long": "integer",
    "short": "integer",
    "byte": "integer",
    "Bigint": "integer",
    "float": "number",
    "double": "number",
    "number": "number",
    "boolean": "boolean",
    "Boolean": "boolean",
    "bool": "boolean",
    "array": "array",
    "Array": "array",
    "ArrayList": "array",
    "list": "array",
    "tuple": "array",
    "Queue": "array",
    "Stack": "array",
    "dict": "object",
    "object": "object",
    "HashMap": "object",
    "Hashtable": "object",
}
"""The data set's type names, out of three languages, as JSON Schema's; None says nothing about the type."""

_JSON_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}

_KEPT = ("description", "default", "format", "maximum", "minItems", "maxItems")
"""What the documents say in JSON Schema's own words; other keywords are mapped or mean nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One ground-truth call: for each argument the list of its allowed values.

    Attributes:
        function: The function's name as the data set writes it.
        arguments: Argument name to allowed values; `OMITTED` among them means that it may be left out.
    """

    function: str
    arguments: Mapping[str, Sequence[Any]]

    @property
    def tool(self) -> str:
        """The name of the callbox tool."""
        return tool_name(self.function)


@dataclass(frozen=True, slots=True)
class Question:
    """One single-turn question.

    Attributes:
        id: The data set's id, like ``"simple_python_0"``.
        category: One of `CATEGORIES`.
        messages: The conversation, in the data set's ``{"role", "content"}`` form.
        functions: Function documents, as they come.
        ground_truth: The calls that are right, in no order; None in `UNANSWERED` categories.
    """

    id: str
    category: str
    messages: tuple[Mapping[str, str], ...]
    functions: tuple[Mapping[str, Any], ...]
    ground_truth: tuple[Answer, ...] | None

    @property
    def text(self) -> str:
        """What the person asks last."""
        return next(message["content"] for message in reversed(self.messages) if message["role"] == "user")


def data_folder() -> Path:
    """Where the installed wheel keeps its data. It is found, never imported.

    Raises:
        RuntimeError: The wheel is not installed, or is not the release that these tests were written against.
    """
    spec = find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"The BFCL data is not there: pip install --no-deps bfcl-eval=={VERSION}")
    installed = version("bfcl-eval")
    if installed != VERSION:
        raise RuntimeError(f"bfcl-eval is {installed}: pip install --no-deps bfcl-eval=={VERSION}")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _lines(path: Path) -> Iterator[Any]:
    """The records of a file of JSON Lines (which this data set calls ``.json``)."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


@cache
def load(category: str) -> tuple[Question, ...]:
    """All questions of one of `CATEGORIES`, in the file's order."""
    folder = data_folder()
    name = f"BFCL_v4_{category}.json"
    answers: dict[str, tuple[Answer, ...]] = {}
    if category in ANSWERED:
        for record in _lines(folder / "possible_answer" / name):
            answers[record["id"]] = tuple(
                Answer(function, arguments) for call in record["ground_truth"] for function, arguments in call.items()
            )
    return tuple(
        Question(
            id=record["id"],
            category=category,
            messages=tuple(record["question"][0]),
            functions=tuple(record["function"]),
            ground_truth=answers[record["id"]] if category in ANSWERED else None,
        )
        for record in _lines(folder / name)
    )


@cache
def multi_turn_functions() -> tuple[Mapping[str, Any], ...]:
    """The function documents of the multi-turn and agentic categories; they say what they return, too."""
    return tuple(record for path in _multi_turn_files() for record in _lines(path))


def _multi_turn_files() -> list[Path]:
    return sorted((data_folder() / "multi_turn_func_doc").glob("*.json"))


# From a function document to a tool


def tool_name(function: str) -> str:
    """The callbox name of a function of the data set; its dots, and whatever else, become underscores."""
    return sanitize_name(function)


def definition_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The function document as a tool definition in JSON Schema, in the shape that MCP gives it."""
    definition = {
        "name": tool_name(document["name"]),
        "description": document["description"],
        "inputSchema": _arguments_schema(document["parameters"]),
    }
    return definition | ({"outputSchema": _schema(document["response"])} if "response" in document else {})


def make_tool(document: Mapping[str, Any]) -> Tool:
    """The tool of one function document."""
    [tool] = Toolset.from_schemas([definition_of(document)])
    return tool


def tools_of(question: Question) -> tuple[Tool, ...]:
    """The tools that the question offers, in order.

    Raises:
        DefinitionError: Two functions get one tool name. It does not happen in the pinned release.
    """
    return tuple(Toolset.from_schemas(map(definition_of, question.functions)))


def _arguments_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments object, which has no default of its own. `Toolset.from_schemas` closes it."""
    return {"properties": {}, **_schema({key: parameters[key] for key in parameters if key != "default"})}


def _schema(node: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    declared = node["type"]
    if isinstance(declared, list):
        schema["type"] = [_TYPES[one] for one in declared]
    elif _TYPES[declared] is not None:
        schema["type"] = _TYPES[declared]
    schema |= {keyword: node[keyword] for keyword in _KEPT if keyword in node}
    if node.get("properties"):
        schema["properties"] = {name: _property_schema(child) for name, child in node["properties"].items()}
    if node.get("required"):
        schema["required"] = list(node["required"])
    if isinstance(node.get("items"), list):
        schema["prefixItems"] = [_schema(child) for child in node["items"]]
    elif "items" in node:
        schema["items"] = _schema(node["items"])
    if "enum" in node:
        _add_enum(schema, node["enum"])
    return schema


def _property_schema(node: Mapping[str, Any]) -> dict[str, Any]:
    schema = _schema(node)
    if "default" in node:
        _allow(schema, node["default"])
    return schema


def _add_enum(schema: dict[str, Any], members: Sequence[Any]) -> None:
    """Say which values are allowed, so that they can be met where the declared type excludes them all."""
    if schema.get("type") == "array" and not any(isinstance(member, list) for member in members):
        schema["items"]["enum"] = list(members)
        return
    schema["enum"] = list(members)
    if schema.get("type") in ("integer", "number", "boolean") and all(isinstance(m, str) for m in members):
        schema["type"] = [schema["type"], "string"]
        schema["enum"] += [value for value in map(_value_of, members) if value is not _LEFT_OUT]


def _value_of(text: str) -> Any:
    """The number or boolean that a string of an enum spells."""
    try:
        return json.loads(text.lower())
    except ValueError:
        return _LEFT_OUT


def _allow(schema: dict[str, Any], default: Any) -> None:
    """Let an argument have the value that it has when it is left out.

    The documents write ``Optional[str] = None`` as a string whose default is null, and put a default such as
    ``"dontcare"`` beside an enum or a type that excludes it; the answers use both.
    """
    if isinstance(default, str) and schema.get("type") != "string" and _value_of(default) is not _LEFT_OUT:
        default = _value_of(default)  # "false" beside a boolean is a boolean.
    json_type = _JSON_TYPES[type(default)]
    types = schema.get("type", json_type)
    types = types if isinstance(types, list) else [types]
    if json_type not in types and not (json_type == "integer" and "number" in types):
        schema["type"] = [*types, json_type]
    if "enum" in schema and default not in schema["enum"]:
        schema["enum"] = [*schema["enum"], default]


# From a ground truth to concrete calls


def calls_of(answer: Answer) -> Iterator[dict[str, Any]]:
    """Arguments that the ground truth allows: each one's first value, then every other value, one at a time.

    With the allowed values ``a: [1, 2], b: ["x", ""]``: ``{a: 1, b: "x"}``, ``{a: 2, b: "x"}``, ``{a: 1}``.
    """
    yield from _objects(answer.arguments)


def _objects(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    choices = {name: list(_choices(allowed)) for name, allowed in arguments.items()}
    first = {name: values[0] for name, values in choices.items()}
    yield {name: value for name, value in first.items() if value is not _LEFT_OUT}
    for changed, values in choices.items():
        for other in values[1:]:
            call = {name: other if name == changed else value for name, value in first.items()}
            yield {name: value for name, value in call.items() if value is not _LEFT_OUT}


def _choices(allowed: Any) -> Iterator[Any]:
    """What one argument may be; leaving it out comes last, so that the first call says as much as it can."""
    if not isinstance(allowed, list):
        yield allowed  # One nested value stands there without its list.
    elif not allowed:
        yield []  # No allowed value at all is written where the empty list is meant.
    else:
        for value in allowed:
            if value != OMITTED:
                yield from _expand(value)
        if OMITTED in allowed:
            yield _LEFT_OUT


def _expand(value: Any) -> Iterator[Any]:
    """Objects in an answer, and objects in its lists, hold lists of allowed values again."""
    if isinstance(value, dict):
        yield from _objects(value)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        choices = [list(_expand(item)) for item in value]
        first = [options[0] for options in choices]
        yield first
        for place, options in enumerate(choices):
            yield from ([*first[:place], other, *first[place + 1 :]] for other in options[1:])
    else:
        yield value


# Is a call right?


def is_right(name: str, arguments: Mapping[str, Any], answer: Answer) -> bool:
    """Whether a call is the one that the ground truth wants. `name` may be the function's or the tool's.

    The rules are the leaderboard's: strings compare without case, spaces and ``,./-_*^``, and either quote
    will do; 5 is 5.0 but 1 is not true; an argument that the answer does not name is wrong, and one that it
    names may be left out only where it says so.
    """
    return name in (answer.function, answer.tool) and _object_is_right(arguments, answer.arguments)


def all_right(calls: Sequence[tuple[str, Mapping[str, Any]]], question: Question) -> bool:
    """Whether the calls (name, arguments), in any order, are just those that answer the question.

    Without a ground truth: no call where none is relevant, at least one where some is.
    """
    if question.ground_truth is None:
        return bool(calls) == (question.category == "live_relevance")
    if len(calls) != len(question.ground_truth):
        return False
    fits: list[list[int]] = [
        [place for place, (name, arguments) in enumerate(calls) if is_right(name, arguments, answer)]
        for answer in question.ground_truth
    ]
    return _can_pair(fits, frozenset())


def _can_pair(fits: Sequence[Sequence[int]], taken: frozenset[int]) -> bool:
    """Whether every answer can have its own call. Taking the first that fits could rob a later answer."""
    if not fits:
        return True
    return any(_can_pair(fits[1:], taken | {place}) for place in fits[0] if place not in taken)


def _object_is_right(values: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
    if any(name not in answer for name in values):
        return False
    return all(
        _value_is_right(values[name], allowed) if name in values else _may_be_omitted(allowed)
        for name, allowed in answer.items()
    )


def _may_be_omitted(allowed: Any) -> bool:
    return isinstance(allowed, list) and OMITTED in allowed


def _value_is_right(value: Any, allowed: Any) -> bool:
    if not isinstance(allowed, list):
        return _same(value, allowed)
    if not allowed:
        return value == []
    return any(_matches(value, candidate) for candidate in allowed)


def _matches(value: Any, candidate: Any) -> bool:
    """Whether a value is that allowed one; objects in it hold lists of allowed values."""
    if isinstance(candidate, dict):
        return isinstance(value, dict) and _object_is_right(value, candidate)
    if isinstance(candidate, list) and any(isinstance(item, dict) for item in candidate):
        return isinstance(value, list) and _all_pairs(value, candidate, _matches)
    return _same(value, candidate)


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, str) and isinstance(wanted, str):
        return _bare(value) == _bare(wanted)
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, list) and isinstance(wanted, list):
        return _all_pairs(value, wanted, _same)
    if isinstance(value, dict) and isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(_same(value[key], wanted[key]) for key in value)
    return bool(value == wanted)


def _all_pairs(values: Sequence[Any], wanted: Sequence[Any], same: Callable[[Any, Any], bool]) -> bool:
    return len(values) == len(wanted) and all(map(same, values, wanted))


def _bare(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def documents(categories: Iterable[str] = CATEGORIES) -> dict[str, Mapping[str, Any]]:
    """Every different function document of these categories, once, by its text."""
    found: dict[str, Mapping[str, Any]] = {}
    for category in categories:
        for question in load(category):
            for document in question.functions:
                found.setdefault(json.dumps(document, sort_keys=True), document)
    return found
