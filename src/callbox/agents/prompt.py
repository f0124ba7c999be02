"""What a person says to an agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from callbox.messages import Message

Prompt: TypeAlias = str | Message | Sequence[Message]
"""Text, or messages with images in them."""


def messages_of(prompt: Prompt) -> Sequence[Message]:
    """What a prompt says, as messages."""
    if isinstance(prompt, str):
        return (Message.user(prompt),)
    return (prompt,) if isinstance(prompt, Message) else prompt
