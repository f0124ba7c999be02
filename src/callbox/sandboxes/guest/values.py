"""What a guest is asked, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

from callbox.sandboxes.guest.reply import Reply

EntryType = Literal["file", "directory", "symlink", "other"]
ChangeKind = Literal["created", "modified", "deleted", "moved", "overflow"]
KilledFor = Literal["memory", "processes"]

_ENTRY_TYPES = ("file", "directory", "symlink", "other")
_CHANGE_KINDS = ("created", "modified", "deleted", "moved")
_KILLED_FOR = ("memory", "processes")
_REPAIRS = ("entropy", "clock", "network", "machine_id", "generation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """One process to start.

    Attributes:
        id: Chosen by the host, ``[a-z0-9_-]{1,64}``. The same request with the same id does not start twice.
        argv: Program and arguments; or `shell`.
        shell: Text for ``/bin/sh -c``; or `argv`.
        cwd: Folder it starts in; None: where files are, ``/work``.
        env: Added to the environment of the image and of the sandbox.
        user: ``"box"`` (no privileges) or ``"root"``.
        stdin: ``"none"`` or ``"pipe"``.
        pty: Rows and columns of a terminal, or None for pipes.
        timeout_s: After that its whole tree is killed; None: never.
        ring_bytes: Output kept on the sandbox's disk, per channel.
        on_full: ``"drop"`` the oldest output, or ``"block"`` the process, when nobody reads.
        keep_alive: What it leaves running goes on, and keeps the sandbox awake.
    """

    id: str
    argv: Sequence[str] | None = None
    shell: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: Literal["box", "root"] = "box"
    stdin: Literal["none", "pipe"] = "none"
    pty: tuple[int, int] | None = None
    timeout_s: float | None = None
    ring_bytes: int = 16_777_216
    on_full: Literal["drop", "block"] = "drop"
    keep_alive: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the protocol wants it."""
        what: dict[str, Any] = {"shell": self.shell} if self.argv is None else {"argv": list(self.argv)}
        if self.cwd is not None:
            what["cwd"] = self.cwd
        return what | {
            "id": self.id,
            "env": dict(self.env),
            "user": self.user,
            "stdin": self.stdin,
            "pty": None if self.pty is None else {"rows": self.pty[0], "columns": self.pty[1]},
            "timeout_s": self.timeout_s,
            "ring_bytes": self.ring_bytes,
            "on_full": self.on_full,
            "keep_alive": self.keep_alive,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """How a process ended, or that it has not.

    Attributes:
        exit_code: None if a signal ended it, or while it runs.
        signal: Number of the signal that ended it.
        timed_out: Its `timeout_s` was over.
        killed_for: The limit that ended it.
        duration_ms: From its start to its end, or to now.
        stdout_end: Bytes of standard output ever written.
        stderr_end: Bytes of standard error ever written.
        running: It has not ended.
    """

    exit_code: int | None
    signal: int | None
    timed_out: bool
    killed_for: KilledFor | None
    duration_ms: float
    stdout_end: int
    stderr_end: int
    running: bool

    @classmethod
    def read(cls, reply: Reply) -> Self:
        """Check a reply of the guest."""
        killed_for = reply.text_or_none("killed_for")
        if killed_for is not None and killed_for not in _KILLED_FOR:
            raise reply.wrong("killed_for")
        return cls(
            exit_code=reply.integer_or_none("exit_code", most=255),
            signal=reply.integer_or_none("signal", most=127),
            timed_out=reply.flag("timed_out"),
            killed_for=killed_for,
            duration_ms=reply.number("duration_ms"),
            stdout_end=reply.integer("stdout_end"),
            stderr_end=reply.integer("stderr_end"),
            running=reply.flag("running"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecStatus:
    """One line of `exec_list`."""

    id: str
    pid: int
    argv: tuple[str, ...]
    running: bool
    keep_alive: bool
    started_ns: int
    exit_code: int | None
    signal: int | None
    stdout_end: int
    stderr_end: int

    @classmethod
    def read(cls, reply: Reply) -> Self:
        """Check a reply of the guest."""
        return cls(
            id=reply.text("id"),
            pid=reply.integer("pid"),
            argv=tuple(reply.texts("argv")),
            running=reply.flag("running"),
            keep_alive=reply.flag("keep_alive"),
            started_ns=reply.integer("started_ns"),
            exit_code=reply.integer_or_none("exit_code", most=255),
            signal=reply.integer_or_none("signal", most=127),
            stdout_end=reply.integer("stdout_end"),
            stderr_end=reply.integer("stderr_end"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, folder or link inside. Names that are no UTF-8 are told as by `os.fsdecode`."""

    path: str
    name: str
    type: EntryType
    size: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    target: str | None = None

    @classmethod
    def read(cls, reply: Reply) -> Self:
        """Check a reply of the guest."""
        kind = reply.text("type")
        if kind not in _ENTRY_TYPES:
            raise reply.wrong("type")
        name, path = reply.text("name"), reply.path("path")
        if path != reply.text("path"):
            name = path.rpartition("/")[2]
        if "/" in name or "\0" in name or name == "..":
            # Whoever copies a folder out of a sandbox joins names to paths of the host.
            raise reply.wrong("name")
        return cls(
            path=path,
            name=name,
            type=kind,
            size=reply.integer("size"),
            mode=reply.integer("mode", most=2**32 - 1),
            mtime_ns=reply.integer("mtime_ns", least=-(2**63)),
            uid=reply.integer("uid", most=2**32 - 1),
            gid=reply.integer("gid", most=2**32 - 1),
            target=reply.text_or_none("target"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Entries, and whether there were more than was asked for."""

    entries: Sequence[Entry]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A place in a file that fits a pattern. `line` and `column` begin with 1."""

    path: str
    line: int
    column: int
    text: str

    @classmethod
    def read(cls, reply: Reply) -> Self:
        """Check a reply of the guest."""
        line, column = reply.integer("line"), reply.integer("column")
        return cls(path=reply.path("path"), line=line, column=column, text=reply.text("text"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """What a search found, in how many files, and whether there was more."""

    matches: Sequence[Match]
    files: int
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is now in a file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something happened below a watched folder. ``"overflow"``: some changes were lost; look again at everything."""

    kind: ChangeKind
    path: str
    source: str | None = None

    @classmethod
    def read(cls, reply: Reply) -> Self:
        """Check a reply of the guest."""
        kind = reply.text("kind")
        if kind not in _CHANGE_KINDS:
            raise reply.wrong("kind")
        source = None if reply.text_or_none("from") is None else reply.path("from")
        return cls(kind=cast("ChangeKind", kind), path=reply.path("path"), source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A piece of a process's output.

    Attributes:
        channel: 1 standard output, 2 standard error.
        offset: Of its first byte, counted since the process started.
        data: At least one byte.
    """

    channel: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Output that the ring had already overwritten: bytes `start` to `end` are lost."""

    channel: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PortInfo:
    """A TCP port that something inside listens on."""

    port: int
    address: str
    pid: int | None

    @classmethod
    def read(cls, reply: Reply) -> Self:
        """Check a reply of the guest."""
        return cls(
            port=reply.integer("port", least=1, most=65_535),
            address=reply.text("address"),
            pid=reply.integer_or_none("pid"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One thing that was put right after a machine woke up."""

    name: str
    how: str
    us: int

    @classmethod
    def read_all(cls, reply: Reply) -> list[Self]:
        """Check a reply of the guest: every repair of the protocol, in its order. One that is missing was not done."""
        repairs = [
            cls(name=each.text("name"), how=each.text("how"), us=each.integer("us"))
            for each in reply.objects("repairs")
        ]
        if tuple(each.name for each in repairs) != _REPAIRS:
            raise reply.wrong("repairs")
        return repairs


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestInfo:
    """What the agent says of its machine."""

    uptime_s: float
    memory_total_bytes: int
    memory_available_bytes: int
    processes: int
    disk_total_bytes: int
    disk_free_bytes: int
    kernel: str
    generation: int
    boot_id: str

    @classmethod
    def read(cls, reply: Reply) -> Self:
        """Check a reply of the guest."""
        return cls(
            uptime_s=reply.number("uptime_s"),
            memory_total_bytes=reply.integer("memory_total_bytes"),
            memory_available_bytes=reply.integer("memory_available_bytes"),
            processes=reply.integer("processes"),
            disk_total_bytes=reply.integer("disk_total_bytes"),
            disk_free_bytes=reply.integer("disk_free_bytes"),
            kernel=reply.text("kernel"),
            generation=reply.integer("generation"),
            boot_id=reply.text("boot_id"),
        )
