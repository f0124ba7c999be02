"""A disk that loses its power: from the log of the shim, every state that its files could be left in."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

SECTOR = 512
"""Bytes that are written whole or not at all."""

_HEADER = struct.Struct("<c3xIQQ")
_HERE = Path(__file__).parent
Change: TypeAlias = tuple[int, bytes | None]
"""An offset and what was written there; or a length that was cut to, and None."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the log; `op` is a letter of the shim."""

    op: str
    inode: int
    offset: int
    data: bytes


@dataclass(slots=True)
class Disk:
    """What is safe, and what is on its way.

    Attributes:
        safe: Contents of each file that a sync has confirmed.
        pending: Changes to each since.
        names: The folder that a sync has confirmed; file by name.
        pending_names: Names that were made (with their file) or removed (None) since, in order.
        notes: What the program had been promised.
    """

    safe: dict[int, bytes] = field(default_factory=dict[int, bytes])
    pending: dict[int, list[Change]] = field(default_factory=dict[int, list[Change]])
    names: dict[str, int] = field(default_factory=dict[str, int])
    pending_names: list[tuple[str, int | None]] = field(default_factory=list[tuple[str, int | None]])
    notes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _live: dict[int, int] = field(default_factory=dict[int, int])  # the file of an inode number: numbers are used again
    _files: int = 0

    def apply(self, operation: Operation) -> None:
        """Let one operation happen."""
        match operation.op:
            case "C":
                self._files += 1
                self._live[operation.inode] = self._files
                self.safe[self._files], self.pending[self._files] = b"", []
                self.pending_names.append((operation.data.decode(), self._files))
            case "W":
                self.pending[self._live[operation.inode]].append((operation.offset, operation.data))
            case "T":
                self.pending[self._live[operation.inode]].append((operation.offset, None))
            case "F":
                file = self._live[operation.inode]
                self.safe[file] = _changed(self.safe[file], self.pending[file])
                self.pending[file] = []
            case "D":
                for name, file in self.pending_names:
                    _rename(self.names, name, file)
                self.pending_names = []
            case "U":
                self.pending_names.append((operation.data.decode(), None))
            case "N":
                self.notes.append(json.loads(operation.data))
            case other:
                raise AssertionError(f"the shim wrote {other!r}")

    def left(self, variant: int, seed: int) -> dict[str, bytes]:
        """The folder after a cut, by name.

        Args:
            variant: 0: all that was on its way arrived; 1: nothing of it; more: whatever chance has it, whole writes
                when even, single sectors when odd.
            seed: Of chance.
        """
        chance = Random(f"{seed}/{variant}")
        names = dict(self.names)
        made = {0: len(self.pending_names), 1: 0}.get(variant, chance.randint(0, len(self.pending_names)))
        for name, file in self.pending_names[:made]:
            _rename(names, name, file)
        folder: dict[str, bytes] = {}
        for name, file in names.items():
            pending = self.pending[file]
            if variant == 1:
                pending = []
            elif variant > 1:
                pending = [part for change in pending for part in _arrived(change, chance, torn=variant % 2 == 1)]
            folder[name] = _changed(self.safe[file], pending)
        return folder


def _arrived(change: Change, chance: Random, *, torn: bool) -> Iterator[Change]:
    offset, data = change
    if not torn or data is None:
        if chance.random() < 0.5:
            yield change
        return
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR - (offset + start) % SECTOR)
        if chance.random() < 0.5:
            yield offset + start, data[start:end]
        start = end


def _changed(content: bytes, changes: list[Change]) -> bytes:
    if not changes:
        return content
    whole = bytearray(content)
    for offset, data in changes:
        if data is None:
            del whole[offset:]
            end = offset
        else:
            end = offset + len(data)
        if len(whole) < end:
            whole.extend(bytes(end - len(whole)))
        if data is not None:
            whole[offset:end] = data
    return bytes(whole)


def _rename(names: dict[str, int], name: str, file: int | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


def record(folder: Path, synchronous: str) -> list[Operation]:
    """Run the work under the shim, and read what it did."""
    shim, log, database = folder / "shim.so", folder / "log", folder / "disk"
    database.mkdir()
    compile_ = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-D_LARGEFILE64_SOURCE", "-o", str(shim)]
    subprocess.run([*compile_, str(_HERE / "power_shim.c"), "-ldl", "-lpthread"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(shim), "POWER_FOLDER": str(database), "POWER_LOG": str(log)}
    work = [sys.executable, str(_HERE / "power_work.py"), str(database / "store.db"), synchronous]
    subprocess.run(work, check=True, env=environment, timeout=120)
    return list(_parse(log.read_bytes()))


def _parse(log: bytes) -> Iterator[Operation]:
    at = 0
    while at < len(log):
        op, length, inode, offset = _HEADER.unpack_from(log, at)
        at += _HEADER.size
        yield Operation(op.decode(), inode, offset, log[at : at + length])
        at += length
