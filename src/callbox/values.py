"""JSON values: the types that arguments, schemas and vendor messages are made of."""

from __future__ import annotations

from typing import Any, TypeAlias

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"
"""Any JSON value as Python reads it: object, array, string, number, boolean or null."""

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object whose members are read by key. ``Any`` on purpose: its shape is checked by a schema, not by pyright."""


def json_pointer(path: tuple[str | int, ...] | list[str | int]) -> str:
    """Write a path as a JSON Pointer (RFC 6901): ``("items", 0, "a/b")`` is ``"/items/0/a~1b"``; the root is ``""``."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
