"""Attacks on the kernel and the host from inside, as the unprivileged user and as root."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from callbox.errors import SandboxLost
from callbox.sandboxes.certify.check import Check, expect
from callbox.sandboxes.certify.ground import Ground, after_loss

_OWN_KERNEL_ONLY = {"io_uring_setup"}
"""May work: it reaches the sandbox's own kernel, never the host's. The report says so."""

_AS_ROOT_OWN_KERNEL_ONLY = _OWN_KERNEL_ONLY | {
    "/proc/kcore", "/dev/mem", "/dev/port", "/proc/sysrq-trigger", "core_pattern", "modprobe path", "init_module",
    "kexec_load", "bpf", "perf_event_open", "mknod", "ptrace of PID 1",
}  # fmt: skip
"""Root inside owns the sandbox's kernel, where that is a whole one; what it must not reach is the host."""


_CRASH = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; kill -9 -1"


@asynccontextmanager
async def _bait() -> AsyncGenerator[dict[str, Any]]:
    """A file on the host that nobody inside may find, and a listener on the host that nobody inside may reach."""
    told: list[bool] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(True)
        writer.write(b"this is the host")
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", 0)  # noqa: S104  # bait; it says one sentence and closes
    handle, path = tempfile.mkstemp(prefix=f"callbox-canary-{secrets.token_hex(8)}-")
    os.close(handle)
    addresses = {"127.0.0.1", "10.0.2.2", "169.254.169.254", *_own_addresses()}
    try:
        port = server.sockets[0].getsockname()[1]
        yield {"canary": Path(path).name, "addresses": sorted(addresses), "port": port}
    finally:
        Path(path).unlink()
        server.close()
        await server.wait_closed()


def _own_addresses() -> set[str]:
    try:
        return {str(each[4][0]) for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    except OSError:
        return set()


async def _probe(ground: Ground, user: str, allowed: set[str]) -> str:
    async with _bait() as bait, ground.box() as box:
        done = await ground.python(box, "kernel.py", json.dumps(bait), user=user, timeout_s=100)
        expect(done.exit_code == 0, f"the probe ended with {done.exit_code}: {done.stderr[-300:]}")
        answer = json.loads(done.stdout)
    found: dict[str, str] = answer["found"]
    facts: dict[str, Any] = answer["facts"]
    reached = {name: how for name, how in found.items() if how.startswith("REACHED")}
    beyond = {name: how for name, how in reached.items() if name not in allowed}
    expect(not beyond, f"reached: {beyond}")
    expect(facts["interfaces"] in ("", "lo"), f"network interfaces: {facts['interfaces']}")
    host_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    expect(facts["boot_id"] != host_boot, "it runs on the host's own kernel")
    expect(user == "root" or facts["uid"] != 0, "the workload runs as root")
    expect(user == "root" or facts["no_new_privs"] or ground.driver == "gvisor", "no_new_privs is not set")
    said = f"{len(found) - len(reached)} of {len(found)} refused"
    return said + (f"; only its own kernel reached by: {', '.join(sorted(reached))}" if reached else "")


async def unprivileged(ground: Ground) -> str:
    """Try the host's and the kernel's doors as `box`."""
    return await _probe(ground, "box", _OWN_KERNEL_ONLY)


async def root(ground: Ground) -> str:
    """The same as root inside."""
    return await _probe(ground, "root", _AS_ROOT_OWN_KERNEL_ONLY)


async def panic(ground: Ground) -> str:
    """Crash the sandbox's own kernel as root; the host and a neighbour go on, the files are there afterwards."""
    async with ground.neighbour() as took, ground.box() as box:
        await box.files.write("kept.txt", "kept")
        await box.run("sync", user="root")
        with suppress(SandboxLost):  # the machine may have died of it: that is allowed
            await box.run(_CRASH, user="root", timeout_s=20)
        kept = await after_loss(lambda: box.files.read("kept.txt"))
        expect(kept == b"kept", "the file was gone after the crash")
        again = await after_loss(lambda: box.run("echo again"))
        expect(again.stdout == "again\n", "it did not come back")
        expect(took, "the neighbour never answered")
    return "the host went on, files kept"


CHECKS = (
    Check(
        "kernel",
        "an unprivileged workload reaches no device, no kernel interface, no host file, no network",
        unprivileged,
        240,
    ),
    Check("kernel", "root inside reaches nothing of the host", root, 240),
    Check("kernel", "a crash of the sandbox's kernel or of all its processes stays inside", panic, 240),
)
