"""Gemini's two ways to say what a function takes, and the way back from its arguments.

``parameters`` is a subset of OpenAPI 3.0 (https://ai.google.dev/api/caching#Schema). Every version of the
API and of Vertex AI takes it, and an unknown keyword in it is a 400 for the whole request.
``parametersJsonSchema`` takes JSON Schema, but only in newer versions, and regards only some keywords. So a
schema that the subset can say whole goes into the subset, and any other one is sent as it is: rather a
keyword without effect than another meaning.
"""

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from callbox.dialects.dialect import Loss
from callbox.dialects.gemini_json_schema import SILENT, inlined, written_json_schema
from callbox.dialects.root import object_root
from callbox.dialects.wire import as_list, as_object
from callbox.tools.schema_tree import Path
from callbox.tools.tool import Tool
from callbox.values import JsonObject, json_pointer

_BOUNDS: dict[str, tuple[str, ...]] = {
    "STRING": ("minLength", "maxLength", "pattern"),
    "INTEGER": ("minimum", "maximum"),
    "NUMBER": ("minimum", "maximum"),
    "ARRAY": ("minItems", "maxItems"),
    "OBJECT": ("minProperties", "maxProperties"),
    "BOOLEAN": (),
}
_FORMATS: dict[str, frozenset[str]] = {
    # Some versions of the API take others, too; in the rest they are a 400.
    "STRING": frozenset({"date-time"}),
    "INTEGER": frozenset({"int32", "int64"}),
    "NUMBER": frozenset({"float", "double"}),
}
_SAID = ("title", "description", "default")
_HINTS = frozenset({"examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"})
_CONSTRAINTS = frozenset(
    {
        "type",
        "enum",
        "const",
        "format",
        "properties",
        "required",
        "items",
        "exclusiveMinimum",
        "exclusiveMaximum",
    }
    | {keyword for keywords in _BOUNDS.values() for keyword in keywords}
)
_PROPERTY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(slots=True)
class Way:
    """The way back for one place in the arguments.

    Attributes:
        values: The text that the model was offered, to the value of the tool's own enum.
        properties, items: The same, further down.
        branches: The same for each alternative of this place.
    """

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    properties: "dict[str, Way]" = field(default_factory=dict[str, "Way"])
    items: "Way | None" = None
    branches: "list[Way]" = field(default_factory=list["Way"])

    def __bool__(self) -> bool:
        return bool(self.values or self.properties or self.items or self.branches)

    def back(self, value: Any) -> Any:
        """The value in the original schema's terms; the very same object where there is nothing to change."""
        for way in self.branches or [self]:
            if isinstance(value, str) and value in way.values:
                return way.values[value]
            if isinstance(value, dict) and way.properties:
                ways = way.properties
                found = as_object(value)
                return {name: ways[name].back(item) if name in ways else item for name, item in found.items()}
            if isinstance(value, list) and way.items is not None:
                return [way.items.back(item) for item in as_list(value)]
        return cast("Any", value)


@dataclass(frozen=True, slots=True)
class Declared:
    """How one tool's parameters are sent.

    Attributes:
        key: ``"parameters"``, ``"parametersJsonSchema"``, or None for a tool that takes nothing.
        schema: What stands under the key.
        losses: What Gemini may not regard.
        whole: Gemini, where it holds a model to the schema, holds it to all of it.
        way: How arguments come back.
    """

    key: str | None
    schema: JsonObject
    losses: tuple[Loss, ...]
    whole: bool
    way: Way


@lru_cache(maxsize=1024)
def declare(tool: Tool) -> Declared:
    """The parameters of a tool in Gemini's terms."""
    root, losses = object_root(tool)
    if not root["properties"] and root.get("additionalProperties", False) is False:
        # "For function with no parameters, this can be left unset"; an object without properties is refused.
        return Declared(None, {}, tuple(losses), not losses, Way())
    flat = inlined(root, tool.parameters)
    if flat is not None:
        subset = _Subset(tool)
        schema, way = subset.walk(flat, ())
        if not subset.obstacles:
            return Declared("parameters", schema, (*losses, *subset.hints), not losses, way)
    written, unregarded = written_json_schema(tool, root if flat is None else flat)
    losses += unregarded
    return Declared("parametersJsonSchema", written, tuple(losses), not losses, Way())


