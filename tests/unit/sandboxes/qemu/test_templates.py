"""Templates: kept, recognised when damaged, never used by halves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from callbox.sandboxes.host.disks import content_digest
from callbox.sandboxes.qemu.templates import FILES, KEPT_MAX, Templates

FINGERPRINT = {"driver": "qemu", "image": "a"}


def captured(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(os.urandom(5_000))
        os.truncate(folder / name, 3 << 20)
    return folder


async def kept(folder: Path, image: str = "a") -> Path:
    templates = Templates(folder)
    place = templates.place_of(FINGERPRINT | {"image": image})
    async with templates.exclusive(place):
        await templates.keep(captured(place.with_suffix(".part")), place)
    return place


async def test_kept_template_is_usable_for_other_processes(tmp_path: Path) -> None:
    place = await kept(tmp_path / "t")
    assert await Templates(tmp_path / "t").usable(place)
    assert Templates(tmp_path / "t").place_of(FINGERPRINT | {"image": "b"}) != place


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
async def test_damaged_template_is_not_usable(tmp_path: Path, name: str, damage: str) -> None:
    place = await kept(tmp_path / "t")
    templates = Templates(tmp_path / "t")
    assert await templates.usable(place)
    file = place / name
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    else:
        content = bytearray(file.read_bytes())
        content[30] ^= 1
        file.write_bytes(content)
    if name != "manifest.json":
        assert not await templates.usable(place)
    assert not await Templates(tmp_path / "t").usable(place)


async def test_only_one_builds_at_a_time(tmp_path: Path) -> None:
    one, two = Templates(tmp_path), Templates(tmp_path)
    place = one.place_of(FINGERPRINT)
    entered = asyncio.Event()

    async def other() -> None:
        async with two.exclusive(place):
            entered.set()

    async with one.exclusive(place):
        waiting = asyncio.create_task(other())
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        assert not entered.is_set()
    async with asyncio.timeout(10):
        await waiting


async def test_least_recently_used_template_goes(tmp_path: Path) -> None:
    places = [await kept(tmp_path, image=str(number)) for number in range(KEPT_MAX)]
    for age, place in enumerate(places):
        os.utime(place, (1_000 + age, 1_000 + age))
    assert await Templates(tmp_path).usable(places[0])
    await kept(tmp_path, image="one more")
    assert places[0].exists()
    assert not places[1].exists()


def test_digest_sees_content_and_place_and_not_how_holes_are_stored(tmp_path: Path) -> None:
    sparse, dense, moved = (tmp_path / name for name in ("sparse", "dense", "moved"))
    data = os.urandom(4_096)
    for path, at in ((sparse, 2 << 20), (moved, 3 << 20)):
        with path.open("wb") as file:
            file.truncate(8 << 20)
            file.seek(at)
            file.write(data)
    dense.write_bytes(sparse.read_bytes())
    assert content_digest(sparse) == content_digest(dense) != content_digest(moved)
    os.truncate(sparse, 9 << 20)
    assert content_digest(sparse) != content_digest(dense)
