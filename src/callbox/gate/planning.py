"""What may run together: reads side by side, everything else alone and in the model's order."""

from __future__ import annotations

from collections.abc import Iterable

from callbox.tools.tool import Tool


def plan(tools: Iterable[Tool | None]) -> list[list[int]]:
    """Split one turn's calls into groups; a group starts when the one before it has ended.

    A write is a barrier: a read that the model wrote after it may want to see what it did.
    A call without a tool (it is already answered with an error) belongs to no group.

    Args:
        tools: The tool of each call, in the model's order.

    Returns:
        Groups of indexes into the calls.
    """
    groups: list[list[int]] = []
    reading = False
    for index, tool in enumerate(tools):
        if tool is None:
            continue
        if tool.reads_only and reading:
            groups[-1].append(index)
        else:
            groups.append([index])
        reading = tool.reads_only
    return groups
