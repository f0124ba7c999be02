import contextlib
import os
import shutil
from pathlib import Path

import pytest

from callbox.errors import ConfigurationError, ImageError, SandboxNotFound
from callbox.sandboxes.images.build import apply_overlay, build, plan
from callbox.sandboxes.images.furnish import furnish
from callbox.sandboxes.images.spec import parse_spec, read_spec
from callbox.sandboxes.images.unpack import TreeWriter

ROOT_TOOLS = ("busybox", "bwrap", "unshare")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ROOT_TOOLS)), reason="builds need root, bubblewrap and busybox"
)

_APPLETS = (
    "sh",
    "cp",
    "mkdir",
    "chown",
    "dirname",
    "cat",
    "rm",
    "id",
    "ls",
    "mount",
    "mknod",
    "sleep",
    "test",
    "echo",
    "wget",
)


@pytest.fixture
def base(store):
    """An image of nothing but a static busybox."""
    with store.scratch() as work:
        writer = TreeWriter(work / "rootfs")
        furnish(writer)
        writer.folder("bin", mode=0o755)
        writer.file("bin/busybox", Path(shutil.which("busybox")).read_bytes(), mode=0o755)
        for name in _APPLETS:
            os.link(work / "rootfs" / "bin" / "busybox", work / "rootfs" / "bin" / name)
        writer.finish()
        return store.add("base", work / "rootfs", env={"A": "base"}, source="test")


def make(store, folder, said=None, **fields):
    spec = parse_spec({"name": "built", "base": "base", **fields})
    return build(store, spec, folder=folder, progress=None if said is None else lambda what, share: said.append(what))


def mounts():
    return [line for line in Path("/proc/mounts").read_text().splitlines() if "callbox" in line]


@needs_root
def test_files_commands_and_environment_end_up_in_the_image(store, base, tmp_path):
    (tmp_path / "data.txt").write_text("42")
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "f").write_text("deep")
    image = make(
        store,
        tmp_path,
        files={"/work/data.txt": "data.txt", "/opt/tree": "tree"},
        run=['echo "$B $(cat /work/data.txt)" > /etc/said; rm -r /opt/tree/sub; mkdir -p /opt/tree/sub/new'],
        env={"B": "mine"},
    )
    rootfs = image.root_image().rootfs
    assert (rootfs / "etc" / "said").read_text() == "mine 42\n"
    assert (rootfs / "work" / "data.txt").stat().st_uid == 1000
    assert (rootfs / "opt" / "tree" / "sub" / "new").is_dir()
    assert not (rootfs / "opt" / "tree" / "sub" / "f").exists()
    assert image.env == {"A": "base", "B": "mine"}
    assert not (base.folder / "rootfs" / "etc" / "said").exists()
    store.verify("built")
    store.verify("base")


@needs_root
def test_only_what_changed_and_what_follows_is_built_again(store, base, tmp_path):
    (tmp_path / "f").write_text("1")
    commands = ["echo one > /one", "echo two > /two"]
    first = make(store, tmp_path, files={"/f": "f"}, run=commands)
    said = []
    assert make(store, tmp_path, said, files={"/f": "f"}, run=commands).digest == first.digest
    assert [line.endswith("(cached)") for line in said[:3]] == [True, True, True]
    said.clear()
    make(store, tmp_path, said, files={"/f": "f"}, run=[commands[0], "echo 2 > /two"])
    assert [line.endswith("(cached)") for line in said[:3]] == [True, True, False]
    (tmp_path / "f").write_text("2")
    said.clear()
    make(store, tmp_path, said, files={"/f": "f"}, run=commands)
    assert [line.endswith("(cached)") for line in said[:3]] == [False, False, False]


