"""What a stream delivers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Data:
    """Bytes of one channel: 0 body, 1 stdout, 2 stderr."""

    channel: int
    data: bytes


@dataclass(slots=True)
class Event:
    """A JSON object that the acceptor sent before the end.

    Attributes:
        value: The object.
        payload: The same as it came, for whoever passes it on.
    """

    value: dict[str, Any]
    payload: bytes = field(default=b"", repr=False, compare=False)


@dataclass(slots=True)
class Eof:
    """The other side sends no more Data on this stream."""


Item = Data | Event | Eof
