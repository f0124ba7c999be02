"""What people use today: bare `runsc run`, a cold QEMU boot, a bubblewrap process, each in the same image."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from callbox.sandboxes.channel import Channel
from callbox.sandboxes.driver import RootImage
from callbox.sandboxes.images.kernel import GuestKernel
from callbox.sandboxes.qemu.tsc import tsc_khz


def bare_runsc(image: RootImage, command: list[str]) -> float:
    """Seconds of one `runsc run` of a command in the image, its disk in the sentry's memory."""
    folder = Path(tempfile.mkdtemp(prefix="callbox-bench-runsc-"))
    name = f"bench-{os.getpid()}-{time.monotonic_ns()}"
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": command, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/usr/bin:/bin"]},
        "root": {"path": str(image.rootfs), "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": each} for each in ("pid", "network", "ipc", "uts", "mount")]},
    }
    (folder / "config.json").write_text(json.dumps(spec))
    runsc = ["runsc", f"--root={folder}/state", "--network=none", "--ignore-cgroups", "--overlay2=root:memory"]
    try:
        begun = time.perf_counter()
        subprocess.run([*runsc, "run", "--bundle", str(folder), name], check=True, capture_output=True)
        return time.perf_counter() - begun
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bubblewrap(image: RootImage, command: list[str]) -> float:
    """Seconds of one process in namespaces over the image: the host's kernel, no machine of its own."""
    line = [
        "bwrap",
        "--ro-bind",
        str(image.rootfs),
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--unshare-all",
    ]
    begun = time.perf_counter()
    subprocess.run([*line, *command], check=True, capture_output=True)
    return time.perf_counter() - begun


def cold_qemu(image: RootImage, kernel: GuestKernel) -> float:
    """Seconds from starting QEMU to the agent's first answer; no snapshot, no spare."""
    folder = Path(tempfile.mkdtemp(prefix="callbox-bench-qemu-"))
    disk = folder / "disk.img"
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk), "256M"], check=True, capture_output=True)
    line = [
        "qemu-system-x86_64", "-M", "microvm,accel=tcg,pic=off,pit=off,rtc=on", "-nodefaults", "-no-user-config",
        "-display", "none", "-m", "512", "-kernel", str(kernel.vmlinuz), "-initrd", str(kernel.initramfs), "-append",
        f"console=ttyS0 acpi=on tsc_early_khz={tsc_khz()} tsc=reliable reboot=t panic=-1 callbox.boot=vm quiet",
        "-drive", f"id=a,file={image.disk},format=raw,if=none,read-only=on", "-device", "virtio-blk-device,drive=a",
        "-drive", f"id=b,file={disk},format=raw,if=none", "-device", "virtio-blk-device,drive=b",
        "-device", "virtio-serial-device", "-chardev", f"socket,id=c,path={folder}/port,server=on,wait=off",
        "-device", "virtserialport,chardev=c,name=callbox", "-serial", "null", "-no-reboot",
    ]  # fmt: skip
    begun = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_until_it_answers(folder / "port"))
        return time.perf_counter() - begun
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _until_it_answers(path: Path) -> None:
    """Say HELLO to the agent; QEMU keeps it until the guest has opened its port."""
    async with asyncio.timeout(60):
        while True:
            try:
                streams = await asyncio.open_unix_connection(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):  # not there, or bound and not yet listening
                await asyncio.sleep(0.002)
        channel = await Channel.connect(*streams, timeout_s=60)
        await channel.aclose()
