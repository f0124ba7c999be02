"""Schemas for Gemini's ``parametersJsonSchema``: references resolved, keywords without effect reported."""

from typing import Any

from callbox.dialects.dialect import Loss
from callbox.dialects.root import resolve
from callbox.dialects.wire import as_object
from callbox.tools.schema_tree import Path, rebuild
from callbox.tools.tool import Tool
from callbox.values import JsonObject, json_pointer

SILENT = frozenset({"$schema", "$comment", "$id", "$defs", "definitions"})
"""Keywords that say nothing to a model once references are resolved."""

_REGARDED = frozenset(
    {
        "$id",
        "$defs",
        "$ref",
        "$anchor",
        "type",
        "format",
        "title",
        "description",
        "enum",
        "items",
        "prefixItems",
    }
    | {"minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties"}
    | {"required", "propertyOrdering"}
)
"""https://ai.google.dev/api/generate-content#generationconfig lists them, for ``responseJsonSchema``. What it
says of references holds here, too: one that leads back to itself is unrolled to a limited degree, and nothing
may stand beside it."""

_NODES_MAX = 2_000
"""Schemas of one tool once references are replaced: a chain that doubles n times would have 2^n."""

_SAYS = frozenset({"title", "description", "default"})


class _EndlessError(Exception):
    """The schema contains itself, leads nowhere, or would grow beyond all bounds."""


def inlined(root: JsonObject, home: JsonObject) -> JsonObject | None:
    """The schema with every reference replaced by what it leads to in `home`; None where that has no end."""
    count = 0

    def enter(schema: Any, inside: frozenset[str]) -> Any:
        nonlocal count
        count += 1
        if count > _NODES_MAX:
            raise _EndlessError
        if not isinstance(schema, dict):
            return schema
        found = as_object(schema)
        while "$ref" in found:
            reference = found["$ref"]
            target = resolve(home, reference)
            if target is None or reference in inside:
                raise _EndlessError
            inside |= {reference}
            found = _beside(target, {key: value for key, value in found.items() if key != "$ref"})
        kept = {key: value for key, value in found.items() if key not in ("$defs", "definitions")}
        return rebuild(kept, lambda _, part: enter(part, inside))

    try:
        return enter(root, frozenset())
    except _EndlessError:
        return None


def _beside(target: JsonObject, rest: JsonObject) -> JsonObject:
    """What a reference leads to, and what stands beside it: both hold."""
    if any(key in target and target[key] != value and key not in _SAYS for key, value in rest.items()):
        return {"allOf": [target, rest]}
    return {**target, **rest}


def written_json_schema(tool: Tool, root: JsonObject) -> tuple[JsonObject, list[Loss]]:
    """The schema as it is sent, and what in it Gemini does not say that it regards."""
    losses: list[Loss] = []

    def lose(path: Path, keyword: str, message: str) -> None:
        losses.append(Loss(tool.name, json_pointer(path), keyword, message))

    def write(schema: Any, path: Path) -> Any:
        if not isinstance(schema, dict):
            return schema
        found = {key: value for key, value in as_object(schema).items() if key not in ("$schema", "$comment")}
        if "$ref" in found:
            lose(
                path,
                "$ref",
                "Unrolled to a limited depth; deeper than that the model is not told the schema.",
            )
            return {"$ref": found["$ref"]}
        value = found.get("const")
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and "enum" not in found:
            # The list of what is regarded has no const.
            found["enum"] = [value]
            del found["const"]
        for key in found:
            if key not in _REGARDED and not key.startswith("x-") and key not in ("definitions", "default"):
                lose(path, key, "Sent, but Gemini does not say that it regards it; checked by callbox alone.")
        return rebuild(found, lambda step, part: write(part, (*path, *step)))

    return write(root, ()), losses
