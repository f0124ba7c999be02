"""One line of what `callbox doctor` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fix`: the command that helps, where something is missing."""

    what: str
    found: str
    good: bool
    fix: str = ""
