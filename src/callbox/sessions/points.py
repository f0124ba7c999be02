"""The named points at which tests end the process: every one of them in one place, so that none is forgotten.

`tests/faults/test_kill_points.py` kills a process at each, and again while it recovers.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS: tuple[str, ...] = (
    "lease.taken",  # nobody else writes to the session from here on
    "append.before",  # of whatever is written; the points below say what it is
    "append.after",
    "reply.before",
    "reply.after",
    "approval.before",
    "approval.after",
    "decision.before",
    "decision.after",
    "intent.before",
    "intent.after",
    "outcome.before",
    "outcome.after",
    "recovery.before",  # what a crash hid is answered
    "recovery.after",
    "ended.before",  # a run ends without a word of the model
    "ended.after",
    "rewind.before",
    "rewind.after",
    "fork.before",
    "fork.after",
)

_KNOWN = frozenset(POINTS)


def nothing(point: str) -> None:
    """Nobody is told."""
    del point


def checked(tell: Callable[[str], None]) -> Callable[[str], None]:
    """`tell`, for points that are in `POINTS` only: one that is not would never be tested.

    >>> checked(nothing)("tea.before")
    Traceback (most recent call last):
    AssertionError: The point 'tea.before' is not in POINTS.
    """

    def reach(point: str) -> None:
        assert point in _KNOWN, f"The point {point!r} is not in POINTS."
        tell(point)

    return reach
