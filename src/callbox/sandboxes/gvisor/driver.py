"""Make machines with runsc."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import platform
import random
import resource
import shlex
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbox.errors import HostUnsuited, SandboxError, SnapshotRefused
from callbox.sandboxes.agent.binary import agent_binary, agent_digest
from callbox.sandboxes.agent.store import AgentStore
from callbox.sandboxes.driver import SAVED_MARK, MachineSpec, Probe, RootImage
from callbox.sandboxes.gvisor.bundle import oci_config, write_bundle
from callbox.sandboxes.gvisor.checkpoint import is_whole
from callbox.sandboxes.gvisor.layout import Paths, container_name, restore_words, sandbox_identity
from callbox.sandboxes.gvisor.machine import AGENT, CHECKPOINT, DISK, START_TIMEOUT_S, GvisorMachine, Makings
from callbox.sandboxes.gvisor.runsc import Runsc, cpu_digest, find_runsc
from callbox.sandboxes.host import disks, launch
from callbox.sandboxes.host.cgroups import Cgroup, CgroupLimits
from callbox.sandboxes.host.mounts import LoopMount, OverlayMount
from callbox.sandboxes.host.processes import ProcessIdentity
from callbox.sandboxes.host.reap import reap
from callbox.sandboxes.spec import SandboxLimits

_log = logging.getLogger("callbox.sandboxes.gvisor")

PLATFORMS = ("systrap", "ptrace")
"""In order of preference: what a probe shows to work is used."""

PROBE_TIMEOUT_S = 10.0
_MONITOR_MEMORY_MB = 192
"""Memory for the sandbox's own kernel and its file server, above the guest's: the guest's watchdog acts first."""

_THREADS_PER_PROCESS = 20
_MONITOR_THREADS = 256
_SAVING_POLL_S = 0.02
_SAVING_QUIET_S = 2.0
"""A sandbox whose checkpoint does not grow for so long does not write one."""
_MAGIC = bytes.fromhex("ca11b0c5")


