"""What the sandbox API answers with: values, without behaviour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from callbox.errors import GuestProtocolError
from callbox.sandboxes.guest import ExecResult

_T = TypeVar("_T")

Output = Literal["stdout", "stderr"]
"""Which of a process's two outputs."""

SIGNAL_EXIT = 128
"""A process that a signal ended has this plus the signal as its exit code, as shells say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended.

    Attributes:
        exit_code: Its own; 128 plus the signal's number where a signal ended it.
        signal: The number of that signal, else None.
        timed_out: Whether it was killed because its time was over.
        killed_for: ``"memory"`` or ``"processes"`` where a limit of the sandbox ended it.
        duration_ms: From its start to its end, in the sandbox's running time.
        stdout_bytes: All that it ever wrote to stdout.
        stderr_bytes: All that it ever wrote to stderr.
    """

    exit_code: int
    signal: int | None
    timed_out: bool
    killed_for: str | None
    duration_ms: float
    stdout_bytes: int
    stderr_bytes: int

    @classmethod
    def of(cls, result: ExecResult) -> Exit:
        """Of a process that has ended."""
        code = result.exit_code
        return cls(
            exit_code=code if code is not None else SIGNAL_EXIT + (result.signal or 0),
            signal=result.signal,
            timed_out=result.timed_out,
            killed_for=result.killed_for,
            duration_ms=result.duration_ms,
            stdout_bytes=result.stdout_end,
            stderr_bytes=result.stderr_end,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a command came to.

    Attributes:
        exit_code: Its own; 128 plus the signal's number where a signal ended it. Not 0 is no exception.
        stdout: Text, UTF-8 with replacement characters; the middle of a long one is left out, and that is said in it.
        stderr: The same.
        duration_ms: From its start to its end, in the sandbox's running time.
        truncated: Whether something was left out of `stdout` or `stderr`.
        timed_out: Whether it was killed because its time was over.
        signal: The number of the signal that ended it, else None.
        killed_for: ``"memory"`` or ``"processes"`` where a limit of the sandbox ended it.
        process_id: For `Sandbox.process`, which reads what was left out, by offset, for an hour.
        stdout_bytes: All that it wrote to stdout.
        stderr_bytes: All that it wrote to stderr.
    """

    exit_code: int
    stdout: str
    stderr: str
    duration_ms: float
    truncated: bool
    timed_out: bool
    signal: int | None
    killed_for: str | None
    process_id: str
    stdout_bytes: int
    stderr_bytes: int

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.exit_code == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What it took to get a sandbox running.

    Attributes:
        tier: What it was woken from: ``"hot"``, ``"warm"``, ``"cold"``; ``"new"``: just made;
            ``"reboot"``: memory was lost, files kept.
        ms: From the request to the first answer of the guest.
        repairs: What was put right before anything ran: ``{"name", "how", "us"}`` each, in order.
        generation: Counts restores; two sandboxes with one ancestor differ in it and in their machine id.
    """

    tier: str
    ms: float
    repairs: list[Mapping[str, Any]]
    generation: int

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Receipt:
        """Read a receipt of the supervisor."""
        return cls(
            tier=reply["tier"],
            ms=reply["ms"],
            repairs=list(reply.get("repairs", ())),
            generation=reply["generation"],
        )


class Forks(list[_T]):
    """The children of one instant: a list.

    Example::

        kids = await box.fork(2)
        print(len(kids), kids.pause_ms)
    """

    def __init__(self, children: Iterable[_T], pause_ms: float) -> None:
        super().__init__(children)
        self.pause_ms = pause_ms
        """How long their parent stood still for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInfo:
    """What the supervisor knows of a sandbox.

    Attributes:
        id: Never used again.
        name: The name that it was given, else its id.
        driver: ``"gvisor"`` or ``"qemu"``.
        how: What the driver runs on here, like ``"kvm"`` or ``"ptrace"``.
        state: See `callbox.sandboxes.states`.
        created_at: Seconds since the epoch.
        last_used_at: Seconds since the epoch.
        spec: What was asked for, as JSON (`SandboxSpec`).
        generation: How often it was restored.
        reason: Why it is in this state, where there is something to say.
    """

    id: str
    name: str
    image: str
    driver: str
    how: str
    state: str
    created_at: float
    last_used_at: float
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    generation: int
    reason: str | None = None

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> SandboxInfo:
        """Read an info of the supervisor; fields that this version does not know are left out."""
        try:
            return cls(
                id=reply["id"],
                name=reply.get("name") or reply["id"],
                image=reply["image"],
                driver=reply["driver"],
                how=reply.get("how") or "",
                state=reply["state"],
                created_at=reply["created_at"],
                last_used_at=reply["last_used_at"],
                labels=dict(reply.get("labels") or {}),
                spec=dict(reply.get("spec") or {}),
                generation=reply.get("generation") or 0,
                reason=reply.get("reason"),
            )
        except KeyError as error:
            raise GuestProtocolError(f"The supervisor's word on a sandbox lacks {error}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStats:
    """What a sandbox uses on this host now.

    Attributes:
        sandbox: Its id.
        memory_bytes: In memory; 0 in warm and cold standby.
        cpu_s: Processor time of the machine that it has now.
        disk_bytes: On disk: its private files, and its memory where that was saved.
        processes: On the host.
    """

    sandbox: str
    name: str
    state: str
    memory_bytes: int
    cpu_s: float
    disk_bytes: int
    processes: int

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> SandboxStats:
        """Read the stats of one sandbox."""
        try:
            return cls(**{name: reply[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise GuestProtocolError(f"The supervisor's stats lack {error}.") from None
