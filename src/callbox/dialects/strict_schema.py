"""OpenAI's strict mode: a tool's parameters in the subset of JSON Schema that it takes, or why not.

Rules: https://developers.openai.com/api/docs/guides/structured-outputs, section "Supported schemas", and what
the API is reported to answer to keywords that the page does not list: 'minLength', 'uniqueItems', 'default',
'oneOf' "is not permitted", "$ref cannot have keywords". One such keyword is a 400 for the whole request.

What the rewriting may do is only what changes no meaning:

- every property becomes required; an optional one that may not be null takes null for "left out"
  (see `restoring`)
- an object that lists its properties and is silent about others is closed
- several types become branches of an ``anyOf``; so do those of a ``oneOf`` that can never fit together
- defaults and examples, which have no keyword, move into the description
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from callbox.dialects.dialect import Loss
from callbox.dialects.fitting import declared_types, dereferenced, fits, kind_of, same
from callbox.dialects.root import resolve
from callbox.dialects.wire import as_list, as_object
from callbox.tools.tool import Tool
from callbox.values import JsonObject, json_pointer

Path = tuple[str | int, ...]

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
# What Draft 2020-12 names besides and a validator may insist on. Any other format is a hint.
_FORMATS_REFUSED = frozenset(
    {
        "idn-email",
        "idn-hostname",
        "uri",
        "uri-reference",
        "iri",
        "iri-reference",
        "uri-template",
        "json-pointer",
    }
    | {"relative-json-pointer", "regex"}
)
_OF_TYPE: dict[str, frozenset[str]] = {
    "string": frozenset({"pattern", "format"}),
    "number": frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "integer": frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
_REFUSED_OF_TYPE: dict[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength"}),
    "array": frozenset({"uniqueItems", "contains", "minContains", "maxContains", "prefixItems"})
    | frozenset({"unevaluatedItems", "additionalItems"}),
    "object": frozenset({"patternProperties", "propertyNames", "minProperties", "maxProperties"})
    | frozenset({"dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"}),
}
_REFUSED = frozenset({"not", "if", "then", "else", "$dynamicRef", "$recursiveRef"})
_SAID = frozenset({"title", "description", "default", "examples", "example"})
_NO_EFFECT = {
    ("minLength", 0),
    ("uniqueItems", False),
    ("minProperties", 0),
    ("unevaluatedProperties", False),
}
_SCALARS = frozenset({"string", "number", "integer", "boolean", "null"})
_DEFINITION = re.compile(r"#/(?:\$defs|definitions)/([^/]+)")
_EXAMPLES_MAX = 3
_TELLING_LEVELS_MAX = 3
_COPIES_MAX = 200
"""Definitions that are written out where they are used; a schema can be made to double with each."""


class StrictSchema:
    """One tool's parameters in strict mode.

    Attributes:
        schema: The rewritten parameters; complete only if there are no `reasons`.
        reasons: Why the tool cannot go in strict mode.
        dropped: Hints to the model that had no place; they change no meaning.
    """

    def __init__(self, tool: Tool, root: JsonObject) -> None:
        self.reasons: list[Loss] = []
        self.dropped: list[Loss] = []
        self._tool = tool
        self._root = root
        self._definitions: dict[str, JsonObject] = {}
        self._sources: dict[str, str] = {}
        self._inlining: set[str] = set()
        self._copies = 0
        self.schema = self._root_object()

    def _root_object(self) -> JsonObject:
        said = {key: value for key, value in self._root.items() if key in ("title", "description")}
        schema = {**self._object(self._root, (), is_root=True), **said}
        self._check(self._root, (), "object")
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def refuse(self, path: Sequence[str | int], keyword: str, what: str) -> None:
        """Note a reason, once."""
        loss = Loss(self._tool.name, json_pointer(tuple(path)), keyword, f"Strict mode does not take {what}.")
        if loss not in self.reasons:
            self.reasons.append(loss)

    def _visit(self, schema: Any, path: Path) -> JsonObject:
        found = as_object(schema)
        if "$ref" in found:
            return self._reference(found, path)
        for keyword in ("allOf", "oneOf"):
            if keyword in found:
                found = self._without(found, keyword, path)
                if found is None:
                    return {}
                if "$ref" in found or keyword == "allOf":
                    return self._visit(found, path)
        for keyword in _REFUSED & found.keys():
            self.refuse(path, keyword, f"{keyword!r}")
        if "anyOf" in found:
            return self._union(found, path)
        types = self._types(found, path)
        if _values(found) is not None:
            return {**self._constants(found, types, path), **_said(found)}
        kinds = [kind for kind in types if kind != "null"]
        branches = [self._single(kind, found, path) for kind in kinds or types]
        if not branches:
            return {}
        made: JsonObject = {"anyOf": branches} if len(branches) > 1 else branches[0]
        return {**(nullable(made) if kinds and "null" in types else made), **_said(found)}

    def _without(self, found: JsonObject, keyword: str, path: Path) -> JsonObject | None:
        """The schema without ``allOf`` or ``oneOf``, where that says the same; else None and a reason."""
        rest = {key: value for key, value in found.items() if key != keyword}
        branches = as_list(found[keyword])
        if keyword == "allOf":
            # What generators write around a reference, so that it can have a description.
            if len(branches) == 1 and all(_is_hint(key) for key in rest):
                return {**as_object(branches[0]), **rest}
            self.refuse(path, keyword, "'allOf' of several schemas")
            return None
        if "anyOf" in rest or not self._exclusive(branches):
            self.refuse(path, keyword, "'oneOf' whose branches may fit together")
            return None
        return {**rest, "anyOf": branches}

    def _exclusive(self, branches: list[Any]) -> bool:
        pairs = ((left, right) for at, left in enumerate(branches) for right in branches[at + 1 :])
        return all(self._disjoint(left, right) for left, right in pairs)

    def _disjoint(self, left: Any, right: Any, level: int = 0) -> bool:
        """No value fits both, by their types, their constants, or a required member that tells them apart."""
        ours, theirs = dereferenced(left, self._root), dereferenced(right, self._root)
        mine, other = _values(ours), _values(theirs)
        if mine is not None and other is not None:
            return not any(same(value, found) for value in mine for found in other)
        if mine is not None or other is not None:
            listed, schema = (mine, right) if mine is not None else (other, left)
            return not any(fits(value, schema, self._root) for value in listed or [])
        kinds, others = set(declared_types(ours)), set(declared_types(theirs))
        if kinds and others and not _overlap(kinds, others):
            return True
        if kinds != {"object"} or others != {"object"}:
            return False
        told = set(as_list(ours.get("required"))) & set(as_list(theirs.get("required")))
        members, those = as_object(ours.get("properties")), as_object(theirs.get("properties"))
        return level < _TELLING_LEVELS_MAX and any(
            name in members and name in those and self._disjoint(members[name], those[name], level + 1) for name in told
        )

    def _reference(self, found: JsonObject, path: Path) -> JsonObject:
        reference = found["$ref"]
        target = resolve(self._root, reference)
        home = _DEFINITION.fullmatch(reference) if isinstance(reference, str) else None
        if target is None or (home is None and reference != "#"):
            self.refuse(path, "$ref", "a reference to anything but a definition of the same schema")
            return {}
        for key in found:
            if key != "$ref" and not _is_hint(key):
                self.refuse(path, key, f"{key!r} beside '$ref'")
        hints = {key: value for key, value in found.items() if key in _SAID}
        if hints and reference not in self._inlining and reference != "#" and self._copies < _COPIES_MAX:
            self._copies += 1
            self._inlining.add(reference)
            made = self._visit({**target, **hints}, path)
            self._inlining.discard(reference)
            return made
        for key in hints:
            message = "No place beside '$ref', and the schema cannot be written out here; left out."
            self.dropped.append(Loss(self._tool.name, json_pointer(path), key, message))
        if home is None:
            return {"$ref": "#"}
        return {"$ref": self._define(reference, home[1], target)}

    def _define(self, reference: str, token: str, target: JsonObject) -> str:
        """Rewrite a definition when it is first referred to; returns the reference to it."""
        name = token.replace("~1", "/").replace("~0", "~")
        if self._sources.setdefault(name, reference) != reference:
            self.refuse((), "$ref", "two definitions of one name")
        elif name not in self._definitions:
            made: JsonObject = {}
            self._definitions[name] = made
            inlining, self._inlining = self._inlining, self._inlining | {reference}
            made |= self._visit(target, ("$defs", name))
            self._inlining = inlining
        return f"#/$defs/{token}"

    def _union(self, found: JsonObject, path: Path) -> JsonObject:
        for key in found:
            if key != "anyOf" and key not in _REFUSED and not _is_hint(key):
                self.refuse(path, key, f"{key!r} beside a union")
        branches: list[Any] = []
        for at, branch in enumerate(as_list(found["anyOf"])):
            made = self._visit(branch, (*path, "anyOf", at))
            branches += as_list(made["anyOf"]) if made.keys() == {"anyOf"} else [made]
        return {"anyOf": branches, **_said(found)}

    def _types(self, found: JsonObject, path: Path) -> list[str]:
        types = declared_types(found)
        values = _values(found)
        if not types and values is not None:
            types = [kind_of(value) for value in values]
        elif not types and found.keys() & (_OF_TYPE["object"] | _REFUSED_OF_TYPE["object"]):
            types = ["object"]
        elif not types and "items" in found:
            types = ["array"]
        if not types:
            self.refuse(path, "type", "a value of any type")
        return list(dict.fromkeys(types))

    def _single(self, kind: str, found: JsonObject, path: Path) -> JsonObject:
        """The schema for values of one of its types."""
        self._check(found, path, kind)
        if kind == "object":
            return self._object(found, path)
        made: JsonObject = {"type": kind}
        for key in found:
            if key in _OF_TYPE[kind]:
                made |= self._keyword(key, found[key], path)
        if kind == "array" and "items" not in made:
            self.refuse(path, "items", "an array of anything")
        return made

    def _keyword(self, key: str, value: Any, path: Path) -> JsonObject:
        if key == "items":
            return {key: self._visit(value, (*path, key))}
        if key == "format":
            if value in _FORMATS_REFUSED:
                self.refuse(path, key, f"the format {value!r}")
            return {key: value} if value in _FORMATS else {}
        return {key: value}

    def _constants(self, found: JsonObject, types: list[str], path: Path) -> JsonObject:
        """The constants that fit everything else which the schema says; nothing else need be said then."""
        rest = {**found, "type": types}
        values = [value for value in _values(found) or [] if fits(value, rest, self._root)]
        by_kind: dict[str, list[Any]] = {}
        for value in values:
            kind = kind_of(value)
            by_kind.setdefault("number" if kind == "integer" and "number" in types else kind, []).append(value)
        if not _SCALARS.issuperset(by_kind):
            self.refuse(path, "enum", "constants that are arrays or objects")
        if not values:
            self.refuse(path, "enum", "a value that no constant fits")
        if "const" in found and values:
            return {"type": next(iter(by_kind)), "const": found["const"]}
        has_null = by_kind.pop("null", None) is not None
        branches: list[JsonObject] = [{"type": kind, "enum": found} for kind, found in by_kind.items()]
        if not branches:
            return {"type": "null"}
        made: JsonObject = {"anyOf": branches} if len(branches) > 1 else branches[0]
        return nullable(made) if has_null else made

    def _check(self, found: JsonObject, path: Path, kind: str) -> None:
        for key in _REFUSED_OF_TYPE.get(kind, frozenset[str]()) & found.keys():
            value = found[key]
            if not isinstance(value, (bool, int)) or (key, value) not in _NO_EFFECT:
                self.refuse(path, key, f"{key!r}")

    def _object(self, found: JsonObject, path: Path, *, is_root: bool = False) -> JsonObject:
        properties = as_object(found.get("properties"))
        required = as_list(found.get("required"))
        if found.get("additionalProperties", False) is not False:
            self.refuse(path, "additionalProperties", "members that are not listed")
        elif not properties and not is_root and "additionalProperties" not in found:
            self.refuse(path, "properties", "an object of anything")
        if any(name not in properties for name in required):
            self.refuse(path, "required", "a required member that is not listed")
        made: JsonObject = {}
        for name, schema in properties.items():
            made[name] = self._visit(schema, (*path, "properties", name))
            if name not in required and not fits(None, schema, self._root):
                made[name] = nullable(made[name])
        return {
            "type": "object",
            "properties": made,
            "required": list(properties),
            "additionalProperties": False,
        }


def nullable(schema: JsonObject) -> JsonObject:
    """The strict schema, taking null besides."""
    kind = schema.get("type")
    if "const" in schema:
        rest = {key: value for key, value in schema.items() if key != "const"}
        return nullable({**rest, "enum": [schema["const"]]})
    if isinstance(kind, list) or (isinstance(kind, str) and kind in _SCALARS):
        kinds = [kind] if isinstance(kind, str) else as_list(kind)
        made = {**schema, "type": [*kinds, *(() if "null" in kinds else ("null",))]}
        if "enum" in schema and None not in as_list(schema["enum"]):
            made["enum"] = [*as_list(schema["enum"]), None]
        return made
    said = {key: value for key, value in schema.items() if key in ("title", "description")}
    bare = {key: value for key, value in schema.items() if key not in said}
    branches = as_list(bare["anyOf"]) if "anyOf" in bare else [bare]
    return {"anyOf": [*branches, {"type": "null"}], **said}


def _values(found: JsonObject) -> list[Any] | None:
    """The constants that a schema lists, or None."""
    if "const" in found:
        return [found["const"]]
    return as_list(found["enum"]) if "enum" in found else None


def _overlap(kinds: set[Any], others: set[Any]) -> bool:
    numbers = {"number", "integer"}
    if kinds & numbers and others & numbers and "number" in kinds | others:
        return True
    return bool(kinds & others)


def _is_hint(key: str) -> bool:
    """Whether a keyword says nothing about which values fit; to JSON Schema an unknown one is a note."""
    known = _REFUSED | {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
    by_type = (*_OF_TYPE.values(), *_REFUSED_OF_TYPE.values())
    return key not in known and not any(key in keywords for keywords in by_type)


def _said(found: JsonObject) -> JsonObject:
    """Title and description, the latter with what has no keyword in strict mode."""
    said: JsonObject = {"title": found["title"]} if isinstance(found.get("title"), str) else {}
    known = found["description"].strip() if isinstance(found.get("description"), str) else ""
    sentences = [known if known.endswith((".", "!", "?", ":")) else f"{known}."] if known else []
    if found.get("default") is not None:
        default = json.dumps(found["default"], ensure_ascii=False, default=str)
        if default not in known:
            sentences.append(f"Default: {default}.")
    examples = as_list(found.get("examples")) or [found[key] for key in ("example",) if key in found]
    texts = [json.dumps(example, ensure_ascii=False, default=str) for example in examples[:_EXAMPLES_MAX]]
    if texts and not all(text in known for text in texts):
        sentences.append(f"Examples: {', '.join(texts)}.")
    if isinstance(found.get("format"), str) and found["format"] not in _FORMATS | _FORMATS_REFUSED:
        sentences.append(f"Format: {found['format']}.")
    if len(sentences) < 2 and known:
        return {**said, "description": found["description"]}
    return {**said, "description": " ".join(sentences)} if sentences else said
