import fcntl
import json
import os
import subprocess
import threading

import pytest

from callbox.errors import ConfigurationError, ImageError, SandboxNotFound
from callbox.sandboxes.home import Home
from callbox.sandboxes.images.commands import need
from callbox.sandboxes.images.tree import copy, measure
from callbox.sandboxes.images.usage import digests_in_use, register_home


def debugfs(disk, command):
    argv = [need("debugfs", "e2fsprogs"), "-R", command, disk]
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


@pytest.fixture
def add(store, make_tree):
    def add(name, files, **fields):
        with store.scratch() as work:
            return store.add(name, make_tree(work / "rootfs", files), **{"env": {}, "source": "test", **fields})

    return add


def test_an_image_is_found_by_name_and_by_digest(store, add):
    image = add("tiny", {"etc/motd": "hello"}, env={"A": "1"})
    assert store.get("tiny") == image
    assert store.by_digest(image.digest).folder == image.folder
    assert [each.name for each in store.list()] == ["tiny"]
    root = image.root_image()
    assert (root.rootfs / "etc" / "motd").read_text() == "hello"
    assert root.env == {"A": "1"}
    assert root.digest == image.digest


def test_the_disk_holds_the_same_files(store, add):
    image = add("tiny", {"etc/motd": "hello", "a/b/c": "deep"})
    disk = image.root_image().disk
    assert debugfs(disk, "cat /a/b/c") == "deep"
    assert subprocess.run([need("e2fsck", "e2fsprogs"), "-fn", disk], capture_output=True, check=False).returncode == 0


def test_owners_of_a_tree_made_without_root_are_on_its_disk(store, add):
    image = add("tiny", {"work/x": "1", "etc/y": "2"}, owners={"work": (1000, 1000), "work/x": (1000, 1001)})
    disk = image.root_image().disk
    assert "User:  1000   Group:  1001" in debugfs(disk, "stat /work/x")
    assert "User:     0   Group:     0" in debugfs(disk, "stat /etc/y")
    store.verify("tiny")


def test_the_same_content_is_the_same_image(store, add):
    first = add("one", {"a": "1"})
    second = add("two", {"a": "1"}, source="another recipe")
    assert first.digest == second.digest
    assert store.get("one").source == "another recipe"
    assert first.digest != add("three", {"a": "2"}).digest
    assert first.digest != add("four", {"a": "1"}, env={"A": "1"}).digest


def test_a_name_that_is_not_there_says_what_to_run(store):
    with pytest.raises(SandboxNotFound, match="callbox setup"):
        store.get("python")
    with pytest.raises(SandboxNotFound):
        store.remove("tiny")


@pytest.mark.parametrize("name", ["../x", "", "A", ".hidden", "a/b"])
def test_names_cannot_be_paths(store, name):
    with pytest.raises(ConfigurationError):
        store.get(name)


@pytest.mark.parametrize("damage", ["content", "mode", "new file", "disk"])
def test_damage_is_found(store, add, damage):
    image = add("tiny", {"etc/motd": "hello"})
    motd = image.folder / "rootfs" / "etc" / "motd"
    if damage == "content":
        motd.write_text("jello")
    elif damage == "mode":
        motd.chmod(0o600)
    elif damage == "new file":
        (image.folder / "rootfs" / "new").touch()
    else:
        with image.root_image().disk.open("r+b") as disk:
            disk.seek(5_000)
            disk.write(b"x")
    with pytest.raises(ImageError, match="not what was stored"):
        store.verify("tiny")


def test_a_damaged_manifest_is_an_error_and_hides_nothing_else(store, add):
    add("good", {"a": "1"})
    bad = add("bad", {"a": "2"})
    (bad.folder / "manifest.json").write_text("{")
    with pytest.raises(ImageError, match="damaged"):
        store.get("bad")
    assert [each.name for each in store.list()] == ["good"]


