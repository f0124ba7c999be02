"""From validated JSON arguments to the Python objects that the hints name. Costs nothing where they are the same."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NewType,
    TypeAlias,
    Union,
    cast,
    get_args,
    get_origin,
)

from callbox.errors import Rejected
from callbox.values import JsonObject, json_pointer

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

Coerce: TypeAlias = Callable[[Any], Any]
Convert: TypeAlias = Callable[[JsonObject], dict[str, Any]]

_AS_IS = (str, float, bool, type(None), None, Any, object)
_CONSTRAINTS = ("Ge", "Gt", "Le", "Lt", "Interval", "MultipleOf", "MinLen", "MaxLen", "Len")


class _NotPlain(Exception):
    """The hint needs pydantic."""


def plain_coercion(hint: Any) -> tuple[bool, Coerce | None]:
    """How to turn a valid JSON value into what a hint says, without pydantic.

    Returns:
        ``(True, None)``: the value is already right. ``(True, f)``: apply f, which only ever turns an integral float
        (JSON Schema counts 5.0 as an integer) into an int. ``(False, None)``: the hint needs pydantic.
    """
    try:
        return True, _coercion(hint)
    except _NotPlain:
        return False, None


def _coercion(hint: Any) -> Coerce | None:
    if any(hint is plain for plain in _AS_IS):
        return None
    if hint is int:
        return _integral
    origin = get_origin(hint)
    if origin is Annotated:
        return _annotated(hint)
    if origin is Literal:
        return _literal(get_args(hint))
    if origin in (Union, types.UnionType):
        return _union(get_args(hint))
    if isinstance(hint, NewType):
        return _coercion(hint.__supertype__)
    container = origin or hint
    if container in (list, Sequence):
        items = get_args(hint)
        return _each_item(_coercion(items[0])) if items else None
    if container in (dict, Mapping):
        members = get_args(hint)
        if members and members[0] is not str:
            raise _NotPlain
        return _each_member(_coercion(members[1])) if members else None
    raise _NotPlain


def _annotated(hint: Any) -> Coerce | None:
    base, *metadata = get_args(hint)
    constrained = False
    for item in metadata:
        if isinstance(item, str) or type(item).__name__ == "Doc":
            continue
        if not _is_in_schema(item):
            raise _NotPlain
        constrained = constrained or not _is_field(item) or bool(item.metadata)
    # Constraints on a union or on Any are checked by pydantic and may not be in the schema.
    if constrained and (get_origin(base) or base) not in (str, int, float, list, dict):
        raise _NotPlain
    return _coercion(base)


def _is_field(item: Any) -> bool:
    return type(item).__name__ == "FieldInfo"


def _is_in_schema(item: Any) -> bool:
    """The JSON Schema says all that this piece of `Annotated` metadata says, so validation has checked it."""
    if type(item).__module__ == "annotated_types":
        return type(item).__name__ in _CONSTRAINTS
    if _is_field(item):
        renames = item.alias is not None or item.validation_alias is not None
        return not renames and item.discriminator is None and all(_is_in_schema(part) for part in item.metadata)
    general = getattr(item, "__dict__", None)
    return type(item).__name__.endswith("PydanticGeneralMetadata") and set(general or ()) <= {"pattern"}


def _literal(values: tuple[Any, ...]) -> Coerce | None:
    if not all(type(value) in (str, int, bool, type(None)) for value in values):
        raise _NotPlain
    return _integral if any(type(value) is int for value in values) else None


def _union(members: tuple[Any, ...]) -> Coerce | None:
    coercions = [_coercion(member) for member in members]
    wanted = [coerce for coerce in coercions if coerce is not None]
    if float in members or Any in members:
        # A float is right as it is where float is one of the choices.
        wanted = [coerce for coerce in wanted if coerce is not _integral]
    if len(set(wanted)) > 1:
        raise _NotPlain
    return wanted[0] if wanted else None


def _integral(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _each_item(coerce: Coerce | None) -> Coerce | None:
    if coerce is None:
        return None

    def items(value: Any) -> Any:
        return [coerce(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value

    return items


def _each_member(coerce: Coerce | None) -> Coerce | None:
    if coerce is None:
        return None

    def members(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: coerce(item) for key, item in cast("JsonObject", value).items()}

    return members


def plain_converter(coercions: Mapping[str, Coerce]) -> Convert:
    """A converter that touches the named arguments only."""

    def convert(arguments: JsonObject) -> dict[str, Any]:
        out = dict(arguments)
        for name, coerce in coercions.items():
            if name in out:
                out[name] = coerce(out[name])
        return out

    return convert


def model_converter(adapter: TypeAdapter[dict[str, Any]]) -> Convert:
    """A converter through pydantic. What a custom validator refuses becomes `errors.Rejected`."""
    from pydantic import ValidationError

    # JSON mode, not Python mode: the arguments *are* JSON, and in Python mode a strict model refuses the string of a
    # date, and a union of date and str keeps the string.
    validate = adapter.validate_json

    def convert(arguments: JsonObject) -> dict[str, Any]:
        try:
            return validate(json.dumps(arguments))
        except ValidationError as error:
            try:
                # JSON Schema counts 5.0 as an integer; a strict model does not. Only here, so that it costs nothing.
                return validate(json.dumps(with_integers(arguments)))
            except ValidationError:
                raise rejected(error, arguments) from None

    return convert


def with_integers(value: Any) -> Any:
    """A JSON value in which every integral float has become an int: the same numbers to JSON Schema."""
    if isinstance(value, dict):
        return {key: with_integers(item) for key, item in cast("JsonObject", value).items()}
    if isinstance(value, list):
        return [with_integers(item) for item in cast("list[Any]", value)]
    return _integral(value)


def with_defaults(convert: Convert | None, factories: Mapping[str, Callable[[], Any]]) -> Convert:
    """Fill what is absent: defaults that were written as ``= Field(default=...)``, which Python itself cannot fill."""

    def filled(arguments: JsonObject) -> dict[str, Any]:
        out = dict(arguments) if convert is None else convert(arguments)
        for name, factory in factories.items():
            if name not in out:
                out[name] = factory()
        return out

    return filled


def rejected(error: ValidationError, arguments: JsonObject) -> Rejected:
    """What pydantic refused after the schema had accepted it, in the terms of a check.

    Says the validator's own messages and where; never the input (``include_input=False``), which may be private.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [(_pointer(item["loc"], item["type"], arguments), _message(item["msg"])) for item in found]
    path, message = problems[0]
    if len(problems) > 1:
        message = "; ".join(f"{where or '/'}: {what}" for where, what in problems[:10])
    return Rejected(message, path=path)


def _message(text: str) -> str:
    for prefix in ("Value error, ", "Assertion failed, "):
        text = text.removeprefix(prefix)
    return text


def _pointer(location: tuple[int | str, ...], kind: str, arguments: JsonObject) -> str:
    """A pydantic location as a JSON Pointer: the tags of unions and validators in it are not part of the data."""
    steps: list[str | int] = []
    here: Any = arguments
    for index, step in enumerate(location):
        if isinstance(here, dict) and step in here:
            here = cast("JsonObject", here)[str(step)]
        elif isinstance(here, list) and isinstance(step, int) and step < len(cast("list[Any]", here)):
            here = cast("list[Any]", here)[step]
        elif kind != "missing" or index != len(location) - 1:
            continue
        steps.append(step)
    return json_pointer(steps)
