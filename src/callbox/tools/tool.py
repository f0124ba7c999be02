"""A tool: the contract of one function, as the model, the gate and the runner see it. Data only."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from callbox.errors import ConfigurationError, DefinitionError
from callbox.tools.check import Check, inspect_check
from callbox.tools.schema import compile_schema
from callbox.values import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

Effect: TypeAlias = Literal["read", "write", "destructive", "egress"]
"""What running a tool does to the world. `read` changes nothing; the others run one at a time, in the model's order."""

Approval: TypeAlias = Literal["never", "always"]

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What OpenAI, Anthropic and MCP clients all accept as a function name."""


class Binding(Protocol):
    """How a tool is carried out. The gate picks the runner by the binding's type; the binding itself does no IO."""

    @property
    def kind(self) -> str:
        """The runner's name: ``"function"``, ``"sandbox"``, ``"http"``, ``"external"``."""
        ...

    @property
    def where(self) -> tuple[str, ...]:
        """What else says where it runs: who has approved one place has not approved another."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionBinding:
    """A Python callable.

    Attributes:
        function: What to call, with keyword arguments.
        is_async: It is a coroutine function; otherwise it runs in a thread.
        context_parameter: Parameter that takes the `CallContext`, hidden from the model.
        convert: Turns validated JSON arguments into the Python objects that the hints name
            (enum members, models, dates); None where JSON values are already right.
        needs_instance: It is a method, read from its class: take the tool from an instance instead.
    """

    function: Callable[..., Any]
    is_async: bool
    context_parameter: str | None = None
    convert: Callable[[JsonObject], dict[str, Any]] | None = None
    needs_instance: bool = False
    kind: Literal["function"] = "function"
    where: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalBinding:
    """One function that runs many tools: ``run(name, arguments, context)``; see `Toolset.from_schemas`."""

    run: Callable[..., Any]
    is_async: bool
    kind: Literal["external"] = "external"
    where: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """The contract of one function. Make one with `@tool`, or with `Toolset.from_schemas` and its neighbours.

    Attributes:
        name: 1 to 64 characters of ``[A-Za-z0-9_-]``.
        description: What it does and when to use it, for the model.
        parameters: JSON Schema (Draft 2020-12) of the arguments object.
        binding: How it is carried out; None for a definition that somebody else runs.
        effect: What it does to the world; default ``"write"``, because nobody said that it only reads.
        scopes: What a caller must hold for this tool.
        timeout_s: Seconds of one call; None takes the gate's default.
        concurrency: Calls of this tool that may run at once; None is bounded by the gate only.
        idempotent: Running it twice with the same arguments does no harm.
        retries: Further attempts after a failure that says it is retryable. Needs `idempotent` or effect ``"read"``.
        retry_on: Exceptions that count as retryable besides `ToolError(retryable=True)`.
        approval: ``"always"`` needs a human yes for every call.
        expose_errors: Send the text of an unexpected exception to the model; by default only its type is named,
            because exception texts carry connection strings, paths and other people's data.
        title: A short name for people.
        returns: JSON Schema of the result, where it is known.
        checks: Semantic checks, run in order after validation.
        pinned: Always sent to the model, whatever `context.selection` thinks.
        validator: `parameters`, compiled (see `tools.schema`).
        version: Digest of what the model sees, of the effect, the scopes and `idempotent`, and of where it runs; a
            changed contract is another version.
    """

    name: str
    description: str
    parameters: JsonObject
    binding: Binding | None = None
    effect: Effect = "write"
    scopes: frozenset[str] = frozenset()
    timeout_s: float | None = None
    concurrency: int | None = None
    idempotent: bool = False
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = ()
    approval: Approval = "never"
    expose_errors: bool = False
    title: str | None = None
    returns: JsonObject | None = None
    checks: list[Check] = field(default_factory=list[Check])
    pinned: bool = False
    validator: Draft202012Validator = field(init=False, repr=False)
    version: str = field(init=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DefinitionError(
                f"{self.name!r} is not a tool name: 1 to 64 characters of A-Z a-z 0-9 _ -.",
                hint=f'Use name="{sanitize_name(self.name)}".',
            )
        if self.effect not in ("read", "write", "destructive", "egress"):
            raise DefinitionError(
                f"Tool {self.name!r}: unknown effect {self.effect!r}.",
                hint='Use "read", "write", "destructive" or "egress".',
            )
        for option, is_wrong, least in (
            ("timeout_s", self.timeout_s is not None and self.timeout_s <= 0, "more than 0"),
            ("concurrency", self.concurrency is not None and self.concurrency < 1, "1 or more"),
            ("retries", self.retries < 0, "0 or more"),
        ):
            if is_wrong:
                raise DefinitionError(
                    f"Tool {self.name!r}: {option} is too small.", hint=f"Use {least}, or leave it out."
                )
        if self.retries and not (self.idempotent or self.effect == "read"):
            raise DefinitionError(
                f"Tool {self.name!r} allows retries, but a second run might do its work twice.",
                hint="Say idempotent=True if it is safe, or drop retries=.",
            )
        if not self.description.strip():
            raise DefinitionError(
                f"Tool {self.name!r} has no description, so a model cannot know when to use it.",
                hint="Write a docstring, or pass description=.",
            )
        object.__setattr__(self, "validator", compile_schema(self.parameters, self.name))
        place = None if self.binding is None else [self.binding.kind, *self.binding.where]
        said = [self.name, self.description, self.parameters]
        contract = [*said, self.effect, sorted(self.scopes), self.idempotent, place]
        digest = hashlib.sha256(json.dumps(contract, sort_keys=True, ensure_ascii=True).encode())
        object.__setattr__(self, "version", digest.hexdigest()[:16])

    def __deepcopy__(self, memo: dict[int, Any]) -> Tool:
        """A tool is a definition, not a state: copies of what holds it share it."""
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the Python function itself, as if it had not been decorated."""
        function = getattr(self.binding, "function", None)
        if function is None:
            raise ConfigurationError(f"Tool {self.name!r} is not a Python function; call it through a Gate.")
        return function(*args, **kwargs)

    def __get__(self, instance: object | None, owner: type | None = None) -> Tool:
        """A tool defined in a class body, read from an instance, is that instance's bound tool."""
        binding = self.binding
        if not isinstance(binding, FunctionBinding) or not hasattr(binding.function, "__get__"):
            return self
        plain: Any = binding.function
        if instance is None and not _is_class_method(plain):
            return self
        function = plain.__get__(instance, owner)
        # A shallow copy and not `replace`, which would check and compile everything again on every attribute access.
        bound = copy(self)
        object.__setattr__(bound, "binding", replace(binding, function=function, needs_instance=False))
        object.__setattr__(bound, "checks", [check.bind(instance, owner) for check in self.checks])
        return bound

    def renamed(self, name: str) -> Tool:
        """The same tool under another name; what runs it still hears the old one."""
        binding = self.binding
        if isinstance(binding, ExternalBinding):
            run, own = binding.run, self.name

            def under_old_name(_: str, arguments: JsonObject, context: Any) -> Any:
                return run(own, arguments, context)

            binding = replace(binding, run=under_old_name)
        return replace(self, name=name, binding=binding)

    def check(self, function: Callable[..., Awaitable[str | None] | str | None]) -> Callable[..., Any]:
        """Decorator: add a semantic check. It takes what it needs of the tool's parameters, and a `CallContext`."""
        is_method = isinstance(self.binding, FunctionBinding) and self.binding.needs_instance
        arguments = self.parameters.get("properties", {})
        self.checks.append(inspect_check(function, self.name, arguments, is_method=is_method))
        return function

    @property
    def reads_only(self) -> bool:
        """It changes nothing, so it may run beside other calls and start early."""
        return self.effect == "read"


def _is_class_method(function: Any) -> bool:
    return isinstance(function, classmethod)


def sanitize_name(name: str) -> str:
    """The nearest valid tool name: ``"math.factorial!"`` becomes ``"math_factorial"``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64] or "tool"


def external_binding(run: Callable[..., Any]) -> ExternalBinding:
    """A binding to ``run(name, arguments)`` or ``run(name, arguments, context)``, sync or async.

    Raises:
        DefinitionError: It can be called in neither way.
    """
    parameters = inspect.signature(run).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes = 3 if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters) else 0
    takes = takes or sum(each.kind in positional for each in parameters)
    call = run if inspect.isroutine(run) or not hasattr(run, "__call__") else run.__call__  # noqa: B004
    is_async = inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(call)
    if takes == 2:

        def without_context(name: str, arguments: JsonObject, _: Any) -> Any:
            return run(name, arguments)

        return ExternalBinding(without_context, is_async)
    if takes < 2:
        raise DefinitionError(
            f"{run!r} cannot run tools.", hint="Write def run(name, arguments, context), sync or async."
        )
    return ExternalBinding(run, is_async)
