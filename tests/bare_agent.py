"""A guest agent for `support_bare`: a small process that speaks the guest protocol and does nothing to its host.

The real agent sets the clock and the host's name when it is repaired, so it must not run outside of a machine. This one
has a memory (the execs), a disk (a JSON file), and can be told to misbehave. Started with ``python -I -S``: 20 ms.

Its machine is told to save or to copy itself through a second socket, as a hypervisor would be.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import socket
import struct
import sys
import zlib
from pathlib import Path

MAGIC = 0xCA11B0C5
HELLO, WELCOME, OPEN, DATA, EVENT, EOF, CLOSE, CANCEL, WINDOW, PING, PONG = range(1, 12)
HEADER = struct.Struct(">IBBHIII")
REPAIRS = ("entropy", "clock", "network", "machine_id", "generation")


def frame(kind: int, stream: int, payload: bytes = b"", channel: int = 0) -> bytes:
    head = struct.pack(">IBBHII", MAGIC, kind, channel, 0, stream, len(payload))
    return head + struct.pack(">I", zlib.crc32(payload, zlib.crc32(head))) + payload


class Fault(Exception):
    """Answered as an error."""


class Agent:
    def __init__(self, name: str, disk: Path, misbehave: Path) -> None:
        self.memory = {"boot_id": os.urandom(16).hex(), "generation": 0, "ready": False, "execs": {}, "identity": {}}
        self.name, self.disk, self.misbehave = name, disk, misbehave
        self.selector = selectors.DefaultSelector()
        self.client: socket.socket | None = None
        self.buffer = b""
        self.open: dict[int, dict] = {}
        self.bodies: dict[int, bytes] = {}

    def run(self) -> None:
        for kind, take in (("agent", self.accept), ("control", self.control)):
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(f"\0callbox-bare-{kind}-{self.name}")
            listening.listen()
            self.selector.register(listening, selectors.EVENT_READ, take)
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def accept(self, listening: socket.socket) -> None:
        if self.client is not None:
            self.hang_up()
        self.client, _ = listening.accept()
        self.selector.register(self.client, selectors.EVENT_READ, self.read)

    def hang_up(self) -> None:
        self.selector.unregister(self.client)
        self.client.close()
        self.client, self.buffer = None, b""
        self.open.clear()

    def control(self, listening: socket.socket) -> None:
        caller, _ = listening.accept()
        with caller:
            order = json.loads(caller.recv(65536))
            into = Path(order["into"])
            into.mkdir()
            self.write(into / "memory.json", json.dumps(self.memory).encode())
            if order["copy"]:
                self.write(into / "disk.img", self.disk.read_bytes())
            caller.sendall(b"done")
            if not order["copy"]:
                caller.recv(1)
                os._exit(0)

    def write(self, path: Path, data: bytes) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(file, data)
        os.fsync(file)
        os.close(file)

    def read(self, client: socket.socket) -> None:
        try:
            data = client.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self.hang_up()
            return
        self.buffer += data
        while True:
            start = self.buffer.find(struct.pack(">I", MAGIC))
            if start < 0:
                self.buffer = self.buffer[-3:]
                return
            self.buffer = self.buffer[start:]
            if len(self.buffer) < HEADER.size:
                return
            _, kind, _, _, stream, length, _ = HEADER.unpack(self.buffer[: HEADER.size])
            if len(self.buffer) < HEADER.size + length:
                return
            payload = self.buffer[HEADER.size : HEADER.size + length]
            self.buffer = self.buffer[HEADER.size + length :]
            self.take(kind, stream, payload)

    def send(self, kind: int, stream: int, value: dict | bytes, channel: int = 0) -> None:
        payload = value if isinstance(value, bytes) else json.dumps(value).encode()
        with contextlib.suppress(OSError):
            self.client.sendall(frame(kind, stream, payload, channel))

    def take(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == HELLO:
            self.open.clear()
            about = {"agent": "bare", "boot_id": self.memory["boot_id"], "generation": self.memory["generation"]}
            self.send(WELCOME, 0, json.loads(payload) | about)
        elif kind == PING:
            self.send(PONG, stream, payload)
        elif kind == OPEN:
            self.open[stream] = json.loads(payload)
            self.bodies[stream] = b""
            if self.open[stream]["op"] != "fs.write":
                self.answer(stream)
        elif kind == DATA:
            self.bodies[stream] = self.bodies.get(stream, b"") + payload
        elif kind == EOF and stream in self.open:
            self.answer(stream)
        elif kind == CANCEL and stream in self.open:
            del self.open[stream]
            self.send(CLOSE, stream, {"error": {"code": "cancelled", "message": "cancelled"}})

    def answer(self, stream: int) -> None:
        request = self.open[stream]
        try:
            reply = self.perform(stream, request)
        except Fault as fault:
            reply = {"error": {"code": str(fault), "message": f"{request['op']}: {fault}"}}
        if reply is not None:
            self.open.pop(stream, None)
            self.send(CLOSE, stream, reply)

    def perform(self, stream: int, request: dict) -> dict | None:  # noqa: C901 - one case per operation
        op, memory = request["op"], self.memory
        wrong = self.misbehave.read_text().split() if self.misbehave.exists() else []
        if op in wrong:
            raise Fault("repair_failed" if op == "repair" else "internal")
        if f"silent:{op}" in wrong:
            return None
        if f"die:{op}" in wrong:
            os._exit(9)
        if op == "repair":
            assert request["generation"] > memory["generation"], "a generation was told twice"
            names = REPAIRS[1:] if "partial" in wrong else REPAIRS
            memory.update(ready=True, generation=request["generation"])
            memory["identity"] = {key: request[key] for key in ("entropy", "hostname", "machine_id", "generation")}
            return {"ok": {"repairs": [{"name": name, "how": "bare", "us": 1} for name in names]}}
        if op not in ("ping", "info") and not memory["ready"]:
            raise Fault("not_repaired")
        if op == "expect_repair":
            memory["ready"] = False
        elif op == "configure":
            memory["configured"] = request
        elif op == "info":
            return {"ok": memory}
        elif op == "exec.start":
            memory["execs"][request["id"]] = request | {"running": True}
            return {"ok": {"id": request["id"], "pid": 7}}
        elif op == "exec.list":
            kept = request.get("keep_alive")
            assert kept or "full-list" not in wrong, "the whole list was asked for"
            return {"ok": {"execs": [each for each in memory["execs"].values() if not kept or each.get("keep_alive")]}}
        elif op == "exec.attach":
            if request["id"] not in memory["execs"]:
                raise Fault("not_found")
            output = memory["execs"][request["id"]].get("output", "").encode()
            self.send(DATA, stream, output[request.get("stdout_offset", 0) :], 1)
            return None if request.get("follow", True) else {"ok": {"running": True, "stdout_end": len(output)}}
        elif op in ("fs.watch", "port.wait"):
            return None
        elif op == "fs.write":
            files = json.loads(self.disk.read_bytes())
            files[request["path"]] = base64.b64encode(self.bodies.pop(stream)).decode()
            self.write(self.disk, json.dumps(files).encode())
        elif op == "fs.read":
            files = json.loads(self.disk.read_bytes())
            if request["path"] not in files:
                raise Fault("not_found")
            self.send(DATA, stream, base64.b64decode(files[request["path"]]))
            self.send(EOF, stream, b"")
        elif op not in ("ping", "quiesce"):
            raise Fault("unknown_operation")
        return {"ok": {}}


if __name__ == "__main__":
    agent = Agent(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    if len(sys.argv) > 4:
        agent.memory = json.loads(Path(sys.argv[4]).read_bytes())
    agent.run()
