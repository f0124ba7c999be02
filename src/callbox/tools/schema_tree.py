"""Where schemas sit inside a JSON Schema (Draft 2020-12), so that no data is taken for a schema.

A member named ``"default"`` under ``properties`` is a schema; the value of the keyword ``default`` is not. Everything
that walks schemas goes through here, so that this is decided once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

from callbox.values import JsonObject, json_pointer

Path: TypeAlias = tuple[str | int, ...]

ONE = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
    }
    | {"unevaluatedItems", "unevaluatedProperties"}
)
MANY = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose schemas apply to the same value, not to a part of it."""
ANNOTATIONS = frozenset(
    {"$comment", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly"}
)
"""Keywords that judge nothing."""


def children(schema: JsonObject) -> Iterator[tuple[Path, Any]]:
    """What is directly inside a schema where a schema belongs, each with its path; it may be no schema."""
    for key, value in schema.items():
        if key in ONE:
            yield (key,), value
        elif key in MANY and isinstance(value, list):
            for index, item in enumerate(cast("list[Any]", value)):
                yield (key, index), item
        elif key in NAMED and isinstance(value, dict):
            for name, item in cast("JsonObject", value).items():
                yield (key, name), item


def rebuild(schema: JsonObject, change: Callable[[Path, Any], Any]) -> JsonObject:
    """A copy of a schema in which each schema directly inside has become ``change(path, child)``."""
    out: JsonObject = {}
    for key, value in schema.items():
        if key in ONE:
            out[key] = change((key,), value)
        elif key in MANY and isinstance(value, list):
            out[key] = [change((key, index), item) for index, item in enumerate(cast("list[Any]", value))]
        elif key in NAMED and isinstance(value, dict):
            out[key] = {name: change((key, name), item) for name, item in cast("JsonObject", value).items()}
        else:
            out[key] = value
    return out


def walk(schema: JsonObject) -> Iterator[tuple[Path, JsonObject]]:
    """Every object schema in a schema, itself first, with its path. Iterative: depth is no danger here."""
    todo: list[tuple[Path, JsonObject]] = [((), schema)]
    while todo:
        path, here = todo.pop()
        yield path, here
        inside = [(path + step, cast("JsonObject", child)) for step, child in children(here) if isinstance(child, dict)]
        todo += reversed(inside)


def at_pointer(root: Any, pointer: str) -> tuple[Path, Any] | None:
    """The value at a JSON Pointer (RFC 6901, percent-encoded as in a `$ref`) with its path; None if there is none."""
    path: list[str | int] = []
    here: Any = root
    for raw in unquote(pointer).split("/")[1:]:
        step = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and step in here:
            here = cast("JsonObject", here)[step]
            path.append(step)
        elif isinstance(here, list) and step.isdecimal() and int(step) < len(cast("list[Any]", here)):
            here = cast("list[Any]", here)[int(step)]
            path.append(int(step))
        else:
            return None
    return tuple(path), here


def close_objects(schema: JsonObject) -> JsonObject:
    """Forbid what is not listed, on object schemas that list properties and say nothing about others.

    Not inside compositions, where a branch that forbids its neighbours' members matches nothing. The outermost object
    is closed even if it lists none: it is the arguments of a function that takes none.
    """
    composed = _composed_definitions(schema)

    def close(here: JsonObject, at: Path) -> JsonObject:
        def change(step: Path, child: Any) -> Any:
            if step[0] in IN_PLACE or not isinstance(child, dict):
                same: Any = child
                return same
            return close(cast("JsonObject", child), at + step)

        made = rebuild(here, change)
        if _lists_all(here) and f"#{json_pointer(at)}" not in composed:
            made["additionalProperties"] = False
        return made

    made = close(schema, ())
    if made.get("properties") == {} and _lists_all({**made, "properties": {"": True}}):
        made["additionalProperties"] = False
    return made


def _lists_all(here: JsonObject) -> bool:
    """An object schema that lists properties, stands alone, and says nothing about other properties."""
    # An object with an empty list of properties is how many say "any object".
    if not here.get("properties") or not isinstance(here["properties"], dict):
        return False
    others = {"$dynamicRef", "$ref", "additionalProperties", "unevaluatedProperties"}
    return not any(key in here for key in IN_PLACE | others)


def _composed_definitions(schema: JsonObject) -> set[str]:
    """References from inside a composition: what they name must stay open."""
    found: set[str] = set()
    for _, here in walk(schema):
        if "$ref" in here and not set(here) <= ANNOTATIONS | {"$ref"}:
            found.add(str(here["$ref"]))
        for step, child in children(here):
            if step[0] in IN_PLACE and isinstance(child, dict):
                inside = cast("JsonObject", child)
                found |= {str(each["$ref"]) for each in _in_place(inside) if "$ref" in each}
    return found


def _in_place(schema: JsonObject) -> Iterator[JsonObject]:
    """A schema and those that apply to the same value, without following references."""
    todo = [schema]
    while todo:
        here = todo.pop()
        yield here
        for step, child in children(here):
            if step[0] in IN_PLACE and isinstance(child, dict):
                todo.append(cast("JsonObject", child))
