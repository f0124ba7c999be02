"""Making a tool's schema narrower, so that what a model writes into it is short and can be put into a grammar.

Never wider on purpose: where a keyword cannot be part of a grammar it is left out and reported as a `Loss`, and the
gate validates against the original schema anyway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from callbox.dialects.dialect import Loss
from callbox.values import JsonObject, json_pointer

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
_KEPT = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "maxProperties",
    ),
    "boolean": (),
    "null": (),
}
_UNSUPPORTED = frozenset(
    {
        "not",
        "if",
        "then",
        "else",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
    }
)
_MEMBERS = frozenset({"properties", "patternProperties", "additionalProperties"})
_FORMAT_CHARS = 64
_MAGNITUDE = 10**15  # doubles are exact up to 2**53, which is a little more


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of a value a model may write, where the schema itself does not say less.

    Attributes:
        string_chars_max: Characters of one string.
        items_max: Items of one array.
        items_min: Items that an array has at least, if it is there at all.
        members_max: Members of one object whose names the schema leaves open.
        closed: Objects get only the members that the schema names.
        patterns: `pattern` and `format` are part of the grammar.
    """

    string_chars_max: int = 240
    items_max: int = 16
    items_min: int = 0
    members_max: int = 8
    closed: bool = True
    patterns: bool = True


def narrow(tool: str, schema: JsonObject, bounds: Bounds) -> tuple[JsonObject, tuple[Loss, ...]]:
    """A schema of bounded values that also fit `schema`, but for what the returned losses name.

    Recursion through ``$ref`` stays: only the budget of tokens bounds it.
    """
    narrower = _Narrower(tool, bounds)
    narrowed = narrower.node(schema, ())
    for keyword in ("$defs", "definitions"):
        definitions = schema.get(keyword)
        if isinstance(definitions, dict):
            narrowed[keyword] = {
                name: narrower.node(body, (keyword, name)) for name, body in cast("JsonObject", definitions).items()
            }
    return narrowed, tuple(narrower.losses)


