"""What a schema of the data set accepts, by a few lines written from the specification.

That is JSON Schema 2020-12, validation, section 6, for the keywords that these schemas have. So the validator
under test does not mark its own work.
"""

from __future__ import annotations

import math
import re
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def types_of(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The JSON types that a schema names; empty where it accepts any."""
    declared = schema.get("type", ())
    return (declared,) if isinstance(declared, str) else tuple(declared)


def is_type(value: Any, json_type: str) -> bool:
    """Whether a JSON value is of that JSON Schema type; 5.0 is an integer, true is no number."""
    match json_type:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return not isinstance(value, bool) and (
                isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            )
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case _:
            return isinstance(value, dict)


def fits_type(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether the value is of one of the schema's types."""
    types = types_of(schema)
    return not types or any(is_type(value, one) for one in types)


def _equal(left: Any, right: Any) -> bool:
    """JSON equality: 1 is 1.0, and true is not 1."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def accepts(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether the value is valid."""
    if not fits_type(schema, value):
        return False
    if "enum" in schema and not any(_equal(value, member) for member in schema["enum"]):
        return False
    if is_type(value, "number") and value > schema.get("maximum", math.inf):
        return False
    if isinstance(value, str):
        return schema.get("format") != "date" or _is_date(value)
    if isinstance(value, list):
        few, many = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        return few <= len(value) <= many and all(accepts(schema.get("items", {}), item) for item in value)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        closed = schema.get("additionalProperties") is False
        return all(name in value for name in schema.get("required", ())) and all(
            accepts(properties[name], member) if name in properties else not closed for name, member in value.items()
        )
    return True


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
