"""What OpenAI's strict mode allows of one schema in all, and how unions must be told apart.

Numbers: https://developers.openai.com/api/docs/guides/structured-outputs, section "Supported schemas".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from callbox.dialects.fitting import declared_types, same
from callbox.dialects.strict_schema import StrictSchema
from callbox.dialects.wire import as_list, as_object
from callbox.tools.schema_tree import children, walk
from callbox.values import JsonObject

PROPERTIES_MAX = 5_000
DEPTH_MAX = 10
STRING_CHARS_MAX = 120_000
"""Names of properties and definitions, enum values and constants, together."""
ENUM_VALUES_MAX = 1_000
LARGE_ENUM_VALUES = 250
LARGE_ENUM_CHARS_MAX = 15_000
"""For one enum of strings with more than `LARGE_ENUM_VALUES` values."""


@dataclass(slots=True)
class _Totals:
    properties: int = 0
    chars: int = 0
    enum_values: int = 0


def check_limits(strict: StrictSchema) -> None:
    """Count the rewritten schema; what is too much becomes a reason of its `reasons`."""
    totals = _Totals()
    for path, schema in walk(strict.schema):
        for name in [*as_object(schema.get("properties")), *as_object(schema.get("$defs"))]:
            totals.chars += len(name)
        totals.properties += len(as_object(schema.get("properties")))
        values = as_list(schema.get("enum")) or [schema[key] for key in ("const",) if key in schema]
        chars = sum(len(value) for value in values if isinstance(value, str))
        totals.chars += chars
        totals.enum_values += len(as_list(schema.get("enum")))
        if len(values) > LARGE_ENUM_VALUES and chars > LARGE_ENUM_CHARS_MAX:
            strict.refuse(path, "enum", f"{len(values)} constants of {chars} characters in one enum")
    if totals.properties > PROPERTIES_MAX:
        strict.refuse((), "properties", f"{totals.properties} properties in one schema")
    if totals.chars > STRING_CHARS_MAX:
        strict.refuse((), "properties", f"names and constants of {totals.chars} characters in one schema")
    if totals.enum_values > ENUM_VALUES_MAX:
        strict.refuse((), "enum", f"{totals.enum_values} constants in one schema")
    depth = _depth(strict.schema, strict.schema, {"#": 0})
    if depth > DEPTH_MAX:
        strict.refuse((), "properties", f"{depth} levels of nesting")


def _depth(schema: JsonObject, root: JsonObject, known: dict[str, int]) -> int:
    """Levels of objects and arrays; a definition counts where it is used, but not inside itself."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference not in known:
            known[reference] = 0
            known[reference] = _depth(_target(reference, root), root, known)
        return known[reference]
    inside = [_depth(as_object(child), root, known) for path, child in children(schema) if path[0] != "$defs"]
    own = bool({"object", "array"} & set(declared_types(schema)))
    return max(inside, default=0) + own


def _target(reference: str, root: JsonObject) -> JsonObject:
    if reference == "#":
        return root
    name = reference.removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~")
    return as_object(as_object(root.get("$defs")).get(name))


def tell_unions_apart(strict: StrictSchema) -> None:
    """Put first in each object of a union the property by which it is known.

    "Objects provided via 'anyOf' must not share identical first keys" unless constants tell them apart. The
    order of properties means nothing in JSON Schema, so it may be changed; where no order helps, strict mode
    cannot be had.
    """
    unions = [(path, schema) for path, schema in walk(strict.schema) if "anyOf" in schema]
    for _, schema in unions:
        branches = list(_objects(schema, strict.schema, 0))
        if not _told_apart(branches):
            for branch in branches:
                _put_first(branch, _telling(branch, branches))
    for path, schema in unions:
        # Definitions are shared: what one union put first, another may have moved.
        if not _told_apart(list(_objects(schema, strict.schema, 0))):
            strict.refuse(path, "anyOf", "objects in one union that no first property tells apart")


def _objects(schema: JsonObject, root: JsonObject, level: int) -> Iterator[JsonObject]:
    """The objects that a union is made of; unions inside it count as its own branches."""
    for branch in map(as_object, as_list(schema.get("anyOf"))):
        found = _target(branch["$ref"], root) if "$ref" in branch else branch
        if "anyOf" in found and level < DEPTH_MAX:
            yield from _objects(found, root, level + 1)
        elif as_object(found.get("properties")):
            yield found


def _told_apart(branches: list[JsonObject]) -> bool:
    firsts = [next(iter(as_object(branch["properties"]).items())) for branch in branches]
    return all(
        name != other or _differ(schema, another)
        for at, (name, schema) in enumerate(firsts)
        for other, another in firsts[at + 1 :]
    )


def _differ(left: Any, right: Any) -> bool:
    ours, theirs = _constants(as_object(left)), _constants(as_object(right))
    return bool(ours and theirs) and not any(same(value, found) for value in ours for found in theirs)


def _constants(schema: JsonObject) -> list[Any]:
    return [schema["const"]] if "const" in schema else as_list(schema.get("enum"))


def _telling(branch: JsonObject, branches: list[JsonObject]) -> str | None:
    """The property that has other constants in every other branch, or that no other branch has."""
    others = [as_object(other["properties"]) for other in branches if other is not branch]
    own = as_object(branch["properties"])
    for name, schema in own.items():
        if all(name in other and _differ(schema, other[name]) for other in others):
            return name
    return next((name for name in own if not any(name in other for other in others)), None)


def _put_first(branch: JsonObject, name: str | None) -> None:
    if name is not None:
        properties = as_object(branch["properties"])
        branch["properties"] = {name: properties[name], **properties}
        branch["required"] = list(branch["properties"])
