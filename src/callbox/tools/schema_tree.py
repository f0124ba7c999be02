"""Where schemas sit inside a JSON Schema (Draft 2020-12): walking and rebuilding it without mistaking data for schemas.

A member named ``"default"`` under ``properties`` is a schema; the value of the keyword ``default`` is not. Everything
that walks schemas goes through here, so that this is decided once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, cast

from callbox.values import JsonObject

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


def children(schema: JsonObject) -> Iterator[tuple[Path, Any]]:
    """The schemas directly inside a schema, each with its path; what is no schema there is yielded too, to be judged."""
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
        inside = [(path + step, child) for step, child in children(here) if isinstance(child, dict)]
        todo += reversed(inside)


def close_objects(schema: JsonObject) -> JsonObject:
    """Forbid what is not listed: ``additionalProperties: false`` on object schemas that list properties and say
    nothing about others. Not inside compositions, where a branch that forbids its neighbours' members matches nothing.
    """
    open_definitions = {
        child["$ref"]
        for _, here in walk(schema)
        for path, child in children(here)
        if path[0] in IN_PLACE and isinstance(child, dict) and isinstance(child.get("$ref"), str)
    }
    # A schema with "$ref" beside its own keywords is a composition as well.
    open_definitions |= {
        here["$ref"] for _, here in walk(schema) if isinstance(here.get("$ref"), str) and "properties" in here
    }

    def close(path: Path, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        here = cast("JsonObject", value)
        return (
            shut(here)
            if path[-2:-1] != ("$defs",) or f"#/$defs/{path[-1]}" not in open_definitions
            else descend(here)
        )

    def descend(here: JsonObject) -> JsonObject:
        return rebuild(here, lambda step, child: child if step[0] in IN_PLACE else close(step, child))

    def shut(here: JsonObject) -> JsonObject:
        made = descend(here)
        composed = any(key in here for key in IN_PLACE) or "$ref" in here or "$dynamicRef" in here
        says = "additionalProperties" in here or "unevaluatedProperties" in here
        if isinstance(here.get("properties"), dict) and not composed and not says:
            made["additionalProperties"] = False
        return made

    return shut(schema)
