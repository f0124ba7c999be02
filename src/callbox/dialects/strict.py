"""What OpenAI takes as a function's parameters, in strict mode and without it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from callbox.dialects.dialect import Loss
from callbox.dialects.fitting import declared_types
from callbox.dialects.restoring import restored
from callbox.dialects.root import object_root
from callbox.dialects.strict_limits import check_limits, tell_unions_apart
from callbox.dialects.strict_schema import StrictSchema
from callbox.dialects.wire import as_object
from callbox.tools.schema_tree import rebuild
from callbox.tools.tool import Tool
from callbox.values import JsonObject


@dataclass(frozen=True, slots=True)
class Shape:
    """A tool's parameters in OpenAI's terms.

    Attributes:
        parameters: The schema to send. Shared between calls: not to be changed.
        strict: Whether it may go with ``"strict": true``.
        losses: What it does not say.
    """

    parameters: JsonObject
    strict: bool
    losses: tuple[Loss, ...] = ()


# A tool is frozen and compared by identity, and its definition goes into every request of a run.
@lru_cache(maxsize=1_024)
def shape(tool: Tool, *, strict: bool) -> Shape:
    """The tool's parameters as OpenAI takes them.

    With `strict`, in the strict subset if that says the same; otherwise as they are, with a `Loss` of keyword
    ``"strict"`` and one for each reason.
    """
    root, losses = object_root(tool)
    if not strict:
        return Shape(_tolerated(root), strict=False, losses=tuple(losses))
    rewritten = StrictSchema(tool, root)
    if not rewritten.reasons and not losses:
        tell_unions_apart(rewritten)
        check_limits(rewritten)
    reasons = [*losses, *rewritten.reasons]
    if not reasons:
        return Shape(rewritten.schema, strict=True, losses=tuple(rewritten.dropped))
    named = ", ".join(f"{reason.keyword} at {reason.path or '/'}" for reason in reasons)
    refused = Loss(tool.name, "", "strict", f"Sent without strict mode, which cannot say {named}.")
    return Shape(_tolerated(root), strict=False, losses=(refused, *reasons))


def _tolerated(schema: Any) -> Any:
    """The schema with ``items`` in every array: the API refuses an array without, strict mode or not."""
    if not isinstance(schema, dict):
        return schema
    found = rebuild(as_object(schema), lambda _, child: _tolerated(child))
    return {**found, "items": {}} if "array" in declared_types(found) and "items" not in found else found


def restore(tool: Tool, arguments: JsonObject) -> JsonObject:
    """Arguments in strict mode's terms in the original schema's: a null for "left out" is left out."""
    try:
        return restored(arguments, tool.parameters, tool.parameters)
    except RecursionError:
        # Arguments deeper than any tool takes: the gate's validator has the word.
        return arguments
