"""What is done to a guest before anybody may use it: after a boot, a thaw, a restore, and a take-over.

An attacker who controls one of two machines with the same memory would predict the other's keys; so each gets entropy
of its own before anything else runs in it, and a machine whose repair failed is never used.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, cast

from callbox.errors import CallboxError, SandboxError
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.spec import SandboxSpec

ENTROPY_BYTES = 64
ORDER = ("entropy", "clock", "network", "machine_id", "generation")
"""What must have been repaired, in this order."""


class RepairFailed(SandboxError):
    """The guest was not repaired. Its machine must not be used."""


def hostname_of(name: str) -> str:
    """A host name from a sandbox's name: what no host name may have becomes a hyphen."""
    return re.sub(r"[^a-z0-9-]", "-", name).strip("-") or "sandbox"


async def repair(
    channel: Channel, *, name: str, machine_id: str, generation: int, timeout_s: float
) -> list[Mapping[str, Any]]:
    """Give the guest its own entropy, clock, network, machine id and generation, and believe it only if it names all.

    The caller has durably reserved `generation`: no guest is ever told the same one twice.

    Raises:
        RepairFailed: The guest refused, was silent, or left something out.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reply = await channel.call(
                "repair",
                entropy=b64encode(secrets.token_bytes(ENTROPY_BYTES)).decode(),
                realtime_ns=time.time_ns(),
                hostname=hostname_of(name),
                machine_id=machine_id,
                generation=generation,
            )
    except TimeoutError:
        raise RepairFailed(f"The guest did not answer the repair within {timeout_s:g} s.") from None
    except CallboxError as error:
        raise RepairFailed(f"The guest's repair failed: {error.message}") from error
    answer: Any = reply.get("repairs")
    repairs = cast("list[Any]", answer) if isinstance(answer, list) else []
    if tuple(_name(each) for each in repairs) != ORDER:
        raise RepairFailed(f"The guest did not repair everything: {str(repairs)[:200]}.")
    return repairs


async def configure(
    channel: Channel, spec: SandboxSpec, *, name: str, env: Mapping[str, str], timeout_s: float
) -> None:
    """Tell a repaired guest whose it is: its environment and its limits.

    Raises:
        SandboxError: It refused or was silent.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await channel.call(
                "configure",
                hostname=hostname_of(name),
                env={**env, **spec.env},
                processes_max=spec.limits.processes_max,
                memory_bytes=spec.limits.memory_mb << 20,
                open_files_max=spec.limits.open_files_max,
            )
    except TimeoutError:
        raise SandboxError(f"The guest did not answer configure within {timeout_s:g} s.") from None


def _name(repair: Any) -> Any:
    return cast("Mapping[str, Any]", repair).get("name") if isinstance(repair, Mapping) else None
