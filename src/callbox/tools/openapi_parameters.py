"""The parameters and the body of an OpenAPI operation as the arguments of one tool."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

from callbox.errors import DefinitionError
from callbox.tools.http_binding import BodyKind, HttpArgument, Place, Style
from callbox.tools.openapi_schema import SchemaReader, follow
from callbox.tools.schema_tree import IN_PLACE
from callbox.values import JsonObject

_DEFAULT_STYLES: dict[str, Style] = {"path": "simple", "query": "form", "header": "simple", "cookie": "form"}
_STYLES: dict[str, frozenset[str]] = {
    "path": frozenset({"simple", "label", "matrix"}),
    "query": frozenset({"form", "spaceDelimited", "pipeDelimited", "deepObject"}),
    "header": frozenset({"simple"}),
    "cookie": frozenset({"form"}),
}
# Set by the client itself; a parameter of that name is to be ignored (OpenAPI 3.1, Parameter Object).
_OWN_HEADERS = frozenset({"accept", "content-type", "authorization"})
_KEY = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(slots=True)
class Request:
    """What an operation takes, as a tool: schemas of the arguments, and where each goes in the request."""

    properties: JsonObject = field(default_factory=dict[str, Any])
    required: list[str] = field(default_factory=list[str])
    arguments: tuple[HttpArgument, ...] = ()
    body: BodyKind = "none"
    content_type: str = "application/json"
    idempotency_header: str | None = None

    def add(self, argument: HttpArgument, schema: Any, *, required: bool) -> None:
        """One more argument."""
        self.properties[argument.name] = schema
        self.arguments = (*self.arguments, argument)
        if required:
            self.required.append(argument.name)

    def free_name(self, wire_name: str, place: str) -> str:
        """A name for an argument that no other has and that every vendor takes as a property name."""
        base = _KEY.sub("_", wire_name).strip("_")[:56] or place
        name = base if base not in self.properties else f"{base}_{place}"
        count = 1
        while name in self.properties:
            count += 1
            name = f"{base}_{place}_{count}"
        return name


def read_request(
    document: JsonObject,
    reader: SchemaReader,
    path: str,
    item: JsonObject,
    operation: JsonObject,
    hidden: Collection[tuple[str, str]],
) -> Request:
    """Read an operation's parameters and body.

    Args:
        document: The whole OpenAPI document.
        reader: Translates the schemas.
        path: Template of the path.
        item: The path item, whose parameters all its operations share.
        operation: The operation.
        hidden: ``(place, name in lower case)`` of what callbox fills in itself: credentials.

    Raises:
        DefinitionError: A reference leads nowhere, or a part is not of OpenAPI's shape.
    """
    request = Request()
    for parameter in _parameters(document, item, operation):
        _add_parameter(document, reader, request, parameter, hidden)
    for name in re.findall(r"\{([^{}]+)\}", path):
        if not any(each.place == "path" and each.wire_name == name for each in request.arguments):
            # Documents forget this often, and without a value there is no path.
            argument = HttpArgument(request.free_name(name, "path"), "path", name)
            request.add(argument, {"type": "string"}, required=True)
    if operation.get("requestBody") is not None:
        _add_body(document, reader, request, follow(document, operation["requestBody"]))
    return request


def _parameters(document: JsonObject, item: JsonObject, operation: JsonObject) -> list[JsonObject]:
    """The operation's own parameters replace the path's of the same name and place."""
    found: dict[tuple[str, str], JsonObject] = {}
    for owner in (item, operation):
        stated = owner.get("parameters")
        for each in cast("list[Any]", stated) if isinstance(stated, list) else []:
            parameter = follow(document, each)
            name, place = parameter.get("name"), parameter.get("in")
            if not isinstance(name, str) or not isinstance(place, str) or place not in _DEFAULT_STYLES:
                raise DefinitionError(
                    f"Parameter {name!r} is in {place!r}.",
                    hint="It needs a name, and in: path, query, header or cookie.",
                )
            found[name, place] = parameter
    return list(found.values())


def _add_parameter(
    document: JsonObject,
    reader: SchemaReader,
    request: Request,
    parameter: JsonObject,
    hidden: Collection[tuple[str, str]],
) -> None:
    wire_name = str(parameter["name"])
    place = cast("Place", parameter["in"])
    if (place, wire_name.lower()) in hidden or (place == "header" and wire_name.lower() in _OWN_HEADERS):
        return
    if place == "header" and wire_name.lower() == "idempotency-key":
        request.idempotency_header = wire_name
        return
    stated = parameter.get("style") or _DEFAULT_STYLES[place]
    style = cast("Style", stated if isinstance(stated, str) else "")
    schema: Any = parameter.get("schema", {})
    content = parameter.get("content")
    if isinstance(content, dict) and content:
        style = "json"
        schema = follow(document, next(iter(cast("JsonObject", content).values()))).get("schema", {})
    elif style not in _STYLES[place]:
        raise DefinitionError(
            f"Parameter {wire_name!r} in {place} cannot have style {style!r}.",
            hint=f"OpenAPI has: {', '.join(sorted(_STYLES[place]))}.",
        )
    argument = HttpArgument(
        request.free_name(wire_name, place),
        place,
        wire_name,
        style,
        explode=bool(parameter.get("explode", style == "form")),
        allow_reserved=parameter.get("allowReserved") is True,
    )
    made = _with_notes(reader.read(schema), parameter)
    request.add(argument, made, required=place == "path" or parameter.get("required") is True)


def _with_notes(schema: Any, owner: JsonObject) -> Any:
    """The schema with its owner's description, which is nearer to the use."""
    text = owner.get("description")
    if not isinstance(text, str) or not text.strip():
        return schema
    given = cast("JsonObject", schema) if isinstance(schema, dict) else {}
    return {**given, "description": text.strip()}


