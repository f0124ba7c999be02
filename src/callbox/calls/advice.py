"""What to send instead of a wrong value, where that is clear from the value itself. Said, never done."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from callbox.calls.call import ProblemCode
from callbox.calls.shapes import Document, Place, items
from callbox.calls.suggestion import misspelt
from callbox.calls.wording import kind_of, literal
from callbox.values import JsonValue

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,30})([.][0-9]{1,30})?([eE][-+]?[0-9]{1,2})?")
_DATE = re.compile(r"([0-9]{4})[-/.]?([0-9]{1,2})[-/.]?([0-9]{1,2})(?:[T ].*)?")
_LOCAL = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2}(?:[.][0-9]{1,9})?)?")
_WORDS = {"true": "boolean", "false": "boolean", "null": "null", "none": "null"}


def advise(code: ProblemCode, value: Any, document: Document, places: Sequence[Place]) -> str | None:
    """One sentence for the model, or None where only the model can know.

    Args:
        code: The kind of mistake.
        value: What was sent.
        document: The schema.
        places: The schemas that refuse the value.
    """
    if code == "wrong_type":
        wanted = frozenset[str]().union(*(document.kinds(place) for place in places))
        return _text_as_other(value, wanted) if isinstance(value, str) else _other_type(value, wanted)
    if code == "not_in_enum":
        return _nearest(value, [option for place in places for option in document.shape(place).options or ()])
    if code == "invalid_format" and isinstance(value, str) and len(value) <= 40:
        formats = {str(here.schema.get("format")) for place in places for here in document.together(place)}
        return _form(value, formats)
    return None


def _text_as_other(value: str, wanted: frozenset[str]) -> str | None:
    text = value.strip()
    if len(text) <= 64 and _NUMBER.fullmatch(text):
        if "number" in wanted or ("integer" in wanted and float(text).is_integer()):
            return f"Send the number {text} without quotes."
        if "integer" in wanted:
            return _whole(float(text))
    word = text.lower() if len(text) <= 5 else ""
    if _WORDS.get(word) in wanted:
        return f"Send {'null' if word == 'none' else word} without quotes."
    if text[:1] == "{" and "object" in wanted:
        return "Send the object itself, not as text."
    if text[:1] == "[" and "array" in wanted:
        return "Send the array itself, not as text."
    return _in_array(value, wanted)


def _other_type(value: Any, wanted: frozenset[str]) -> str | None:
    if kind_of(value) == "number" and "integer" in wanted:
        return _whole(value)
    if isinstance(value, (bool, int, float)) and "string" in wanted:
        return f'Send "{literal(value)}" in quotes.'
    if value in (0, 1) and not isinstance(value, bool) and "boolean" in wanted:
        return f"Send {'true' if value else 'false'}."
    if isinstance(value, list):
        only = items(value)
        return "Send the item itself, not an array." if len(only) == 1 and kind_of(only[0]) in wanted else None
    return None if value is None else _in_array(value, wanted)


def _in_array(value: Any, wanted: frozenset[str]) -> str | None:
    if "array" not in wanted:
        return None
    return "Put the object into an array." if isinstance(value, dict) else f"Send an array: [{literal(value)}]."


def _whole(value: float) -> str:
    if abs(value) >= 2**53:
        return "Send a whole number."
    return f"Send a whole number, like {math.floor(value)} or {math.ceil(value)}."


def _nearest(value: Any, options: Sequence[JsonValue]) -> str | None:
    if not isinstance(value, str):
        as_text = [option for option in options if isinstance(option, str) and option == literal(value)]
        return f"Send {literal(as_text[0])} in quotes." if as_text else None
    for option in options:
        if not isinstance(option, (str, dict, list)) and literal(option) == value:
            return f"Send {value} without quotes."
    near = misspelt(value.strip(), [option for option in options if isinstance(option, str)])
    return None if near is None else f"Did you mean {literal(near)}?"


def _form(value: str, formats: set[str]) -> str | None:
    if "date" in formats and (found := _DATE.fullmatch(value)) is not None:
        year, month, day = found.groups()
        if 1 <= int(month) <= 12 and 1 <= int(day) <= 31:
            return f'Send "{year}-{int(month):02}-{int(day):02}".'
    if "date-time" in formats and (found := _LOCAL.fullmatch(value)) is not None:
        day, minutes, seconds = found.groups()
        return f'Add the time zone, like "{day}T{minutes}{seconds or ":00"}Z".'
    return None
