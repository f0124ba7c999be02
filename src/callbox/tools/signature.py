"""Making a tool from a Python function: type hints and docstring in, name, description and JSON Schema out."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Union, cast, get_args, get_origin, get_type_hints, overload

from callbox.errors import DefinitionError
from callbox.tools.call_context import CallContext
from callbox.tools.conversion import Convert, model_converter, plain_coercion, plain_converter, with_defaults
from callbox.tools.docstring import read_docstring
from callbox.tools.tool import Approval, Effect, FunctionBinding, Tool
from callbox.values import JsonObject

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_EMPTY: Any = inspect.Parameter.empty


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
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
    scopes: Collection[str] = (),
    **options: Any,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a `Tool` of a function; as ``@tool`` or ``@tool(effect="read", ...)``. The tool is still called like the function.

    The schema comes from the type hints; descriptions come from the docstring (Google, NumPy or Sphinx style), from
    ``Annotated[T, "..."]`` or from ``Annotated[T, Field(description=...)]``. A parameter annotated with `CallContext`
    is filled in by the gate and hidden from the model. On a method, the tool is bound when it is read from an instance.

    Args:
        function: A function, sync or async; a method; a `functools.partial`; an object with ``__call__``.
        name: Default: the function's.
        description: Default: the docstring's summary and body.
        retry_on: One exception type or several.
        scopes: What a caller must hold.
        **options: The other attributes of `Tool`.

    Raises:
        DefinitionError: No valid tool can be made; the message says what to change.
    """

    def make(target: Callable[..., Any]) -> Tool:
        read = read_function(target, name)
        return Tool(
            name=read.name,
            description=read.description if description is None else inspect.cleandoc(description),
            parameters=read.parameters,
            binding=read.binding,
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


@dataclass(slots=True)
class _Parameters:
    """The parameters of a function that the model may fill, while they are collected."""

    hints: dict[str, Any] = field(default_factory=dict[str, Any])
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    factories: dict[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])
    required: set[str] = field(default_factory=set[str])
    context: str | None = None


def read_function(target: Any, name: str | None = None) -> ReadFunction:
    """Read name, description and schema from a function's signature, hints and docstring.

    Raises:
        DefinitionError: It has parameters that a model cannot fill, hints that have no JSON form, ...
    """
    plain, shown = _underlying(target, name)
    scope = _enclosing_scope(plain)
    found = _collect(target, plain, shown, scope)
    doc = read_docstring(_docstring_of(target, plain))
    _check_documented(doc.parameters, found, plain, shown)
    for parameter, text in doc.parameters.items():
        if parameter in found.hints and text:
            found.hints[parameter] = _described(found.hints[parameter], text)
    parameters, convert = _schema_and_converter(found, scope, shown)
    binding = FunctionBinding(
        target,
        is_async=_is_async(target),
        context_parameter=found.context,
        convert=convert,
        needs_instance=_is_method(target, plain),
    )
    return ReadFunction(shown, doc.description, parameters, binding)


def _underlying(target: Any, name: str | None) -> tuple[types.FunctionType, str]:
    """The Python function behind a callable, whose hints and docstring count, and the tool's name."""
    here = target
    while not isinstance(here, types.FunctionType):
        if isinstance(here, functools.partial):
            here = cast("functools.partial[Any]", here).func
        elif isinstance(here, staticmethod | classmethod | types.MethodType):
            here = cast("Any", here).__func__
        elif isinstance(here, Tool):
            raise DefinitionError(f"{here.name!r} is a tool already.", hint="Use @tool once, outermost.")
        elif isinstance(here, type) or not callable(here):
            raise DefinitionError(
                f"{here!r} is not a function.",
                hint="Write a function around it, and decorate that with @tool.",
            )
        else:
            call = getattr(cast("Any", type(here)), "__call__", None)  # noqa: B004 - its hints are wanted, not whether it is there
            if not isinstance(call, types.FunctionType):
                raise DefinitionError(
                    f"{here!r} is built in and has no type hints.",
                    hint="Write a function with hints around it.",
                )
            name = name or _snake_case(type(cast("Any", here)).__name__)
            here = call
    shown = name or here.__name__
    if name is None and shown == "<lambda>":
        raise DefinitionError("A lambda has no name, hints or docstring.", hint="Write a function with def.")
    return cast("types.FunctionType", inspect.unwrap(here)), shown


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _docstring_of(target: Any, plain: types.FunctionType) -> str | None:
    if plain.__doc__ or isinstance(target, types.FunctionType | types.MethodType | functools.partial):
        return plain.__doc__
    return cast("str | None", target.__doc__)  # of an object with __call__: its class's