class _Narrower:
    def __init__(self, tool: str, bounds: Bounds) -> None:
        self.losses: list[Loss] = []
        self._tool = tool
        self._bounds = bounds

    def node(self, schema: Any, path: tuple[str | int, ...], *, branch: bool = False) -> JsonObject:
        """One schema. `branch`: it is merged with its parent, so it may not be closed or opened by itself."""
        if schema is False:
            return {"enum": []}
        if not isinstance(schema, dict):
            return self._anything()
        source = cast("JsonObject", schema)
        for keyword in sorted(_UNSUPPORTED.intersection(source)):
            self._lose(path, keyword, "it is not part of the grammar")
        if "enum" in source or "const" in source:
            return {key: source[key] for key in ("enum", "const", "type") if key in source}
        types: Any = source.get("type")
        if isinstance(types, list) and len(cast("list[str]", types)) > 1:
            # One branch for each type, because a bound for numbers means something else for strings.
            rest = {key: value for key, value in source.items() if key != "type"}
            return {"anyOf": [self.node({**rest, "type": one}, path) for one in cast("list[str]", types)]}
        if isinstance(types, list) and types:
            types = cast("list[str]", types)[0]
        out = self._combined(source, path)
        kind = types if isinstance(types, str) else _implied_type(source)
        if kind is None:
            return out or ({} if branch else self._anything())
        if kind not in _KEPT:
            return out
        out["type"] = kind
        for keyword in _KEPT[kind]:
            if keyword in source:
                out[keyword] = source[keyword]
        self._bound(kind, out, path, branch=branch or _names_members(out))
        return out

    def _combined(self, source: JsonObject, path: tuple[str | int, ...]) -> JsonObject:
        out: JsonObject = {}
        if isinstance(source.get("$ref"), str):
            out["$ref"] = source["$ref"]
        # Branches stand alone unless the node says something of its own that each of them is merged with.
        alone = not {"properties", "$ref", "required"}.intersection(source)
        for keyword in ("allOf", "anyOf", "oneOf"):
            options = source.get(keyword)
            if isinstance(options, list) and options:
                merged = keyword == "allOf" or not alone
                nodes = [
                    self.node(option, (*path, keyword, place), branch=merged)
                    for place, option in enumerate(cast("list[Any]", options))
                ]
                if keyword == "oneOf":
                    # Excluding the values that fit two branches is no regular matter; the gate still does.
                    self._lose(path, keyword, "it is read as anyOf")
                out["allOf" if keyword == "allOf" or "anyOf" in out else "anyOf"] = (
                    nodes if keyword == "allOf" or "anyOf" not in out else [*out.get("allOf", []), {"anyOf": nodes}]
                )
        return out

    def _bound(self, kind: str, out: JsonObject, path: tuple[str | int, ...], *, branch: bool) -> None:
        if kind == "string":
            self._bound_string(out, path)
        elif kind in ("integer", "number"):
            _bound_number(out, kind)
        elif kind == "array":
            self._bound_array(out, path)
        elif kind == "object":
            self._bound_object(out, path, branch=branch)

    def _bound_string(self, out: JsonObject, path: tuple[str | int, ...]) -> None:
        if "format" in out and (out["format"] not in _FORMATS or not self._bounds.patterns):
            if out["format"] in _FORMATS:
                self._lose(path, "format", "it is not part of the grammar")
            del out["format"]
        if "pattern" in out and not self._bounds.patterns:
            del out["pattern"]
            self._lose(path, "pattern", "it is not part of the grammar")
        # A time with its fraction and zone, a UUID, a short address: a format needs some room whatever the budget.
        room = max(self._bounds.string_chars_max, _FORMAT_CHARS if "format" in out else 0)
        out["maxLength"] = _at_most(out.get("maxLength"), room, out.get("minLength"))

    def _bound_array(self, out: JsonObject, path: tuple[str | int, ...]) -> None:
        if isinstance(out.get("prefixItems"), list):
            out["prefixItems"] = [
                self.node(item, (*path, "prefixItems", place))
                for place, item in enumerate(cast("list[Any]", out["prefixItems"]))
            ]
        if out.get("items") is not False:
            out["items"] = self.node(out.get("items"), (*path, "items"))
        choices = cast("JsonObject", out["items"]).get("enum") if isinstance(out["items"], dict) else None
        items_max = self._bounds.items_max if not choices else min(self._bounds.items_max, len(choices))
        out["maxItems"] = _at_most(out.get("maxItems"), items_max, out.get("minItems"))
        if "minItems" not in out and 0 < self._bounds.items_min <= out["maxItems"] and out["items"] is not False:
            out["minItems"] = self._bounds.items_min

    def _bound_object(self, out: JsonObject, path: tuple[str | int, ...], *, branch: bool) -> None:
        properties = cast("JsonObject", out.get("properties") or {})
        out["properties"] = {name: self.node(child, (*path, "properties", name)) for name, child in properties.items()}
        patterns = cast("JsonObject", out.pop("patternProperties", None) or {})
        if patterns and self._bounds.patterns:
            out["patternProperties"] = {
                name: self.node(child, (*path, "patternProperties", name)) for name, child in patterns.items()
            }
        if not out["properties"] and branch:
            del out["properties"]
        additional = out.pop("additionalProperties", None)
        named = bool(properties or patterns)
        if isinstance(additional, dict) and (branch or not properties):
            out["additionalProperties"] = self.node(additional, (*path, "additionalProperties"))
        elif branch or (named and not self._bounds.closed):
            if additional is False:
                out["additionalProperties"] = False
        elif named or additional is False:
            for name in cast("list[str]", out.get("required") or ()):
                out["properties"].setdefault(name, self._anything())
            out["additionalProperties"] = False
        else:
            out["additionalProperties"] = self._scalar()
        if not properties and not branch:
            out["maxProperties"] = _at_most(
                out.get("maxProperties"), self._bounds.members_max, out.get("minProperties")
            )

    def _scalar(self) -> JsonObject:
        return {"anyOf": [self.node({"type": kind}, ()) for kind in ("string", "number", "boolean", "null")]}

    def _anything(self) -> JsonObject:
        """Any value, but flat: a model that may nest without end does."""
        scalar = self._scalar()
        items = {"type": "array", "items": scalar, "maxItems": self._bounds.items_max}
        members = {
            "type": "object",
            "additionalProperties": scalar,
            "maxProperties": self._bounds.members_max,
        }
        return {"anyOf": [*scalar["anyOf"], items, members]}

    def _lose(self, path: tuple[str | int, ...], keyword: str, why: str) -> None:
        loss = Loss(self._tool, json_pointer(path), keyword, f"{why}; callbox validates it after generation")
        if loss not in self.losses:
            self.losses.append(loss)


