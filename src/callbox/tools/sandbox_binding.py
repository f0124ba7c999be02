"""A tool that runs in a sandbox: where, and which source goes there. Data only; `gate.runners.sandbox` runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, cast, get_args, get_origin

from callbox.errors import DefinitionError
from callbox.tools.source import FunctionSource
from callbox.tools.tool import FunctionBinding
from callbox.values import JsonObject

TTL_IDLE_S = 30 * 86_400.0
"""Seconds without a call after which a session's sandbox is deleted, unless its place says otherwise."""

_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PREFIX = "sandbox:"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPlace:
    """Where a tool runs: a sandbox of one image, one per session. All tools of a gate on one image share its options.

    Attributes:
        image: Name of an image, like ``"python"``; it needs ``python3``.
        driver: ``"auto"``, ``"gvisor"`` or ``"qemu"``.
        memory_mb: Its memory, MiB.
        idle_s: Seconds without a call until it falls asleep.
        ttl_idle_s: Seconds without a call until it is deleted with all that it holds.
    """

    image: str = "python"
    driver: str = "auto"
    memory_mb: int = 512
    idle_s: float = 15.0
    ttl_idle_s: float = TTL_IDLE_S

    def __post_init__(self) -> None:
        if not _IMAGE.fullmatch(self.image):
            raise DefinitionError(
                f"{self.image!r} cannot be the name of an image.", hint='Write runs_in="sandbox:python".'
            )
        if self.driver not in ("auto", "gvisor", "qemu"):
            raise DefinitionError(f"There is no driver {self.driver!r}.", hint='Use "auto", "gvisor" or "qemu".')
        for name, least in (("memory_mb", 128), ("idle_s", 0.1), ("ttl_idle_s", 1)):
            if not getattr(self, name) >= least:
                raise DefinitionError(
                    f"SandboxPlace({name}={getattr(self, name)!r}) is too little.", hint=f"Use {least} or more."
                )


Place: TypeAlias = str | SandboxPlace | None
"""What ``runs_in=`` takes: None or ``"process"``, ``"sandbox:IMAGE"``, or a `SandboxPlace`."""


@dataclass(frozen=True, slots=True)
class SandboxBinding:
    """A Python function that runs in a sandbox.

    Attributes:
        inner: The function as it would run here.
        place: Where it runs.
        source: What is sent there.
    """

    inner: FunctionBinding
    place: SandboxPlace
    source: FunctionSource
    kind: Literal["sandbox"] = "sandbox"

    @property
    def where(self) -> tuple[str, ...]:
        """The image, and what isolates it."""
        return (self.place.image, self.place.driver)

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself, for who calls the tool as a function: that runs here."""
        return self.inner.function

    @property
    def context_parameter(self) -> str | None:
        """Parameter that takes the `CallContext`."""
        return self.inner.context_parameter

    @property
    def convert(self) -> Callable[[JsonObject], dict[str, Any]] | None:
        """Applied here, before the arguments are sent."""
        return self.inner.convert


def read_place(runs_in: object) -> SandboxPlace | None:
    """Where a tool runs; None: here.

    Raises:
        DefinitionError: There is no such place.
    """
    if runs_in is None or runs_in == "process":
        return None
    if isinstance(runs_in, SandboxPlace):
        return runs_in
    if isinstance(runs_in, str) and runs_in.startswith(_PREFIX):
        return SandboxPlace(image=runs_in.removeprefix(_PREFIX))
    raise DefinitionError(
        f"A tool cannot run in {runs_in!r}.", hint='Use runs_in="process", or runs_in="sandbox:IMAGE".'
    )


def bind_to_sandbox(
    inner: FunctionBinding, place: SandboxPlace, shown: str, hints: Mapping[str, Any]
) -> SandboxBinding:
    """Place a function in a sandbox.

    Raises:
        DefinitionError: Its source, something that it uses, or the type of a parameter cannot go there.
    """
    if inner.needs_instance:
        raise DefinitionError(
            f"Tool {shown!r} is a method, and its object cannot be sent to a sandbox.",
            hint="Write a function; keep state in its module's globals.",
        )
    for name, hint in hints.items():
        stranger = _stranger(hint)
        if stranger is not None:
            raise DefinitionError(
                f"Tool {shown!r}, parameter {name!r}: a sandbox is sent JSON values, not an object of type {stranger}.",
                hint="Use str, int, float, bool, list, dict, Literal or a TypedDict, and make the object in the tool.",
            )
    return SandboxBinding(inner, place, FunctionSource(inner.function, shown))


_JSON_TYPES: tuple[Any, ...] = (str, int, float, bool, list, dict, None, type(None), Any, object)


def _stranger(hint: Any) -> str | None:
    """The first type in a hint whose values are no JSON."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _stranger(get_args(hint)[0])
    if origin is Literal:
        strange = [value for value in get_args(hint) if type(value) not in (str, int, bool, type(None))]
        return repr(strange[0]) if strange else None
    supertype = getattr(hint, "__supertype__", None)
    if supertype is not None:
        return _stranger(supertype)
    if origin is not None:
        is_known = origin is Union or getattr(origin, "__name__", "") in (
            "UnionType", "list", "dict", "Sequence", "Mapping",
        )  # fmt: skip
        if not is_known:
            return str(hint)
        inside = (_stranger(argument) for argument in get_args(hint))
        return next((found for found in inside if found is not None), None)
    if hasattr(hint, "__required_keys__"):  # a TypedDict, of typing or of typing_extensions
        members = cast("dict[str, Any]", hint.__annotations__).values()
        inside = (_stranger(member) for member in members if not isinstance(member, str) and _is_readable(member))
        return next((found for found in inside if found is not None), None)
    if any(hint is plain for plain in _JSON_TYPES):
        return None
    return getattr(hint, "__name__", None) or str(hint)


def _is_readable(member: Any) -> bool:
    """Not a forward reference, `Required` or `NotRequired`, whose meaning is pydantic's to find."""
    return type(member).__name__ != "ForwardRef" and getattr(get_origin(member), "_name", "") not in (
        "Required",
        "NotRequired",
    )
