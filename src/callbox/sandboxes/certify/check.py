"""What a check is, and what it may say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from callbox.sandboxes.certify.ground import Ground


class Verdict(StrEnum):
    """How a check ended. Only `HELD` counts as passed; what a driver cannot do is said, never skipped in silence."""

    HELD = "held"
    FAILED = "FAILED"
    NOT_OFFERED = "not offered"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    group: str
    name: str
    verdict: Verdict
    detail: str
    seconds: float


class Broken(Exception):
    """A promise did not hold; the message says what was seen instead."""


class NotOffered(Exception):
    """The driver or the host does not have what the check is about; the message says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and the attack on it.

    Attributes:
        group: kernel, exhaustion, files, identity, memory or faults.
        name: The promise, as a sentence.
        run: Attacks; returns a short detail for the report, raises `Broken` or `NotOffered`.
        deadline_s: A check that hangs has failed.
    """

    group: str
    name: str
    run: Callable[[Ground], Awaitable[str]]
    deadline_s: float = 120.0


def expect(condition: object, what: str) -> None:
    """Raise `Broken` with `what` unless `condition` is true."""
    if not condition:
        raise Broken(what)
