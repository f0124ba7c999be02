"""Reading tool definitions as vendors write them: five shapes, told apart by their keys, to one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from callbox.errors import DefinitionError
from callbox.tools.schema import check_depth
from callbox.tools.schema_tree import Path, rebuild
from callbox.tools.tool import Effect
from callbox.values import JsonObject


@dataclass(frozen=True, slots=True)
class Definition:
    """One tool as a vendor defines it.

    Attributes:
        name, description: As they are; validity is `Tool`'s business.
        parameters: JSON Schema of the arguments object.
        effect: What MCP's annotations say; None where nobody said anything.
        idempotent: MCP's ``idempotentHint``.
        title: MCP's title.
        returns: MCP's output schema.
    """

    name: str
    description: str
    parameters: JsonObject
    effect: Effect | None = None
    idempotent: bool = False
    title: str | None = None
    returns: JsonObject | None = None


def read_definitions(definitions: Iterable[Any]) -> Iterator[Definition]:
    """Read definitions of OpenAI (Chat and Responses), Anthropic, Gemini, MCP, or plain ``{"name", "parameters"}``.

    Vendor shapes may be mixed; SDK objects (pydantic models) are read as what they send.

    Raises:
        DefinitionError: Something in the list is no definition of any of them.
    """
    for index, item in enumerate(definitions):
        plain = _plain(item)
        if not isinstance(plain, Mapping):
            raise DefinitionError(f"Definition {index} is not an object.", hint="Pass a list of objects.")
        definition = dict(cast("Mapping[str, Any]", plain))
        declared = definition.get("functionDeclarations", definition.get("function_declarations"))
        if isinstance(declared, list):
            for each in cast("list[Any]", declared):
                yield _read(cast("JsonObject", each) if isinstance(each, dict) else {}, index, is_gemini=True)
        elif isinstance(definition.get("function"), dict):
            yield _read(definition["function"], index)
        else:
            yield _read(definition, index)


def _plain(item: Any) -> Any:
    dump = getattr(item, "model_dump", None)
    return item if dump is None else dump(mode="json", by_alias=True, exclude_none=True)


def _read(given: JsonObject, index: int, *, is_gemini: bool = False) -> Definition:
    name = given.get("name")
    if not isinstance(name, str):
        kind = given.get("type")
        raise DefinitionError(
            f"Definition {index} has no name" + (f" (type {kind!r})." if kind else "."),
            hint="Tools that a vendor runs itself, such as web search, are no functions: leave them out.",
        )
    schema: Any = None
    for key in (
        "parameters",
        "input_schema",
        "inputSchema",
        "parametersJsonSchema",
        "parameters_json_schema",
    ):
        schema = given.get(key) if schema is None else schema
    # Gemini's `parameters` is OpenAPI's dialect with upper-case types; `parametersJsonSchema` is JSON Schema.
    if schema is None:
        schema = {}
    if not isinstance(schema, dict):
        raise DefinitionError(
            f"Tool {name!r}: its parameters are not an object.",
            hint='Use {"type": "object", "properties": {...}}.',
        )
    parameters = cast("JsonObject", schema)
    check_depth(parameters, name)
    if is_gemini and given.get("parameters") is not None:
        parameters = cast("JsonObject", from_gemini(parameters))
    hints = given.get("annotations")
    effect, idempotent = _mcp_effect(cast("JsonObject", hints)) if isinstance(hints, dict) else (None, False)
    returns = given.get("outputSchema")
    return Definition(
        name,
        str(given.get("description") or ""),
        _as_object_schema(parameters),
        effect,
        idempotent,
        given.get("title") or (cast("JsonObject", hints).get("title") if isinstance(hints, dict) else None),
        cast("JsonObject", returns) if isinstance(returns, dict) else None,
    )


def _as_object_schema(schema: JsonObject) -> JsonObject:
    """No parameters at all is written as ``{}``, null, or an object without properties, depending on the vendor."""
    made = dict(schema)
    if "type" not in made and (not made or "properties" in made):
        made = {"type": "object", **made}
    if made.get("type") == "object":
        made.setdefault("properties", {})
    return made


def _mcp_effect(hints: JsonObject) -> tuple[Effect | None, bool]:
    """MCP's hints come from the server and are claims: they are used where nobody said better (see `from_schemas`)."""
    idempotent = hints.get("idempotentHint") is True
    if hints.get("readOnlyHint") is True:
        return "read", idempotent
    if hints.get("destructiveHint") is True:
        return "destructive", idempotent
    if hints.get("readOnlyHint") is False or hints.get("destructiveHint") is False:
        return "write", idempotent
    return None, idempotent


_GEMINI_TYPES = {name.upper(): name for name in ("string", "number", "integer", "boolean", "array", "object", "null")}
_GEMINI_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_GEMINI_ONLY = ("nullable", "propertyOrdering", "property_ordering", "example", "format_", "type_")


def from_gemini(schema: Any) -> Any:
    """Gemini's Schema object (a subset of OpenAPI 3.0's) as JSON Schema."""
    if not isinstance(schema, dict):
        return schema
    given = cast("JsonObject", schema)
    out: JsonObject = {key: value for key, value in given.items() if key not in _GEMINI_ONLY}
    for snake, camel in (("any_of", "anyOf"), *((_snake(name), name) for name in _GEMINI_COUNTS)):
        if snake in out:
            out[camel] = out.pop(snake)
    kind = given.get("type", given.get("type_"))
    if isinstance(kind, str):
        out["type"] = _GEMINI_TYPES.get(kind.upper(), kind)
        if kind.upper() == "TYPE_UNSPECIFIED":
            del out["type"]
    for key in _GEMINI_COUNTS:
        text = out.get(key)
        if isinstance(text, str) and text.isdecimal() and len(text) < 20:  # int64 is a string in protobuf's JSON
            out[key] = int(text)
    if out.get("format") == "enum":
        del out["format"]
    if "example" in given:
        out["examples"] = [given["example"]]

    def change(_: Path, child: Any) -> Any:
        return from_gemini(child)

    made = rebuild(out, change)
    return nullable(made) if given.get("nullable") is True else made


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def nullable(schema: JsonObject) -> JsonObject:
    """A schema that accepts null as well."""
    kind = schema.get("type")
    if isinstance(kind, str) and "$ref" not in schema and "const" not in schema:
        made: JsonObject = {**schema, "type": [kind, "null"]}
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
        # Compositions judge the null too, and would refuse it.
        if not any(key in schema for key in ("allOf", "anyOf", "oneOf", "not")):
            return made
    annotations = {key: schema[key] for key in ("description", "default", "title") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in annotations}
    return {**annotations, "anyOf": [rest, {"type": "null"}]} if rest else schema
