"""What clients can ask the supervisor itself. Everything in a request is checked here, before it reaches a keeper."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from callbox.errors import CallboxError, ConfigurationError, GuestError, SandboxLost
from callbox.sandboxes.states import State
from callbox.sandboxes.supervisor.fleet import Fleet
from callbox.sandboxes.supervisor.keeper import TIERS, Keeper
from callbox.sandboxes.supervisor.record import lifetime_from_json, spec_from_json

LABELS_MAX = 64
"""Labels of one sandbox."""

LABEL_CHARS_MAX = 256
"""Characters of a label's name or value."""

Request = Mapping[str, Any]
Operation = Callable[[Request], Awaitable[Mapping[str, Any]]]


class Operations:
    """The supervisor's own operations, by name."""

    def __init__(self, fleet: Fleet, *, stop: asyncio.Event, status: Callable[[], Mapping[str, Any]]) -> None:
        self._fleet = fleet
        self._stop = stop
        self._status = status
        self._table: dict[str, Operation] = {
            "sandbox.create": self._create,
            "sandbox.get": self._get,
            "sandbox.list": self._list,
            "sandbox.standby": self._standby,
            "sandbox.resume": self._resume,
            "sandbox.snapshot": self._snapshot,
            "sandbox.fork": self._fork,
            "sandbox.delete": self._delete,
            "sandbox.update": self._update,
            "sandbox.stats": self._stats,
            "sandbox.logs": self._logs,
            "snapshot.list": self._snapshot_list,
            "snapshot.get": self._snapshot_get,
            "snapshot.remove": self._snapshot_remove,
            "snapshot.restore": self._snapshot_restore,
            "pool.set": self._pool_set,
            "supervisor.status": self._supervisor_status,
            "supervisor.stop": self._supervisor_stop,
        }

    def find(self, op: str) -> Operation | None:
        """The operation of that name."""
        return self._table.get(op)

    async def _create(self, request: Request) -> Mapping[str, Any]:
        spec = spec_from_json(request.get("spec", {}))
        _labels(spec.labels)
        keeper, receipt = await self._fleet.create(spec)
        return {"sandbox": _info(keeper), "receipt": receipt.to_json()}

    async def _get(self, request: Request) -> Mapping[str, Any]:
        return {"sandbox": _info(self._find(request))}

    async def _list(self, request: Request) -> Mapping[str, Any]:
        labels = _labels(request.get("labels") or {})
        wanted = request.get("states") or [str(state) for state in State if state is not State.GONE]
        if not isinstance(wanted, list) or not all(each in list(State) for each in cast("list[Any]", wanted)):
            raise ConfigurationError(f"{wanted!r} are no states.", hint=f"Use some of {', '.join(State)}.")
        return {
            "sandboxes": [
                _info(keeper)
                for keeper in self._fleet.all()
                if keeper.state in wanted and labels.items() <= keeper.body.record.spec.labels.items()
            ]
        }

    async def _standby(self, request: Request) -> Mapping[str, Any]:
        tier = request.get("tier", "hot")
        if tier not in TIERS:
            raise ConfigurationError(f"There is no standby {tier!r}.", hint=f"Use one of {', '.join(TIERS)}.")
        keeper = self._find(request)
        await keeper.standby(State(tier))
        return {"sandbox": _info(keeper)}

    async def _resume(self, request: Request) -> Mapping[str, Any]:
        return {"receipt": (await self._find(request).resume()).to_json()}

    async def _snapshot(self, request: Request) -> Mapping[str, Any]:
        name = request.get("name")
        if not isinstance(name, str | None):
            raise ConfigurationError("The name of a snapshot must be text.")
        return {"snapshot": await self._fleet.snapshots.take(self._find(request), name)}

    async def _fork(self, request: Request) -> Mapping[str, Any]:
        keepers, pause_ms = await self._fleet.fork(self._find(request), request.get("count", 1), request.get("names"))
        return {"sandboxes": [_info(keeper) for keeper in keepers], "pause_ms": pause_ms}

    async def _delete(self, request: Request) -> Mapping[str, Any]:
        await self._fleet.find(request.get("sandbox"), stopping=True).delete()
        return {}

    async def _update(self, request: Request) -> Mapping[str, Any]:
        keeper = self._find(request)
        labels = None if request.get("labels") is None else _labels(request["labels"])
        lifetime = None if request.get("lifetime") is None else lifetime_from_json(request["lifetime"])

        def change() -> None:
            record = keeper.body.record
            record.spec = replace(
                record.spec,
                labels=record.spec.labels if labels is None else labels,
                lifetime=record.spec.lifetime if lifetime is None else lifetime,
            )

        await keeper.update(change)
        return {"sandbox": _info(keeper)}

    async def _stats(self, request: Request) -> Mapping[str, Any]:
        chosen = self._fleet.all() if request.get("sandbox") is None else [self._find(request)]
        return {"stats": [await asyncio.to_thread(_stats, keeper) for keeper in chosen]}

    async def _logs(self, request: Request) -> Mapping[str, Any]:
        return {"lines": self._find(request).body.events.lines}

    async def _snapshot_list(self, _: Request) -> Mapping[str, Any]:
        return {"snapshots": await self._fleet.snapshots.list()}

    async def _snapshot_get(self, request: Request) -> Mapping[str, Any]:
        return {"snapshot": await self._fleet.snapshots.get(_text(request, "snapshot"))}

    async def _snapshot_remove(self, request: Request) -> Mapping[str, Any]:
        await self._fleet.snapshots.remove(_text(request, "snapshot"))
        return {}

    async def _snapshot_restore(self, request: Request) -> Mapping[str, Any]:
        changes: Any = request.get("spec") or {}
        if not isinstance(changes, Mapping):
            raise ConfigurationError("spec must be an object.")
        named = cast("Mapping[str, Any]", changes)
        _labels(named.get("labels") or {})
        keeper, receipt = await self._fleet.restore(_text(request, "snapshot"), named)
        return {"sandbox": _info(keeper), "receipt": receipt.to_json()}

    async def _pool_set(self, request: Request) -> Mapping[str, Any]:
        size = request.get("size")
        if not isinstance(size, int) or isinstance(size, bool):
            raise ConfigurationError("The size of a pool must be a whole number.")
        kind = await self._fleet.kind_of(spec_from_json(request.get("spec", {})))
        return {"ready": await self._fleet.spares.set_pool(kind, size)}

    async def _supervisor_status(self, _: Request) -> Mapping[str, Any]:
        states: dict[str, int] = {}
        for keeper in self._fleet.all():
            states[str(keeper.state)] = states.get(str(keeper.state), 0) + 1
        spares = self._fleet.spares
        return {
            "pid": os.getpid(),
            "states": states,
            "spares": spares.counts(),
            "spares_ready": spares.ready,
            "spares_wanted": spares.wanted,
            **self._status(),
        }

    async def _supervisor_stop(self, _: Request) -> Mapping[str, Any]:
        self._stop.set()
        return {}

    def _find(self, request: Request) -> Keeper:
        return self._fleet.find(request.get("sandbox"))


