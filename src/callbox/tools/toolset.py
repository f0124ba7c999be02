"""A named group of tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from callbox.errors import DefinitionError
from callbox.tools.signature import tool as make_tool
from callbox.tools.tool import FunctionBinding, Tool

# Dialects live four floors above and may not be imported from here; `callbox/__init__.py`, which stands above all
# floors, puts their renderer in. See docs/decisions/0003-composition-root.md.
_define: Callable[..., Any] | None = None


def install_definitions(define: Callable[..., Any]) -> None:
    """Composition root only: how `Toolset.definitions` reaches the dialects. ``define(dialect_name, tools, strict)``."""
    global _define  # noqa: PLW0603 - the one seam between the floors, set once at import
    _define = define


class Toolset:
    """An ordered group of tools with unique names.

    Args:
        tools: Tools, or plain functions (which become tools as by `@tool`).
        name: For people and logs.

    Raises:
        DefinitionError: Two tools have one name, or a function makes no valid tool.
    """

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = (), *, name: str = "tools") -> None:
        self.name = name
        self._tools: dict[str, Tool] = {}
        for item in tools:
            made = item if isinstance(item, Tool) else make_tool(item)
            if made.name in self._tools:
                raise DefinitionError(
                    f"Two tools are named {made.name!r}.", hint="Rename one with @tool(name=...)."
                )
            if isinstance(made.binding, FunctionBinding) and made.binding.needs_instance:
                raise DefinitionError(
                    f"Tool {made.name!r} is a method without its object.",
                    hint="Take it from an instance: Toolset([service.method]), not Toolset([Service.method]).",
                )
            self._tools[made.name] = made

    def get(self, name: str) -> Tool | None:
        """The tool of that name, or None."""
        return self._tools.get(name)

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __add__(self, other: Toolset) -> Toolset:
        return Toolset([*self, *other], name=self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self._tools)

    def definitions(self, dialect: str, *, strict: bool = False) -> Any:
        """What goes into a request's ``tools`` for that vendor: a list, with `.losses` (see `dialects.Definitions`)."""
        assert _define is not None
        return _define(dialect, tuple(self._tools.values()), strict)
