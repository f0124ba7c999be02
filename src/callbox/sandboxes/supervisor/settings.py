"""What the supervisor decides by: every limit and deadline of it has its name and default here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits and deadlines of one supervisor.

    Attributes:
        exit_idle_s: Seconds without a client and with nothing awake until it ends.
        sandboxes_max: Sandboxes of one home.
        boots_at_once: Machines that boot at the same moment.
        restores_at_once: Machines that are restored, saved or taken over at the same moment.
        fork_max: Children of one fork.
        boot_timeout_s: From the start of a boot to the agent's first answer (software emulation is slow).
        restore_timeout_s: The same for a restore.
        guest_timeout_s: For one short request to a guest: repair, configure, quiesce.
        connect_timeout_s: For the handshake with a guest.
        spare_idle_s: Seconds without a create until the warm spare of that kind is given up.
        spare_kinds_max: Kinds of sandbox that a warm spare is kept for; the kind that was used last wins.
        pool_max: Spares of one kind that a pool may ask for.
        stop_s: Seconds that a stop in good order may take to save what is awake; the rest is frozen.
        events_kept: Life-cycle events remembered per sandbox.
        events_bytes_max: Size of a sandbox's file of events after which it is shortened.
        generations_reserved: Generation numbers taken with one write, so that waking from hot standby needs none.
        retry_s: Seconds until standby or deletion that failed is tried again.
    """

    exit_idle_s: float = 60.0
    sandboxes_max: int = 1_000
    boots_at_once: int = 2
    restores_at_once: int = 4
    fork_max: int = 64
    boot_timeout_s: float = 120.0
    restore_timeout_s: float = 120.0
    guest_timeout_s: float = 30.0
    connect_timeout_s: float = 60.0
    spare_idle_s: float = 600.0
    spare_kinds_max: int = 2
    pool_max: int = 64
    stop_s: float = 60.0
    events_kept: int = 200
    events_bytes_max: int = 131_072
    generations_reserved: int = 64
    retry_s: float = 10.0
