"""Making a tool from a Python function: type hints and docstring in, name, description and JSON Schema out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from callbox.tools.tool import Tool


def tool(function: Callable[..., Any]) -> Tool:
    """Replaced by the TOOLS helper."""
    raise TypeError(function)
