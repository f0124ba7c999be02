"""Write the archive that Linux unpacks as its first root file system: cpio, format "newc".

The format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel's sources.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `mode` includes the type (`stat.S_IFREG` and so on); `device`: major and minor of a device node."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(name: str) -> Entry:
    """Make the entry of a folder."""
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, content: bytes, *, mode: int = 0o644) -> Entry:
    """Make the entry of a file."""
    return Entry(name, stat.S_IFREG | mode, content)


def archive(entries: list[Entry]) -> bytes:
    """Write entries, folders before what is in them. Equal entries give equal bytes: no times, owner 0:0."""
    parts: list[bytes] = []
    for number, entry in enumerate(entries, start=1):
        parts += _encoded(entry, number)
    parts += _encoded(Entry(_TRAILER, 0), 0)
    return b"".join(parts)


def _encoded(entry: Entry, number: int) -> list[bytes]:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, major, minor, len(name), 0)
    header = b"070701" + "".join(f"{field:08X}" for field in fields).encode()
    return [header, name, _padding(len(header) + len(name)), entry.content, _padding(len(entry.content))]


def _padding(size: int) -> bytes:
    return b"\0" * (-size % 4)
