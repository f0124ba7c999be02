"""What OpenAI takes as a function's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from callbox.dialects.dialect import Loss
from callbox.dialects.root import object_root
from callbox.tools.tool import Tool
from callbox.values import JsonObject


@dataclass(frozen=True, slots=True)
class Shape:
    """A tool's parameters in OpenAI's terms. `strict`: whether they may go with ``"strict": true``."""

    parameters: JsonObject
    strict: bool
    losses: tuple[Loss, ...] = ()


def shape(tool: Tool, *, strict: bool) -> Shape:
    """The tool's parameters as OpenAI takes them."""
    parameters, losses = object_root(tool)
    return Shape(parameters, strict=False, losses=tuple(losses))


def restore(tool: Tool, arguments: JsonObject) -> JsonObject:
    """Arguments in strict mode's terms back in the original schema's."""
    return arguments
