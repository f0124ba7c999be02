"""Why a value does not fit a schema: every place, in time that is bounded.

The engine (jsonschema-rs) judges; this walk only asks it, schema by schema, which parts of the value are to
blame, and goes down where the answer is no. The engine's own list of errors is not used: it copies the
instance into each error (200 missing properties beside 1 MB of data took 16 s and 2 GB) and explores all
alternatives of recursive schemas (2^depth). Of alternatives, only the one that fits best is explained, chosen
by looking one level deep.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import quote

from callbox.calls.call import MISSING, ProblemCode
from callbox.calls.shapes import Document, Place, accepted_kinds, items, members
from callbox.calls.wording import kind_of
from callbox.values import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

Path: TypeAlias = tuple[str | int, ...]

FINDINGS_MAX = 1_000
"""Places found for one value; beyond that nobody reads on."""
_LOOKS_MAX = 300_000
"""Questions to the engine for one value."""
_ITEMS_COMPARED_MAX = 1_000
"""Items of an array that are looked at when alternatives are compared."""
_ROOT = "urn:callbox:schema"


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where the value does not fit.

    Attributes:
        path: Where, from the root of the value; for a missing property, the property's own path.
        code: What kind of mistake.
        keyword: The schema keyword that refuses; ``"several"`` where more than one of `oneOf` fits.
        value: What is there; `MISSING` if nothing is.
        places: The schemas of that place; several where alternatives refuse it alike.
        known: For an unexpected or a missing property, all names that the object may have.
    """

    path: Path
    code: ProblemCode
    keyword: str
    value: Any
    places: tuple[Place, ...]
    known: tuple[str, ...] = ()


_CODES: dict[str, ProblemCode] = {
    "minimum": "out_of_range",
    "maximum": "out_of_range",
    "exclusiveMinimum": "out_of_range",
    "exclusiveMaximum": "out_of_range",
    "multipleOf": "out_of_range",
    "minLength": "too_short",
    "minItems": "too_short",
    "minProperties": "too_short",
    "maxLength": "too_long",
    "maxItems": "too_long",
    "maxProperties": "too_long",
    "pattern": "invalid_format",
    "format": "invalid_format",
    "contentEncoding": "invalid_format",
    "contentMediaType": "invalid_format",
    "uniqueItems": "not_unique",
}
"""Keywords that judge a value by themselves. The engine is asked about each of them alone."""


class Explainer:
    """Explains values that one schema refuses. Made once per schema; safe to share between threads."""

    def __init__(self, schema: JsonObject) -> None:
        import jsonschema_rs

        self.document = Document(schema)
        # Draft 2020-12 and local references whatever the schema says of itself, as `tools.schema` compiles it.
        root = {keyword: value for keyword, value in schema.items() if keyword not in ("$schema", "$id")}
        self._registry = jsonschema_rs.Registry([(_ROOT, root)], draft=jsonschema_rs.Draft202012)
        self._compile = partial(
            jsonschema_rs.Draft202012Validator,
            offline=True,
            validate_formats=True,
            pattern_options=jsonschema_rs.RegexOptions(),
        )
        self._validators: dict[tuple[str, str], Draft202012Validator] = {}

    def explain(self, value: Any, findings_max: int = FINDINGS_MAX) -> list[Finding]:
        """Every place where the value does not fit, at most about `findings_max`; empty if it fits."""
        return _Walk(self, findings_max).run(value)

    def fits(self, place: Place, value: Any) -> bool:
        """Whether the engine accepts the value at that schema."""
        schema = place.schema
        if isinstance(schema, bool):
            return schema
        return self._validator(place.pointer, "", schema).is_valid(value)

    def holds(self, place: Place, keyword: str, value: Any) -> bool:
        """Whether the engine accepts the value by that one keyword, which contains no schemas."""
        return self._validator(place.pointer, keyword, {keyword: place.schema[keyword]}).is_valid(value)

    def matches(self, pattern: str, name: str) -> bool:
        """Whether a property name matches a pattern of `patternProperties`."""
        return self._validator(pattern, "patternProperties", {"pattern": pattern}).is_valid(name)

    def _validator(self, pointer: str, keyword: str, schema: JsonObject) -> Draft202012Validator:
        # On demand: compiling all parts of a schema of 60 definitions that refer to each other takes over a second.
        found = self._validators.get((pointer, keyword))
        if found is None:
            if not keyword and '"$' in json.dumps(schema):  # it may hold a reference, which begins at the root
                found = self._compile({"$ref": f"{_ROOT}#{quote(pointer[1:], safe='/~')}"}, registry=self._registry)
            else:
                found = self._compile(schema)
            self._validators[pointer, keyword] = found
        return found


