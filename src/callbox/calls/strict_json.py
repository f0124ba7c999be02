"""JSON text to values, refusing whatever two readers could understand differently.

RFC 8259 leaves duplicate names, huge numbers, depth and lone surrogates to the reader, and Python's reader is
more lenient still. Here all of that is refused, and so is what hostile text needs: bulk, depth, numbers of a
thousand digits. NUL (``\\u0000``) is refused although it is JSON: C interfaces end a string there and
PostgreSQL stores none, so the value that was checked would not be the value that is used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from typing import Any, Literal, NoReturn, TypeAlias

from callbox.calls.wording import plural
from callbox.limits import Limits
from callbox.values import JsonValue

Kind: TypeAlias = Literal[
    "empty",
    "too_large",
    "too_deep",
    "too_many_values",
    "number",
    "duplicate_key",
    "surrogate",
    "nul",
    "trailing_text",
    "two_values",
    "truncated",
    "syntax",
    "not_json",
]


class StrictJsonError(ValueError):
    """Text or a value that is refused. Never leaves `callbox.calls`: `reading` turns it into a `CallError`.

    Attributes:
        kind: What was wrong, for programs.
        message: What was wrong and where, for the model.
        suggestion: How to put it right.
        position: Offset in the text, where it is known.
    """

    def __init__(self, kind: Kind, message: str, suggestion: str | None = None, position: int | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.suggestion = suggestion
        self.position = position


# A string is matched even without its closing quote, and nothing in it twice: linear on any text.
_STRING = r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_STRUCTURE = re.compile(rf"{_STRING}|\{{\s*+\}}|\[\s*+\]|[\[{{\]}},]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\n\r]*+")

# jsonschema-rs gives up at 255 levels, and Python's limit of 1,000 is shared with the caller's own frames.
_DEPTH_CEILING = 200
_LIMIT_HINT = "Send fewer or smaller values in one call."
_RESEND = "Send the whole arguments again, as one complete JSON object."


def parse(text: str, limits: Limits) -> JsonValue:
    """Read one JSON value.

    Args:
        text: JSON, with nothing but white space around it.
        limits: Size, depth, number of values, digits of a number.

    Returns:
        The value; whole numbers are exact whatever their size.

    Raises:
        StrictJsonError: The text is refused.
    """
    length = len(text)
    if length * 4 > limits.arguments_bytes_max:
        _check_size(text, limits)
    # Closed, n levels take 2n characters; three counts at memory speed settle it for nearly any longer text.
    if length > 2 * depth_max(limits):
        opened = text.count("{") + text.count("[")
        if opened > depth_max(limits) or opened + text.count(",") > limits.arguments_values_max:
            _check_structure(text, limits)
    start = 0 if text.startswith("{") else _end_of_space(text, 0)
    try:
        value, end = _scanner(limits.number_digits_max)(text, start)
    except StopIteration as stop:
        _refuse_syntax(text, "Expecting value", int(stop.value))
    except json.JSONDecodeError as error:
        _refuse_syntax(text, error.msg, error.pos)
    except _Number as refused:
        _refuse_number(text, refused)
    except _Duplicate as refused:
        raise StrictJsonError(
            "duplicate_key",
            f"The property {_quoted(refused.key)} occurs more than once in one object.",
            "Send each property once.",
        ) from None
    except RecursionError:  # only where somebody raised the limit on depth above what Python's own reader can do
        raise too_deep(limits) from None
    if end != length and (end := _end_of_space(text, end)) != length:
        _refuse_trailing(text, end)
    if "\\u" in text:
        _check_escapes(text)
    if not text.isascii() and (found := _SURROGATE.search(text)):
        _refuse_surrogate(text, found.start())
    return value


def integral_floats_read() -> int:
    """How many numbers like ``3.0`` all threads have read, plus how often this was asked.

    If two answers differ by one, then what was parsed between them holds no such number.
    """
    return next(_integral_floats)


# An iterator and not an integer, because counting on is atomic.
_integral_floats = count()


# The C scanner, with hooks for what it would let through


class _Number(Exception):  # not an error by itself, only a way out of the C scanner
    def __init__(self, token: str, why: str) -> None:
        self.token = token
        self.why = why


class _Duplicate(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(key)
            seen.add(key)
    return found


def _constant(token: str) -> NoReturn:
    raise _Number(token, f"{token} is not a JSON number")


@lru_cache(maxsize=16)
def _scanner(digits_max: int) -> Callable[[str, int], tuple[Any, int]]:
    too_long = f"a number has more than {plural(digits_max, 'digit')}"

    def whole(token: str) -> int:
        # Counted before the conversion, which takes time in proportion to the square of the digits.
        if len(token) > digits_max and len(token.lstrip("-")) > digits_max:
            raise _Number(token, too_long)
        try:
            return int(token)
        except ValueError:  # Python's own limit on digits, where ours was set higher
            raise _Number(token, too_long) from None

    def fraction(token: str) -> float:
        if len(token) > digits_max:
            raise _Number(token, too_long)
        number = float(token)
        if math.isinf(number):
            raise _Number(token, "a number is too large for a 64-bit float")
        if number == 0.0 and any(digit in "123456789" for digit in re.split("[eE]", token)[0]):
            raise _Number(token, "a number is too close to zero for a 64-bit float")
        if number.is_integer():
            next(_integral_floats)
        return number

    decoder = json.JSONDecoder(
        object_pairs_hook=_members, parse_int=whole, parse_float=fraction, parse_constant=_constant
    )
    return vars(decoder)["scan_once"]  # undocumented, but what `raw_decode` calls; a test holds it to `json.loads`


# Limits


def _check_size(text: str, limits: Limits) -> None:
    bytes_max = limits.arguments_bytes_max
    if len(text) > bytes_max or (not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > bytes_max):
        raise too_large(limits)


def too_large(limits: Limits) -> StrictJsonError:
    """More bytes than one call may have."""
    return StrictJsonError(
        "too_large",
        f"The arguments are too large: more than {plural(limits.arguments_bytes_max, 'byte')}.",
        _LIMIT_HINT,
    )


def depth_max(limits: Limits) -> int:
    """How deep a value may be: what the limits say, but no deeper than the libraries below us can go."""
    return min(limits.arguments_depth_max, _DEPTH_CEILING)


def too_deep(limits: Limits) -> StrictJsonError:
    """More nesting than one call may have."""
    return StrictJsonError(
        "too_deep",
        f"The arguments are nested too deeply: more than {plural(depth_max(limits), 'level')}.",
        "Send a flatter value.",
    )


def too_many_values(limits: Limits) -> StrictJsonError:
    """More members and items than one call may have."""
    return StrictJsonError(
        "too_many_values",
        f"The arguments hold too many values: more than {plural(limits.arguments_values_max, 'value')}.",
        _LIMIT_HINT,
    )


def _check_structure(text: str, limits: Limits) -> None:
    """Depth and number of values, exactly and without recursion; stops at the first limit that is passed."""
    allowed = depth_max(limits)
    depth = values = 0
    for match in _STRUCTURE.finditer(text):
        token = match[0]
        first = token[0]
        if first == '"':
            continue
        if first == ",":
            values += 1
        elif first in "]}":
            depth -= 1
            continue
        elif len(token) > 1:  # an empty object or array
            if depth + 1 > allowed:
                raise too_deep(limits)
        else:
            depth += 1
            values += 1
            if depth > allowed:
                raise too_deep(limits)
        if values > limits.arguments_values_max:
            raise too_many_values(limits)


def _check_escapes(text: str) -> None:
    """Refuse escaped NUL, and escaped surrogates that are not a pair."""
    high_ends_at = -1
    high_at = -1
    for match in _ESCAPE.finditer(text):
        digits = match[1]
        code = int(digits, 16) if digits else -1
        if 0xDC00 <= code <= 0xDFFF and high_ends_at == match.start():
            high_ends_at = -1
            continue
        if high_ends_at >= 0:
            _refuse_surrogate(text, high_at)
        if code == 0:
            raise StrictJsonError(
                "nul",
                f"A NUL character (\\u0000) {_place(text, match.start())}.",
                "Leave NUL characters out.",
                match.start(),
            )
        if 0xD800 <= code <= 0xDBFF:
            high_at, high_ends_at = match.start(), match.end()
        elif 0xDC00 <= code <= 0xDFFF:
            _refuse_surrogate(text, match.start())
    if high_ends_at >= 0:
        _refuse_surrogate(text, high_at)


# Refusals, in words


def _refuse_surrogate(text: str, position: int) -> NoReturn:
    raise StrictJsonError(
        "surrogate",
        f"Half of a surrogate pair {_place(text, position)}: this is no character.",
        "Write the character itself, or both halves of its escape.",
        position,
    )


def _refuse_number(text: str, refused: _Number) -> NoReturn:
    finder = re.compile(rf"{_STRING}|({re.escape(refused.token)})", re.DOTALL)
    position = next((match.start() for match in finder.finditer(text) if match[1] is not None), None)
    where = "" if position is None else f" {_place(text, position)}"
    raise StrictJsonError(
        "number",
        f"The JSON cannot be read: {refused.why}{where}.",
        "Send a finite number of ordinary size, or null or text where the tool allows it.",
        position,
    )


def _refuse_trailing(text: str, end: int) -> NoReturn:
    if text[end] in "{[":
        raise StrictJsonError(
            "two_values",
            f"There are two JSON values in a row; the second begins {_place(text, end)}.",
            "Send one JSON object; make one call for each.",
            end,
        )
    raise StrictJsonError(
        "trailing_text",
        f"There is text after the JSON {_place(text, end)}.",
        "Send the JSON object alone.",
        end,
    )


_HINTS = {
    "'": "Use double quotes, not single quotes.",
    "/": "Leave comments out.",
    "#": "Leave comments out.",
    "T": "Write true in lower case.",
    "F": "Write false in lower case.",
    "N": "Write null for no value.",
    "u": "Write null for no value.",
    "}": "Remove the comma before the closing bracket.",
    "]": "Remove the comma before the closing bracket.",
    "+": "Write numbers without a plus sign.",
    ".": "Write a digit before the decimal point.",
}
_WHATS = {
    "Expecting value": "a value is missing",
    "Expecting property name enclosed in double quotes": "a property name in double quotes is missing",
    "Illegal trailing comma before end of object": "there is a comma too many",
    "Illegal trailing comma before end of array": "there is a comma too many",
    "Expecting ',' delimiter": "a comma or a closing bracket is missing",
    "Expecting ':' delimiter": "a colon is missing",
    "Invalid control character at": "a control character stands in a string",
    "Unterminated string starting at": "a string is not closed",
    "Invalid \\uXXXX escape": "\\u is not followed by four hexadecimal digits",
}


def _refuse_syntax(text: str, problem: str, position: int) -> NoReturn:
    if not text.strip(" \t\n\r"):
        raise StrictJsonError("empty", "The arguments are empty.", "Send a JSON object.")
    if text.startswith("\ufeff"):
        raise StrictJsonError("syntax", "The JSON begins with a byte order mark.", "Send the JSON object alone.", 0)
    if _ends_early(text, problem, position):
        raise StrictJsonError(
            "truncated",
            f"The JSON stops in the middle, after {plural(len(text), 'character')}.",
            _RESEND,
            len(text),
        )
    what = _WHATS.get(problem, "a backslash is followed by a character that cannot be escaped")
    character = text[position : position + 1]
    if problem.startswith("Invalid control"):
        hint = "Write line breaks as \\n and tabs as \\t."
    elif problem.startswith(("Invalid \\", "Unterminated")):
        hint = 'Write a backslash as \\\\ and a quote in a string as \\".'
    elif problem.startswith("Illegal trailing comma"):
        hint = _HINTS["}"]
    else:
        hint = _HINTS.get(character, "Send one JSON object, as by a JSON serializer.")
    raise StrictJsonError("syntax", f"The JSON cannot be read: {what} {_place(text, position)}.", hint, position)


def _ends_early(text: str, problem: str, position: int) -> bool:
    """Whether the text is the beginning of JSON, rather than something else."""
    if problem.startswith("Unterminated string"):
        return True
    rest = text[position:].rstrip(" \t\n\r")
    if problem.startswith("Invalid \\"):
        return len(rest) < len("\\u0000") and '"' not in rest and problem.startswith("Invalid \\u")
    if not rest:
        return True
    return rest == "-" or any(
        len(rest) < len(word) and word.startswith(rest) for word in ("true", "false", "null", "-Infinity", "NaN")
    )


def _end_of_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    assert found is not None, "it matches the empty string"
    return found.end()


def _quoted(text: str) -> str:
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:40])
    return f'"{shown}"' if len(text) <= 40 else f'"{shown}…"'


def _place(text: str, position: int) -> str:
    """Where that is, with at most about 40 characters of what is there."""
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    begin, end = max(0, position - 12), position + 24
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[begin:end])
    excerpt = ("…" if begin else "") + shown + ("…" if end < len(text) else "")
    return f"at line {line}, column {column}, near `{excerpt}`"
