"""A named group of tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Unpack

from callbox.errors import ConfigurationError, DefinitionError
from callbox.tools.schema_tree import close_objects
from callbox.tools.signature import tool as make_tool
from callbox.tools.tool import Effect, FunctionBinding, Tool, external_binding
from callbox.tools.vendor_definitions import read_definitions
from callbox.values import JsonObject

if TYPE_CHECKING:
    from callbox.tools.openapi import OpenApiOptions

# Dialects live four floors above and may not be imported from here; `callbox/__init__.py`, which stands above all
# floors, puts their renderer in. See docs/decisions/0003-composition-root.md.
_define: Callable[..., Any] | None = None


def install_definitions(define: Callable[..., Any]) -> None:
    """Composition root only: how `Toolset.definitions` reaches the dialects: ``define(dialect, tools, strict)``."""
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

    def __init__(self, tools: Tool | Iterable[Tool | Callable[..., Any]] = (), *, name: str = "tools") -> None:
        self.name = name
        self._tools: dict[str, Tool] = {}
        for item in (tools,) if isinstance(tools, Tool) else tools:
            made = item if isinstance(item, Tool) else make_tool(item)
            if made.name in self._tools:
                raise DefinitionError(f"Two tools are named {made.name!r}.", hint="Rename one with @tool(name=...).")
            if isinstance(made.binding, FunctionBinding) and made.binding.needs_instance:
                raise DefinitionError(
                    f"Tool {made.name!r} is a method without its object.",
                    hint="Take it from an instance: Toolset([service.method]), not Toolset([Service.method]).",
                )
            self._tools[made.name] = made

    @classmethod
    def from_schemas(
        cls,
        definitions: Iterable[Any],
        run: Callable[..., Any] | None = None,
        *,
        close: bool = True,
        effect: Effect | None = None,
        name: str = "tools",
    ) -> Toolset:
        """Tools from definitions as a vendor writes them, with one function that runs them all.

        Args:
            definitions: In the shape of OpenAI Chat Completions, OpenAI Responses, Anthropic, Gemini or MCP, or plain
                ``{"name", "description", "parameters"}``; shapes may be mixed. SDK objects are fine.
            run: ``run(name, arguments)`` or ``run(name, arguments, context)``, sync or async; None for definitions
                that somebody else runs.
            close: Forbid properties that a schema does not list, where it says nothing about them: vendors' definitions
                rarely say it, and a misspelt argument would go unnoticed.
            effect: Of all of them. Default: what MCP's annotations say, else ``"write"``.
            name: The toolset's.

        Raises:
            DefinitionError: One of them is no valid tool.
        """
        binding = None if run is None else external_binding(run)
        tools = [
            Tool(
                read.name,
                read.description,
                close_objects(read.parameters) if close else read.parameters,
                binding,
                effect=effect or read.effect or "write",
                idempotent=read.idempotent,
                title=read.title,
                returns=read.returns,
            )
            for read in read_definitions(definitions)
        ]
        return cls(tools, name=name)

    @classmethod
    def from_openapi(
        cls, document: JsonObject | str, *, name: str = "tools", **options: Unpack[OpenApiOptions]
    ) -> Toolset:
        """Tools from an OpenAPI 3.0 or 3.1 document: each operation is one, run over HTTP.

        Args:
            document: Parsed, or as JSON text. Nothing is fetched: remote references are refused.
            name: The toolset's.
            **options: See `OpenApiOptions`: ``base_url``, ``auth``, ``include``, ``exclude``, ``tags``, ``headers``.

        Raises:
            DefinitionError: The document, or one of its operations, cannot be made into a tool.
            ConfigurationError: `auth` or `base_url` do not fit the document.
        """
        from callbox.tools.openapi import openapi_tools  # costs a tenth of `import callbox`, and few need it

        return cls(openapi_tools(document, **options), name=name)

    def only(self, *names: str) -> Toolset:
        """Just these tools, in this order.

        Raises:
            ConfigurationError: There is no tool of that name.
        """
        return Toolset([self._known(name) for name in names], name=self.name)

    def without(self, *names: str) -> Toolset:
        """All but these tools.

        Raises:
            ConfigurationError: There is no tool of that name.
        """
        left_out = {self._known(name).name for name in names}
        return self.filter(lambda tool: tool.name not in left_out)

    def filter(self, keep: Callable[[Tool], bool]) -> Toolset:
        """The tools that `keep` says yes to: ``toolset.filter(lambda tool: tool.effect == "read")``."""
        return Toolset([tool for tool in self if keep(tool)], name=self.name)

    def prefixed(self, prefix: str) -> Toolset:
        """The same tools under longer names, so that two toolsets fit side by side: ``crm.prefixed("crm_")``."""
        return Toolset([tool.renamed(prefix + tool.name) for tool in self], name=self.name)

    def _known(self, name: str) -> Tool:
        found = self._tools.get(name)
        if found is None:
            raise ConfigurationError(
                f"There is no tool {name!r}.", hint=f"There are: {', '.join(self._tools) or 'none'}."
            )
        return found

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
