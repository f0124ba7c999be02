"""What the sandbox API answers with: values, without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from callbox.errors import GuestProtocolError

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
    def from_reply(cls, reply: Mapping[str, Any]) -> Exit:
        """Read the reply of ``exec.attach``, ``exec.run`` and ``exec.wait``."""
        try:
            signal = reply["signal"]
            code = reply["exit_code"]
            return cls(
                exit_code=code if code is not None else SIGNAL_EXIT + int(signal or 0),
                signal=signal,
                timed_out=reply["timed_out"],
                killed_for=reply.get("killed_for"),
                duration_ms=reply["duration_ms"],
                stdout_bytes=reply["stdout_end"],
                stderr_bytes=reply["stderr_end"],
            )
        except KeyError as error:
            raise GuestProtocolError(f"The guest's word on the end of a process lacks {error}.") from None


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
class Entry:
    """A file, folder or link in a sandbox.

    Attributes:
        path: Absolute.
        type: ``"file"``, ``"directory"``, ``"symlink"`` or ``"other"``.
        mode: Permission bits.
        target: Where a symlink points.
    """

    path: str
    name: str
    type: str
    size: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    target: str | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a folder (a link to one is not)."""
        return self.type == "directory"

    @classmethod
    def from_event(cls, entry: Mapping[str, Any]) -> Entry:
        """Read an entry of the guest."""
        return _from_guest(cls, entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A line that a search found. `line` and `column` count from 1."""

    path: str
    line: int
    column: int
    text: str

    @classmethod
    def from_event(cls, match: Mapping[str, Any]) -> Match:
        """Read a match of the guest."""
        return _from_guest(cls, match)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something happened to a watched path.

    Attributes:
        kind: ``"created"``, ``"modified"``, ``"deleted"``, ``"moved"``; ``"overflow"``: some were lost, look again.
        path: Absolute; the watched folder for an overflow.
        moved_from: Where it was before, of a move.
    """

    kind: str
    path: str
    moved_from: str | None = None

    @classmethod
    def from_event(cls, change: Mapping[str, Any]) -> Change:
        """Read a change of the guest."""
        return cls(kind=change["kind"], path=change["path"], moved_from=change.get("from"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Entries or matches of a bounded search, and whether there were more.

    Attributes:
        truncated: The search ended at its limit, not at its end.
    """

    entries: list[Entry] = field(default_factory=list[Entry])
    matches: list[Match] = field(default_factory=list[Match])
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A TCP port that something in the sandbox listens on."""

    port: int
    address: str
    pid: int | None = None


def _from_guest(cls: Any, values: Mapping[str, Any]) -> Any:
    names = cast("list[str]", list(cls.__dataclass_fields__))
    try:
        return cls(**{name: values[name] for name in names if name in values})
    except TypeError as error:
        raise GuestProtocolError(f"The guest's {cls.__name__.lower()} is not of its shape: {error}") from None
