"""Arguments that come as Python objects: the rules of `strict_json`, for what somebody else has parsed."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, NoReturn, cast

from callbox.calls.strict_json import StrictJsonError, depth_max, too_deep, too_large, too_many_values
from callbox.calls.wording import literal, shorten
from callbox.limits import Limits

_SURROGATE = re.compile("[\ud800-\udfff]")


@lru_cache(maxsize=16)
def _ten_to_the(digits: int) -> int:
    return int(10**digits)


def check_plain(value: object, limits: Limits) -> bool:
    """See that a value is plain JSON data within the limits, without recursion and in bounded time.

    Only Python's own types pass, not their subclasses: a subclass may answer differently each time it is
    asked. A value that contains itself is deeper than any limit; a value that is shared counts each time it
    is met.

    Args:
        value: Any object at all.
        limits: As for `strict_json.parse`; the size is that of keys and strings in UTF-8, and one byte for
            any other value.

    Returns:
        Whether there is a number like ``3.0`` in it.

    Raises:
        StrictJsonError: The value is refused.
    """
    whole = _ten_to_the(limits.number_digits_max)
    deepest = depth_max(limits)
    integral = False
    values = 0
    room = limits.arguments_bytes_max
    level: list[Any] = [value]
    waiting: list[tuple[list[Any] | dict[Any, Any], int]] = []
    depth = 0
    while True:
        for item in level:
            kind = type(item)  # pyright: ignore[reportUnknownVariableType] - it may be any type at all
            if kind is str:
                room -= len(item) if item.isascii() and "\0" not in item else _size(item)
            elif kind is dict or kind is list:
                held = cast("dict[Any, Any] | list[Any]", item)
                values += len(held)
                if values > limits.arguments_values_max:
                    raise too_many_values(limits)
                if depth >= deepest:
                    raise too_deep(limits)
                waiting.append((held, depth + 1))
                room -= 1
            elif kind is int:
                if not -whole < item < whole:
                    raise StrictJsonError("number", f"A number has more than {limits.number_digits_max} digits.")
                room -= 1
            elif kind is float and math.isfinite(item):
                integral = integral or item.is_integer()
                room -= 1
            elif kind is bool or item is None:
                room -= 1
            else:
                _refuse(item)
        if room < 0:
            raise too_large(limits)
        if not waiting:
            return integral
        held, depth = waiting.pop()
        if isinstance(held, list):
            level = held
        else:
            room -= _names_size(held)
            level = list(held.values())


def _names_size(held: dict[Any, Any]) -> int:
    size = 0
    for key in held:
        if type(key) is not str:
            raise StrictJsonError(
                "not_json", f"The arguments hold a property whose name is {shorten(key)!s}, not text."
            )
        size += len(key) if key.isascii() and "\0" not in key else _size(key)
    return size


def _refuse(item: object) -> NoReturn:
    if type(item) is float:
        raise StrictJsonError("number", f"{item} is not a JSON number.", "Send a finite number.")
    raise StrictJsonError("not_json", f"The arguments hold {shorten(item)}, which is not JSON.")


def _size(text: str) -> int:
    """Its size in UTF-8, once it is seen to be text that every JSON reader takes."""
    if "\0" in text:
        raise StrictJsonError("nul", f"A NUL character in {literal(text)}.", "Leave NUL characters out.")
    if text.isascii():
        return len(text)
    if _SURROGATE.search(text):
        raise StrictJsonError("surrogate", f"Half of a surrogate pair in {text[:40]!a}: this is no character.")
    return len(text.encode())