def _add_body(document: JsonObject, reader: SchemaReader, request: Request, body: JsonObject) -> None:
    stated = body.get("content")
    content = cast("JsonObject", stated) if isinstance(stated, dict) else {}
    if not content:
        return
    media_type, kind = _choose(list(content))
    given: Any = follow(document, content[media_type]).get("schema", {})
    schema = reader.read(given)
    required = body.get("required") is True
    request.body = kind
    request.content_type = "application/json" if media_type == "*/*" else media_type
    members = _members(reader, schema, required=required) if kind != "raw" else None
    if members is not None and not set(members[0]) & set(request.properties):
        properties, needed = members
        for name, each in properties.items():
            argument = HttpArgument(request.free_name(name, "body"), "body", name)
            request.add(argument, each, required=name in needed)
        return
    if kind == "raw":
        schema = {"type": "string"}
    argument = HttpArgument(request.free_name("body", "body"), "body", "")
    request.add(argument, _with_notes(schema, body), required=required)


def _choose(media_types: list[str]) -> tuple[str, BodyKind]:
    kinds: list[tuple[re.Pattern[str], BodyKind]] = [
        (re.compile(r"application/json\b|\*/\*|[^;]*\+json\b"), "json"),
        (re.compile(r"application/x-www-form-urlencoded\b"), "form"),
        (re.compile(r"multipart/form-data\b"), "multipart"),
    ]
    for pattern, kind in kinds:
        for media_type in media_types:
            if pattern.match(media_type.lower()):
                return media_type, kind
    return media_types[0], "raw"


def _members(reader: SchemaReader, schema: Any, *, required: bool) -> tuple[JsonObject, Collection[str]] | None:
    """Properties and required names of a body that the tool's own arguments can stand for, without any loss."""
    seen: set[str] = set()
    while isinstance(schema, dict) and set(cast("JsonObject", schema)) - {"description"} == {"$ref"}:
        name = str(cast("JsonObject", schema)["$ref"]).removeprefix("#/$defs/")
        if name in seen:
            return None
        seen.add(name)
        schema = reader.definitions.get(name)
    if not isinstance(schema, dict):
        return None
    found = cast("JsonObject", schema)
    properties = found.get("properties")
    stated = found.get("required", [])
    needed = cast("list[str]", stated) if isinstance(stated, list) else None
    # Without a body, its required properties are not required: that could not be said of single arguments.
    loses = any(key in found for key in _RULES) or needed is None or (bool(needed) and not required)
    if found.get("type", "object") != "object" or not isinstance(properties, dict) or not properties or loses:
        return None
    if found.get("additionalProperties") not in (None, False):
        return None
    return cast("JsonObject", properties), needed or []


_RULES = IN_PLACE | {
    "$ref", "const", "dependentRequired", "enum", "maxProperties", "minProperties", "patternProperties",
    "propertyNames", "unevaluatedProperties",
}  # fmt: skip
