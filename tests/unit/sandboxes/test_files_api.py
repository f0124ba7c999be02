from __future__ import annotations

import asyncio
import os

import pytest

from callbox import Sandbox, errors
from callbox.sandboxes import files as module


@pytest.fixture
async def box(home):
    return await Sandbox.create("python", name="box")


async def test_what_was_written_is_read(box):
    await box.files.write("deep/a.txt", "é\n")
    assert await box.files.read("deep/a.txt") == "é\n".encode()
    assert await box.files.read_text("/work/deep/a.txt") == "é\n"
    await box.files.append("deep/a.txt", b"more")
    assert await box.files.read("deep/a.txt", offset=3) == b"more"
    assert await box.files.read("deep/a.txt", offset=3, length=2) == b"mo"
    await box.files.write("deep/a.txt", b"", mode=0o600)
    entry = await box.files.stat("deep/a.txt")
    assert (entry.size, entry.mode & 0o777, entry.type) == (0, 0o600, "file")
    with pytest.raises(errors.GuestError) as caught:
        await box.files.write("deep/a.txt", "x", exclusive=True)
    assert caught.value.guest_code == "exists"


async def test_folders_are_listed_searched_and_changed(box):
    for name in ("a.py", "sub/b.py", "sub/c.txt"):
        await box.files.write(f"src/{name}", f"name = '{name}'\n")
    assert sorted(each.name for each in await box.files.list("src")) == ["a.py", "sub"]
    assert len((await box.files.tree("src")).entries) == 4
    assert (await box.files.tree("src", entries_max=1)).truncated
    found = await box.files.glob("**/*.py", "src")
    assert sorted(each.name for each in found.entries) == ["a.py", "b.py"]
    matches = (await box.files.search(r"name = '[\w/]+\.py'", "src", glob="**/b*")).matches
    assert [(each.line, each.text) for each in matches] == [(1, "name = 'sub/b.py'")]
    everything = (await box.files.search("name =", "src")).matches
    assert len(everything) == 3
    await box.files.mkdir("made/deep")
    await box.files.mkdir("made/deep")
    await box.files.move("src/a.py", "made/z.py")
    assert await box.files.exists("made/z.py")
    assert not await box.files.exists("src/a.py")
    assert await box.files.remove("src", recursive=True) >= 4
    assert await box.files.remove("src", missing_ok=True) == 0
    with pytest.raises(errors.GuestError) as caught:
        await box.files.remove("src")
    assert caught.value.guest_code == "not_found"


@pytest.mark.parametrize("path", ["../etc/passwd", "/etc/passwd", "link/passwd"])
async def test_a_path_that_leaves_is_refused(box, path):
    await box.run("ln -s /etc link")
    with pytest.raises(errors.PathEscapes):
        await box.files.read(path)


async def test_changes_are_seen_while_they_happen(box):
    await box.files.mkdir("watched")
    async with asyncio.timeout(20), box.files.watching("watched") as changes:
        await box.run("echo x > watched/new; mv watched/new watched/moved; rm watched/moved")
        seen = set()
        async for change in changes:
            seen.add(change.kind)
            if change.kind == "deleted":
                break
    assert {"created", "deleted"} <= seen


async def test_a_watch_is_an_iterator_that_is_left_at_will(box):
    async def touch():
        number = 0
        while True:
            number += 1
            await box.run(f"touch /work/file{number}")

    touching = asyncio.create_task(touch())
    async with asyncio.timeout(20):
        async for change in box.files.watch():
            assert change.path.endswith(change.path.rpartition("/")[2])
            break
    touching.cancel()
    await asyncio.gather(touching, return_exceptions=True)


async def test_big_files_go_in_and_out_in_pieces_with_progress(box, tmp_path):
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(1_000_003))
    source.chmod(0o750)
    told = []
    await box.files.upload(source, "in/there.bin", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (1_000_003, 1_000_003)
    assert len(told) == 16
    told.clear()
    back = tmp_path / "back.bin"
    await box.files.download("in/there.bin", back, progress=lambda done, total: told.append((done, total)))
    assert back.read_bytes() == source.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o750
    assert told[-1] == (1_000_003, 1_000_003)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.bin", "source.bin"]


async def test_a_failed_download_leaves_the_local_file_as_it_was(box, tmp_path):
    local = tmp_path / "local"
    local.write_text("precious")

    def stop(done, total):
        raise RuntimeError("no more")

    await box.files.write("remote", b"x" * 200_000)
    with pytest.raises(RuntimeError):
        await box.files.download("remote", local, progress=stop)
    with pytest.raises(errors.GuestError):
        await box.files.download("missing", local)
    assert local.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["local"]


async def test_what_is_too_big_for_memory_is_refused(box, monkeypatch):
    await box.files.write("big", b"x" * 100_000)
    monkeypatch.setattr(module, "READ_BYTES_MAX", 70_000)
    with pytest.raises(errors.GuestError) as caught:
        await box.files.read("big")
    assert caught.value.guest_code == "too_large"
    assert (await box.files.read("big", length=10)) == b"x" * 10
