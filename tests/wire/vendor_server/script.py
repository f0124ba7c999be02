"""What the server is told to do, request by request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class BadRequest(Exception):
    """The vendor refuses the request itself."""


@dataclass(frozen=True)
class Call:
    """One call in a reply. `id`: None takes the vendor's own kind of id, if it has one."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class Say:
    """One reply."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    thought: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class Fail:
    """An HTTP error in the vendor's own shape."""

    status: int
    message: str = "Something went wrong."
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    details: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Hang:
    """Nothing more is said until the client goes away. `after`: how many events of `reply` are streamed
    first."""

    reply: Say = field(default_factory=Say)
    after: int = 0


@dataclass(frozen=True)
class Cut:
    """The stream breaks after some events of `reply`: abruptly, or (`polite`) as if it had come to its
    end."""

    reply: Say
    after: int
    polite: bool = False


@dataclass(frozen=True)
class StreamError:
    """After some events of `reply` comes the vendor's error event."""

    reply: Say
    after: int
    code: str
    message: str = "Overloaded"


@dataclass(frozen=True)
class Garbage:
    """Status 200 and something that is not JSON."""

    body: bytes = b"<html>upstream gave up</html>"


@dataclass(frozen=True)
class Raw:
    """Status 200 and this JSON."""

    body: Any


Step = Say | Fail | Hang | Cut | StreamError | Garbage | Raw


def pieces(text: str, size: int = 5) -> list[str]:
    """The text in small pieces, as a model writes it."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def need(condition: Any, message: str) -> None:
    """Refuse the request unless the condition holds."""
    if not condition:
        raise BadRequest(message)
