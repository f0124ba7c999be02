"""A start that is cancelled: QEMU may come into being after that, and nothing may be left of it."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from callbox.sandboxes.qemu import machine as machines


async def test_a_cancelled_start_is_reaped_when_what_it_started_is_there(monkeypatch, tmp_path) -> None:
    begun, go, said = threading.Event(), threading.Event(), []

    def start(_: object) -> None:
        begun.set()
        go.wait(20)
        said.append("started")

    async def reap(*_: object) -> None:
        said.append("reaped")

    monkeypatch.setattr(machines, "start", start)
    monkeypatch.setattr(machines, "reap", reap)
    what = SimpleNamespace(spec=SimpleNamespace(place=tmp_path, machine_id="m"))
    starting = asyncio.create_task(machines.QemuMachine.start(what))
    assert await asyncio.to_thread(begun.wait, 20)
    starting.cancel()
    await asyncio.wait([starting], timeout=0.05)
    assert said == []
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert said == ["started", "reaped"]