@needs_root
def test_a_failure_names_the_step_and_its_last_lines_and_leaves_nothing(store, base, tmp_path):
    before = mounts()
    with pytest.raises(ImageError, match=r"Step 2 of 2 \(run echo oops.*exit status 7(.|\n)*oops"):
        make(store, tmp_path, run=["true", "echo oops >&2; exit 7"])
    assert [each.name for each in store.list()] == ["base"]
    assert list((store.folder / "tmp").iterdir()) == []
    assert mounts() == before


@needs_root
def test_a_step_sees_nothing_of_the_host_and_may_little(store, base, tmp_path):
    (tmp_path / "secret").write_text("x")
    checks = [
        f"test ! -e {tmp_path}",
        "! mknod /dev/sda b 8 0",
        "! mknod /x b 8 0",
        "! mount -t tmpfs none /opt",
        "set -- /proc/[0-9]*; test $# -lt 8",  # only its own processes
        'test -z "$HOST_SECRET"',
        "! test -e /sys/kernel",
    ]
    os.environ["HOST_SECRET"] = "x"
    try:
        make(store, tmp_path, run=checks)
    finally:
        del os.environ["HOST_SECRET"]


@needs_root
def test_what_a_step_leaves_running_ends_with_it(store, base, tmp_path):
    seconds = f"9{os.getpid()}"  # finds ours among all processes
    make(store, tmp_path, run=[f"sleep {seconds} >/dev/null 2>&1 & test -d /proc/$!"])
    assert f"sleep {seconds}" not in command_lines()


def command_lines():
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.add(path.read_text(errors="replace").replace("\0", " ").strip())
    return found


def test_a_base_that_is_not_there_says_so(store, tmp_path):
    with pytest.raises(SandboxNotFound):
        make(store, tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "out", "missing"])
def test_files_outside_the_folder_are_not_read(tmp_path, name):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigurationError):
        plan(parse_spec({"name": "x", "files": {"/f": name}}), tmp_path / "here")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"apt": ["-o=x"]}, "apt.0"),
        ({"apt": ["a b"]}, "apt.0"),
        ({"pip": ["--index-url=x"]}, "pip.0"),
        ({"run": [""]}, "run.0"),
        ({"files": {"relative": "x"}}, "files"),
        ({"files": {"/a/../../b": "x"}}, "files"),
        ({"env": {"A B": "x"}}, "env"),
        ({"packages": []}, "packages"),
        ({"name": "../x"}, "name"),
        ({"run": "echo"}, "run"),
    ],
)
def test_a_wrong_spec_says_where(fields, where):
    with pytest.raises(ConfigurationError, match=where):
        parse_spec({"name": "x", **fields})


def test_specs_are_read_from_toml_and_json(tmp_path):
    (tmp_path / "a.toml").write_text('name = "x"\napt = ["ripgrep=13.0.0-4+b2"]\n[env]\nA = "1"\n')
    (tmp_path / "a.json").write_text('{"name": "x", "apt": ["ripgrep=13.0.0-4+b2"], "env": {"A": "1"}}')
    assert read_spec(tmp_path / "a.toml") == read_spec(tmp_path / "a.json")
    (tmp_path / "bad.toml").write_text("name = ")
    for name in ("bad.toml", "missing.toml"):
        with pytest.raises(ConfigurationError, match=name):
            read_spec(tmp_path / name)


@needs_root
def test_an_overlay_is_applied_as_the_kernel_would(tmp_path, make_tree):
    lower = make_tree(tmp_path / "lower", {"d/old": "1", "gone": "1", "kept": "1", "was-folder/x": "1"})
    upper = make_tree(tmp_path / "upper", {"d/new": "2", "was-folder": "2"})
    os.mknod(upper / "gone", 0o020000, 0)
    os.setxattr(upper / "d", "trusted.overlay.opaque", b"y")
    apply_overlay(upper, lower)
    found = sorted(str(each.relative_to(lower)) for each in lower.rglob("*"))
    assert found == ["d", "d/new", "kept", "was-folder"]
    assert not any(name.startswith("trusted.") for name in os.listxattr(lower / "d"))
