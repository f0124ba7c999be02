"""What a stream delivers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from callbox.sandboxes.wire import parse_object


@dataclass(slots=True)
class Data:
    """Bytes of one channel: 0 body, 1 stdout, 2 stderr."""

    channel: int
    data: bytes


@dataclass(slots=True)
class Event:
    """A JSON object that the acceptor sent before the end.

    Attributes:
        payload: As it came and was checked: a small text may be a large object, so it waits, and is passed on, as text.
    """

    payload: bytes

    @property
    def value(self) -> dict[str, Any]:
        """The object."""
        return parse_object(self.payload)


@dataclass(slots=True)
class Eof:
    """The other side sends no more Data on this stream."""


Item = Data | Event | Eof