def _is_method(target: Any, plain: types.FunctionType) -> bool:
    """Defined in a class body, where its first parameter waits for an instance."""
    if isinstance(target, classmethod):
        return True
    scope = plain.__qualname__.rpartition(".")[0]
    return isinstance(target, types.FunctionType) and bool(scope) and not scope.endswith("<locals>")


def _is_async(target: Any) -> bool:
    inner = target.__func__ if isinstance(target, staticmethod | classmethod) else cast("Any", target)
    if isinstance(inner, types.FunctionType | types.MethodType | functools.partial):
        return inspect.iscoroutinefunction(inner)
    return inspect.iscoroutinefunction(inner.__call__)


def _enclosing_scope(function: types.FunctionType) -> dict[str, Any]:
    """Names of the functions and classes that a function is defined in, while they still run: annotations that are
    strings (``from __future__ import annotations``) may use them. Lexical: frames are matched by qualified name."""
    parts = function.__qualname__.split(".")[:-1]
    outer = {".".join(parts[: end + 1]) for end in range(len(parts)) if parts[end] != "<locals>"}
    scopes: list[Mapping[str, Any]] = []
    frame: types.FrameType | None = sys._getframe() if outer else None  # noqa: SLF001 - the documented way to a frame
    while frame is not None:
        if frame.f_code.co_qualname in outer and frame.f_globals is function.__globals__:
            scopes.append(frame.f_locals)
        frame = frame.f_back
    names: dict[str, Any] = {}
    for scope in reversed(scopes):
        names.update(scope)
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[variable] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    names.update({item.__name__: item for item in getattr(function, "__type_params__", ())})
    return names


def _collect(target: Any, plain: types.FunctionType, shown: str, scope: Mapping[str, Any]) -> _Parameters:
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise DefinitionError(
            f"Tool {shown!r} yields, but a call has one result.",
            hint="Return a value; report progress on CallContext.",
        )
    signature = inspect.signature(target.__func__ if isinstance(target, classmethod) else target)
    parameters = list(signature.parameters.values())
    if _is_method(target, plain):
        parameters = parameters[1:]
    bound = _bound_keywords(target)
    found = _Parameters()
    for parameter in parameters:
        if parameter.name in bound:
            continue  # the developer has filled it, so it is not the model's
        hint = _hint(plain, parameter, shown, scope)
        if _is_context(hint):
            found.context = parameter.name
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            _add_unpacked(found, hint, parameter.name, shown, scope)
        elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise DefinitionError(
                f"Tool {shown!r}, parameter {parameter}: a model names every argument.",
                hint=f"Use {parameter.name}: list[...] instead of *{parameter.name}."
                if parameter.kind is inspect.Parameter.VAR_POSITIONAL
                else "Remove the / from the signature.",
            )
        else:
            _add(found, parameter.name, hint, parameter.default)
    return found


def _bound_keywords(target: Any) -> set[str]:
    names: set[str] = set()
    while isinstance(target, functools.partial):
        partial = cast("functools.partial[Any]", target)
        names |= set(partial.keywords)
        target = partial.func
    return names


def _hint(
    plain: types.FunctionType, parameter: inspect.Parameter, shown: str, scope: Mapping[str, Any]
) -> Any:
    if parameter.annotation is _EMPTY:
        return Any
    holder = types.SimpleNamespace(__annotations__={"hint": parameter.annotation})
    local = dict(scope)
    try:
        return get_type_hints(holder, plain.__globals__, local, include_extras=True)["hint"]
    except NameError as error:
        # `CallContext` is often imported for type checkers only.
        if error.name == "CallContext" and "CallContext" not in local:
            local["CallContext"] = CallContext
            return get_type_hints(holder, plain.__globals__, local, include_extras=True)["hint"]
        raise DefinitionError(
            f"Tool {shown!r}, parameter {parameter.name!r}: {error.name!r} in its type hint is not defined.",
            hint=f"Import or define {error.name} outside of `if TYPE_CHECKING:`, before the tool.",
        ) from None
    except (TypeError, SyntaxError, AttributeError) as error:
        raise DefinitionError(
            f"Tool {shown!r}, parameter {parameter.name!r}: its type hint is not a type. {error}",
            hint="Use a type, as in `city: str`.",
        ) from error


def _is_context(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType, Annotated):
        return any(argument is CallContext for argument in get_args(hint))
    return hint is CallContext


