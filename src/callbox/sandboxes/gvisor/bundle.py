"""The OCI bundle of one machine: what its sandbox may see and do. Pure data, but for `write_bundle`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbox.sandboxes.driver import MachineSpec

AGENT_AT = "/.callbox/agent"
"""Where the agent is inside."""

AGENT_OPEN_FILES = 1_024
"""Descriptors of the agent's own, above what one process of the guest may have."""

_SHM_SHARE = 4
_RUN_MB = 16
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CAPABILITIES = (
    # Of the sandbox's own kernel, not of the host's: to be root over its files and processes, to change users,
    # to lower limits, and (SYS_ADMIN) to set its host name. The agent gives none of them to what it runs.
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE",
    "CAP_NET_BIND_SERVICE",
)  # fmt: skip


def oci_config(spec: MachineSpec, *, agent: Path, rootfs: Path, tmp: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """Describe the sandbox.

    Args:
        spec: The machine.
        agent: The guest agent's binary on the host.
        rootfs: Where its root is mounted on the host.
        tmp: Folder on its private disk that becomes ``/tmp``; gVisor would otherwise keep /tmp in memory.
        env: The image's environment.
    """
    shm_bytes = (spec.limits.memory_mb << 20) // _SHM_SHARE
    files_max = spec.limits.open_files_max + AGENT_OPEN_FILES
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [AGENT_AT, "stdio"],
            "env": [f"{name}={value}" for name, value in ({"PATH": _PATH} | dict(env)).items()],
            "cwd": "/",
            "capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": files_max, "soft": files_max}],
        },
        "root": {"path": str(rootfs), "readonly": False},
        "hostname": f"callbox-{spec.machine_id[:12]}",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "noexec", "nodev"]},
            _tmpfs("/dev/shm", shm_bytes, "1777"),  # noqa: S108 - a path inside the sandbox
            _tmpfs("/run", _RUN_MB << 20, "0755"),
            {"destination": "/tmp", "type": "bind", "source": str(tmp), "options": ["rw", "nosuid", "nodev"]},  # noqa: S108
            {"destination": AGENT_AT, "type": "bind", "source": str(agent), "options": ["ro", "nosuid", "nodev"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }


def write_bundle(folder: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json` into the bundle's folder, under its name only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "config.json.part"
    part.write_text(json.dumps(config))
    os.replace(part, folder / "config.json")  # noqa: PTH105 - the same folder


def _tmpfs(at: str, size_bytes: int, mode: str) -> dict[str, Any]:
    options = ["nosuid", "nodev", f"mode={mode}", f"size={size_bytes}"]
    return {"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options}
