"""Sandboxes as the runner of tools sees them, without machines: each counts the calls that it was given."""

from __future__ import annotations

import json

from callbox import errors, tool
from callbox.gate.runners import sandbox
from callbox.gate.runners.worker_link import BoxGone
from callbox.sandboxes.home import Home


@tool(runs_in="sandbox:python", idempotent=True)
def count() -> int:
    """Count the calls of this sandbox."""
    return 0  # never run: `Link` answers


class Host:
    """Stands for `Sandbox`, with all the sandboxes of a host."""

    def __init__(self):
        self.boxes = {}
        self.sent = []

    async def open(self, name, *, home):
        if name not in self.boxes:
            raise errors.SandboxNotFound(name)
        return self.boxes[name]

    async def create_from(self, spec, *, home):
        assert spec.name not in self.boxes
        self.boxes[spec.name] = box = Box(self, spec)
        return box

    async def list(self, *, labels, home):
        return [box for box in self.boxes.values() if labels.items() <= box.spec.labels.items()]


class Box:
    """One sandbox, which is also what its link talks to."""

    def __init__(self, host, spec):
        self.host = host
        self.spec = spec
        self.counted = 0

    @property
    def target(self):
        return self

    async def delete(self):
        self.host.boxes.pop(self.spec.name, None)


class Link:
    """Stands for `WorkerLink`."""

    def __init__(self, box):
        self.box = box

    async def call(self, call):
        if self.box.host.boxes.get(self.box.spec.name) is not self.box:
            raise BoxGone
        self.box.host.sent.append(call)
        self.box.counted += 1
        return {"result": json.dumps(self.box.counted)}


def use(monkeypatch):
    """Have tools run, and sandboxes be looked for, on a `Host`."""
    host = Host()
    Home.default().sandboxes.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(sandbox, "Sandbox", host)
    monkeypatch.setattr(sandbox, "WorkerLink", Link)
    return host
