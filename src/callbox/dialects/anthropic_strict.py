"""Anthropic's strict tools: which schemas its grammar compiler takes, and how many of them in one request.

Rules: https://platform.claude.com/docs/en/build-with-claude/structured-outputs, sections "JSON Schema
limitations" and "Schema complexity limits". What is unsupported there is a 400 for the whole request, so a
tool that needs it is sent without ``strict`` and with its whole schema. callbox validates against that one in
any case.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from callbox.dialects.dialect import Loss
from callbox.dialects.root import resolve
from callbox.dialects.wire import as_list, as_object
from callbox.tools.tool import Tool
from callbox.values import JsonObject, json_pointer

TOOLS_MAX = 20
"""Strict tools in one request."""
OPTIONAL_MAX = 24
"""Optional parameters in all strict tools of one request."""
UNIONS_MAX = 16
"""Parameters with ``anyOf`` or several types in all strict tools of one request."""

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_SAID = frozenset({"title", "description", "default"})
_SILENT = frozenset({"$schema", "$comment", "$id", "$defs", "definitions"})
_HINTS = frozenset({"examples", "example", "deprecated", "readOnly", "writeOnly"})
_DEFINITION = re.compile(r"#/(\$defs|definitions)/[^/]+")
# Groups that look around or refer back, word boundaries, Unicode classes. "Simple" {n,m} are taken, "large
# ranges" are not; the page gives no number, so ours is a guess on the safe side.
_PATTERN_REFUSED = re.compile(r"\(\?(?!:)|\\[1-9bBkpP]")
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_REPEAT_MAX = 100


@dataclass(slots=True)
class _Counts:
    optional: int = 0
    unions: int = 0
    references: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class StrictShape:
    """What a tool would be in strict mode.

    Attributes:
        schema: Its parameters in the supported subset.
        refused: What keeps it out of strict mode.
        dropped: Hints to the model that the subset has no keyword for; they change no meaning.
        optional, unions: What it adds to the request's limits; definitions count wherever they are used.
    """

    schema: JsonObject
    refused: list[Loss]
    dropped: list[Loss]
    optional: int
    unions: int


def strict_shape(tool: Tool, schema: JsonObject) -> StrictShape:
    """The strict form of a tool's parameters, whose root must be a plain object (see `root.object_root`)."""
    return _Subset(tool, schema).shape()


class Allowance:
    """What one request has left for strict tools; given out in the order of the tools."""

    def __init__(self) -> None:
        self._tools = TOOLS_MAX
        self._optional = OPTIONAL_MAX
        self._unions = UNIONS_MAX

    def take(self, shape: StrictShape) -> str | None:
        """Book the tool and return None, or say which limit it would break."""
        if self._tools < 1:
            return f"more than {TOOLS_MAX} strict tools in one request"
        if shape.optional > self._optional:
            return f"more than {OPTIONAL_MAX} optional parameters in the strict tools of one request"
        if shape.unions > self._unions:
            return f"more than {UNIONS_MAX} parameters of several types in the strict tools of one request"
        self._tools -= 1
        self._optional -= shape.optional
        self._unions -= shape.unions
        return None