class GvisorDriver:
    """See `Driver`.

    Args:
        platforms: What to try, the first that runs a real guest is used. ``"kvm"`` only if somebody asks for it:
            where virtual machines inside virtual machines are broken, a guest hangs instead of failing.
        cache: File in which the probe's result is remembered until the host boots again or runsc changes.
        agents: Folder for copies of the agents that machines were started with. They must stay while there are
            machines, running or saved, that were started from them. None: ``agents/`` beside `cache`.
    """

    def __init__(
        self, *, platforms: Sequence[str] = PLATFORMS, cache: Path | None = None, agents: Path | None = None
    ) -> None:
        self._platforms = tuple(platforms)
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "callbox" / "gvisor-probe.json"
        self._cache = cache or default
        self._agents = AgentStore(agents or self._cache.parent / "agents")
        self._found: Probe | None = None
        self._probing = asyncio.Lock()

    @property
    def name(self) -> str:
        """The driver's name."""
        return "gvisor"

    async def probe(self) -> Probe:
        """Run a real guest on each platform until one answers."""
        async with self._probing:
            if self._found is None:
                self._found = await self._probe()
            return self._found

    async def fingerprint(self, spec: MachineSpec) -> Mapping[str, str]:
        """Name what a checkpoint depends on, but for the agent: saved memory names its own, and `restore` uses that."""
        runsc = await find_runsc()
        return {
            "driver": self.name,
            "runsc": runsc.version,
            "platform": await self._platform(),
            "image": spec.image.digest,
            "arch": platform.machine(),
            "cpu": await asyncio.to_thread(cpu_digest),
            "memory_mb": str(spec.limits.memory_mb),
            "cpus": str(spec.limits.cpus),
        }

    async def boot(self, spec: MachineSpec) -> GvisorMachine:
        """Start a machine; its disk is made if there is none."""
        return await self._boot(spec, await find_runsc(), await self._platform())

    async def build(self) -> str:
        """Name what machines that are booted now run: one that was booted with another is not like them."""
        return await asyncio.to_thread(agent_digest)

    async def restore(self, spec: MachineSpec, saved: Path) -> GvisorMachine:
        """Start a machine from a checkpoint."""
        paths = Paths(spec.place)
        makings = Makings(await find_runsc(), await self._platform(), await asyncio.to_thread(_agent_of, saved))
        if (saved / DISK).exists():
            await asyncio.to_thread(disks.clone_file, saved / DISK, paths.disk, durable=False)
        if not paths.disk.is_file():
            raise SandboxError("The disk that belongs to the saved memory is gone.")
        return await self._start(spec, makings, restore_words(paths, saved, container_name(spec.machine_id, 0)))

    async def adopt(self, spec: MachineSpec) -> GvisorMachine | None:
        """Take over a machine whose sandbox process still is the one that was recorded."""
        found = await asyncio.to_thread(_recorded, spec)
        if found is None:
            return None
        sandbox, known = found
        makings = Makings(await find_runsc(), str(known["platform"]), str(known["agent"]))
        return GvisorMachine(spec, makings, sandbox, int(known["serial"]))

    async def saved_whole(self, spec: MachineSpec, into: Path) -> bool:
        """See `Driver.saved_whole`. A sandbox that was told to save itself does so, and ends, without us."""
        if (into / SAVED_MARK).exists():
            return True
        checkpoint, written, quiet = into / CHECKPOINT, -1, 0
        while checkpoint.exists() and await asyncio.to_thread(_recorded, spec) is not None:
            before, written = written, checkpoint.stat().st_size
            quiet = quiet + 1 if written == before else 0
            if quiet * _SAVING_POLL_S > _SAVING_QUIET_S:
                return False  # it was never told: it runs
            await asyncio.sleep(_SAVING_POLL_S)
        return await asyncio.to_thread(is_whole, checkpoint)

    async def reap(self, place: Path, machine_id: str) -> int:
        """End everything that belongs to a machine."""
        return await reap(place, machine_id)

    # --- starting ---

    async def _boot(self, spec: MachineSpec, runsc: Runsc, chosen: str) -> GvisorMachine:
        paths = Paths(spec.place)
        if not paths.disk.exists():
            limits = spec.limits
            await asyncio.to_thread(disks.make_disk, paths.disk, size_mb=limits.disk_mb, inodes_max=limits.inodes_max)
        name = container_name(spec.machine_id, 0)
        words = ["run", "--detach", f"--bundle={paths.bundle}", f"--pid-file={paths.sandbox}", name]
        return await self._start(spec, Makings(runsc, chosen, await asyncio.to_thread(self._agents.today)), words)

    async def _start(self, spec: MachineSpec, makings: Makings, words: list[str]) -> GvisorMachine:
        """Mount, start, and wait until runsc says that the guest runs. Leaves nothing behind if it does not."""
        paths, group = Paths(spec.place), Cgroup(spec.machine_id, spec.place)
        try:
            _prepare(spec, paths, await asyncio.to_thread(self._agents.path, makings.agent))
            group.create(_host_limits(spec.limits))
            status = await launch.run(_launch(spec, paths, group, makings, words), timeout_s=START_TIMEOUT_S)
            if status != 0:
                raise SandboxError(f"The machine did not start: {launch.tail(paths.log) or f'status {status}'}")
            machine = GvisorMachine(spec, makings, sandbox_identity(paths), 0)
            _use_all_processors(machine.pids)
            group.limit_cpus(spec.limits.cpus)
            machine.write_record()
        except OSError as error:
            await asyncio.shield(reap(spec.place, spec.machine_id))
            raise SandboxError(f"The machine's folder cannot be prepared: {error}.") from error
        except BaseException:
            await asyncio.shield(reap(spec.place, spec.machine_id))
            raise
        return machine

    # --- finding out ---

    async def _platform(self) -> str:
        found = await self.probe()
        if not found.usable:
            raise HostUnsuited(found.why, hint=found.fix or None)
        return found.how

    async def _probe(self) -> Probe:
        try:
            runsc, agent = await find_runsc(), agent_binary()
        except HostUnsuited as error:
            return Probe(usable=False, how="", secure=True, why=error.message, fix=error.hint or "")
        if os.geteuid() != 0:
            why = "runsc needs root for a private disk of its own per sandbox."
            return Probe(
                usable=False,
                how="",
                secure=True,
                why=why,
                fix='Run callbox as root (sudo -E callbox doctor), or use driver="qemu".',
            )
        key = await asyncio.to_thread(self._key, runsc)
        remembered = await asyncio.to_thread(self._remembered, key)
        if remembered is not None:
            return _works(remembered)
        reasons: list[str] = []
        for each in self._platforms:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await self._try(runsc, each)
            except (TimeoutError, SandboxError, OSError) as error:
                reasons.append(f"{each}: {str(error).strip()[-200:] or 'no answer'}")
                continue
            await asyncio.to_thread(self._remember, key, each)
            return _works(each)
        why = f"No platform of runsc {runsc.version} runs a guest with {agent.name} ({'; '.join(reasons)})."
        return Probe(usable=False, how="", secure=True, why=why, fix="apt-get install --reinstall runsc e2fsprogs")

    async def _try(self, runsc: Runsc, chosen: str) -> None:
        """Boot a guest with nothing but the agent in it, and hear it answer."""
        place = Path(tempfile.mkdtemp(prefix="callbox-probe-"))
        machine_id = uuid.uuid4().hex
        try:
            (place / "image").mkdir()
            image = RootImage(digest="0" * 64, rootfs=place / "image", disk=None)
            limits = SandboxLimits(memory_mb=128, disk_mb=32, inodes_max=1_000)
            spec = MachineSpec(machine_id=machine_id, image=image, limits=limits, place=place)
            machine = await self._boot(spec, runsc, chosen)
            reader, writer = await machine.connect()
            try:
                writer.write(_hello())
                answer = await reader.readexactly(len(_MAGIC))
                if answer != _MAGIC:
                    raise SandboxError(f"It answered {answer!r}.")
            except asyncio.IncompleteReadError as error:
                raise SandboxError("It ended without an answer.") from error
            finally:
                writer.close()
        finally:
            await asyncio.shield(reap(place, machine_id))
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    def _key(self, runsc: Runsc) -> list[str]:
        """Everything that a remembered answer holds for."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        changed = str(Path(runsc.program).stat().st_mtime_ns)
        return [boot, runsc.program, runsc.version, changed, agent_digest(), *self._platforms]

    def _remembered(self, key: list[str]) -> str | None:
        try:
            known = json.loads(self._cache.read_text())
            return str(known["platform"]) if known["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, key: list[str], chosen: str) -> None:
        # Without a place to remember it in, it is found out again.
        with contextlib.suppress(OSError):
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            part = self._cache.with_name(f"{self._cache.name}.{os.getpid()}")
            part.write_text(json.dumps({"key": key, "platform": chosen}))
            part.replace(self._cache)


def _works(chosen: str) -> Probe:
    missing = Cgroup("0" * 32).unlimited
    said = f" The host does not limit its {', '.join(missing)}: no control group can be written." if missing else ""
    return Probe(usable=True, how=chosen, secure=True, why=f"A guest ran on runsc's platform {chosen}.{said}")


def _hello() -> bytes:
    payload = json.dumps({"version": 1, "epoch": uuid.uuid4().hex}).encode()
    header = _MAGIC + bytes([1, 0, 0, 0]) + bytes(4) + len(payload).to_bytes(4, "big")
    return header + zlib.crc32(header + payload).to_bytes(4, "big") + payload


def _prepare(spec: MachineSpec, paths: Paths, agent: Path) -> None:
    """Make the folders, FIFOs and the bundle."""
    # What runsc knew of the machine's former life here would be in the way.
    shutil.rmtree(paths.root, ignore_errors=True)
    for folder in (paths.layer, paths.rootfs, paths.root, paths.bundle):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for fifo in (paths.to_agent, paths.from_agent):
        # Always new ones: whoever still holds an old one talks to nobody.
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
    for stale in (paths.sandbox, paths.keeper, paths.record, paths.log):
        stale.unlink(missing_ok=True)
    paths.meminfo.write_text(f"MemTotal: {spec.limits.memory_mb << 10} kB\n")
    config = oci_config(spec, agent=agent, rootfs=paths.rootfs, tmp=paths.layer / "tmp", env=spec.image.env)
    write_bundle(paths.bundle, config)


def _agent_of(saved: Path) -> str:
    """Which agent saved memory runs."""
    if not (saved / CHECKPOINT).is_file():
        raise SnapshotRefused("The saved memory is not complete.")
    try:
        return str(json.loads((saved / AGENT).read_bytes())["agent"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotRefused("The saved memory does not name the agent that it runs.") from error


def _host_limits(limits: SandboxLimits) -> CgroupLimits:
    return CgroupLimits(
        memory_bytes=(limits.memory_mb + max(_MONITOR_MEMORY_MB, limits.memory_mb // 4)) << 20,
        processes_max=limits.processes_max * _THREADS_PER_PROCESS + _MONITOR_THREADS,
        cpus=None,  # until it runs
    )


def _launch(spec: MachineSpec, paths: Paths, group: Cgroup, makings: Makings, words: list[str]) -> launch.Launch:
    tmp, work = shlex.quote(str(paths.layer / "tmp")), shlex.quote(str(paths.rootfs / "work"))
    return launch.Launch(
        machine_id=spec.machine_id,
        argv=makings.runsc.command(paths.root, makings.platform, paths.log, words),
        join=group.join_files,
        mounts=[
            LoopMount(image=paths.disk, at=paths.layer),
            OverlayMount(lower=spec.image.rootfs, layer=paths.layer, at=paths.rootfs),
        ],
        prepare=[
            # runsc reads there how much memory its guest is to see; it has no option for that.
            f"mount --bind {shlex.quote(str(paths.meminfo))} /proc/meminfo",
            f"[ -d {tmp} ] || mkdir -m 1777 {tmp}",
            f"[ -d {work} ] || {{ mkdir -m 0755 {work} && chown 1000:1000 {work}; }}",
        ],
        stdin=paths.to_agent,
        stdout=paths.from_agent,
        stderr=paths.log,
        rlimits={"core": 0, "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1]},
        # A guest sees as many processors as its kernel may use when it boots. One that was saved remembers them, and
        # comes back faster on all.
        cpus=_some_processors(spec.limits.cpus) if words[0] == "run" else None,
        keeper_file=paths.keeper,
    )


def _some_processors(count: int) -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    return random.sample(allowed, min(count, len(allowed)))


def _recorded(spec: MachineSpec) -> tuple[ProcessIdentity, dict[str, Any]] | None:
    """The sandbox process that was recorded, if it still is this machine's, and how it was made."""
    try:
        known = json.loads(Paths(spec.place).record.read_text())
        sandbox = ProcessIdentity(int(known["pid"]), int(known["started"]))
        known = {"platform": known["platform"], "agent": known["agent"], "serial": int(known["serial"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not sandbox.alive() or sandbox.pid not in Cgroup(spec.machine_id, spec.place).pids():
        return None
    return sandbox, known


def _use_all_processors(pids: list[int]) -> None:
    """Let a started machine run wherever there is room; its share of time is limited by its control group."""
    allowed = os.sched_getaffinity(0)
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(task.name), allowed)
