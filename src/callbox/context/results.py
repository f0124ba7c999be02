"""Results that were taken out of the conversation: what stands in their place, and how the model reads them
again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from callbox.errors import ToolError
from callbox.tools.tool import FunctionBinding, Tool

if TYPE_CHECKING:
    from collections.abc import Callable

    from callbox.calls.call import ToolResult

READ_RESULT: Final = "read_result"

READ_CHARS: Final = 8_000
"""Characters of one reading, when the model does not say."""

READ_CHARS_MAX: Final = 40_000
"""Characters of one reading, whatever the model says: reading again must not fill the window again."""

_LISTED: Final = 20
"""Handles that an error names; a conversation may have thousands."""


class ClearedResults:
    """The contents of results that the conversation holds only as stubs, by handle.

    Args:
        held: Finds the content of a result that was not cleared. A model that was shown a stub may ask for it in a
            process that went on after a crash, and that has not had to clear anything yet.
    """

    def __init__(self, held: Callable[[str], str | None] | None = None) -> None:
        self._contents: dict[str, str] = {}
        self._held = held

    def __len__(self) -> int:
        return len(self._contents)

    def __contains__(self, handle: object) -> bool:
        return handle in self._contents

    @property
    def handles(self) -> tuple[str, ...]:
        """All handles, oldest first."""
        return tuple(self._contents)

    def keep(self, handle: str, content: str) -> None:
        """Remember a content. A content that is already there stays: the later one may be its own stub."""
        self._contents.setdefault(handle, content)

    def size(self, handle: str) -> int:
        """Characters of a content.

        Raises:
            ToolError: Nothing is kept under that handle; the message names those that are.
        """
        return len(self._find(handle))

    def read(self, handle: str, offset: int = 0, max_chars: int = READ_CHARS) -> str:
        """A slice of a content, exactly as the tool returned it.

        Args:
            handle: From a stub.
            offset: Characters to skip.
            max_chars: Characters to return; at least 1 and at most `READ_CHARS_MAX`.

        Raises:
            ToolError: Nothing is kept under that handle, or the offset is outside of the content.
        """
        content = self._find(handle)
        if not 0 <= offset <= len(content):
            raise ToolError(
                f"Offset {offset} is outside of {handle!r}, which has {len(content)} characters.",
                suggestion=f"Use an offset from 0 to {max(0, len(content) - 1)}.",
            )
        return content[offset : offset + min(max(max_chars, 1), READ_CHARS_MAX)]

    def _find(self, handle: str) -> str:
        content = self._contents.get(handle)
        if content is None and self._held is not None:
            content = self._held(handle)
        if content is None:
            known = ", ".join(list(self._contents)[-_LISTED:])
            raise ToolError(
                f"No cleared result has the handle {handle!r}.",
                suggestion=f"Use one of these: {known}." if known else "Nothing has been cleared so far.",
            )
        return content


def stub(result: ToolResult, handle: str, tokens: int, reader: str = READ_RESULT) -> ToolResult:
    """What stands in a result's place: a result of the same call that says how to read the content again."""
    content = json.dumps(
        {"cleared": f"result of {result.name}", "handle": handle, "tokens": tokens, "read_again": reader}
    )
    return replace(result, content=content, value=None, truncated=True)


def read_result_tool(cleared: ClearedResults, *, name: str = READ_RESULT) -> Tool:
    """The tool that reads cleared results again.

    Args:
        cleared: Where they are kept (`Window.cleared`).
        name: The tool's name; must be the one that the stubs name.
    """

    # Async so that it runs in the loop: it only slices a string, a thread would cost more than the work.
    async def read_result(handle: str, offset: int = 0, max_chars: int = READ_CHARS) -> str:
        text = cleared.read(handle, offset, max_chars)
        end, total = offset + len(text), cleared.size(handle)
        if end >= total:
            return text
        return f"{text}\n[characters {offset} to {end} of {total}; go on with offset={end}]"

    return Tool(
        name=name,
        description=(
            "Read a tool result again that was cleared from this conversation to save space. "
            "Use the handle that stands in place of the result."
        ),
        parameters={
            "type": "object",
            "properties": {
                "handle": {"type": "string", "description": 'Handle of the cleared result, like "res_12".'},
                "offset": {"type": "integer", "minimum": 0, "description": "Characters to skip; default 0."},
                "max_chars": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": READ_CHARS_MAX,
                    "description": f"Characters to return; default {READ_CHARS}.",
                },
            },
            "required": ["handle"],
            "additionalProperties": False,
        },
        binding=FunctionBinding(read_result, is_async=True),
        effect="read",
        idempotent=True,
        pinned=True,
    )
