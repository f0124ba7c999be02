"""Copies of one instant: equal to the source, whatever was written between the passes."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest

from callbox.sandboxes.qemu.memory import InstantCopy, make_memory

SIZE_MB = 8


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    make_memory(path, size_mb=SIZE_MB, uid=None)
    with path.open("r+b") as file:
        for at in (0, 1_000_000, 5 << 20):
            file.seek(at)
            file.write(os.urandom(300_000))
    return path


def test_new_memory_is_sparse_and_private(tmp_path: Path) -> None:
    make_memory(tmp_path / "ram", size_mb=64, uid=None)
    found = (tmp_path / "ram").stat()
    assert (found.st_size, found.st_blocks, found.st_mode & 0o777) == (64 << 20, 0, 0o600)
    with pytest.raises(FileExistsError):
        make_memory(tmp_path / "ram", size_mb=64, uid=None)


@pytest.mark.parametrize("seed", range(5))
def test_copy_equals_the_source_after_writes_and_holes_in_between(source: Path, tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    copy = InstantCopy(source, tmp_path / "copy")
    try:
        copy.prepare()
        with source.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            for _ in range(chosen.randrange(1, 30)):
                at = chosen.randrange(len(memory) - 5_000)
                memory[at : at + 5_000] = chosen.randbytes(5_000)
            memory[1_000_000:1_300_000] = bytes(300_000)
        copy.finish(mapped=True)
        copy.sync()
    finally:
        copy.close()
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_unchanged_file_is_not_written_again(source: Path, tmp_path: Path) -> None:
    os.utime(source, (1, 1))
    copy = InstantCopy(source, tmp_path / "copy")
    try:
        copy.prepare()
        assert copy.finish(mapped=False) == 0
        assert copy.finish(mapped=True) == 0
        with source.open("r+b") as file:
            file.write(b"changed")
        copy.finish(mapped=False)
    finally:
        copy.close()
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < 2 << 20


def test_zeros_take_no_space_in_the_copy(source: Path, tmp_path: Path) -> None:
    with source.open("r+b") as file:
        file.seek(2 << 20)
        file.write(bytes(3 << 20))
        file.seek((3 << 20) + 77)
        file.write(b"\1")
    copy = InstantCopy(source, tmp_path / "copy")
    try:
        copy.prepare()
        assert copy.finish(mapped=True) == 0
    finally:
        copy.close()
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert source.stat().st_blocks * 512 > 3 << 20
    assert (tmp_path / "copy").stat().st_blocks * 512 < 2 << 20


def test_existing_target_is_never_written_into(source: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("somebody's")
    with pytest.raises(FileExistsError):
        InstantCopy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "somebody's"
