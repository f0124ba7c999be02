"""Sandboxes and snapshots, as one uses them."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self

from callbox.errors import SandboxNotFound
from callbox.sandboxes.client import Client, Target
from callbox.sandboxes.files import Files
from callbox.sandboxes.forward import Forward
from callbox.sandboxes.guest import ExecStatus, PortInfo
from callbox.sandboxes.home import Home
from callbox.sandboxes.opening import Opening
from callbox.sandboxes.process import Process
from callbox.sandboxes.results import Forks, Receipt, RunResult, SandboxInfo, SandboxStats
from callbox.sandboxes.running import OUTPUT_BYTES_MAX, PORT_TIMEOUT_S, OnOutput, run_command, spawn_command
from callbox.sandboxes.spec import Lifetime, SandboxLimits, SandboxSpec, check_name

Tier = Literal["hot", "warm", "cold"]


class Sandbox:
    """An isolated machine with a kernel of its own, which falls asleep when idle and wakes on the next call.

    Example::

        async with Sandbox.create("python") as box:           # deleted at the end
            result = await box.run("python3 -c 'print(6*7)'")
            print(result.stdout)                              # 42

        box = await Sandbox.create("python", name="notebook") # stays, also when this program ends
        box = await Sandbox.open("notebook")                  # from any program, any day: as it was left

    Errors: `SandboxLost` when the machine died, `SandboxStateError`, `GuestError` for what the machine refuses.
    A command that fails is none: look at `RunResult.exit_code`.
    """

    def __init__(self, home: Home, info: SandboxInfo, receipt: Receipt | None = None, *, keep: bool = True) -> None:
        self._info = info
        self._keep = keep
        self._target = Target(home, info.id)
        self.receipt = receipt
        """What it took to make it or to wake it last, where we know."""
        self.files = Files(self._target)
        """Its files."""

    def __repr__(self) -> str:
        return f"<Sandbox {self.name} image={self._info.image} driver={self._info.driver} state={self.state}>"

    @classmethod
    def create(
        cls,
        image: str = "python",
        *,
        driver: str = "auto",
        name: str | None = None,
        idle_s: float | None = None,
        memory_mb: int | None = None,
        cpus: int | None = None,
        network: None = None,
        env: Mapping[str, str] | None = None,
        ttl_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
        lifetime: Lifetime | None = None,
        keep: bool | None = None,
        home: Home | None = None,
    ) -> Opening[Self]:
        """Make a sandbox: ``box = await Sandbox.create(...)`` or ``async with Sandbox.create(...) as box``.

        Args:
            image: Name of an image (``callbox image list``).
            driver: ``"auto"`` takes the best that works here (``callbox doctor`` explains), ``"gvisor"`` or ``"qemu"``.
            name: For `Sandbox.open`; unique in the home.
            idle_s: Seconds without a call until it falls asleep; 15 unless `lifetime` says otherwise.
            memory_mb: Its memory, MiB; 512 unless `limits` says otherwise.
            cpus: Its processors; 1 unless `limits` says otherwise.
            network: None: there is none, only forwarded ports.
            env: Environment of every process in it.
            ttl_s: Seconds until it is deleted, whatever happens.
            labels: For `Sandbox.list`.
            limits: All limits, where the ones above are not enough.
            lifetime: All times, where the ones above are not enough.
            keep: Whether it outlives the ``async with``; None: if it has a name.
            home: Which installation; None: ``$CALLBOX_HOME``, else the user's.

        Raises:
            SandboxNotFound: There is no such image.
            SandboxExists: The name is taken.
            HostUnsuited: This host lacks what the driver needs.
        """
        spec = SandboxSpec(
            image=image,
            driver=driver,
            name=name,
            limits=_changed(limits or SandboxLimits(), memory_mb=memory_mb, cpus=cpus),
            lifetime=_changed(lifetime or Lifetime(), idle_s=idle_s, ttl_s=ttl_s),
            env=dict(env or {}),
            labels=dict(labels or {}),
            network=network,
        )
        return cls.create_from(spec, keep=keep, home=home)

    @classmethod
    def create_from(cls, spec: SandboxSpec, *, keep: bool | None = None, home: Home | None = None) -> Opening[Self]:
        """Like `create`, with all that is asked for in one value."""

        async def make() -> Self:
            client = Client.of(home)
            reply = await client.call("sandbox.create", repeat=False, spec=asdict(spec))
            info, receipt = SandboxInfo.from_reply(reply["sandbox"]), Receipt.from_reply(reply["receipt"])
            return cls(client.home, info, receipt, keep=spec.name is not None if keep is None else keep)

        return Opening(make)

    @classmethod
    def open(cls, name: str, *, home: Home | None = None) -> Opening[Self]:
        """Find a sandbox by its name or id. It is not woken by this, and not deleted at the end of an ``async with``.

        Raises:
            SandboxNotFound: There is none.
        """

        async def find() -> Self:
            client = Client.of(home)
            reply = await client.call("sandbox.get", repeat=True, sandbox=name)
            return cls(client.home, SandboxInfo.from_reply(reply["sandbox"]))

        return Opening(find)

    @classmethod
    def restore(cls, snapshot: str, *, name: str | None = None, home: Home | None = None) -> Opening[Self]:
        """Make a sandbox from a snapshot: memory, processes and files as they were, private from then on.

        Raises:
            SandboxNotFound: There is no such snapshot.
            SnapshotRefused: It is damaged, or was made by another driver, kernel, CPU or version.
        """
        if name is not None:
            check_name(name)

        async def make() -> Self:
            client = Client.of(home)
            reply = await client.call("snapshot.restore", repeat=False, snapshot=snapshot, spec={"name": name})
            receipt = Receipt.from_reply(reply["receipt"]) if reply.get("receipt") else None
            return cls(client.home, SandboxInfo.from_reply(reply["sandbox"]), receipt, keep=name is not None)

        return Opening(make)

    @classmethod
    async def list(
        cls,
        *,
        labels: Mapping[str, str] | None = None,
        states: Sequence[str] | None = None,
        home: Home | None = None,
    ) -> builtins.list[Self]:
        """All sandboxes that have all of `labels` and are in one of `states`. None of them is woken by this."""
        client = Client.of(home)
        filters: dict[str, Any] = {"labels": dict(labels or {})}
        if states is not None:
            filters["states"] = [*states]
        reply = await client.call("sandbox.list", repeat=True, **filters)
        return [cls(client.home, SandboxInfo.from_reply(info)) for info in reply["sandboxes"]]

    @property
    def id(self) -> str:
        """Never used again."""
        return self._info.id

    @property
    def name(self) -> str:
        """The name that it was given, else its id."""
        return self._info.name

    @property
    def state(self) -> str:
        """The state that was last heard of; `info` asks."""
        return self._info.state

    @property
    def last_info(self) -> SandboxInfo:
        """What was last heard of it; `info` asks."""
        return self._info

    @property
    def target(self) -> Target:
        """How requests reach it."""
        return self._target

    async def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str = "box",
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
        on_output: OnOutput | None = None,
    ) -> RunResult:
        """Run a command and wait for its end. Cancelled, it ends the command and all its descendants.

        It wakes the sandbox again where somebody puts it to standby, or stops the supervisor, before the end.

        Args:
            command: A line for ``/bin/sh``, or a program and its arguments, which no shell looks at.
            cwd: Where; ``/work`` by default.
            env: More environment.
            user: ``"box"``, who may do nothing special, or ``"root"`` of the sandbox.
            stdin: Its input; None: none.
            timeout_s: Seconds after which it and its descendants are killed (`RunResult.timed_out`).
            output_bytes_max: Of each output that the result keeps: of a longer one the head and the tail.
            on_output: Called as ``on_output("stdout", text)`` as output comes; may be async.

        Example::

            result = await box.run(["python3", "-"], stdin="print(6*7)", timeout_s=10)
            assert result.ok and result.stdout == "42\\n"
        """
        return await run_command(
            self._target,
            command,
            cwd=cwd,
            env=env,
            user=user,
            stdin=stdin,
            timeout_s=timeout_s,
            output_bytes_max=output_bytes_max,
            on_output=on_output,
        )

    async def spawn(
        self,
        command: str | Sequence[str],
        *,
        wait_port: int | None = None,
        port_timeout_s: float = PORT_TIMEOUT_S,
        keep_alive: bool = False,
        pty: tuple[int, int] | None = None,
        stdin: bool | bytes | str = False,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str = "box",
        timeout_s: float | None = None,
    ) -> Process:
        """Start a command and return while it runs.

        Args:
            command: As of `run`.
            wait_port: Return when something listens on this port; the process is killed if nothing does.
            port_timeout_s: How long that may take.
            keep_alive: The sandbox stays awake while it runs, and what it leaves running goes on after its end.
            pty: Give it a terminal of (rows, columns).
            stdin: True: `Process.write` may be used; bytes or text: this, and then its end.
            cwd: As of `run`.
            env: As of `run`.
            user: As of `run`.
            timeout_s: As of `run`.

        Raises:
            SandboxError: It ended before its port was open, or did not open it in time; the message has its last words.

        Example::

            server = await box.spawn("python3 -m http.server 8000", wait_port=8000, keep_alive=True)
        """
        return await spawn_command(
            self._target,
            command,
            cwd=cwd,
            env=env,
            user=user,
            stdin=stdin,
            timeout_s=timeout_s,
            pty=pty,
            keep_alive=keep_alive,
            wait_port=wait_port,
            port_timeout_s=port_timeout_s,
        )

    def process(self, process_id: str) -> Process:
        """A process that was started before, by its id: to follow it, or to read what a result left out."""
        return Process(self._target, process_id)

    async def processes(self) -> builtins.list[ExecStatus]:
        """What was started here: running, and finished within the last hour."""
        return await self._target.ask("exec.list", lambda guest: guest.exec_list(), repeat=True)

    async def ports(self) -> builtins.list[PortInfo]:
        """TCP ports that something inside listens on."""
        return await self._target.ask("port.list", lambda guest: guest.port_list(), repeat=True)

    def forward(self, port: int, host_port: int = 0) -> Opening[Forward]:
        """Make a port of the sandbox reachable on this host's loopback; `host_port` 0: any free one.

        Example::

            async with box.forward(8000) as forward:
                httpx.get(forward.url)
        """
        return Opening(lambda: Forward.start(self._target, port, host_port))

    async def standby(self, tier: Tier = "hot") -> SandboxInfo:
        """Put it to sleep now.

        ``"hot"``: stopped, in memory; ``"warm"``: on disk, no process left; ``"cold"``: and out of the page cache.
        The next call wakes it, with memory, processes and files as they were.
        """
        reply = await self._target.call("sandbox.standby", repeat=True, tier=tier)
        self._info = SandboxInfo.from_reply(reply["sandbox"])
        return self._info

    async def resume(self) -> Receipt:
        """Wake it now, and say what that took. Any other call wakes it, too."""
        reply = await self._target.call("sandbox.resume", repeat=True)
        self.receipt = Receipt.from_reply(reply["receipt"])
        return self.receipt

    async def snapshot(self, name: str | None = None) -> Snapshot:
        """Keep this instant, memory and files. The sandbox goes on after a pause of milliseconds.

        Example::

            snapshot = await box.snapshot("installed")
            other = await snapshot.restore()
        """
        fields = {} if name is None else {"name": check_name(name)}
        reply = await self._target.call("sandbox.snapshot", repeat=False, **fields)
        return Snapshot.from_reply(self._target.home, reply["snapshot"])

    async def fork(self, n: int = 1, *, names: Sequence[str] | None = None) -> Forks[Self]:
        """Make `n` children of one paused instant, memory and files; each is private from then on.

        Returns:
            A list that also knows `pause_ms`: how long this sandbox stood still.

        Children without names are deleted at the end of their own ``async with``, as of `create`.

        Example::

            kids = await box.fork(8)
            results = await asyncio.gather(*(kid.run("pytest -q") for kid in kids))
        """
        fields: dict[str, Any] = {"count": n}
        if names is not None:
            fields["names"] = [check_name(name) for name in names]
        reply = await self._target.call("sandbox.fork", repeat=False, **fields)
        children = [
            type(self)(self._target.home, SandboxInfo.from_reply(info), keep=names is not None)
            for info in reply["sandboxes"]
        ]
        return Forks(children, reply["pause_ms"])

    async def delete(self) -> None:
        """End it and remove all that it has, from whatever state. Fine if it is gone already."""
        with suppress(SandboxNotFound):
            await self._target.call("sandbox.delete", repeat=True)
        self._info = replace(self._info, state="gone")

    async def info(self) -> SandboxInfo:
        """What the supervisor knows of it now; does not wake it."""
        reply = await self._target.call("sandbox.get", repeat=True)
        self._info = SandboxInfo.from_reply(reply["sandbox"])
        return self._info

    async def update(self, *, labels: Mapping[str, str] | None = None, lifetime: Lifetime | None = None) -> None:
        """Change its labels (all of them) or its times (all of them)."""
        fields: dict[str, Any] = {}
        if labels is not None:
            fields["labels"] = dict(labels)
        if lifetime is not None:
            fields["lifetime"] = asdict(lifetime)
        await self._target.call("sandbox.update", repeat=True, **fields)
        await self.info()

    async def stats(self) -> SandboxStats:
        """What it uses on this host now; does not wake it."""
        return SandboxStats.from_reply((await self._target.call("sandbox.stats", repeat=True))["stats"][0])

    async def logs(self) -> builtins.list[str]:
        """What happened to it: made, slept, woken, and why; does not wake it."""
        return (await self._target.call("sandbox.logs", repeat=True))["lines"]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keep:
            await self.delete()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A kept instant of a sandbox: memory and files, checksummed, on disk until it is removed.

    Example::

        snapshot = await box.snapshot("installed")
        for attempt in range(3):
            async with snapshot.restore() as fresh:
                await fresh.run("./try.sh")
    """

    home: Home
    id: str
    name: str
    details: Mapping[str, Any]
    """All that the supervisor says of it."""

    @classmethod
    def from_reply(cls, home: Home, reply: Mapping[str, Any]) -> Snapshot:
        """Read a snapshot's record."""
        return cls(home, reply["id"], reply.get("name") or reply["id"], dict(reply))

    @classmethod
    async def open(cls, name: str, *, home: Home | None = None) -> Snapshot:
        """Find one by its name or id."""
        client = Client.of(home)
        return cls.from_reply(client.home, (await client.call("snapshot.get", repeat=True, snapshot=name))["snapshot"])

    @classmethod
    async def list(cls, *, home: Home | None = None) -> builtins.list[Snapshot]:
        """All of a home."""
        client = Client.of(home)
        reply = await client.call("snapshot.list", repeat=True)
        return [cls.from_reply(client.home, snapshot) for snapshot in reply["snapshots"]]

    def restore(self, *, name: str | None = None) -> Opening[Sandbox]:
        """See `Sandbox.restore`."""
        return Sandbox.restore(self.id, name=name, home=self.home)

    async def remove(self) -> None:
        """Delete it; sandboxes that were restored from it stay. Fine if it is gone already."""
        with suppress(SandboxNotFound):
            await Client.of(self.home).call("snapshot.remove", repeat=True, snapshot=self.id)


def _changed(value: Any, **changes: Any) -> Any:
    """A copy with those fields changed that are not None."""
    return replace(value, **{name: change for name, change in changes.items() if change is not None})
