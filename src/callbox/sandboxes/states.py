"""The life cycle of a sandbox, as one table. Whatever affects it is here; docs/sandboxes.md is drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from callbox.errors import SandboxStateError


class State(StrEnum):
    """Where a sandbox is in its life."""

    CREATING = "creating"
    RUNNING = "running"
    HOT = "hot"
    WARM = "warm"
    COLD = "cold"
    STOPPING = "stopping"
    GONE = "gone"
    FAILED = "failed"


class Event(StrEnum):
    """What happens to a sandbox."""

    STARTED = "started"
    FROZEN = "frozen"
    SAVED = "saved"
    EVICTED = "evicted"
    WOKEN = "woken"
    REBOOTED = "rebooted"
    BROKE = "broke"
    DELETED = "deleted"
    FREED = "freed"


MEANING: Mapping[State, str] = MappingProxyType(
    {
        State.CREATING: "its machine boots, or is restored from a snapshot",
        State.RUNNING: "its processors run",
        State.HOT: "stopped, everything still in memory",
        State.WARM: "memory on disk, no process on the host",
        State.COLD: "memory on disk, and out of the host's page cache",
        State.STOPPING: "was deleted; its machine and files are being freed",
        State.GONE: "nothing of it is left",
        State.FAILED: "its machine died or was refused; `reason` says why; its files are kept until it is deleted",
    }
)
"""What each state is, for people."""

TABLE: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.CREATING, Event.STARTED): State.RUNNING,
        (State.CREATING, Event.BROKE): State.FAILED,
        (State.CREATING, Event.DELETED): State.STOPPING,
        (State.RUNNING, Event.FROZEN): State.HOT,
        (State.RUNNING, Event.SAVED): State.WARM,
        (State.RUNNING, Event.BROKE): State.FAILED,
        (State.RUNNING, Event.DELETED): State.STOPPING,
        (State.HOT, Event.WOKEN): State.RUNNING,
        (State.HOT, Event.SAVED): State.WARM,
        (State.HOT, Event.BROKE): State.FAILED,
        (State.HOT, Event.DELETED): State.STOPPING,
        (State.WARM, Event.WOKEN): State.RUNNING,
        (State.WARM, Event.EVICTED): State.COLD,
        (State.WARM, Event.BROKE): State.FAILED,
        (State.WARM, Event.DELETED): State.STOPPING,
        (State.COLD, Event.WOKEN): State.RUNNING,
        (State.COLD, Event.BROKE): State.FAILED,
        (State.COLD, Event.DELETED): State.STOPPING,
        (State.FAILED, Event.REBOOTED): State.RUNNING,
        (State.FAILED, Event.BROKE): State.FAILED,
        (State.FAILED, Event.DELETED): State.STOPPING,
        (State.STOPPING, Event.FREED): State.GONE,
    }
)
"""Every transition there is. What is not here cannot happen."""

AWAKE = frozenset({State.CREATING, State.RUNNING})
"""States in which the machine's processors run."""

HELD = frozenset({State.CREATING, State.RUNNING, State.HOT})
"""States in which the host has processes of it."""

ASLEEP = frozenset({State.HOT, State.WARM, State.COLD})
"""States from which a call wakes it, memory and all."""


def next_state(state: State, event: Event) -> State:
    """Return the state after `event`.

    Raises:
        SandboxStateError: That cannot happen in this state.
    """
    found = TABLE.get((state, event))
    if found is None:
        raise SandboxStateError(f"A sandbox that is {state} cannot be {event}.", hint="Look at its state again.")
    return found


def mermaid() -> str:
    """Draw the table as a Mermaid state diagram, for docs/sandboxes.md."""
    lines = ["stateDiagram-v2", "    [*] --> creating"]
    lines += [f"    {state} --> {after}: {event}" for (state, event), after in TABLE.items()]
    lines.append("    gone --> [*]")
    return "\n".join(lines)
