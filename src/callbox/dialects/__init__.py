"""Dialects: one vendor's wire format each, both directions, pure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from callbox.errors import ConfigurationError

if TYPE_CHECKING:
    from callbox.dialects.dialect import Dialect

_MODULES = {
    "openai": "openai_chat",
    "openai-responses": "openai_responses",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "mcp": "mcp",
}
_loaded: dict[str, Dialect] = {}

NAMES = tuple(_MODULES)


def find_dialect(name: str) -> Dialect:
    """The dialect of that name; loaded when first asked for.

    Raises:
        ConfigurationError: There is no such dialect.
    """
    found = _loaded.get(name)
    if found is None:
        module = _MODULES.get(name)
        if module is None:
            raise ConfigurationError(f"Unknown dialect {name!r}.", hint=f"Use one of: {', '.join(NAMES)}.")
        found = _loaded[name] = import_module(f"callbox.dialects.{module}").DIALECT
    return found