def test_gc_removes_what_has_no_name_and_keeps_what_is_used(store, add):
    used, unused, named = add("a", {"x": "1"}), add("b", {"x": "2"}), add("c", {"x": "3"})
    store.remove("a")
    store.remove("b")
    freed = store.gc({used.digest})
    assert freed.images == 1
    assert freed.bytes > 0
    assert used.folder.exists()
    assert named.folder.exists()
    assert not unused.folder.exists()
    assert store.gc().images == 1
    assert not used.folder.exists()


def test_gc_keeps_layers_as_long_as_their_image(store, add, tmp_path):
    for key in ("k1", "k2"):
        with store.scratch() as work:
            (work / key).mkdir()
            store.add_layer(key, work / key)
    add("a", {"x": "1"}, layers=["k1"])
    assert store.gc().layers == 1
    assert store.layer("k1") is not None
    assert store.layer("k2") is None


def test_gc_leaves_a_build_alone(store, add):
    with store.scratch() as work:
        (work / "k1").mkdir()
        store.add_layer("k1", work / "k1")
    with store.building():
        assert store.gc().layers == 0
    assert store.gc().layers == 1


def test_gc_removes_what_a_crash_left_and_not_what_is_being_made(store):
    left = store.folder / "tmp" / "crashed"
    with store.scratch() as alive:
        (left / "rootfs").mkdir(parents=True)
        assert store.gc().leftovers == 1
        assert not left.exists()
        assert alive.exists()
    assert not alive.exists()


def test_gc_stops_when_it_cannot_know_what_is_needed(store, add):
    image = add("a", {"x": "1"})
    with store.scratch() as work:
        (work / "k1").mkdir()
        store.add_layer("k1", work / "k1")
    (image.folder / "manifest.json").write_text("{")
    with pytest.raises(ImageError):
        store.gc()
    assert store.layer("k1") is not None


def test_a_failed_add_leaves_nothing(store, add, monkeypatch):
    monkeypatch.setattr(
        "callbox.sandboxes.images.store.make_disk", lambda *a, **k: (_ for _ in ()).throw(ImageError("no"))
    )
    with pytest.raises(ImageError):
        add("a", {"x": "1"})
    assert store.list() == []
    assert list((store.folder / "tmp").iterdir()) == []
    assert list((store.folder / "images").iterdir()) == []


def test_writers_wait_for_each_other(store, add):
    image = add("a", {"x": "1"})
    descriptor = os.open(store.folder / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    thread = threading.Thread(target=store.name, args=("b", image.digest))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    assert [each.name for each in store.list()] == ["a"]
    os.close(descriptor)
    thread.join(10)
    assert [each.name for each in store.list()] == ["a", "b"]


def test_the_digest_of_a_tree_depends_on_all_that_matters_and_on_nothing_else(tmp_path, make_tree):
    tree = make_tree(tmp_path / "tree", {"a": "1", "b/c": "2"})
    (tree / "link").symlink_to("a")
    before = measure(tree).digest
    copy(tree, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "a", (1, 1))
    assert measure(tmp_path / "copy").digest == before
    (tree / "link").unlink()
    (tree / "link").symlink_to("b")
    assert measure(tree).digest != before


def test_what_sandboxes_and_snapshots_of_all_homes_name_is_in_use(tmp_path):
    images = tmp_path / "images"
    here, there = Home(tmp_path / "here", images), Home(tmp_path / "there", images)
    digests = ["a" * 64, "b" * 64, "c" * 16]
    for path, digest in zip(("sandboxes/x/record.json", "snapshots/y/manifest.json"), digests, strict=False):
        (here.root / path).parent.mkdir(parents=True)
        (here.root / path).write_text(json.dumps({"image": {"digest": digest}}))
    (there.root / "sandboxes/z/state").mkdir(parents=True)
    (there.root / "sandboxes/z/state/saved.json").write_text(json.dumps({"kernel": digests[2]}))
    register_home(there)
    register_home(there)
    assert digests_in_use(here) == set(digests)
