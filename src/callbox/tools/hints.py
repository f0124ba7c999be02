"""From type hints to JSON Schema (Draft 2020-12), through pydantic."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, cast

from callbox.errors import DefinitionError
from callbox.tools.schema_tree import ANNOTATIONS, rebuild, walk
from callbox.values import JsonObject

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_DECIMAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
_NAIVE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?$"

# What a model reads first comes first; keys that are not listed keep their order behind these.
_ORDER = ("$ref", "type", "description", "const", "enum", "format", "properties", "required")
_LAST = ("default", "additionalProperties", "$defs")


def arguments_adapter(
    hints: Mapping[str, Any], required: frozenset[str], scope: Mapping[str, Any], tool_name: str
) -> TypeAdapter[dict[str, Any]]:
    """A pydantic adapter for the arguments object. Validating gives exactly the arguments that were sent.

    Args:
        hints: Type of each parameter, resolved.
        required: Those without a default.
        scope: Names of the enclosing functions, for forward references inside local classes.
        tool_name: For the error.

    Raises:
        DefinitionError: A hint has no JSON form.
    """
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.errors import PydanticUserError
    from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12

    fields = {name: hint if name in required else NotRequired[hint] for name, hint in hints.items()}
    # A TypedDict and not a model: any name may be a key (`copy`, `_x`, `model_y`), and what was not sent stays absent.
    arguments: Any = TypedDict("Arguments", fields)  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
    arguments.__pydantic_config__ = ConfigDict(extra="forbid")
    try:
        adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(arguments)
        if not adapter.pydantic_complete:
            adapter.rebuild(force=True, _types_namespace=dict(scope))
        return adapter
    except (PydanticUserError, NameError, TypeError) as error:
        raise _unusable(hints, tool_name, error) from error


def arguments_schema(adapter: TypeAdapter[dict[str, Any]], hints: Mapping[str, Any], tool_name: str) -> JsonObject:
    """The JSON Schema of an arguments object: closed, without pydantic's noise, single-use definitions inlined.

    Raises:
        DefinitionError: A hint has no JSON form.
    """
    from pydantic.errors import PydanticUserError

    try:
        schema = adapter.json_schema(schema_generator=_generator(), mode="validation")
    except (PydanticUserError, TypeError, KeyError) as error:  # KeyError: a hand-written $ref to no definition
        raise _unusable(hints, tool_name, error) from error
    schema.setdefault("properties", {})
    schema["additionalProperties"] = False
    return tidy(schema)


def _unusable(hints: Mapping[str, Any], tool_name: str, error: Exception) -> DefinitionError:
    """Name the parameter that pydantic cannot handle: it says which type, but not where."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    for name, hint in hints.items():
        try:
            TypeAdapter(hint).json_schema(schema_generator=_generator(), mode="validation")
        except (PydanticUserError, NameError, TypeError, KeyError) as found:
            reason = str(found).split("\n", 1)[0]
            return DefinitionError(
                f"Tool {tool_name!r}, parameter {name!r}: its type has no JSON form. {reason}",
                hint="Use JSON types, dataclasses, TypedDicts or pydantic models; pass services in CallContext.state.",
            )
    return DefinitionError(f"Tool {tool_name!r}: no schema can be made of its hints. {error}")


