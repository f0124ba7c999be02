"""The command line of QEMU is what its isolation is made of: every word of it is pinned here."""

from __future__ import annotations

from dataclasses import replace

from callbox.sandboxes.qemu.command import Command, Descriptors

FULL = Command(
    program="/usr/bin/qemu-system-x86_64",
    accelerator="tcg",
    machine_id="0123456789abcdef0123456789abcdef",
    memory_mb=512,
    cpus=2,
    descriptors=Descriptors(control=3, memory=4, agent=5, image=6, disk=7, kernel=8, initramfs=9),
    tsc_khz=2_400_000,
)


def test_boot_under_software_emulation() -> None:
    assert FULL.argv() == [
        "/usr/bin/qemu-system-x86_64",
        "-name", "callbox-0123456789abcdef0123456789abcdef",
        "-uuid", "01234567-89ab-cdef-0123-456789abcdef",
        "-machine", "microvm,acpi=on,pic=off,pit=off,rtc=on,isa-serial=on,memory-backend=ram",
        "-accel", "tcg,thread=multi,tb-size=64",
        "-cpu", "max,la57=off,vmx=off,svm=off",
        "-m", "512M", "-smp", "2",
        "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-no-shutdown", "-S",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-object", "memory-backend-file,id=ram,size=512M,mem-path=/proc/self/fd/4,share=on,prealloc=off",
        "-global", "virtio-mmio.force-legacy=off",
        "-chardev", "socket,id=control,fd=3,server=on,wait=off",
        "-mon", "chardev=control,mode=control",
        "-chardev", "ringbuf,id=console,size=65536",
        "-serial", "chardev:console",
        "-add-fd", "fd=6,set=6",
        "-blockdev", ("driver=raw,node-name=image,file.driver=file,file.filename=/dev/fdset/6,"
        "file.auto-read-only=off,read-only=on,file.locking=off,file.read-only=on"),
        "-device", "virtio-blk-device,drive=image",
        "-add-fd", "fd=7,set=7",
        "-blockdev", ("driver=raw,node-name=disk,file.driver=file,file.filename=/dev/fdset/7,"
        "file.auto-read-only=off,discard=unmap,detect-zeroes=unmap,file.discard=unmap"),
        "-device", "virtio-blk-device,drive=disk",
        "-object", "rng-random,id=entropy,filename=/dev/urandom",
        "-device", "virtio-rng-device,rng=entropy,max-bytes=65536,period=100",
        "-chardev", "socket,id=agent,fd=5,server=on,wait=off",
        "-device", "virtio-serial-device,max_ports=2",
        "-device", "virtserialport,id=agent,chardev=agent,name=callbox",
        "-kernel", "/proc/self/fd/8", "-initrd", "/proc/self/fd/9",
        "-append", ("console=ttyS0 quiet loglevel=3 panic=-1 reboot=t random.trust_cpu=on callbox.boot=vm "
        "tsc_early_khz=2400000 tsc=reliable highres=off"),
    ]  # fmt: skip


def test_kvm_differs_in_processor_and_clock_only() -> None:
    tcg, kvm = FULL.argv(), replace(FULL, accelerator="kvm").argv()
    changed = [(one, two) for one, two in zip(tcg, kvm, strict=True) if one != two]
    assert changed == [
        ("tcg,thread=multi,tb-size=64", "kvm"),
        ("max,la57=off,vmx=off,svm=off", "host,vmx=off,svm=off"),
        (FULL.kernel_line(), FULL.kernel_line().removesuffix(" tsc_early_khz=2400000 tsc=reliable highres=off")),
    ]


def test_restored_machine_has_the_same_devices_and_no_kernel() -> None:
    files = replace(FULL.descriptors, kernel=None, initramfs=None)
    restored = replace(FULL, descriptors=files, incoming=True).argv()
    boot = FULL.argv()
    assert restored == [*boot[: boot.index("-kernel")], "-incoming", "defer"]


def test_no_file_of_the_host_is_named() -> None:
    named = [word for word in FULL.argv()[1:] if "/" in word]
    allowed = ("/proc/self/fd/", "/dev/fdset/", "/dev/urandom")
    assert all(any(part in word for part in allowed) for word in named)
    assert not any("net" in word.split(",")[0] for word in FULL.argv())
