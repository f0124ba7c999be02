"""Schemas and values in a few words, short enough to be read by a model and safe to put into any JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from callbox.values import JsonObject, JsonValue

_RECEIVED_CHARS_MAX = 100
_OPTION_CHARS_MAX = 40
_OPTIONS_MAX = 20
_DESCRIPTION_CHARS_MAX = 300
_BRANCHES_MAX = 6

EXAMPLES = {
    "date": "2025-01-31",
    "date-time": "2025-01-31T14:00:00Z",
    "time": "14:00:00Z",
    "duration": "P1DT2H",
    "email": "name@example.com",
    "idn-email": "name@example.com",
    "uri": "https://example.com/page",
    "uri-reference": "/page",
    "iri": "https://example.com/page",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "json-pointer": "/a/0",
    "regex": "^[a-z]+$",
}
"""An example of each format of JSON Schema that models get wrong."""


def plural(count: float, noun: str) -> str:
    """``1 item``, ``2 items``, ``1,000 items``."""
    ending = "" if count == 1 else "ies" if noun.endswith("y") else "s"
    stem = noun[:-1] if ending == "ies" else noun
    return f"{count:,} {stem}{ending}"


def kind_of(value: object) -> str:
    """The JSON type of a value: ``"integer"`` for whole numbers, ``"number"`` for others."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict) else "array"


def with_article(kind: str) -> str:
    """``a string``, ``an object``, ``null``."""
    if kind == "null":
        return kind
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def literal(value: JsonValue) -> str:
    """A value as JSON, shortened; never long, whatever the value is."""
    short = shorten(value, _OPTION_CHARS_MAX)
    if isinstance(short, str) and not isinstance(value, str):
        return short
    return json.dumps(short, ensure_ascii=False)


def shorten(value: Any, chars_max: int = _RECEIVED_CHARS_MAX) -> Any:
    """The value itself where it has at most about `chars_max` characters, else its start or its size."""
    if isinstance(value, str):
        return value if len(value) <= chars_max else value[: chars_max - 1] + "…"
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if value.bit_length() <= 3 * chars_max:
            return value
        return f"an integer of about {value.bit_length() * 3 // 10:,} digits"
    if isinstance(value, float):
        return value
    if isinstance(value, (dict, list)):
        held = cast("dict[str, Any] | list[Any]", value)
        if len(held) <= chars_max // 2 and _is_small(held, chars_max):
            return held
        if isinstance(held, dict):
            return f"an object of {plural(len(held), 'property')}"
        return f"an array of {plural(len(held), 'item')}"
    return f"a Python {type(value).__name__}"[:chars_max]


def _is_small(value: Any, room: int) -> bool:
    """Whether its JSON has at most `room` characters; looks at no more of it than that."""
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        room -= 2
        if isinstance(item, str):
            room -= len(item)
        elif isinstance(item, dict):
            members = cast("dict[str, Any]", item)
            room -= 2 * len(members)
            if room >= 0:
                waiting.extend(members.keys())
                waiting.extend(members.values())
        elif isinstance(item, list):
            items = cast("list[Any]", item)
            room -= len(items)
            if room >= 0:
                waiting.extend(items)
        elif isinstance(item, int):
            room -= item.bit_length() * 3 // 10
        elif isinstance(item, float):
            room -= 6
        if room < 0:
            return False
    return True


def listing(options: Sequence[str] | Iterable[str], count_max: int = _OPTIONS_MAX) -> str:
    """``a, b, c and 12 more``."""
    words = list(options)
    shown = [word if len(word) <= 100 else word[:99] + "…" for word in words[:count_max]]
    rest = len(words) - len(shown)
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")


def one_of(options: Sequence[JsonValue]) -> str:
    """``one of: a, b``; strings are quoted only where they could be taken for something else."""
    if len(options) == 1:
        return f"exactly {literal(options[0])}"
    return "one of: " + listing([_option(option) for option in options])


def _option(value: JsonValue) -> str:
    if isinstance(value, str) and value and value.isascii() and value.replace("_", "").replace("-", "").isalpha():
        plain = value not in ("true", "false", "null")
        return value if plain and len(value) <= _OPTION_CHARS_MAX else literal(value)
    return literal(value)


def cut(text: str) -> str:
    """At most 300 characters of it."""
    return text if len(text) <= _DESCRIPTION_CHARS_MAX else text[: _DESCRIPTION_CHARS_MAX - 1] + "…"


def either(descriptions: Iterable[str]) -> str:
    """``string or null``; what is said twice is said once."""
    unique = list(dict.fromkeys(descriptions))
    shown = unique[:_BRANCHES_MAX]
    rest = len(unique) - len(shown)
    return " or ".join([*shown, f"{rest} other forms"] if rest else shown)


def describe_type(kind: str, schema: Mapping[str, Any], item: str | None = None) -> str:
    """One type with its bounds, like ``integer between 1 and 10`` or ``string (date, like 2025-01-31)``.

    Args:
        kind: The JSON type.
        schema: Where the bounds stand.
        item: What an array's items are, in words.
    """
    if kind in ("integer", "number"):
        return _number(kind, schema)
    if kind == "string":
        return _text(schema)
    if kind == "array":
        plain = item if item and " " not in item and item not in ("any value", "null") else None
        noun = "array" if item is None else f"array of {plain}s" if plain else f"array of ({item})"
        size = _span(schema.get("minItems"), schema.get("maxItems"), "item")
        unique = "all different" if schema.get("uniqueItems") is True else None
        return _with(noun, [size, unique])
    if kind == "object":
        properties = cast("JsonObject", schema.get("properties") or {})
        named = f"with {listing(list(properties), 8)}" if properties else None
        size = _span(schema.get("minProperties"), schema.get("maxProperties"), "property")
        return " ".join(["object", *([named] if named else []), *([f"({size})"] if size else [])])
    return kind


def _with(noun: str, details: Sequence[str | None]) -> str:
    told = [detail for detail in details if detail]
    return f"{noun} ({', '.join(told)})" if told else noun


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _span(low: Any, high: Any, unit: str) -> str | None:
    low = low if _is_number(low) and low > 0 else None
    high = high if _is_number(high) else None
    if low is not None and high is not None:
        return f"exactly {plural(low, unit)}" if low == high else f"{low:,} to {plural(high, unit)}"
    if low is not None:
        return f"at least {plural(low, unit)}"
    return f"at most {plural(high, unit)}" if high is not None else None


def _number(kind: str, schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if _is_number(low) and _is_number(high):
        words = [f"between {low} and {high}"]
    else:
        words = [f"at least {low}"] if _is_number(low) else []
        words += [f"at most {high}"] if _is_number(high) else []
    words += [f"above {above}"] if _is_number(above) else []
    words += [f"below {below}"] if _is_number(below) else []
    step = schema.get("multipleOf")
    words += [f"a multiple of {step}"] if _is_number(step) else []
    return " ".join([kind, " and ".join(words)]) if words else kind


def _text(schema: Mapping[str, Any]) -> str:
    details = [_span(schema.get("minLength"), schema.get("maxLength"), "character")]
    form = schema.get("format")
    if isinstance(form, str):
        example = EXAMPLES.get(form)
        details.append(f"{form}, like {example}" if example else form)
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        details.append(f"matching {pattern}")
    encoding = schema.get("contentEncoding")
    if isinstance(encoding, str):
        details.append(encoding)
    return _with("string", details)
