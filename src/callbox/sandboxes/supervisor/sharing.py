"""What all sandboxes of a supervisor share, and what they all answer with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbox.errors import SandboxInterrupted
from callbox.sandboxes.home import Home
from callbox.sandboxes.supervisor.disk_check import check_disk
from callbox.sandboxes.supervisor.pacing import LoopPacer, Pacer
from callbox.sandboxes.supervisor.points import FaultPoints
from callbox.sandboxes.supervisor.settings import Settings


class Host:
    """What all sandboxes of a supervisor share."""

    def __init__(
        self,
        home: Home,
        *,
        settings: Settings | None = None,
        points: FaultPoints | None = None,
        pacer: Pacer | None = None,
        disk_checker: Callable[[Path], Awaitable[None]] = check_disk,
    ) -> None:
        self.home = home
        self.settings = settings or Settings()
        self.points = points or FaultPoints()
        self.pacer = pacer or LoopPacer()
        self.check_disk = disk_checker
        self.boots = asyncio.Semaphore(self.settings.boots_at_once)
        self.restores = asyncio.Semaphore(self.settings.restores_at_once)


def supervisor_ends() -> SandboxInterrupted:
    """What is told to those who ask while everything is being laid down."""
    return SandboxInterrupted("The supervisor is ending; nothing was done.", hint="Ask again: another one begins.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What it took to get a sandbox running."""

    tier: str
    ms: float
    generation: int
    repairs: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])

    def to_json(self) -> dict[str, Any]:
        """As clients get it."""
        return {"tier": self.tier, "ms": self.ms, "repairs": self.repairs, "generation": self.generation}
