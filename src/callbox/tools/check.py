"""Semantic checks: does this id exist, may this user touch it?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from callbox.errors import DefinitionError
from callbox.tools.call_context import context_parameter


@dataclass(frozen=True, slots=True)
class Check:
    """A function of some of a tool's arguments that says what is wrong with them.

    It returns None when all is well, or a sentence for the model, or raises `errors.Rejected`.

    Attributes:
        function: What to call, with keyword arguments.
        is_async: It is a coroutine function.
        parameters: The arguments it takes, by name.
        optional: Those of them that may be absent.
        context_parameter: Parameter that takes the `CallContext`.
        needs_instance: It is a method of the tool's class, not bound yet.
    """

    function: Callable[..., Any]
    is_async: bool
    parameters: tuple[str, ...]
    optional: frozenset[str] = frozenset()
    context_parameter: str | None = None
    needs_instance: bool = False

    def bind(self, instance: object | None, owner: type | None) -> Check:
        """The check of one instance's tool; a plain function stays as it is."""
        if not self.needs_instance:
            return self
        return replace(self, function=self.function.__get__(instance, owner), needs_instance=False)


def inspect_check(
    function: Callable[..., Any], tool_name: str, arguments: Collection[str], *, is_method: bool = False
) -> Check:
    """Read a check's signature. Its parameters must be some of the tool's own, and optionally a `CallContext`.

    `is_method`: the tool is a method that is not bound yet, so a check may start with ``self`` as well.

    Raises:
        DefinitionError: It asks for something that the tool does not take.
    """
    context = context_parameter(function)
    parameters: list[str] = []
    optional: set[str] = set()
    found = list(inspect.signature(function).parameters.items())
    needs_instance = is_method and bool(found) and found[0][0] not in arguments and found[0][0] != context
    for name, parameter in found[1:] if needs_instance else found:
        if name == context:
            continue
        if name not in arguments:
            raise DefinitionError(
                f"A check of tool {tool_name!r} asks for {name!r}, which the tool does not take.",
                hint=f"The tool takes: {', '.join(arguments) or 'nothing'}.",
            )
        parameters.append(name)
        if parameter.default is not inspect.Parameter.empty:
            optional.add(name)
    is_async = inspect.iscoroutinefunction(function)
    return Check(function, is_async, tuple(parameters), frozenset(optional), context, needs_instance)
