"""A checkpoint that nobody was told about: whole, or cut anywhere."""

from __future__ import annotations

import os
import struct
import zlib

import pytest

from callbox.sandboxes.gvisor.checkpoint import is_whole

CHUNK = 4096


def checkpoint(content: bytes) -> bytes:
    metadata = b'{"timestamp":"now"}'
    written = b"gVisorSF" + struct.pack(">Q", len(metadata)) + metadata + bytes(32) + struct.pack(">I", CHUNK)
    for at in range(0, len(content), CHUNK):
        squeeze = zlib.compressobj(wbits=-15)
        chunk = squeeze.compress(content[at : at + CHUNK]) + squeeze.flush()
        written += struct.pack(">I", len(chunk)) + chunk
    return written


def test_whole(tmp_path):
    path = tmp_path / "checkpoint.img"
    path.write_bytes(checkpoint(os.urandom(3 * CHUNK + 5)))
    assert is_whole(path)


def test_cut_anywhere_is_not_whole(tmp_path):
    path = tmp_path / "checkpoint.img"
    whole = checkpoint(b"state" * 2_000)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not is_whole(path), f"cut to {length} of {len(whole)} bytes"


@pytest.mark.parametrize("damage", [b"gVisorXX", b""])
def test_another_format_is_not_whole(tmp_path, damage):
    path = tmp_path / "checkpoint.img"
    path.write_bytes(damage + checkpoint(b"state")[len(damage) :] if damage else b"")
    assert not is_whole(path)
    assert not is_whole(tmp_path / "missing")