def _add(found: _Parameters, name: str, hint: Any, default: Any) -> None:
    if _is_field(default):
        hint, default = _from_field(found, name, hint, cast("FieldInfo", default))
    if default is None and not _takes_none(hint):
        hint = Union[hint, None]  # noqa: UP007 - `x: int = None` says so, and `hint` is a value here
    if default is _EMPTY and name not in found.factories:
        found.required.add(name)
    elif default is not _EMPTY:
        found.defaults[name] = default
    found.hints[name] = _with_text(hint)


def _is_field(value: Any) -> bool:
    return type(value).__name__ == "FieldInfo" and type(value).__module__.startswith("pydantic")


def _from_field(found: _Parameters, name: str, hint: Any, info: FieldInfo) -> tuple[Any, Any]:
    """``x: int = Field(3, ge=1)``: Python would hand the Field itself to the function, so the gate fills the default."""
    from pydantic import Field

    rest = Field(
        description=info.description,
        alias=info.alias,
        discriminator=info.discriminator,
        json_schema_extra=info.json_schema_extra,
    )
    hint = Annotated[(hint, *info.metadata, rest)]
    if info.is_required():
        return hint, _EMPTY
    found.factories[name] = functools.partial(info.get_default, call_default_factory=True, validated_data={})
    return hint, info.default if info.default_factory is None else _EMPTY


def _takes_none(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _takes_none(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return any(_takes_none(member) for member in get_args(hint))
    return hint in (None, type(None), Any, object) or None in get_args(hint)


def _metadata(hint: Any) -> tuple[Any, ...]:
    return tuple(hint.__metadata__) if get_origin(hint) is Annotated else ()


def _with_text(hint: Any) -> Any:
    """``Annotated[str, "The city."]`` and ``Doc("The city.")`` describe a parameter, as ``Field(description=...)`` does."""
    texts = [
        item if isinstance(item, str) else getattr(item, "documentation", None) for item in _metadata(hint)
    ]
    text = next((text for text in texts if isinstance(text, str)), None)
    return hint if text is None else _described(hint, text)


def _described(hint: Any, text: str) -> Any:
    from pydantic import Field

    if any(_is_field(item) and item.description for item in _metadata(hint)):
        return hint
    return Annotated[hint, Field(description=text)]


def _add_unpacked(found: _Parameters, hint: Any, name: str, shown: str, scope: Mapping[str, Any]) -> None:
    """``**options: Unpack[Options]``: the members of the TypedDict are parameters of their own."""
    unpacked: Any = (
        get_args(hint)[0]
        if getattr(get_origin(hint), "__name__", "") == "Unpack" or _is_unpack(hint)
        else None
    )
    if unpacked is None or not hasattr(unpacked, "__required_keys__"):
        raise DefinitionError(
            f"Tool {shown!r} takes **{name}, so a model cannot know its parameters.",
            hint=f"Name them, or use **{name}: Unpack[SomeTypedDict].",
        )
    hints = get_type_hints(unpacked, localns=dict(scope), include_extras=True)
    for key, member in hints.items():
        while getattr(get_origin(member), "__name__", getattr(get_origin(member), "_name", "")) in (
            "Required",
            "NotRequired",
        ):
            member = get_args(member)[0]
        found.hints[key] = _with_text(member)
        if key in unpacked.__required_keys__:
            found.required.add(key)


def _is_unpack(hint: Any) -> bool:
    return getattr(get_origin(hint), "_name", "") == "Unpack"


def _check_documented(
    documented: Mapping[str, str], found: _Parameters, plain: types.FunctionType, shown: str
) -> None:
    """A documented parameter that does not exist is a rename that forgot the docstring: the description would be lost
    without a word, and the model would work without it. An error, because a warning at import is read by nobody."""
    known = {*found.hints, *inspect.signature(plain).parameters}
    for name in documented:
        if name not in known:
            raise DefinitionError(
                f"The docstring of tool {shown!r} describes a parameter {name!r}, which it does not have.",
                hint=f"It has: {', '.join(found.hints) or 'none'}.",
            )


def _schema_and_converter(
    found: _Parameters, scope: Mapping[str, Any], shown: str
) -> tuple[JsonObject, Convert | None]:
    from callbox.tools.hints import arguments_adapter, arguments_schema, json_default

    adapter = arguments_adapter(found.hints, frozenset(found.required), scope, shown)
    schema = arguments_schema(adapter, found.hints, shown)
    for name, default in found.defaults.items():
        is_json, value = json_default(default)
        key = next(
            (item.alias for item in _metadata(found.hints[name]) if _is_field(item) and item.alias), name
        )
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