class _Walk:
    """One explanation. Iterative, so that no value and no schema can exhaust the stack."""

    def __init__(self, explainer: Explainer, findings_max: int) -> None:
        self._explainer = explainer
        self._document = explainer.document
        self._findings_max = findings_max
        self._looks = 0
        self._seen: set[tuple[str, Path]] = set()
        self._waiting: list[tuple[Place, Any, Path]] = []
        self.findings: list[Finding] = []

    def run(self, value: Any) -> list[Finding]:
        self._offer(self._document.root, value, ())
        while self._waiting and len(self.findings) < self._findings_max:
            self._examine(*self._waiting.pop())
        return self.findings

    def _enough(self) -> bool:
        """Whether to stop looking for more places; each that waits will give a finding."""
        return len(self.findings) + len(self._waiting) >= self._findings_max or self._looks >= _LOOKS_MAX

    def _offer(self, place: Place, value: Any, path: Path) -> bool:
        """Go there later if the value does not fit there; whether it is to blame."""
        self._looks += 1
        if self._explainer.fits(place, value):
            return False
        key = (place.pointer, path)
        if key not in self._seen:
            self._seen.add(key)
            self._waiting.append((place, value, path))
        return True

    def _add(
        self,
        path: Path,
        code: ProblemCode,
        keyword: str,
        value: Any,
        *places: Place,
        known: Sequence[str] = (),
    ) -> bool:
        self.findings.append(Finding(path, code, keyword, value, places, tuple(known)))
        return True

    def _examine(self, place: Place, value: Any, path: Path) -> None:
        schema = place.schema
        if not isinstance(schema, dict):
            is_member = bool(path) and isinstance(path[-1], str)
            self._add(path, "unexpected_property" if is_member else "not_allowed", "false", value, place)
            return
        found = cast("JsonObject", schema)
        if "type" in found and kind_of(value) not in accepted_kinds(found["type"]):
            self._add(path, "wrong_type", "type", value, place)
            return
        for keyword in ("enum", "const"):
            if keyword in found and not self._explainer.holds(place, keyword, value):
                self._add(path, "not_in_enum", keyword, value, place)
                return
        blamed = self._in_place(place, found, value, path)
        for keyword, code in _CODES.items():
            if keyword in found and not self._explainer.holds(place, keyword, value):
                blamed = self._add(path, code, keyword, value, place)
        if "not" in found and self._explainer.fits(place.child("not"), value):
            blamed = self._add(path, "not_allowed", "not", value, place)
        if isinstance(value, dict):
            blamed = self._object(place, found, cast("JsonObject", value), path) or blamed
        elif isinstance(value, list):
            blamed = self._array(place, found, cast("list[Any]", value), path) or blamed
        if not blamed:
            self._add(path, "no_match", "", value, place)

    # Schemas for the same value

    def _in_place(self, place: Place, schema: JsonObject, value: Any, path: Path) -> bool:
        blamed = False
        for keyword in ("$ref", "$dynamicRef"):
            target = self._document.resolve(schema.get(keyword))
            if target is not None:
                blamed = self._offer(target, value, path) or blamed
        for index in range(len(items(schema.get("allOf")))):
            blamed = self._offer(place.child("allOf", index), value, path) or blamed
        for keyword in ("anyOf", "oneOf"):
            if items(schema.get(keyword)):
                blamed = self._alternatives(place, keyword, value, path) or blamed
        if "if" in schema:
            keyword = "then" if self._explainer.fits(place.child("if"), value) else "else"
            if keyword in schema:
                blamed = self._offer(place.child(keyword), value, path) or blamed
        for name in members(schema.get("dependentSchemas")):
            if isinstance(value, dict) and name in value:
                blamed = self._offer(place.child("dependentSchemas", name), value, path) or blamed
        return blamed

    def _alternatives(self, place: Place, keyword: str, value: Any, path: Path) -> bool:
        branches = [place.child(keyword, index) for index in range(len(items(place.schema[keyword])))]
        fitting = [branch for branch in branches if self._explainer.fits(branch, value)]
        self._looks += len(branches)
        if keyword == "anyOf" and fitting:
            return False
        if len(fitting) == 1:
            return False
        if fitting:
            return self._add(path, "no_match", "several", value, *fitting)
        kind = kind_of(value)
        kinds = [(branch, self._document.kinds(branch)) for branch in branches]
        candidates = [branch for branch, accepted in kinds if kind in accepted]
        if not candidates:
            return self._add(path, "wrong_type", keyword, value, *branches)
        if len(candidates) == 1:
            return self._offer(candidates[0], value, path)
        shapes = [self._document.shape(branch) for branch in candidates]
        if all(shape.options is not None for shape in shapes):
            return self._add(path, "not_in_enum", keyword, value, *candidates)
        if isinstance(value, dict):
            return self._best_object(candidates, cast("JsonObject", value), path, keyword)
        if isinstance(value, list):
            return self._best(candidates, self._array_score, value, path, keyword)
        codes: set[ProblemCode] = {self._scalar_code(branch, value) for branch in candidates}
        code: ProblemCode = codes.pop() if len(codes) == 1 else "no_match"
        return self._add(path, code, keyword, value, *candidates)

    def _scalar_code(self, branch: Place, value: Any) -> ProblemCode:
        for here in self._document.together(branch):
            if any(name in here.schema and not self._explainer.holds(here, name, value) for name in ("enum", "const")):
                return "not_in_enum"
            for keyword, code in _CODES.items():
                if keyword in here.schema and not self._explainer.holds(here, keyword, value):
                    return code
        return "no_match"

    def _best_object(self, candidates: list[Place], value: JsonObject, path: Path, keyword: str) -> bool:
        """Choose by the tags of the alternatives (a property that is constant in each), then by what fits."""
        shapes = [self._document.shape(branch) for branch in candidates]
        for name in shapes[0].properties:
            inner = [shape.properties.get(name) for shape in shapes]
            places = [p for p in inner if p is not None and self._document.shape(p).options is not None]
            if len(places) != len(candidates):
                continue
            if name not in value:
                if all(name in shape.required for shape in shapes):
                    return self._add((*path, name), "missing_required", "required", MISSING, *places)
                continue
            tagged = [
                branch for branch, tag in zip(candidates, places, strict=True) if self._explainer.fits(tag, value[name])
            ]
            if not tagged:
                wrong = not any(kind_of(value[name]) in self._document.kinds(tag) for tag in places)
                code: ProblemCode = "wrong_type" if wrong else "not_in_enum"
                return self._add((*path, name), code, keyword, value[name], *places)
            if len(tagged) < len(candidates):
                candidates = tagged
                break
        return self._best(candidates, self._object_score, value, path, keyword)

    def _best(
        self,
        candidates: list[Place],
        score: Callable[[Place, Any], float],
        value: Any,
        path: Path,
        keyword: str,
    ) -> bool:
        scores = [score(branch, value) for branch in candidates] if len(candidates) > 1 else [0]
        best = [branch for branch, points in zip(candidates, scores, strict=True) if points == min(scores)]
        if len(best) == 1:
            return self._offer(best[0], value, path)
        return self._add(path, "no_match", keyword, value, *best)

    def _object_score(self, branch: Place, value: JsonObject) -> float:
        shape = self._document.shape(branch)
        wrong = sum(1 for name in shape.required if name not in value)
        known = 0
        for name, item in value.items():
            inner = shape.properties.get(name)
            if inner is not None:
                known += 1
                self._looks += 1
                wrong += not self._explainer.fits(inner, item)
            elif shape.closed:
                wrong += not any(self._explainer.matches(pattern, name) for pattern in shape.patterns)
        return wrong - known / (len(value) + 1)

    def _array_score(self, branch: Place, value: list[Any]) -> float:
        wrong = 0
        for here in self._document.together(branch):
            if "items" in here.schema:
                inner = here.child("items")
                self._looks += min(len(value), _ITEMS_COMPARED_MAX)
                wrong += sum(not self._explainer.fits(inner, item) for item in value[:_ITEMS_COMPARED_MAX])
        return wrong

    # Parts of the value

    def _object(self, place: Place, schema: JsonObject, value: JsonObject, path: Path) -> bool:
        blamed = self._names(place, schema, value, path)
        described: set[str] = set()
        for name in members(schema.get("properties")):
            if name in value:
                described.add(name)
                blamed = self._offer(place.child("properties", name), value[name], (*path, name)) or blamed
        for pattern in members(schema.get("patternProperties")):
            inner = place.child("patternProperties", pattern)
            for name in value:
                if self._explainer.matches(pattern, name):
                    described.add(name)
                    blamed = self._offer(inner, value[name], (*path, name)) or blamed
        return self._others(place, schema, value, path, described) or blamed

    def _names(self, place: Place, schema: JsonObject, value: JsonObject, path: Path) -> bool:
        """Names that must be there, and what all names must look like."""
        blamed = False
        wanted: list[str] = list(items(schema.get("required")))
        for name, others in members(schema.get("dependentRequired")).items():
            wanted += items(others) if name in value else ()
        missing = [name for name in dict.fromkeys(wanted) if name not in value]
        properties = self._document.shape(place).properties if missing else {}
        for name in missing:
            places = (properties[name],) if name in properties else ()
            blamed = self._add((*path, name), "missing_required", "required", MISSING, *places, known=list(properties))
        if "propertyNames" in schema:
            names = place.child("propertyNames")
            for name, item in value.items():
                self._looks += 1
                if self._enough():
                    break
                if not self._explainer.fits(names, name):
                    options = self._document.shape(names).options or ()
                    known = [option for option in options if isinstance(option, str)]
                    blamed = self._add((*path, name), "unexpected_property", "propertyNames", item, place, known=known)
        return blamed

    def _others(self, place: Place, schema: JsonObject, value: JsonObject, path: Path, described: set[str]) -> bool:
        """Properties that the schema does not list."""
        if "additionalProperties" in schema:
            keyword, shape = "additionalProperties", None
        elif "unevaluatedProperties" in schema:
            keyword, shape = "unevaluatedProperties", self._everything(place)
        else:
            return False
        known = list(schema.get("properties", ())) if shape is None else list(shape[0])
        patterns = [] if shape is None else shape[1]
        listed = set(known)
        inner = place.child(keyword)
        blamed = False
        for name, item in value.items():
            if self._enough():
                break
            if name in described or name in listed:
                continue
            if patterns and any(self._explainer.matches(pattern, name) for pattern in patterns):
                continue
            if inner.schema is False:
                blamed = self._add((*path, name), "unexpected_property", keyword, item, place, known=known)
            else:
                blamed = self._offer(inner, item, (*path, name)) or blamed
        return blamed

    def _everything(self, place: Place) -> tuple[dict[str, None], list[str]]:
        """Names and patterns that some schema for the same value lists, even under a condition."""
        names: dict[str, None] = {}
        patterns: list[str] = []
        waiting, seen = [place], set[str]()
        while waiting:
            here = waiting.pop()
            value: object = here.schema
            if here.pointer in seen or not isinstance(value, dict):
                continue
            seen.add(here.pointer)
            schema = members(value)
            shape = self._document.shape(here)
            names.update(dict.fromkeys(shape.properties))
            patterns += shape.patterns
            for keyword in ("anyOf", "oneOf", "allOf"):
                waiting += [here.child(keyword, index) for index in range(len(items(schema.get(keyword))))]
            waiting += [here.child(keyword) for keyword in ("if", "then", "else") if keyword in schema]
            dependent = members(schema.get("dependentSchemas"))
            waiting += [here.child("dependentSchemas", name) for name in dependent]
            target = self._document.resolve(schema.get("$ref"))
            waiting += [target] if target is not None else []
        return names, patterns

    def _array(self, place: Place, schema: JsonObject, value: list[Any], path: Path) -> bool:
        blamed = False
        if "contains" in schema:
            inner = place.child("contains")
            self._looks += len(value)
            fitting = sum(self._explainer.fits(inner, item) for item in value)
            if not schema.get("minContains", 1) <= fitting <= schema.get("maxContains", len(value)):
                blamed = self._add(path, "not_allowed", "contains", value, place)
        first = len(items(schema.get("prefixItems")))
        for index in range(min(first, len(value))):
            blamed = self._offer(place.child("prefixItems", index), value[index], (*path, index)) or blamed
        keyword = "items" if "items" in schema else "unevaluatedItems" if first else None
        if keyword is None or keyword not in schema or len(value) <= first:
            return blamed
        inner = place.child(keyword)
        if inner.schema is False:
            return self._add(path, "too_long", keyword, value, place)
        for index in range(first, len(value)):
            if self._enough():
                break
            blamed = self._offer(inner, value[index], (*path, index)) or blamed
        return blamed