class _Subset:
    """Writes a schema without references as ``parameters``, and counts what that cannot say."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self.obstacles = 0
        self.hints: list[Loss] = []

    def _obstacle(self) -> tuple[JsonObject, Way]:
        self.obstacles += 1
        return {}, Way()

    def walk(self, schema: Any, path: Path) -> tuple[JsonObject, Way]:
        """The schema in the subset's terms, and the way back."""
        if not isinstance(schema, dict):
            return self._obstacle()
        found = as_object(schema)
        wrapped = as_list(found.get("allOf"))
        if len(wrapped) == 1 and _only_says(found, "allOf"):
            return self.walk(_within(found, "allOf", wrapped[0]), path)
        choice = next((key for key in ("anyOf", "oneOf") if key in found), None)
        self._unsaid(found, path)
        if choice is not None:
            return self._choose(found, choice, path)
        values = [found["const"]] if "const" in found else found.get("enum")
        kinds = _kinds(found)
        if values is not None:
            return self._values(found, as_list(values), nullable="NULL" in kinds or not kinds)
        real = [kind for kind in kinds if kind != "NULL"]
        if len(real) > 1:
            each: list[tuple[Any, Path]] = [({**found, "type": kind.lower()}, path) for kind in real]
            return self._join(found, each, nullable="NULL" in kinds)
        if not real and "properties" in found:
            real = ["OBJECT"]
        if not real or real[0] not in _BOUNDS:
            return self._obstacle()
        out, way = self._typed(found, real[0], path)
        if "NULL" in kinds:
            out["nullable"] = True
        return out, way

    def _unsaid(self, found: JsonObject, path: Path) -> None:
        for key, value in found.items():
            if key in _SAID or key in _CONSTRAINTS or key in SILENT or key.startswith("x-"):
                continue
            if key in _HINTS:
                self._hint(path, key, "A hint that Gemini's schema has no keyword for; left out.")
            elif key == "oneOf":
                self._hint(path, key, "Said as anyOf; that no second alternative fits is checked by callbox alone.")
            elif key != "anyOf" and not (key == "additionalProperties" and value is False):
                # A model held to the subset writes no undeclared properties anyway.
                self.obstacles += 1

    def _hint(self, path: Path, keyword: str, message: str) -> None:
        loss = Loss(self._tool.name, json_pointer(path), keyword, message)
        if loss not in self.hints:
            self.hints.append(loss)

    def _choose(self, found: JsonObject, choice: str, path: Path) -> tuple[JsonObject, Way]:
        if not _only_says(found, choice):
            return self._obstacle()
        all_of_them = as_list(found[choice])
        branches: list[tuple[Any, Path]] = [
            (branch, (*path, choice, at)) for at, branch in enumerate(all_of_them) if branch != {"type": "null"}
        ]
        nullable = len(branches) < len(all_of_them)
        if len(branches) == 1:
            out, way = self.walk(_within(found, choice, branches[0][0]), path)
            if nullable:
                _allow_null(out)
            return out, way
        return self._join(found, branches, nullable=nullable)

    def _join(self, found: JsonObject, branches: list[tuple[Any, Path]], *, nullable: bool) -> tuple[JsonObject, Way]:
        """Alternatives. Vertex AI refuses any field beside ``anyOf``, so each says what concerns all."""
        written: list[tuple[JsonObject, Way]] = []
        for branch, path in branches:
            out, way = self.walk(branch, path)
            inner = as_list(out.get("anyOf"))
            written += zip(inner, way.branches or [way] * len(inner), strict=True) if inner else [(out, way)]
        if not written or _ambiguous(written):
            return self._obstacle()
        description = found.get("description")
        for out, _ in written:
            if description is not None:
                out.setdefault("description", description)
        joined: JsonObject = {"anyOf": [out for out, _ in written]}
        if nullable:
            _allow_null(joined)
        ways = [way for _, way in written]
        return joined, Way(branches=ways) if any(ways) else Way()

    def _values(self, found: JsonObject, values: list[Any], *, nullable: bool) -> tuple[JsonObject, Way]:
        """An enum. Only texts are taken: other values are offered as texts, and come back as themselves."""
        out = _said(found)
        offered: dict[str, Any] = {}
        for value in values:
            if value is None:
                if nullable:
                    out["nullable"] = True
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            if not text or text in offered or isinstance(value, (dict, list)):
                return self._obstacle()
            offered[text] = value
        if not offered:
            return self._obstacle()
        out |= {"type": "STRING", "enum": list(offered)}
        if "default" in out and out["default"] is not None and not isinstance(out["default"], str):
            out["default"] = json.dumps(out["default"])
        return out, Way({text: value for text, value in offered.items() if not isinstance(value, str)})

    def _typed(self, found: JsonObject, kind: str, path: Path) -> tuple[JsonObject, Way]:
        out: JsonObject = {"type": kind, **_said(found)}
        out |= {key: found[key] for key in _BOUNDS[kind] if key in found}
        way = Way()
        stated = found.get("format")
        if stated is not None and kind in _FORMATS:
            if stated not in _FORMATS[kind]:
                return self._obstacle()
            out["format"] = stated
        if kind in ("INTEGER", "NUMBER") and not _include_bounds(found, out, kind):
            return self._obstacle()
        if kind == "OBJECT":
            properties = as_object(found.get("properties"))
            required = as_list(found.get("required"))
            if not properties or not all(_PROPERTY.fullmatch(name) for name in properties):
                return self._obstacle()
            if any(name not in properties for name in required):
                return self._obstacle()
            walked = {name: self.walk(item, (*path, "properties", name)) for name, item in properties.items()}
            out["properties"] = {name: item for name, (item, _) in walked.items()}
            if required:
                out["required"] = required
            way.properties = {name: item for name, (_, item) in walked.items() if item}
        if kind == "ARRAY":
            out["items"], items = self.walk(found.get("items"), (*path, "items"))
            way.items = items or None
        return out, way


