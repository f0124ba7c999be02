"""The parameters of a Python function that a model may fill: their types, defaults and descriptions."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NotRequired,
    Required,
    Union,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from callbox.errors import DefinitionError
from callbox.tools.call_context import CallContext
from callbox.tools.tool import Tool

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_EMPTY: Any = inspect.Parameter.empty


@dataclass(slots=True)
class Parameters:
    """The parameters of a function that the model may fill, while they are collected."""

    hints: dict[str, Any] = field(default_factory=dict[str, Any])
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    factories: dict[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])
    required: set[str] = field(default_factory=set[str])
    context: str | None = None


def underlying(target: Any, name: str | None) -> tuple[types.FunctionType, str]:
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
            call = inspect.getattr_static(cast("Any", type(here)), "__call__", None)
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


def docstring_of(target: Any, plain: types.FunctionType) -> str | None:
    """The function's docstring; for an object with ``__call__`` its class's, if that method has none."""
    if plain.__doc__ or isinstance(target, types.FunctionType | types.MethodType | functools.partial):
        return plain.__doc__
    return cast("str | None", target.__doc__)


def is_method(target: Any, plain: types.FunctionType) -> bool:
    """Defined in a class body, where its first parameter waits for an instance."""
    if isinstance(target, classmethod):
        return True
    scope = plain.__qualname__.rpartition(".")[0]
    if not isinstance(target, types.FunctionType) or not scope or scope.endswith("<locals>"):
        return False
    if any(frame.f_code.co_qualname == scope for frame in _frames(plain)):
        return True  # the class body still runs: this is the decorator in it
    # Read from a finished class, a static method is a plain function as well.
    return next(iter(inspect.signature(plain).parameters), "") == "self"


def is_async(target: Any) -> bool:
    """Calling it gives a coroutine."""
    inner = _unwrapped(target)
    if isinstance(inner, types.FunctionType | types.MethodType | functools.partial):
        return inspect.iscoroutinefunction(cast("Any", inner))
    return inspect.iscoroutinefunction(inner.__call__)


def _unwrapped(target: Any) -> Any:
    return cast("Any", target).__func__ if isinstance(target, staticmethod | classmethod) else target


def _frames(function: types.FunctionType) -> Iterator[types.FrameType]:
    """The frames of the function's own module that are running."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals is function.__globals__:
            yield frame
        frame = frame.f_back


def enclosing_scope(function: types.FunctionType) -> dict[str, Any]:
    """Names of the functions and classes that a function is defined in, while those still run.

    Annotations that are strings (``from __future__ import annotations``) may use them. Lexical: frames are matched by
    qualified name, so that a caller's names are never taken for an enclosing function's.
    """
    parts = function.__qualname__.split(".")[:-1]
    outer = {".".join(parts[: end + 1]) for end in range(len(parts)) if parts[end] != "<locals>"}
    scopes = [frame.f_locals for frame in _frames(function) if frame.f_code.co_qualname in outer]
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


