"""Whether a value fits a schema, as far as strict mode's subset goes: to choose a branch of a union.

The gate's validator stays the judge. This one is for the few values that hold a null, needs no compiled
schema, and takes keywords that it does not know as satisfied.
"""

from __future__ import annotations

import math
import re
from typing import Any

from callbox.dialects.root import resolve
from callbox.dialects.wire import as_list, as_object
from callbox.values import JsonObject

_REFERENCES_MAX = 32


def dereferenced(schema: Any, root: JsonObject) -> JsonObject:
    """The schema behind a chain of local references; empty where the chain leads nowhere or has no end."""
    found = as_object(schema)
    for _ in range(_REFERENCES_MAX):
        if "$ref" not in found:
            return found
        found = resolve(root, found["$ref"]) or {}
    return {}


def kind_of(value: Any) -> str:
    """The JSON type of a value; a number without a fraction is an ``integer``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "unknown"


def same(left: Any, right: Any) -> bool:
    """JSON equality: 1 is 1.0, but true is not 1."""
    if isinstance(left, list) and isinstance(right, list):
        ours, theirs = as_list(left), as_list(right)
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(left, dict) and isinstance(right, dict):
        mine, other = as_object(left), as_object(right)
        return mine.keys() == other.keys() and all(same(value, other[key]) for key, value in mine.items())
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def declared_types(schema: JsonObject) -> list[Any]:
    """The types that a schema names, as a list; empty where it names none."""
    kind = schema.get("type")
    return as_list(kind) if isinstance(kind, list) else [] if kind is None else [kind]


def fits(value: Any, schema: Any, root: JsonObject) -> bool:
    """Whether the value fits; `root` is what references are looked up in."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in as_object(schema) and len(as_object(schema)) > 1:
        beside = {key: found for key, found in as_object(schema).items() if key != "$ref"}
        return fits(value, beside, root) and fits(value, dereferenced(schema, root), root)
    found = dereferenced(schema, root)
    types = declared_types(found)
    kind = kind_of(value)
    if types and kind not in types and not (kind == "integer" and "number" in types):
        return False
    if "enum" in found and not any(same(value, item) for item in as_list(found["enum"])):
        return False
    if "const" in found and not same(value, found["const"]):
        return False
    return _fits_unions(value, found, root) and _fits_kind(value, kind, found, root)


def _fits_unions(value: Any, found: JsonObject, root: JsonObject) -> bool:
    if "anyOf" in found and not any(fits(value, branch, root) for branch in as_list(found["anyOf"])):
        return False
    if "oneOf" in found and sum(fits(value, branch, root) for branch in as_list(found["oneOf"])) != 1:
        return False
    return all(fits(value, part, root) for part in as_list(found.get("allOf")))


def _fits_kind(value: Any, kind: str, found: JsonObject, root: JsonObject) -> bool:
    match kind:
        case "object":
            return _fits_object(as_object(value), found, root)
        case "array":
            items = as_list(value)
            if not _within(len(items), found, "minItems", "maxItems"):
                return False
            return "items" not in found or all(fits(item, found["items"], root) for item in items)
        case "string":
            pattern = found.get("pattern")
            return _within(len(value), found, "minLength", "maxLength") and _matches(pattern, value)
        case "integer" | "number":
            return _fits_number(value, found)
        case _:
            return True


def _fits_object(value: JsonObject, found: JsonObject, root: JsonObject) -> bool:
    properties = as_object(found.get("properties"))
    if any(name not in value for name in as_list(found.get("required"))):
        return False
    if found.get("additionalProperties", True) is False and not value.keys() <= properties.keys():
        return False
    return all(fits(value[name], schema, root) for name, schema in properties.items() if name in value)


def _fits_number(value: float, found: JsonObject) -> bool:
    low, high = _bound(found, "exclusiveMinimum"), _bound(found, "exclusiveMaximum")
    if (low is not None and value <= low) or (high is not None and value >= high):
        return False
    if not _within(value, found, "minimum", "maximum"):
        return False
    step = _bound(found, "multipleOf")
    if step is None or step <= 0:
        return True
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    quotient = value / step
    return math.isfinite(quotient) and quotient == int(quotient)


def _within(size: float, found: JsonObject, low: str, high: str) -> bool:
    least, most = _bound(found, low), _bound(found, high)
    return (least is None or size >= least) and (most is None or size <= most)


def _bound(found: JsonObject, key: str) -> float | None:
    value = found.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _matches(pattern: Any, text: str) -> bool:
    if not isinstance(pattern, str):
        return True
    try:
        return re.search(pattern, text) is not None
    except re.error:
        # JSON Schema's patterns are ECMA-262; what Python cannot read, the validator judges.
        return True
