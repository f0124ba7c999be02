"""Runs inside a sandbox: try what must not work. Prints one JSON object: probe -> how it was refused, or "REACHED ...".

Standard library only. Every probe is harmless where it succeeds, except to the machine that it runs in.
"""

import ctypes
import errno
import json
import os
import socket
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
SYS = {"bpf": 321, "io_uring_setup": 425, "init_module": 175, "kexec_load": 246, "ptrace": 101, "perf_event_open": 298}
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def refused(error):
    return "refused: " + errno.errorcode.get(error.errno or 0, str(error))


def opening(path, mode):
    """Open and read one byte (or only open for writing): what must not work."""
    try:
        descriptor = os.open(path, mode | os.O_NONBLOCK)
    except OSError as error:
        return refused(error)
    try:
        return "REACHED: opened" if mode != os.O_RDONLY else f"REACHED: read {len(os.read(descriptor, 1))} byte"
    except OSError as error:
        return refused(error)
    finally:
        os.close(descriptor)


def calling(name, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(SYS[name], *arguments)
    number = ctypes.get_errno()
    return f"REACHED: returned {result}" if result >= 0 else "refused: " + errno.errorcode.get(number, str(number))


def making_device():
    path = "/tmp/callbox-probe-device"
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(254, 0))
    except OSError as error:
        return refused(error)
    os.unlink(path)
    return "REACHED: made a block device"


def tracing_init():
    answer = calling("ptrace", PTRACE_ATTACH, 1, 0, 0)
    if answer.startswith("REACHED"):
        os.waitpid(1, 0)
        calling("ptrace", PTRACE_DETACH, 1, 0, 0)
    return answer


def interfaces():
    return ",".join(sorted(name for _, name in socket.if_nameindex()))


def reaching_out(address, port):
    try:
        with socket.create_connection((address, port), timeout=2) as there:
            return "REACHED: " + there.recv(64).decode(errors="replace")
    except OSError as error:
        return refused(error)


def canary(name):
    for folder, folders, files in os.walk("/"):
        folders[:] = [each for each in folders if os.path.join(folder, each) not in ("/proc", "/sys")]
        if name in files:
            return "REACHED: " + folder
    return "refused: not there"


def text(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError as error:
        return refused(error)


def main():
    question = json.loads(sys.argv[1])
    attributes = ctypes.create_string_buffer(128)
    found = {
        "/dev/mem": opening("/dev/mem", os.O_RDONLY),
        "/dev/kmem": opening("/dev/kmem", os.O_RDONLY),
        "/dev/port": opening("/dev/port", os.O_RDONLY),
        "/dev/kvm": opening("/dev/kvm", os.O_RDWR),
        "/proc/kcore": opening("/proc/kcore", os.O_RDONLY),
        "/proc/sysrq-trigger": opening("/proc/sysrq-trigger", os.O_WRONLY),
        "core_pattern": opening("/proc/sys/kernel/core_pattern", os.O_WRONLY),
        "modprobe path": opening("/proc/sys/kernel/modprobe", os.O_WRONLY),
        "init_module": calling("init_module", attributes, 0, b""),
        "kexec_load": calling("kexec_load", 0, 0, None, 0),
        "bpf": calling("bpf", 0, attributes, 72),
        "io_uring_setup": calling("io_uring_setup", 8, attributes),
        "perf_event_open": calling("perf_event_open", attributes, 0, -1, -1, 0),
        "mknod": making_device(),
        "ptrace of PID 1": tracing_init(),
        "host file": canary(question["canary"]),
    }
    for address in question["addresses"]:
        found["host listener at " + address] = reaching_out(address, question["port"])
    facts = {
        "interfaces": interfaces(),
        "boot_id": text("/proc/sys/kernel/random/boot_id"),
        "release": os.uname().release,
        "uid": os.getuid(),
        "processes": [each for each in os.listdir("/proc") if each.isdigit()],
        "no_new_privs": "NoNewPrivs:\t1" in text("/proc/self/status"),
    }
    print(json.dumps({"found": found, "facts": facts}))


main()