def _kinds(found: JsonObject) -> list[str]:
    kind = found.get("type")
    return [str(item).upper() for item in (as_list(kind) if isinstance(kind, list) else [kind]) if item]


def _said(found: JsonObject) -> JsonObject:
    return {key: found[key] for key in _SAID if key in found}


def _only_says(found: JsonObject, besides: str) -> bool:
    """Apart from one keyword, the schema constrains nothing."""
    return not any(key in _CONSTRAINTS for key in found if key != besides)


def _within(found: JsonObject, wrapper: str, inner: Any) -> Any:
    """The one schema inside a wrapper, with what the wrapper says about it."""
    if not isinstance(inner, dict):
        return inner
    return {**as_object(inner), **{key: value for key, value in found.items() if key != wrapper}}


def _allow_null(out: JsonObject) -> None:
    for branch in as_list(out.get("anyOf")) or [out]:
        branch["nullable"] = True


def _include_bounds(found: JsonObject, out: JsonObject, kind: str) -> bool:
    """Whole numbers above 0 are whole numbers from 1; a real number has no next one, so False."""
    for exclusive, inclusive, step in (
        ("exclusiveMinimum", "minimum", 1),
        ("exclusiveMaximum", "maximum", -1),
    ):
        bound = found.get(exclusive)
        if bound is None:
            continue
        if kind != "INTEGER" or not isinstance(bound, int):
            return False
        tighter = max if step > 0 else min
        out[inclusive] = tighter(bound + step, out.get(inclusive, bound + step))
    return True


def _ambiguous(written: list[tuple[JsonObject, Way]]) -> bool:
    """Coming back, a text or an object could belong to one alternative or to another."""
    for out, way in written:
        if not way:
            continue
        for other, _ in written:
            if other is out or other.get("type") != out.get("type"):
                continue
            if out.get("type") != "STRING" or "enum" not in other or set(other["enum"]) & way.values.keys():
                return True
    return False