@functools.cache
def _generator() -> Any:
    """pydantic's schema generator with our corrections. A function, so that pydantic is imported at first use."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        # "Order Id" for `order_id` costs tokens and says nothing.
        def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the base class's signature
            return False

        def model_schema(self, schema: Any) -> Any:
            return _closed(super().model_schema(schema))

        def dataclass_schema(self, schema: Any) -> Any:
            return _closed(super().dataclass_schema(schema))

        def typed_dict_schema(self, schema: Any) -> Any:
            return _closed(super().typed_dict_schema(schema))

        def named_tuple_schema(self, schema: Any) -> Any:
            """As an object: a model that must count positions errs; pydantic accepts both."""
            members = {member["name"]: self.generate_inner(member["schema"]) for member in schema["fields"]}
            required = [member["name"] for member in schema["fields"] if member["schema"]["type"] != "default"]
            return {
                "type": "object",
                "properties": members,
                "required": required,
                "additionalProperties": False,
            }

        def decimal_schema(self, schema: Any) -> Any:
            made = super().decimal_schema(schema)
            for choice in made.get("anyOf", ()):
                if choice.get("type") == "string":
                    choice["pattern"] = _DECIMAL  # older pydantic's pattern has look-around, newer's has none at all
            return made

        def time_schema(self, schema: Any) -> Any:
            """`format: time` is RFC 3339's full-time, which needs an offset; Python's time does not."""
            constraint = schema.get("tz_constraint")
            if constraint == "aware":
                return {"type": "string", "format": "time"}
            return {
                "type": "string",
                "pattern": _TIME + ("$" if constraint == "naive" else r"(Z|[+-][0-9]{2}:[0-9]{2})?$"),
            }

        def datetime_schema(self, schema: Any) -> Any:
            """`format: date-time` needs an offset, which a NaiveDatetime refuses.

            The others ask for one: a time without it is the user's for the user, and the server's for the server.
            """
            if schema.get("tz_constraint") == "naive":
                return {"type": "string", "pattern": _NAIVE}
            return super().datetime_schema(schema)

    return Generator


def _closed(schema: Any) -> Any:
    # A model that allows extra members says so ("additionalProperties": true) and is left alone.
    if "$ref" not in schema and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def json_default(value: Any) -> tuple[bool, Any]:
    """A Python default as JSON: ``(True, json)``, or ``(False, None)`` for a value that has no JSON form."""
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, float) and not math.isfinite(value):
        return False, None
    try:
        made = to_jsonable_python(value)
        json.dumps(made, allow_nan=False)
    except (PydanticSerializationError, ValueError, TypeError):
        return False, None
    return True, made


def tidy(schema: JsonObject) -> JsonObject:
    """Remove what pydantic adds for other readers, inline definitions that are used once, order the keys."""
    definitions = cast("dict[str, JsonObject]", schema.get("$defs", {}))
    for name, definition in definitions.items():
        title = definition.get("title")
        if title is not None and (name == title or name.endswith(f"__{title}")):
            del definition["title"]
    if schema.get("title") == "Arguments":
        del schema["title"]
    uses = Counter(_references(schema))
    inline = {name: made for name, made in definitions.items() if uses[name] == 1 and not _reaches(name, definitions)}
    made = cast("JsonObject", _rewrite(schema, inline))
    kept = cast("dict[str, JsonObject]", made.pop("$defs", {}))
    used = set(_references(made))
    todo = list(used)
    while todo:
        found = set(_references(kept.get(todo.pop(), {}))) - used
        used |= found
        todo += found
    if used:
        made["$defs"] = {name: definition for name, definition in kept.items() if name in used}
    return made


def _references(schema: JsonObject) -> list[str]:
    """Names of the definitions that a schema refers to, once per use."""
    found = [here.get("$ref") for _, here in walk(schema)]
    return [reference.removeprefix("#/$defs/") for reference in found if isinstance(reference, str)]


def _reaches(name: str, definitions: Mapping[str, JsonObject]) -> bool:
    """A definition that leads back to itself."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        found = _references(definitions.get(todo.pop(), {}))
        if name in found:
            return True
        todo += [other for other in found if other not in seen]
        seen.update(found)
    return False


def _rewrite(value: Any, inline: Mapping[str, JsonObject]) -> Any:
    if not isinstance(value, dict):
        return value
    schema = dict(cast("JsonObject", value))
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if name in inline and set(schema) - {"$ref"} <= ANNOTATIONS:
        del schema["$ref"]
        schema = {**inline[name], **schema}
    if isinstance(schema.get("discriminator"), dict):
        del schema["discriminator"]  # OpenAPI's; the constants of the branches say the same to JSON Schema
    ordered = {key: schema[key] for key in sorted(schema, key=_rank)}
    return rebuild(ordered, lambda _, child: _rewrite(child, inline))


def _rank(key: str) -> int:
    if key in _ORDER:
        return _ORDER.index(key)
    return 100 + _LAST.index(key) if key in _LAST else 50
