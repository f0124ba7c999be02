"""QEMU's command line, and nothing else: a pure function of what a machine is made of.

QEMU opens no file of the host by name but its own firmware. Everything else it gets as open descriptors, so it can run
as a user that may enter no folder at all.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

RECIPE = "3"
"""Part of the fingerprint: changes whenever the devices or the machine that this file describes change."""
MACHINE_TYPE = "microvm"
CONSOLE_BYTES = 65_536
"""What is kept of the guest's serial console: a ring in QEMU's memory, however much a guest prints."""
TRANSLATION_CACHE_MB = 64
"""TCG's cache of translated code. Its default of 1 GiB would count against the sandbox's memory limit."""

# No virtualisation inside. `la57=off`: observed with QEMU 7.2 and Linux 6.1 under TCG, five-level page tables make
# paths in /proc read "xxxx", and programs that look for themselves die. Why was not found out; without it they work.
_CPU = {"kvm": "host,vmx=off,svm=off", "tcg": "max,la57=off,vmx=off,svm=off"}
_ACCELERATOR = {"kvm": "kvm", "tcg": f"tcg,thread=multi,tb-size={TRANSLATION_CACHE_MB}"}
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """Numbers of the open files that QEMU inherits.

    Attributes:
        control: Listening unix socket for QMP.
        memory: The RAM file.
        agent: Listening unix socket for the guest agent's port; None: no such port.
        image: The root image, read only; None: no such disk.
        disk: The private disk; None: no such disk.
        kernel, initramfs: What to boot; None where memory is loaded instead.
    """

    control: int
    memory: int
    agent: int | None = None
    image: int | None = None
    disk: int | None = None
    kernel: int | None = None
    initramfs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One QEMU process.

    Attributes:
        program: QEMU's executable.
        accelerator: ``"kvm"`` or ``"tcg"``.
        machine_id: 32 hex digits; becomes the machine's UUID, by which it is recognised.
        incoming: It waits for saved device state instead of booting.
        verbose: The kernel tells the console what it does.
        tsc_khz: Rate of the host's time stamp counter, for the guest's clock under TCG; None: unknown.
    """

    program: str
    accelerator: str
    machine_id: str
    memory_mb: int
    cpus: int
    descriptors: Descriptors
    incoming: bool = False
    verbose: bool = False
    tsc_khz: int | None = None

    def argv(self) -> list[str]:
        """The argument vector."""
        files = self.descriptors
        words = [
            self.program,
            "-name", f"callbox-{self.machine_id}", "-uuid", str(uuid.UUID(self.machine_id)),
            "-machine", f"{MACHINE_TYPE},acpi=on,pic=off,pit=off,rtc=on,isa-serial=on,memory-backend=ram",
            "-accel", _ACCELERATOR[self.accelerator], "-cpu", _CPU[self.accelerator],
            "-m", f"{self.memory_mb}M", "-smp", str(self.cpus),
            "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-no-shutdown", "-S",
            "-sandbox", _SANDBOX,
            "-object",
            f"memory-backend-file,id=ram,size={self.memory_mb}M,mem-path=/proc/self/fd/{files.memory},share=on,prealloc=off",
            "-global", "virtio-mmio.force-legacy=off",
            "-chardev", f"socket,id=control,fd={files.control},server=on,wait=off",
            "-mon", "chardev=control,mode=control",
            "-chardev", f"ringbuf,id=console,size={CONSOLE_BYTES}",
            "-serial", "chardev:console",
        ]  # fmt: skip
        words += self._disks()
        # 640 KiB a second at most: a guest that reads random bytes for ever must not keep a host processor busy.
        words += ["-object", "rng-random,id=entropy,filename=/dev/urandom"]
        words += ["-device", "virtio-rng-device,rng=entropy,max-bytes=65536,period=100"]
        if files.agent is not None:
            words += ["-chardev", f"socket,id=agent,fd={files.agent},server=on,wait=off"]
            words += ["-device", "virtio-serial-device,max_ports=2"]
            words += ["-device", "virtserialport,id=agent,chardev=agent,name=callbox"]
        if files.kernel is not None and files.initramfs is not None:
            words += ["-kernel", f"/proc/self/fd/{files.kernel}", "-initrd", f"/proc/self/fd/{files.initramfs}"]
            words += ["-append", self.kernel_line()]
        if self.incoming:
            words += ["-incoming", "defer"]
        return words

    def kernel_line(self) -> str:
        """The guest kernel's command line."""
        words = ["console=ttyS0", "loglevel=7" if self.verbose else "quiet loglevel=3", "panic=-1", "reboot=t"]
        words += ["random.trust_cpu=on", "callbox.boot=vm"]
        if self.accelerator == "tcg" and self.tsc_khz is not None:
            # Without it the kernel measures the counter against a timer that a busy host delivers late, and hangs.
            # Reliable: with nothing to compare, it would count ticks instead, and lose those that came late. Without
            # high resolution timers, which cost more to set than they are worth here: hot resume takes half the time.
            words.append(f"tsc_early_khz={self.tsc_khz} tsc=reliable highres=off")
        return " ".join(words)

    def _disks(self) -> list[str]:
        words: list[str] = []
        # The first disk becomes /dev/vda. No lock on the image: it is never written, and all its sandboxes share it.
        for name, handle, options in (
            ("image", self.descriptors.image, "read-only=on,file.locking=off,file.read-only=on"),
            ("disk", self.descriptors.disk, "discard=unmap,detect-zeroes=unmap,file.discard=unmap"),
        ):
            if handle is None:
                continue
            source = f"file.driver=file,file.filename=/dev/fdset/{handle},file.auto-read-only=off"
            words += ["-add-fd", f"fd={handle},set={handle}"]
            words += ["-blockdev", f"driver=raw,node-name={name},{source},{options}"]
            words += ["-device", f"virtio-blk-device,drive={name}"]
        return words