def _names_members(node: JsonObject) -> bool:
    """Other parts of the node may name members of the object that it describes: it cannot be closed by itself."""
    if "$ref" in node:
        return True
    branches = [branch for keyword in ("allOf", "anyOf") for branch in node.get(keyword, ())]
    return any(_MEMBERS.intersection(branch) or _names_members(branch) for branch in branches)


def _implied_type(source: JsonObject) -> str | None:
    """The type that the keywords speak about, where the schema does not say one."""
    for kind, keyword in (
        ("object", "properties"),
        ("object", "required"),
        ("object", "patternProperties"),
        ("array", "items"),
        ("array", "prefixItems"),
    ):
        if keyword in source:
            return kind
    if "pattern" in source or "maxLength" in source or source.get("format") in _FORMATS:
        return "string"
    if any(keyword in source for keyword in _KEPT["number"]):
        return "number"
    return None


def _at_most(own: Any, bound: int, least: Any) -> int:
    smallest = least if isinstance(least, int) else 0
    return min(own, max(bound, smallest)) if isinstance(own, int) else max(bound, smallest)


def _bound_number(out: JsonObject, kind: str) -> None:
    low = [out[key] for key in ("minimum", "exclusiveMinimum") if isinstance(out.get(key), (int, float))]
    high = [out[key] for key in ("maximum", "exclusiveMaximum") if isinstance(out.get(key), (int, float))]
    if not low:
        out["minimum"] = min(-_MAGNITUDE, *high) if high else -_MAGNITUDE
    if not high:
        out["maximum"] = max(_MAGNITUDE, *low) if low else _MAGNITUDE
    if kind == "number" and "multipleOf" not in out:
        out["multipleOf"] = 1e-9  # nine decimals: "0.333..." ends


# How long a value can get

_REFERENCE_DEPTH = 3
_REFERENCE_CHARS = 64
_NUMBER_CHARS = 27


def longest(schema: JsonObject) -> int:
    """Characters of the longest value of a narrowed schema. Recursion is followed a few levels only."""
    definitions = {
        f"#/{keyword}/{name}": body
        for keyword in ("$defs", "definitions")
        for name, body in cast("JsonObject", schema.get(keyword) or {}).items()
    }
    return _longest(schema, definitions, 0)


def _longest(node: Any, definitions: JsonObject, depth: int) -> int:
    if not isinstance(node, dict):
        return 0
    schema = cast("JsonObject", node)
    if "enum" in schema or "const" in schema:
        choices: list[Any] = schema.get("enum", [schema.get("const")])
        return max((len(json.dumps(choice)) for choice in choices), default=0)
    total = 0
    if "$ref" in schema:
        known = definitions.get(schema["$ref"]) if depth < _REFERENCE_DEPTH else None
        total += _REFERENCE_CHARS if known is None else _longest(known, definitions, depth + 1)
    total += sum(_longest(branch, definitions, depth) for branch in schema.get("allOf", ()))
    total += max((_longest(branch, definitions, depth) for branch in schema.get("anyOf", ())), default=0)
    return total + _longest_of_kind(schema, definitions, depth)


def _longest_of_kind(schema: JsonObject, definitions: JsonObject, depth: int) -> int:
    kind = schema.get("type")
    if kind == "string":
        return 2 + schema["maxLength"]
    if kind in ("integer", "number"):
        return _NUMBER_CHARS
    if kind in ("boolean", "null"):
        return 5
    if kind == "array":
        items = _longest(schema.get("items"), definitions, depth) + 1
        tuple_items = sum(_longest(item, definitions, depth) + 1 for item in schema.get("prefixItems", ()))
        return 2 + tuple_items + schema["maxItems"] * items
    if kind != "object":
        return 0
    members = cast("JsonObject", schema.get("properties") or {}).items()
    total = 2 + sum(len(name) + 4 + _longest(child, definitions, depth) for name, child in members)
    others = [schema.get("additionalProperties"), *cast("JsonObject", schema.get("patternProperties") or {}).values()]
    open_members = schema.get("maxProperties", 1) * max(_longest(other, definitions, depth) for other in others)
    return total + open_members