def collect(target: Any, plain: types.FunctionType, shown: str, scope: Mapping[str, Any]) -> Parameters:
    """Collect what a model may fill, and the parameter that takes the `CallContext`.

    Args:
        target: What will be called.
        plain: The function behind it, see `underlying`.
        shown: The tool's name.
        scope: See `enclosing_scope`.

    Raises:
        DefinitionError: A parameter cannot be filled by name, or its hint cannot be read.
    """
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise DefinitionError(
            f"Tool {shown!r} yields, but a call has one result.",
            hint="Return a value; report progress on CallContext.",
        )
    parameters = list(inspect.signature(_unwrapped(target)).parameters.values())
    if is_method(target, plain):
        parameters = parameters[1:]
    bound = _bound_keywords(target)
    found = Parameters()
    for parameter in parameters:
        if parameter.name in bound:
            continue  # the developer has filled it, so it is not the model's
        hint = _hint(plain, parameter, shown, scope)
        if _is_context(hint):
            found.context = parameter.name
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            _add_unpacked(found, hint, parameter.name, shown, scope)
        elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            starred = parameter.kind is inspect.Parameter.VAR_POSITIONAL
            name = parameter.name
            raise DefinitionError(
                f"Tool {shown!r}, parameter {name!r}: a model can only pass arguments by name.",
                hint=f"Use {name}: list[...] for *{name}." if starred else "Remove the / from the signature.",
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


def _hint(plain: types.FunctionType, parameter: inspect.Parameter, shown: str, scope: Mapping[str, Any]) -> Any:
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


def _add(found: Parameters, name: str, hint: Any, default: Any) -> None:
    if is_field(default):
        hint, default = _from_field(found, name, hint, cast("FieldInfo", default))
    if default is None and not _takes_none(hint):
        hint = _or_none(hint)
    if default is _EMPTY and name not in found.factories:
        found.required.add(name)
    elif default is not _EMPTY:
        found.defaults[name] = default
    found.hints[name] = _with_text(hint)


def is_field(value: Any) -> bool:
    """It is what pydantic's ``Field()`` returns; asked without importing pydantic."""
    return type(value).__name__ == "FieldInfo" and type(value).__module__.startswith("pydantic")


def _from_field(found: Parameters, name: str, hint: Any, info: FieldInfo) -> tuple[Any, Any]:
    """Take apart ``x: int = Field(3, ge=1)``: Python would hand the Field to the function, so the gate fills it."""
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


def _or_none(hint: Any) -> Any:
    """What ``x: int = None`` means; descriptions stay outermost, where the model looks for them."""
    if get_origin(hint) is Annotated:
        return Annotated[(_or_none(get_args(hint)[0]), *hint.__metadata__)]
    return Union[hint, None]  # noqa: UP007 - `hint` is a value here, and may be a string


def _takes_none(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _takes_none(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return any(_takes_none(member) for member in get_args(hint))
    return hint in (None, type(None), Any, object) or None in get_args(hint)


def metadata_of(hint: Any) -> tuple[Any, ...]:
    """What `Annotated` adds to a type."""
    return tuple(hint.__metadata__) if get_origin(hint) is Annotated else ()


def _with_text(hint: Any) -> Any:
    """``Annotated[str, "The city."]`` and ``Doc("The city.")`` describe as ``Field(description=...)`` does."""
    texts = [item if isinstance(item, str) else getattr(item, "documentation", None) for item in metadata_of(hint)]
    text = next((text for text in texts if isinstance(text, str)), None)
    return hint if text is None else described(hint, text)


def described(hint: Any, text: str) -> Any:
    """The hint with a description, unless it has one."""
    from pydantic import Field

    if any(is_field(item) and item.description for item in metadata_of(hint)):
        return hint
    return Annotated[hint, Field(description=text)]


def _add_unpacked(found: Parameters, hint: Any, name: str, shown: str, scope: Mapping[str, Any]) -> None:
    """``**options: Unpack[Options]``: the members of the TypedDict are parameters of their own."""
    unpacked: Any = get_args(hint)[0] if get_origin(hint) is Unpack else None
    if unpacked is None or not hasattr(unpacked, "__required_keys__"):
        raise DefinitionError(
            f"Tool {shown!r} takes **{name}, so a model cannot know its parameters.",
            hint=f"Name them, or use **{name}: Unpack[SomeTypedDict].",
        )
    hints = get_type_hints(unpacked, localns=dict(scope), include_extras=True)
    for key, member in hints.items():
        required = key in unpacked.__required_keys__
        while get_origin(member) in (Required, NotRequired):
            # `__required_keys__` does not see these where annotations are strings.
            required = get_origin(member) is Required
            member = get_args(member)[0]
        found.hints[key] = _with_text(member)
        if required:
            found.required.add(key)
