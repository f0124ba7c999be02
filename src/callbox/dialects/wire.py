"""Reading vendor objects: a response may be a dict off the wire or an object of the vendor's SDK."""

from __future__ import annotations

from base64 import b64encode
from enum import Enum
from typing import Any, cast

from callbox.values import JsonObject, JsonValue


def plain(value: Any) -> JsonValue:
    """The value as plain JSON data. SDK objects are pydantic models, which dump to their wire form."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        # exclude_unset, not exclude_none: a null that the model wrote inside its arguments must survive.
        try:
            return cast("JsonValue", dump(mode="json", by_alias=True, exclude_unset=True, warnings=False))
        except (ValueError, TypeError, RecursionError):
            # pydantic gives up at about 250 levels, and a model may write arguments as deep as it likes.
            return _by_hand(value)
    return cast("JsonValue", value)


def _by_hand(value: Any) -> Any:
    """As `plain`, but JSON values inside the model's fields are taken as they are, whatever their depth."""
    fields: Any = getattr(value.__class__, "model_fields", None)
    if fields is not None:
        found: dict[str, Any] = {**(value.model_extra or {})}
        for name in value.model_fields_set & fields.keys():
            field = fields[name]
            found[field.serialization_alias or field.alias or name] = _by_hand(getattr(value, name))
        return found
    if isinstance(value, list):
        return [_by_hand(item) for item in cast("list[Any]", value)]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    return value


def as_object(value: Any) -> JsonObject:
    """The value if it is a JSON object, else an empty one."""
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def as_objects(value: Any) -> list[JsonObject]:
    """The non-empty objects of a list, each made `plain`: people put SDK objects into dicts of their own."""
    return [found for found in (as_object(plain(item)) for item in as_list(value)) if found]


def as_text(value: Any) -> str:
    """The value if it is a string, else ``""``."""
    return value if isinstance(value, str) else ""


def as_count(value: Any) -> int:
    """The value if it is a number of tokens, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
