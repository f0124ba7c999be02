"""Schemas of an OpenAPI document as JSON Schema (Draft 2020-12): the 3.0 dialect translated, references gathered."""

from __future__ import annotations

import re
from typing import Any, cast

from callbox.errors import DefinitionError
from callbox.tools.schema_tree import Path, at_pointer, rebuild
from callbox.tools.vendor_definitions import nullable
from callbox.values import JsonObject

# For people, for other tools, or for responses: nothing that arguments are judged by.
_NOISE = frozenset({"discriminator", "example", "externalDocs", "nullable", "readOnly", "writeOnly", "xml"})


def resolve(document: JsonObject, reference: str) -> Any:
    """What a local reference points to.

    Raises:
        DefinitionError: It points to another document, or to nothing.
    """
    if not reference.startswith("#"):
        raise DefinitionError(
            f"The document refers to {reference[:200]!r}; nothing is fetched.",
            hint="Bundle the document into one file first.",
        )
    found = at_pointer(document, reference[1:])
    if found is None:
        raise DefinitionError(
            f"The document refers to {reference[:200]!r}, which is not in it.", hint="Correct the $ref."
        )
    return found[1]


def follow(document: JsonObject, value: Any) -> JsonObject:
    """The object itself, through any number of references to it.

    Raises:
        DefinitionError: The references lead nowhere, in a circle, or not to an object.
    """
    seen: set[str] = set()
    while isinstance(value, dict) and isinstance(reference := cast("JsonObject", value).get("$ref"), str):
        if reference in seen:
            raise DefinitionError(f"The $ref {reference[:200]!r} leads back to itself.", hint="Correct the $ref.")
        seen.add(reference)
        value = resolve(document, reference)
    if not isinstance(value, dict):
        raise DefinitionError(f"The document has {value!r:.100} where an object belongs.", hint="Correct it.")
    return cast("JsonObject", value)


class SchemaReader:
    """Translates the schemas of one operation, and gathers in `definitions` what they refer to."""

    def __init__(self, document: JsonObject, *, is_30: bool) -> None:
        self.document = document
        self.is_30 = is_30
        self.definitions: JsonObject = {}
        self._names: dict[str, str] = {}

    def read(self, schema: Any) -> Any:
        """One schema as JSON Schema; what it refers to, directly or not, is in `definitions` afterwards."""
        made = self._translate(schema)
        while True:
            # Not recursive, so that a long chain of references is no deep stack.
            missing = [reference for reference, name in self._names.items() if name not in self.definitions]
            if not missing:
                return made
            for reference in missing:
                self.definitions[self._names[reference]] = self._translate(resolve(self.document, reference))

    def _translate(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = cast("JsonObject", value)
        reference = given.get("$ref")
        if isinstance(reference, str):
            local = {"$ref": f"#/$defs/{self._name(reference)}"}
            # In 3.0 nothing beside a reference counts (OpenAPI 3.0.3, Reference Object).
            given = local if self.is_30 else {**given, **local}
        out: JsonObject = {key: item for key, item in given.items() if key not in _NOISE and not key.startswith("x-")}
        if "example" in given and "examples" not in given:
            out["examples"] = [given["example"]]
        elif isinstance(given.get("examples"), dict):
            del out["examples"]
        if self.is_30:
            _plain_bounds(out)
        self._drop_read_only(out)

        def change(_: Path, child: Any) -> Any:
            return self._translate(child)

        made = rebuild(out, change)
        return nullable(made) if self.is_30 and given.get("nullable") is True else made

    def _drop_read_only(self, schema: JsonObject) -> None:
        """Read-only properties belong to responses: a request should not contain them, and they are not required."""
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return
        members = cast("JsonObject", properties)
        dropped = {name for name, each in members.items() if _is_read_only(each)}
        if dropped:
            schema["properties"] = {name: each for name, each in members.items() if name not in dropped}
            if isinstance(schema.get("required"), list):
                schema["required"] = [
                    name for name in schema["required"] if not isinstance(name, str) or name not in dropped
                ]

    def _name(self, reference: str) -> str:
        known = self._names.get(reference)
        if known is not None:
            return known
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", reference.rpartition("/")[2]).strip("_") or "schema"
        name, count = base, 1
        while name in self._names.values():
            count += 1
            name = f"{base}_{count}"
        self._names[reference] = name
        return name


def _is_read_only(schema: Any) -> bool:
    return isinstance(schema, dict) and cast("JsonObject", schema).get("readOnly") is True


def _plain_bounds(schema: JsonObject) -> None:
    """3.0 has booleans beside the bound where JSON Schema has the exclusive bound itself."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        flag = schema.get(exclusive)
        if isinstance(flag, bool):
            del schema[exclusive]
            if flag and bound in schema:
                schema[exclusive] = schema.pop(bound)


def used_definitions(schema: JsonObject, definitions: JsonObject) -> JsonObject:
    """Of the definitions, those that the schema refers to, directly or through others."""
    used: JsonObject = {}
    todo: list[Any] = [schema]
    while todo:
        here = todo.pop()
        if isinstance(here, dict):
            members = cast("JsonObject", here)
            name = str(members.get("$ref", "")).removeprefix("#/$defs/")
            if name in definitions and name not in used:
                used[name] = definitions[name]
                todo.append(definitions[name])
            todo += members.values()
        elif isinstance(here, list):
            todo += cast("list[Any]", here)
    return {name: definitions[name] for name in definitions if name in used}
