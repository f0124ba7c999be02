"""What a schema says at first sight: its types, constants and properties, through `$ref` and `allOf`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

from callbox.calls.wording import cut, describe_type, either, kind_of, literal, one_of
from callbox.values import JsonObject, JsonValue

ALL_KINDS = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_SCALARS = ("string", "integer", "number", "boolean", "null", "array", "object")
_DESCRIBED_DEPTH_MAX = 4
_MERGED_MAX = 100


@dataclass(frozen=True, slots=True)
class Place:
    """One schema in a document, by its JSON Pointer (as a URI fragment, ``"#/properties/a"``)."""

    pointer: str
    schema: Any

    def child(self, *steps: str | int) -> Place:
        """The schema at those steps below."""
        inner = self.schema
        for step in steps:
            inner = inner[step]
        escaped = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
        return Place(self.pointer + escaped, inner)


@dataclass(slots=True)
class Shape:
    """Several schemas for one value, taken together.

    Attributes:
        kinds: JSON types that all of them accept; ``"integer"`` is in it wherever ``"number"`` is.
        options: Values of the narrowest `enum` or `const`; None without one.
        properties: Where each known property is described; the first one found.
        patterns: Property names may match one of these, too.
        required: Names that must be there.
        closed: Other properties are refused.
    """

    kinds: frozenset[str] = ALL_KINDS
    options: list[JsonValue] | None = None
    properties: dict[str, Place] = field(default_factory=dict[str, Place])
    patterns: list[str] = field(default_factory=list[str])
    required: set[str] = field(default_factory=set[str])
    closed: bool = False


def members(value: Any) -> JsonObject:
    """The value if it is a JSON object, else an empty one."""
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def accepted_kinds(declared: Any) -> frozenset[str]:
    """The JSON types that a `type` keyword accepts."""
    kinds = {name for name in items(declared) or [declared] if isinstance(name, str)}
    if "number" in kinds:
        kinds.add("integer")
    return frozenset(kinds)


_Anchors: TypeAlias = dict[str, Place]


class Document:
    """A tool's parameters schema, with its references resolved. Read-only."""

    def __init__(self, schema: JsonObject) -> None:
        self.root = Place("#", schema)
        self._anchors: _Anchors | None = None

    def resolve(self, reference: Any) -> Place | None:
        """The schema that a `$ref` points to. None where it points outside, which no tool's schema does."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        fragment = unquote(reference[1:])
        if fragment and not fragment.startswith("/"):
            if self._anchors is None:
                self._anchors = dict(self._find_anchors())
            return self._anchors.get(fragment)
        here: Any = self.root.schema
        for raw in fragment.split("/")[1:]:
            step = raw.replace("~1", "/").replace("~0", "~")
            if isinstance(here, dict) and step in here:
                here = cast("JsonObject", here)[step]
            elif isinstance(here, list) and step.isdecimal() and int(step) < len(cast("list[Any]", here)):
                here = cast("list[Any]", here)[int(step)]
            else:
                return None
        return Place("#" + fragment, here)

    def _find_anchors(self) -> Iterator[tuple[str, Place]]:
        waiting = [self.root]
        while waiting:
            place = waiting.pop()
            here = members(place.schema)
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(here.get(keyword), str):
                    yield here[keyword], place
            waiting += [place.child(key) for key in here]
            waiting += [place.child(index) for index in range(len(items(place.schema)))]

    def together(self, place: Place) -> Iterator[Place]:
        """The schema and those that apply to the same value without a condition: `$ref` and `allOf`."""
        waiting, seen = [place], set[str]()
        while waiting and len(seen) < _MERGED_MAX:
            here = waiting.pop()
            value: object = here.schema
            if here.pointer in seen or not isinstance(value, dict):
                continue
            seen.add(here.pointer)
            yield here
            schema = members(value)
            for keyword in ("$ref", "$dynamicRef"):
                target = self.resolve(schema.get(keyword))
                waiting += [target] if target is not None else []
            waiting += [here.child("allOf", index) for index in range(len(items(schema.get("allOf"))))]

    def shape(self, place: Place) -> Shape:
        """What the schema says at first sight."""
        shape = Shape()
        for here in self.together(place):
            schema = cast("JsonObject", here.schema)
            if "type" in schema:
                shape.kinds &= accepted_kinds(schema["type"])
            if "const" in schema or isinstance(schema.get("enum"), list):
                found = [schema["const"]] if "const" in schema else items(schema["enum"])
                if shape.options is None or len(found) < len(shape.options):
                    shape.options = found
            for name in members(schema.get("properties")):
                shape.properties.setdefault(name, here.child("properties", name))
            shape.patterns += list(members(schema.get("patternProperties")))
            shape.required.update(items(schema.get("required")))
            shape.closed = shape.closed or schema.get("additionalProperties") is False
            shape.closed = shape.closed or schema.get("unevaluatedProperties") is False
        return shape

    def branches(self, place: Place) -> list[Place]:
        """The alternatives of a schema, through `$ref`; the schema itself where it has none."""
        for here in self.together(place):
            for keyword in ("anyOf", "oneOf"):
                parts = items(here.schema.get(keyword))
                if parts:
                    return [here.child(keyword, index) for index in range(len(parts))]
        return [place]

    def kinds(self, place: Place, depth: int = _DESCRIBED_DEPTH_MAX) -> frozenset[str]:
        """The JSON types that may fit, alternatives included."""
        if place.schema is False:
            return frozenset()
        shape = self.shape(place)
        kinds = shape.kinds
        if shape.options is not None:
            found = {kind_of(option) for option in shape.options}
            kinds &= found | ({"number"} if "integer" in found else set())
        branches = self.branches(place)
        if depth and branches[0] is not place:
            kinds &= frozenset().union(*(self.kinds(branch, depth - 1) for branch in branches))
        return kinds

    def describe(self, place: Place, depth: int = _DESCRIBED_DEPTH_MAX) -> str:
        """The schema in a few words: ``integer between 1 and 10``, ``one of: a, b``, ``string or null``."""
        return cut(self._describe(place, depth))

    def _describe(self, place: Place, depth: int) -> str:
        if place.schema is False:
            return "nothing"
        shape = self.shape(place)
        if shape.options is not None:
            return one_of([option for option in shape.options if kind_of(option) in shape.kinds] or shape.options)
        branches = self.branches(place)
        if depth and branches[0] is not place:
            fitting = [branch for branch in branches if self.kinds(branch) & shape.kinds]
            return self._either(fitting or branches, depth - 1)
        if shape.kinds == ALL_KINDS:
            return "any value" if not shape.properties else "object"
        merged: JsonObject = {}
        for here in self.together(place):
            merged = {**here.schema, **merged}
        merged["properties"] = dict.fromkeys(shape.properties)
        item = None
        inner = merged.get("items")
        if "array" in shape.kinds and isinstance(inner, dict) and depth:
            owner = next((here for here in self.together(place) if here.schema.get("items") is inner), place)
            item = self._describe(owner.child("items"), depth - 1)
        kinds = [k for k in _SCALARS if k in shape.kinds and not (k == "integer" and "number" in shape.kinds)]
        return either(describe_type(kind, merged, item) for kind in kinds)

    def describe_any(self, places: list[Place]) -> str:
        """Alternatives in a few words."""
        return cut(self._either(places, _DESCRIBED_DEPTH_MAX))

    def _either(self, places: list[Place], depth: int) -> str:
        lists = [self.shape(place).options for place in places]
        if len(lists) > 1 and all(lists):
            return one_of([option for options in lists for option in options or ()])
        return either(self._describe(place, depth) for place in places)

    def name_of(self, place: Place) -> str:
        """What an alternative is called: its title, its definition's name, or its description."""
        for here in self.together(place):
            if isinstance(here.schema.get("title"), str):
                return here.schema["title"][:100]
        tags = [
            f"{name}={literal(options[0])}"
            for name, inner in self.shape(place).properties.items()
            if (options := self.shape(inner).options) is not None and len(options) == 1
        ]
        described = self.describe(place, 2)
        return f"{described} where {', '.join(tags[:3])}" if tags else described
