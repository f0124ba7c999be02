"""Reading vendor objects: a response may be a dict off the wire or an object of the vendor's SDK."""

from __future__ import annotations

from typing import Any, cast

from callbox.values import JsonObject, JsonValue


def plain(value: Any) -> JsonValue:
    """The value as plain JSON data. SDK objects of all three vendors are pydantic models and dump to their wire form."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        # exclude_unset, not exclude_none: a null that the model wrote inside its arguments must survive.
        return cast("JsonValue", dump(mode="json", by_alias=True, exclude_unset=True, warnings=False))
    return cast("JsonValue", value)


def as_object(value: Any) -> JsonObject:
    """The value if it is a JSON object, else an empty one."""
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """The value if it is a string, else ``""``."""
    return value if isinstance(value, str) else ""


def as_count(value: Any) -> int:
    """The value if it is a number of tokens, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
