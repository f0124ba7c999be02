"""OpenAI's rules for the schema of a strict function, at their basic level (page "Structured outputs")."""

from __future__ import annotations

from typing import Any

from wire.vendor_server.script import need

_REFUSED = (
    "allOf",
    "oneOf",
    "not",
    "dependentRequired",
    "dependentSchemas",
    "if",
    "then",
    "else",
    "patternProperties",
    "unevaluatedProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "contains",
    "uniqueItems",
    "default",
)


def check_strict(name: str, schema: Any) -> None:
    """Refuse as the API does."""
    need(
        "anyOf" not in schema,
        f"Invalid schema for function '{name}': schema must not have 'anyOf' at the top.",
    )
    _check(name, schema, ())


def _check(name: str, schema: Any, context: tuple[str, ...]) -> None:
    prefix = f"Invalid schema for function '{name}': In context={context}, "
    if not isinstance(schema, dict):
        return
    for word in _REFUSED:
        need(word not in schema, f"{prefix}'{word}' is not permitted.")
    if "properties" in schema or schema.get("type") == "object":
        properties = schema.get("properties", {})
        need(
            schema.get("additionalProperties") is False,
            f"{prefix}'additionalProperties' is required to be supplied and to be false.",
        )
        need(
            set(schema.get("required", ())) == set(properties),
            f"{prefix}'required' has to be an array including every key in properties.",
        )
        for key, value in properties.items():
            _check(name, value, (*context, key))
    for word in ("items", "anyOf", "$defs"):
        inner = schema.get(word)
        for item in inner.values() if word == "$defs" and inner else inner if isinstance(inner, list) else [inner]:
            _check(name, item, (*context, word))
