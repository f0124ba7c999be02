"""The guest's kernel: Debian's cloud kernel, taken out of its package and never installed; and its initramfs.

In the images folder::

    kernel/current.json                     which one is in use
    kernel/<version>-<12 hex>/vmlinuz
    kernel/<version>-<12 hex>/modules/      <name>.ko and `order`: what the guest loads, in this order
    kernel/<version>-<12 hex>/initramfs-<16 hex>.cpio    the agent as /init; one per agent that was used
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from callbox.errors import HostUnsuited, ImageError, SandboxNotFound
from callbox.sandboxes.agent.binary import agent_binary, agent_digest
from callbox.sandboxes.images import cpio
from callbox.sandboxes.images.commands import capture, need, run
from callbox.sandboxes.images.modules import Module, resolve

_log = logging.getLogger("callbox.images")

META_PACKAGE = "linux-image-cloud-amd64"
"""Depends on the newest cloud kernel of the release."""

MODULES = ("virtio_mmio", "virtio_blk", "virtio_console", "virtio_rng", "overlay", "ext4")
"""What a guest needs, if its kernel has not built it in."""

RECIPE = "1"
"""Changes when the same inputs give another initramfs."""

_KEPT_FOLDERS = ("dev", "proc", "sys", "tmp", "run", "modules")


@dataclass(frozen=True, slots=True)
class GuestKernel:
    """What QEMU boots. `digest` (16 hex) names kernel, modules and agent together."""

    vmlinuz: Path
    initramfs: Path
    version: str
    digest: str


def guest_kernel(folder: Path, *, agent: Path | None = None) -> GuestKernel:
    """Return the kernel in use, with an initramfs for the agent of this installation; it is made where it is missing.

    Args:
        folder: The images folder (`Home.images`).
        agent: Another agent binary than our own, for tests.

    Raises:
        SandboxNotFound: `callbox setup` was not run.
        ImageError: The stored kernel is damaged.
    """
    record = _read_record(folder)
    place = folder / "kernel" / record["folder"]
    vmlinuz = place / "vmlinuz"
    agent_mark = agent_digest() if agent is None else hashlib.sha256(agent.read_bytes()).hexdigest()[:16]
    digest = hashlib.sha256(f"{RECIPE} {record['sha256']} {agent_mark}".encode()).hexdigest()[:16]
    initramfs = place / f"initramfs-{digest}.cpio"
    if not vmlinuz.is_file():
        raise ImageError(f"{vmlinuz} is missing.", hint="Run: callbox setup --force")
    if not initramfs.is_file():
        _log.info("building the initramfs for agent %s", agent_mark)
        content = build_initramfs(place / "modules", agent_binary() if agent is None else agent)
        _write_atomically(initramfs, content)
    return GuestKernel(vmlinuz, initramfs, record["version"], digest)


def build_initramfs(modules: Path, agent: Path) -> bytes:
    """Make the archive: the agent as /init, the modules, and the folders it mounts on. Uncompressed.

    Unpacking gzip under software emulation costs more than reading 2 MB.
    """
    order = (modules / "order").read_text()
    entries = [cpio.folder(name) for name in _KEPT_FOLDERS]
    entries.append(cpio.Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(cpio.file("init", agent.read_bytes(), mode=0o755))
    entries += [cpio.file(f"modules/{name}", (modules / name).read_bytes()) for name in order.split()]
    entries.append(cpio.file("modules/order", order.encode()))
    return cpio.archive(entries)


def setup_kernel(
    folder: Path, *, source: Path | None = None, force: bool = False, on_line: Callable[[str], None] | None = None
) -> str:
    """Put a kernel into the store and make it the one in use.

    Args:
        folder: The images folder.
        source: A kernel's .deb, or a folder that one was unpacked into (`boot/`, `lib/modules/`); None: the newest
            cloud kernel of the host's Debian.
        force: Also where there is one already.
        on_line: Gets lines of progress.

    Returns:
        Its version.

    Raises:
        HostUnsuited: The host is no Debian, or apt knows no such kernel.
        ImageError: It cannot be fetched or has not what guests need.
    """
    if source is None and not force:
        try:
            return _read_record(folder)["version"]
        except (SandboxNotFound, ImageError):
            pass
    kernels = folder / "kernel"
    kernels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=kernels) as scratch:
        work = Path(scratch)
        if source is None:
            source = _download(work, on_line)
        tree = source
        if source.is_file():
            tree = work / "unpacked"
            tree.mkdir()
            run([need("dpkg-deb", "dpkg"), "--extract", str(source.absolute()), str(tree)], what="Unpacking the kernel")
        return _store(kernels, tree, work)


def prune_kernels(folder: Path, in_use: set[str]) -> int:
    """Remove kernels and initramfs files but the current ones and those whose digest a machine or snapshot needs.

    Returns:
        Bytes that were freed.
    """
    kernels = folder / "kernel"
    try:
        current = _read_record(folder)["folder"]
        # Never the initramfs of our own agent: it would only be built again.
        kept = in_use | {guest_kernel(folder).digest}
    except (SandboxNotFound, ImageError):
        return 0
    freed = 0
    for place in [each for each in kernels.iterdir() if each.is_dir() and not each.name.startswith(".tmp-")]:
        old = [each for each in place.glob("initramfs-*.cpio") if each.stem.removeprefix("initramfs-") not in kept]
        for each in old:
            freed += each.stat().st_size
            each.unlink()
        if place.name != current and not any(place.glob("initramfs-*.cpio")):
            freed += sum(each.stat().st_size for each in place.rglob("*") if each.is_file())
            shutil.rmtree(place)
    return freed


def _read_record(folder: Path) -> dict[str, str]:
    path = folder / "kernel" / "current.json"
    try:
        record: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise SandboxNotFound("There is no guest kernel.", hint="Run: callbox setup") from None
    except ValueError as error:
        raise ImageError(f"{path} is damaged: {error}.", hint="Run: callbox setup --force") from error
    fields = ("version", "folder", "sha256")
    if not isinstance(record, dict) or not all(isinstance(cast("Any", record).get(each), str) for each in fields):
        raise ImageError(f"{path} is damaged.", hint="Run: callbox setup --force")
    return cast("dict[str, str]", record)


def _download(into: Path, on_line: Callable[[str], None] | None) -> Path:
    apt_cache, apt_get = need("apt-cache", "apt"), need("apt-get", "apt")
    hint = "Run apt-get update, or give a kernel's .deb: callbox setup --kernel PATH"
    try:
        # The first record is the candidate: a newer one of the security archive comes before the release's.
        text = capture([apt_cache, "show", "--no-all-versions", META_PACKAGE], what="Asking apt for the kernel")
    except ImageError as error:
        raise HostUnsuited(f"apt knows no {META_PACKAGE} here.", hint=hint) from error
    found = re.search(r"^Depends:.*?(linux-image-[\w.+-]+-cloud-amd64) \(= ([^)\s]+)\)", text, re.MULTILINE)
    if found is None:
        raise HostUnsuited(f"{META_PACKAGE} names no kernel here.", hint=hint)
    package = f"{found[1]}={found[2]}"
    if on_line is not None:
        on_line(f"Fetching {package}")
    # apt would drop its privileges to a user who may not write into our folder.
    argv = [apt_get, "download", "-q", "-o", "APT::Sandbox::User=root", package]
    run(argv, what=f"Fetching {package}", cwd=into, on_line=on_line)
    packages = list(into.glob("*.deb"))
    if len(packages) != 1:
        raise ImageError(f"apt-get download {package} left {len(packages)} files instead of one.")
    return packages[0]


def _store(kernels: Path, tree: Path, work: Path) -> str:
    images = sorted(tree.glob("boot/vmlinuz-*"))
    if not images:
        raise ImageError(
            f"There is no boot/vmlinuz-* in {tree}.",
            hint="Give a kernel's .deb, or the folder that it was unpacked into.",
        )
    image = images[-1]
    version = image.name.removeprefix("vmlinuz-")
    trees = [each for each in (tree / "lib/modules" / version, tree / "usr/lib/modules" / version) if each.is_dir()]
    if not trees:
        raise ImageError(f"{tree} has no modules for {version}.", hint="Give a package with modules, like Debian's.")
    modules = resolve(trees[0], MODULES)
    vmlinuz = image.read_bytes()
    sha256 = _digest(vmlinuz, modules)
    name = f"{version}-{sha256[:12]}"
    ready = work / name
    (ready / "modules").mkdir(parents=True)
    (ready / "vmlinuz").write_bytes(vmlinuz)
    for module in modules:
        (ready / "modules" / f"{module.name}.ko").write_bytes(module.content)
    (ready / "modules" / "order").write_text("".join(f"{module.name}.ko\n" for module in modules))
    # The same kernel may be there already, whole or damaged. It is put aside, never written into: machines map it.
    if (kernels / name).exists():
        for initramfs in (kernels / name).glob("initramfs-*.cpio"):
            os.link(initramfs, ready / initramfs.name)
        (kernels / name).rename(work / "old")
    ready.rename(kernels / name)
    record = json.dumps({"version": version, "folder": name, "sha256": sha256})
    _write_atomically(kernels / "current.json", record.encode())
    return version


def _digest(vmlinuz: bytes, modules: list[Module]) -> str:
    whole = hashlib.sha256(hashlib.sha256(vmlinuz).digest())
    for module in modules:
        whole.update(module.name.encode() + b"\0" + hashlib.sha256(module.content).digest())
    return whole.hexdigest()


def _write_atomically(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
