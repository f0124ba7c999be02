"""Making a tool from a Python function: type hints and docstring in, name, description and JSON Schema out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, overload

from callbox.errors import DefinitionError
from callbox.tools.conversion import Convert, model_converter, plain_coercion, plain_converter, with_defaults
from callbox.tools.docstring import read_docstring
from callbox.tools.parameters import (
    Parameters,
    collect,
    described,
    docstring_of,
    enclosing_scope,
    is_async,
    is_field,
    is_method,
    metadata_of,
    underlying,
)
from callbox.tools.sandbox_binding import Place, SandboxBinding, bind_to_sandbox, read_place
from callbox.tools.tool import Approval, Effect, FunctionBinding, Tool
from callbox.values import JsonObject


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Effect = "write",
    scopes: Collection[str] = (),
    timeout_s: float | None = None,
    concurrency: int | None = None,
    idempotent: bool = False,
    retries: int = 0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
    approval: Approval = "never",
    expose_errors: bool = False,
    title: str | None = None,
    pinned: bool = False,
    runs_in: Place = None,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
    scopes: Collection[str] = (),
    runs_in: Place = None,
    **options: Any,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a `Tool` of a function, as ``@tool`` or ``@tool(effect="read", ...)``; it is still called like the function.

    The schema comes from the type hints; descriptions come from the docstring (Google, NumPy or Sphinx style), from
    ``Annotated[T, "..."]`` or from ``Annotated[T, Field(description=...)]``. A parameter annotated with `CallContext`
    is filled in by the gate and hidden from the model. On a method, the tool is bound when it is read from an
    instance.

    Args:
        function: A function, sync or async; a method; a `functools.partial`; an object with ``__call__``.
        name: Default: the function's.
        description: Default: the docstring's summary and body.
        retry_on: One exception type or several.
        scopes: What a caller must hold.
        runs_in: Where it runs: None or ``"process"`` is here; ``"sandbox:python"``, or a `SandboxPlace`, is a sandbox
            of that image, one per session (docs/sandboxes.md, "Tools in sandboxes").
        **options: The other attributes of `Tool`.

    Raises:
        DefinitionError: No valid tool can be made; the message says what to change.
    """

    place = read_place(runs_in)

    def make(target: Callable[..., Any]) -> Tool:
        read = read_function(target, name)
        binding: FunctionBinding | SandboxBinding = read.binding
        if place is not None:
            binding = bind_to_sandbox(read.binding, place, read.name, read.hints)
        return Tool(
            name=read.name,
            description=read.description if description is None else inspect.cleandoc(description),
            parameters=read.parameters,
            binding=binding,
            scopes=frozenset((scopes,) if isinstance(scopes, str) else scopes),
            retry_on=retry_on if isinstance(retry_on, tuple) else (retry_on,),
            **options,
        )

    return make if function is None else make(function)


@dataclass(frozen=True, slots=True)
class ReadFunction:
    """What a function says about itself, as far as a tool needs it."""

    name: str
    description: str
    parameters: JsonObject
    binding: FunctionBinding
    hints: Mapping[str, Any]


def read_function(target: Any, name: str | None = None) -> ReadFunction:
    """Read name, description and schema from a function's signature, hints and docstring.

    Raises:
        DefinitionError: It has parameters that a model cannot fill, hints that have no JSON form, ...
    """
    plain, shown = underlying(target, name)
    scope = enclosing_scope(plain)
    found = collect(target, plain, shown, scope)
    doc = read_docstring(docstring_of(target, plain))
    _check_documented(doc.parameters, found, plain, shown)
    for parameter, text in doc.parameters.items():
        if parameter in found.hints and text:
            found.hints[parameter] = described(found.hints[parameter], text)
    parameters, convert = _schema_and_converter(found, scope, shown)
    binding = FunctionBinding(
        target,
        is_async=is_async(target),
        context_parameter=found.context,
        convert=convert,
        needs_instance=is_method(target, plain),
    )
    return ReadFunction(shown, doc.description, parameters, binding, found.hints)


def _check_documented(documented: Collection[str], found: Parameters, plain: Any, shown: str) -> None:
    """Refuse the description of a parameter that does not exist.

    It is a rename that forgot the docstring: the description would be lost without a word, and the model would work
    without it. An error, because a warning at import is read by nobody.
    """
    known = {*found.hints, *inspect.signature(plain).parameters}
    for name in documented:
        if name not in known:
            raise DefinitionError(
                f"The docstring of tool {shown!r} describes a parameter {name!r}, which it does not have.",
                hint=f"It has: {', '.join(found.hints) or 'none'}.",
            )


def _schema_and_converter(found: Parameters, scope: Mapping[str, Any], shown: str) -> tuple[JsonObject, Convert | None]:
    from callbox.tools.hints import arguments_adapter, arguments_schema, json_default

    adapter = arguments_adapter(found.hints, frozenset(found.required), scope, shown)
    schema = arguments_schema(adapter, found.hints, shown)
    for name, default in found.defaults.items():
        is_json, value = json_default(default)
        key = next((item.alias for item in metadata_of(found.hints[name]) if is_field(item) and item.alias), name)
        if is_json:
            schema["properties"][key]["default"] = value
    coercions = {name: plain_coercion(hint) for name, hint in found.hints.items()}
    convert: Convert | None = None
    if not all(is_plain for is_plain, _ in coercions.values()):
        convert = model_converter(adapter)
    elif any(coerce for _, coerce in coercions.values()):
        convert = plain_converter({name: coerce for name, (_, coerce) in coercions.items() if coerce})
    if found.factories:
        convert = with_defaults(convert, found.factories)
    return schema, convert
