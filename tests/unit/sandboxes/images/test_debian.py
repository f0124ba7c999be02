import os
import shutil
from pathlib import Path

import pytest

from callbox.errors import HostUnsuited, ImageError
from callbox.sandboxes.images import debian
from callbox.sandboxes.images.commands import need, run
from callbox.sandboxes.images.debian import Base, bootstrap, ensure_python, host_sources

DEB822 = """# the release
Types: deb
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main

Types: deb
URIs: http://mirror.example/security
Suites: trixie-security
Components: main

Types: deb
URIs: http://other.example
Suites: nodistro
Components: main

Types: deb
Enabled: no
URIs: http://disabled.example
Suites: trixie
Components: main
"""


def test_the_hosts_own_sources_of_the_release_are_taken_and_no_others(tmp_path):
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "apt" / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "apt" / "sources.list").write_text(
        "deb [signed-by=/x] http://mirror.example/debian trixie main contrib\n"
        "# deb http://commented.example trixie main\n"
        "deb-src http://source.example trixie main\n"
        "deb http://vendor.example stable main\n"
    )
    (tmp_path / "apt" / "sources.list.d" / "x.sources.disabled").write_text(DEB822)
    found = host_sources("trixie", tmp_path, apt=tmp_path / "apt")
    stanzas, lines = (Path(path).read_text() for path in found)
    assert "mirror.example/debian" in stanzas
    assert "mirror.example/security" in stanzas
    assert "other.example" not in stanzas
    assert "disabled.example" not in stanzas
    assert lines.splitlines() == ["deb [signed-by=/x] http://mirror.example/debian trixie main contrib"]
    assert host_sources("sid", tmp_path, apt=tmp_path / "apt") == []


def test_the_second_run_finds_the_image_made(store, monkeypatch, make_tree):
    made = []

    def fake(target, base, *, work, progress):
        made.append(base)
        make_tree(target, {"etc/motd": "hello"})

    monkeypatch.setattr(debian, "bootstrap", fake)
    first, was_made = ensure_python(store)
    assert was_made
    assert ensure_python(store) == (first, False)
    again, was_made = ensure_python(store, base=Base(packages=("python3",)))
    assert was_made
    assert ensure_python(store, base=Base(packages=("python3",))) == (again, False)
    assert ensure_python(store, base=Base(packages=("python3",)), force=True)[1]
    assert len(made) == 3


def test_a_failed_run_leaves_nothing_and_keeps_the_old_image(store, monkeypatch, make_tree):
    monkeypatch.setattr(debian, "bootstrap", lambda target, base, **_: make_tree(target, {"a": "1"}) and None)
    image, _ = ensure_python(store)

    def fail(target, base, **_):
        target.mkdir()
        raise ImageError("the network is down")

    monkeypatch.setattr(debian, "bootstrap", fail)
    with pytest.raises(ImageError):
        ensure_python(store, force=True)
    assert store.get("python") == image
    assert list((store.folder / "tmp").iterdir()) == []


def test_mmdebstraps_own_configuration_in_tmp_is_left_alone():
    # It once was not: mmdebstrap's last apt-get update then emptied the package lists of the host.
    assert "/tmp" not in debian._CUSTOMIZE


def test_a_missing_program_comes_with_the_command_that_installs_it():
    with pytest.raises(HostUnsuited, match="apt-get install surely-missing"):
        need("no-such-program-here", "surely-missing")


def test_a_command_that_fails_is_named_with_its_last_lines():
    lines = "; ".join(f"echo line {number}" for number in range(30))
    with pytest.raises(ImageError, match=r"Trying failed \(exit status 3\)(.|\n)*line 29") as caught:
        run(["sh", "-c", f"{lines}; exit 3"], what="Trying")
    assert "line 9\n" not in str(caught.value)


def test_a_command_that_takes_too_long_is_killed_with_its_children():
    with pytest.raises(ImageError, match="took more than"):
        run(["sh", "-c", "sleep 1000 & wait"], what="Waiting", timeout_s=0.2)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mmdebstrap") is None, reason="needs root and mmdebstrap")
def test_a_real_debian_is_made_and_the_hosts_apt_is_untouched(tmp_path):
    lists = Path("/var/lib/apt/lists")
    before = sorted(lists.iterdir())
    said = []
    root = tmp_path / "root"
    (tmp_path / "work").mkdir()
    assert bootstrap(root, Base(packages=()), work=tmp_path / "work", progress=lambda *each: said.append(each)) is None
    assert sorted(lists.iterdir()) == before
    assert (root / "work").stat().st_uid == 1000
    assert "box:x:1000:1000::/work:" in (root / "etc" / "passwd").read_text()
    assert list((root / "dev").iterdir()) == []
    assert list((root / "var/lib/apt/lists").iterdir()) == []
    assert said == sorted(said, key=lambda each: each[1])
