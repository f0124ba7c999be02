"""What a person sees. Text from models and tools is data: it must not be able to drive the terminal."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from rich.console import Console
from rich.text import Text

from callbox.calls.call import ToolCall, ToolResult
from callbox.values import JsonObject

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

LINE_CHARS_MAX = 160
"""Characters of a call or a result that are shown on its line."""

# Escape sequences could retitle the window, move the cursor over earlier output, or write the clipboard (OSC 52);
# bidirectional controls could make a call read as another one.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """The text without control characters; line ends and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


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


def arguments(call: ToolCall) -> str:
    """A call's arguments as one reads them: ``city='Paris', days=3``."""
    if not isinstance(call.arguments, dict):
        return shorten(str(call.arguments))
    given = cast("JsonObject", call.arguments)
    return shorten(", ".join(f"{name}={_literal(value)}" for name, value in given.items()))


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