class _Subset:
    """Walks one schema. Definitions are visited once each, and only those that are used."""

    def __init__(self, tool: Tool, root: JsonObject) -> None:
        self._tool = tool
        self._root = root
        self._refused: list[Loss] = []
        self._dropped: list[Loss] = []
        self._counts = _Counts()
        self._by_reference: dict[str, _Counts] = {}
        self._definitions: dict[str, dict[str, Any]] = {}
        self._totals: dict[str, tuple[int, int] | None] = {}

    def shape(self) -> StrictShape:
        schema = self._object(self._root, (), {}, root=True)
        schema.update(self._others(self._root, ()))
        waiting = list(self._counts.references)
        while waiting:
            reference = waiting.pop()
            if reference in self._by_reference:
                continue
            counts = self._counts_of(reference)
            waiting += counts.references
        optional, unions = self._sum(self._counts)
        return StrictShape({**schema, **self._definitions}, self._refused, self._dropped, optional, unions)

    def _counts_of(self, reference: str) -> _Counts:
        own, self._counts = self._counts, _Counts()
        home, name = reference[2:].split("/")
        self._definitions.setdefault(home, {})[name.replace("~1", "/").replace("~0", "~")] = self._visit(
            resolve(self._root, reference), (home, name)
        )
        counts, self._counts = self._counts, own
        self._by_reference[reference] = counts
        return counts

    def _sum(self, counts: _Counts) -> tuple[int, int]:
        optional, unions = counts.optional, counts.unions
        for reference in counts.references:
            if reference not in self._totals:
                self._totals[reference] = None
                self._totals[reference] = self._sum(self._by_reference[reference])
            total = self._totals[reference]
            if total is None:
                self._refuse(tuple(reference[2:].split("/")), "$ref", "a schema that contains itself")
                return optional, unions
            optional += total[0]
            unions += total[1]
        return optional, unions

    def _refuse(self, path: Sequence[str | int], keyword: str, what: str) -> None:
        loss = Loss(self._tool.name, json_pointer(tuple(path)), keyword, f"Strict mode does not take {what}.")
        if loss not in self._refused:
            self._refused.append(loss)

    def _drop(self, path: Sequence[str | int], keyword: str) -> None:
        message = "A hint that strict mode has no keyword for; left out."
        self._dropped.append(Loss(self._tool.name, json_pointer(tuple(path)), keyword, message))

    def _visit(self, schema: Any, path: tuple[str | int, ...]) -> Any:
        if not isinstance(schema, dict):
            self._refuse(path, "type", "a value of any type")
            return schema
        found = as_object(schema)
        if "$ref" in found:
            return self._reference(found, path)
        whole = as_list(found.get("allOf"))
        if len(whole) == 1:
            # The wrapper that OpenAPI generators put around one reference so that it can have a description.
            rest = {key: value for key, value in found.items() if key != "allOf"}
            if rest.keys() <= _SAID | _SILENT:
                return self._visit({**rest, **as_object(whole[0])}, path)
        out: JsonObject = {}
        self._types(found, path, out)
        if "object" in _types_of(found) or "properties" in found:
            out = self._object(found, path, out, root=False)
        out.update(self._others(found, path))
        return out

    def _reference(self, found: JsonObject, path: tuple[str | int, ...]) -> JsonObject:
        reference = found["$ref"]
        if not isinstance(reference, str) or not _DEFINITION.fullmatch(reference):
            self._refuse(path, "$ref", "references to anything but a definition in the same schema")
        elif resolve(self._root, reference) is None:
            self._refuse(path, "$ref", "a definition that takes any value, or none")
        else:
            self._counts.references.append(reference)
        for key in found:
            if key in _SAID or key in _HINTS:
                self._drop(path, key)
            elif key != "$ref" and key not in _SILENT:
                self._refuse(path, key, f"{key!r} beside a reference")
        return {"$ref": reference}

    def _types(self, found: JsonObject, path: tuple[str | int, ...], out: JsonObject) -> None:
        types = _types_of(found)
        if "type" in found:
            out["type"] = found["type"]
        if not types and not found.keys() & {"enum", "const", "anyOf", "allOf", "properties"}:
            self._refuse(path, "type", "a value of any type")
        if len(types) > 1 or "anyOf" in found:
            self._counts.unions += 1
        if "array" in types and "items" not in found:
            self._refuse(path, "items", "an array of anything")

    def _object(self, found: JsonObject, path: tuple[str | int, ...], out: JsonObject, *, root: bool) -> JsonObject:
        properties = as_object(found.get("properties"))
        required = as_list(found.get("required"))
        if found.get("additionalProperties", False) is not False:
            self._refuse(path, "additionalProperties", "properties that are not declared")
        elif not properties and not root and "additionalProperties" not in found:
            self._refuse(path, "properties", "an object of anything")
        if any(name not in properties for name in required):
            self._refuse(path, "required", "a required property that is not declared")
        self._counts.optional += sum(name not in required for name in properties)
        out = {**out, "type": out.get("type", "object")}
        out["properties"] = {
            name: self._visit(value, (*path, "properties", name)) for name, value in properties.items()
        }
        out["required"] = list(required)
        # Nobody declared more: closing the object takes nothing away that the tool asked for.
        out["additionalProperties"] = False
        return out

    def _others(self, found: JsonObject, path: tuple[str | int, ...]) -> JsonObject:
        out: JsonObject = {}
        for key, value in found.items():
            if key in ("type", "properties", "required", "additionalProperties") or key in _SILENT:
                continue
            if key in _SAID:
                out[key] = value
            elif key in _HINTS or key.startswith("x-"):
                self._drop(path, key)
            elif key == "anyOf" and found.keys() <= {"anyOf"} | _SAID | _SILENT | _HINTS:
                # Beside properties, say, closing each alternative would leave nothing that fits both.
                out[key] = [self._visit(item, (*path, key, at)) for at, item in enumerate(as_list(value))]
            elif key == "items" and isinstance(value, dict):
                out[key] = self._visit(value, (*path, key))
            elif _taken(key, value):
                out[key] = value
            else:
                self._refuse(path, key, f"{key!r} as it stands here")
        return out


def _types_of(schema: JsonObject) -> list[Any]:
    kind = schema.get("type")
    return as_list(kind) if isinstance(kind, list) else [] if kind is None else [kind]


def _taken(key: str, value: Any) -> bool:
    match key:
        case "enum":
            return all(not isinstance(item, (dict, list)) for item in as_list(value))
        case "const":
            return not isinstance(value, (dict, list))
        case "format":
            return value in _FORMATS
        case "minItems":
            return value in (0, 1)
        case "pattern":
            return isinstance(value, str) and _simple(value)
        case _:
            return False


def _simple(pattern: str) -> bool:
    """The pattern uses only what the page lists: quantifiers, small ``{n,m}``, classes, plain groups."""
    if _PATTERN_REFUSED.search(pattern):
        return False
    return all(int(match[2] or match[1]) <= _REPEAT_MAX for match in _REPEAT.finditer(pattern))
