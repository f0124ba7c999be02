"""Fetching releases: the settings of pip and uv, checksums, and repositories made of archives."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pr_review.package import DEFAULT_INDEX, FetchError, Release, Sources, fetch
from pr_review.repository import list_files, make_repository, open_pull_request, read_file
from pr_review.targets import ReleaseTarget

from support_review import git


def archive(version: str, **extra: str) -> bytes:
    packed = io.BytesIO()
    files = {"pkg.py": f"VERSION = {version!r}\n", "PKG-INFO": "x", "pkg.egg-info/SOURCES.txt": "x", **extra}
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"pkg-{version}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return packed.getvalue()


def release(version: str, content: bytes) -> Release:
    return Release("pkg", version, hashlib.sha256(content).hexdigest())


@pytest.fixture
def index(tmp_path):
    """A folder with an index as `file:` and as HTTP serve it."""
    root = tmp_path / "index"
    (root / "simple" / "pkg").mkdir(parents=True)
    (root / "files").mkdir()
    links = []
    for version in ("1.0", "2.0"):
        (root / "files" / f"pkg-{version}.tar.gz").write_bytes(archive(version))
        links.append(f'<a href="../../files/pkg-{version}.tar.gz#sha256=0">pkg-{version}.tar.gz</a>')
    (root / "simple" / "pkg" / "index.html").write_text("\n".join(links))
    return root


@pytest.fixture
def served(index):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(index)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_release_comes_from_an_index_and_then_from_the_cache(served, tmp_path):
    wanted = release("1.0", archive("1.0"))
    sources = Sources((f"{served}/missing", f"{served}/simple"))
    path = fetch(wanted, tmp_path / "cache", sources)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256
    assert fetch(wanted, tmp_path / "cache", Sources(())) == path


def test_indexes_and_links_of_this_host_need_no_network(index, tmp_path):
    wanted = release("2.0", archive("2.0"))
    assert fetch(wanted, tmp_path / "a", Sources(((index / "simple").as_uri(),))).is_file()
    assert fetch(wanted, tmp_path / "b", Sources((), links=(str(index / "files"),))).is_file()


def test_another_file_of_the_same_name_is_refused_and_credentials_are_not_told(served, tmp_path):
    address = served.replace("http://", "http://kim:secret@")
    with pytest.raises(FetchError, match="another checksum") as caught:
        fetch(Release("pkg", "1.0", "0" * 64), tmp_path / "cache", Sources((f"{address}/simple",)))
    assert "secret" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_source_that_does_not_answer_is_passed_over(index, tmp_path):
    wanted = release("1.0", archive("1.0"))
    sources = Sources(("http://127.0.0.1:9/simple", (index / "simple").as_uri()))
    assert fetch(wanted, tmp_path / "cache", sources).is_file()


def test_the_settings_of_pip_and_uv_are_read(tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://one.example/simple\nextra-index-url =\n  https://two.example/simple\n"
        "  file:///srv/simple\ncert = /etc/own.pem\n[download]\nfind-links = /srv/links\n"
    )
    env = {"PIP_CONFIG_FILE": str(config), "HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path)}
    found = Sources.of_this_host(env)
    assert found.indexes == ("https://one.example/simple", "https://two.example/simple", "file:///srv/simple")
    assert (found.links, found.certificates) == (("/srv/links",), "/etc/own.pem")
    assert Sources.of_this_host({**env, "PIP_INDEX_URL": "https://env.example"}).indexes[0] == "https://env.example"
    only = {"PIP_CONFIG_FILE": "/dev/null"}
    assert Sources.of_this_host(only).indexes == (DEFAULT_INDEX,)
    assert Sources.of_this_host({**only, "UV_INDEX_URL": "https://uv.example"}).indexes == ("https://uv.example",)
    named = {**only, "UV_INDEX": "mine=https://three.example/simple"}
    assert Sources.of_this_host(named).indexes == (DEFAULT_INDEX, "https://three.example/simple")
    assert Sources.of_this_host({**only, "PIP_NO_INDEX": "1"}).indexes == ()


def test_releases_become_the_commits_of_one_repository(tmp_path):
    archives = []
    for version, extra in (("1.0", {"old.py": "x = 1\n"}), ("2.0", {"bin/run": "#!/bin/sh\n"})):
        archives.append(tmp_path / f"pkg-{version}.tar.gz")
        archives[-1].write_bytes(archive(version, **extra))
    for name in ("a.git", "b.git"):
        make_repository(tmp_path / name, [("main", "pkg 1.0", archives[0]), ("pull/1", "pkg 2.0", archives[1])])
    pulls = [open_pull_request(tmp_path / name, "main", "pull/1") for name in ("a.git", "b.git")]
    assert pulls[0].head == pulls[1].head
    assert pulls[0].title == "pkg 2.0"
    assert list_files(pulls[0], "base") == ["old.py", "pkg.py"]
    assert list_files(pulls[0], "head") == ["bin/run", "pkg.py"]
    assert read_file(pulls[0], "pkg.py") == "VERSION = '2.0'\n"


def test_names_in_an_archive_cannot_leave_the_tree(tmp_path):
    path = tmp_path / "pkg-1.0.tar.gz"
    hostile = {"../../evil.py": "x", ".git/config": "x", 'a"b.py': "x", "a\nM 100644 inline b.py": "x"}
    path.write_bytes(archive("1.0", **hostile))
    make_repository(tmp_path / "r.git", [("main", "one", path), ("pull/1", "two", path)])
    assert git(tmp_path / "r.git", "ls-tree", "-r", "--name-only", "main") == "pkg.py"


def test_a_target_is_fetched_once(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", (index / "simple").as_uri())
    old, new = release("1.0", archive("1.0")), release("2.0", archive("2.0"))
    target = ReleaseTarget(old, new, tmp_path / "cache")
    first = target.fetch()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    for kept in (tmp_path / "cache").glob("*.tar.gz"):
        kept.unlink()
    assert target.fetch() == first