def _info(keeper: Keeper) -> dict[str, Any]:
    return keeper.body.record.info()


def _stats(keeper: Keeper) -> dict[str, Any]:
    machine, record = keeper.body.machine, keeper.body.record
    usage = {"memory_bytes": 0, "cpu_s": 0.0, "disk_bytes": 0, "processes": 0}
    try:
        if machine is None:
            usage["disk_bytes"] = sum(each.stat().st_blocks * 512 for each in keeper.body.place.rglob("*"))
        else:
            found = machine.usage()
            usage = {
                "memory_bytes": found.memory_bytes,
                "cpu_s": found.cpu_s,
                "disk_bytes": found.disk_bytes,
                "processes": found.processes,
            }
    except (SandboxLost, OSError):
        pass  # it ended, or was deleted, while we looked
    return {"sandbox": record.id, "name": record.name, "state": str(record.state), **usage}


def _labels(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigurationError("labels must be an object.")
    labels = cast("Mapping[Any, Any]", value)
    if len(labels) > LABELS_MAX:
        raise ConfigurationError(f"{len(labels)} labels are too many.", hint=f"Use at most {LABELS_MAX}.")
    for text in (*labels.keys(), *labels.values()):
        if not isinstance(text, str) or len(text) > LABEL_CHARS_MAX:
            raise ConfigurationError(
                "Labels are text.", hint=f"Each name and value: at most {LABEL_CHARS_MAX} characters."
            )
    return dict(labels)


def _text(request: Request, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be text.")
    return value


def unknown_operation(op: Any) -> CallboxError:
    """What a client is told that asks for what there is not."""
    return GuestError(f"There is no operation {op!r}.", guest_code="unknown_operation")
