"""The root of a tool's parameters, as OpenAI and Anthropic want it: a plain object, nothing combined."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

from callbox.dialects.dialect import Loss
from callbox.dialects.wire import as_list, as_object
from callbox.tools.tool import Tool
from callbox.values import JsonObject

_COMBINING = ("anyOf", "oneOf", "allOf", "not", "enum", "const", "if", "then", "else")


def object_root(tool: Tool) -> tuple[JsonObject, list[Loss]]:
    """The parameters as a schema that is an object at its root.

    Both vendors refuse a request whose parameters combine schemas at the root. The properties of what was
    combined are offered as the root's own, and what cannot be said is reported; callbox checks the original.
    """
    schema = _follow(tool.parameters, tool.parameters)
    # A call's arguments are always an object; a schema that leaves that open says no less when it says so.
    schema["type"] = "object"
    schema.setdefault("properties", {})
    losses: list[Loss] = []
    for keyword in _COMBINING:
        if keyword not in schema:
            continue
        found = schema.pop(keyword)
        for branch in as_list(found):
            _absorb(schema, _follow(tool.parameters, branch), required=keyword == "allOf")
        losses.append(
            Loss(
                tool.name,
                f"/{keyword}",
                keyword,
                "Not taken at the root: its properties are offered; only callbox checks how they combine.",
            )
        )
    return schema, losses


def resolve(root: JsonObject, reference: Any) -> JsonObject | None:
    """The schema that a local reference (``#``, ``#/$defs/Name``; RFC 6901 escapes) leads to, or None."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and step.isdecimal() and int(step) < len(cast("list[Any]", found)):
            found = cast("list[Any]", found)[int(step)]
        else:
            found = as_object(found).get(step)
    return cast("JsonObject", found) if isinstance(found, dict) else None


def _follow(root: JsonObject, schema: Any) -> JsonObject:
    """The schema with what its reference leads to; its own keywords win. A chain that bites its tail ends."""
    found = dict(as_object(schema))
    seen: set[str] = set()
    while isinstance(reference := found.pop("$ref", None), str) and reference not in seen:
        seen.add(reference)
        found = {**(resolve(root, reference) or {}), **found}
    return found


def _absorb(schema: JsonObject, other: JsonObject, *, required: bool) -> None:
    schema["properties"] = {**as_object(other.get("properties")), **schema["properties"]}
    if required:
        names = dict.fromkeys([*as_list(schema.get("required")), *as_list(other.get("required"))])
        schema["required"] = list(names)
