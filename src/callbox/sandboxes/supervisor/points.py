"""The moments at which a kill of the supervisor is tested: every step between two durable states has a name."""

from __future__ import annotations

import os
import signal

from callbox.errors import ConfigurationError

POINTS = (
    "create.placed",
    "create.recorded",
    "create.booted",
    "create.repaired",
    "create.done",
    "spare.booted",
    "spare.frozen",
    "spare.taken",
    "hot.expecting",
    "hot.frozen",
    "hot.thawed",
    "save.begun",
    "save.written",
    "save.sealed",
    "save.renamed",
    "save.recorded",
    "cold.recorded",
    "wake.recorded",
    "wake.restored",
    "wake.repaired",
    "wake.done",
    "wake.cleared",
    "reboot.recorded",
    "reboot.booted",
    "reboot.done",
    "capture.begun",
    "capture.written",
    "capture.repaired",
    "snapshot.sealed",
    "snapshot.named",
    "branch.recorded",
    "branch.restored",
    "branch.done",
    "adopt.taken",
    "adopt.done",
    "delete.recorded",
    "delete.killed",
    "delete.removed",
)
"""All of them, in the order of a life. The sweep kills at each and looks what is left."""


class FaultPoints:
    """Passes every point; dies at one of them when a test asked for it (`--die-at`)."""

    def __init__(self, die_at: str | None = None) -> None:
        if die_at is not None and die_at not in POINTS:
            raise ConfigurationError(f"There is no point {die_at!r}.", hint=f"Use one of {', '.join(POINTS)}.")
        self._die_at = die_at

    def reach(self, name: str) -> None:
        """Say that the step `name` is done."""
        assert name in POINTS, name
        if name == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)
