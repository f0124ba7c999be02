"""The guest's operations as typed calls. Whatever a guest answers is checked here before anybody sees it."""

from __future__ import annotations

from callbox.sandboxes.guest.client import Guest
from callbox.sandboxes.guest.streams import STDERR, STDOUT, ExecStream, StdinStream, Watch
from callbox.sandboxes.guest.values import (
    Change,
    Entry,
    ExecRequest,
    ExecResult,
    ExecStatus,
    Gap,
    GuestInfo,
    Listing,
    Match,
    Matches,
    Output,
    PortInfo,
    Repair,
    Written,
)

__all__ = [
    "STDERR",
    "STDOUT",
    "Change",
    "Entry",
    "ExecRequest",
    "ExecResult",
    "ExecStatus",
    "ExecStream",
    "Gap",
    "Guest",
    "GuestInfo",
    "Listing",
    "Match",
    "Matches",
    "Output",
    "PortInfo",
    "Repair",
    "StdinStream",
    "Watch",
    "Written",
]
