"""What a person sees. Text from models and tools is data: it must not be able to drive the terminal."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, cast

from rich.console import Console
from rich.text import Text

from callbox.calls.call import ToolCall, ToolResult
from callbox.errors import CallboxError
from callbox.values import JsonObject

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

LINE_CHARS_MAX = 160
"""Characters of a call or a result that are shown on its line."""

ERROR_CHARS_MAX = 1_000
"""Characters of an error that are shown on its line."""

_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# Shown as nothing, or as a blank, though Unicode counts them as letters and marks: fillers and variation selectors.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def clean(text: str) -> str:
    """The text without control and format characters, surrogates and unassigned ones; line ends and tabs stay."""
    # Escape sequences could retitle the window, move the cursor over earlier output, or write the clipboard (OSC 52);
    # bidirectional controls could make a call read as another one; zero-width and tag characters hide text in text.
    text = _ASCII_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    if text.isascii():
        return text
    wrong = {ord(char) for char in set(_NOT_ASCII.findall(text)) if unicodedata.category(char)[0] == "C"}
    return text.translate(dict.fromkeys(wrong, "\N{REPLACEMENT CHARACTER}")) if wrong else text


def shorten(text: str, chars_max: int = LINE_CHARS_MAX) -> str:
    """One line, cut where it is too long."""
    line = " ".join(clean(text).split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"


def show_call(call: ToolCall) -> None:
    """Print that a call runs now."""
    console.print(Text.assemble(("  → ", "cyan"), (call.name, "bold cyan"), (f"({arguments(call)})", "cyan")))


def show_result(result: ToolResult) -> None:
    """Print what a call came to."""
    style = "red" if result.is_error else "green"
    took = f"  {result.duration_ms:,.0f} ms" if result.attempts else ""
    console.print(Text.assemble(("  ← ", style), (shorten(result.content), style), (took, "dim")))


def show_error(error: CallboxError) -> None:
    """Print an error with its code and what to do about it, on one line."""
    errors.print(Text(shorten(f"{error.code}: {error}", ERROR_CHARS_MAX), "red"))


def full_arguments(call: ToolCall) -> list[str]:
    """All arguments of a call, one a line, as JSON; what one would not see in it is escaped."""
    given: object = call.arguments
    if not isinstance(given, dict):
        return [_visible(str(given))]
    return [_visible(f"{_literal(name)}: {_literal(value)}") for name, value in cast("JsonObject", given).items()]


def arguments(call: ToolCall) -> str:
    """A call's arguments as one reads them: ``city='Paris', days=3``."""
    given: object = call.arguments
    if not isinstance(given, dict):
        return shorten(str(given))
    return shorten(", ".join(f"{name}={_literal(value)}" for name, value in cast("JsonObject", given).items()))


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _visible(text: str) -> str:
    return "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    return char if char.isprintable() and not _BLANK.match(char) else json.dumps(char)[1:-1]
