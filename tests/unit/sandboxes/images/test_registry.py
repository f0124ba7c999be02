"""Against Debian's own registry server, on loopback; and against a hostile one."""

import hashlib
import json
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from callbox.errors import ConfigurationError, ImageError
from callbox.sandboxes.images import registry as module
from callbox.sandboxes.images.oci import architecture
from callbox.sandboxes.images.registry import Reference, is_loopback, pull

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYERS = [[("a", b"1" * 100_000), ("b", b"1")], [("c", b"2"), (".wh.b", b"")]]


def find_registry(folder):
    """The server's program: installed, or fetched like any package and unpacked, never installed."""
    found = shutil.which("docker-registry")
    if found:
        return found
    if shutil.which("apt-get") is None:
        pytest.skip("docker-registry is not installed, and there is no apt-get to fetch it")
    argv = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", "docker-registry"]
    if subprocess.run(argv, cwd=folder, capture_output=True, check=False, timeout=120).returncode != 0:
        pytest.skip("docker-registry is not installed, and apt-get cannot fetch it")
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True, timeout=60)
    return str(folder / "usr" / "bin" / "docker-registry")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    program = find_registry(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/v2/").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the registry does not answer"
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def push(host, repository, folder, manifest, tag):
    """Push a layout: blobs, its manifest, and an index over it and over one for another processor."""
    with httpx.Client(base_url=f"http://{host}/v2/{repository}/") as client:

        def put(kind, path, data, media_type):
            answer = client.put(f"{kind}/{path}", content=data, headers={"Content-Type": media_type})
            assert answer.status_code == 201, answer.text
            digest = hashlib.sha256(data).hexdigest()
            return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

        for each in (manifest["config"], *manifest["layers"]):
            data = (folder / "blobs" / "sha256" / each["digest"].removeprefix("sha256:")).read_bytes()
            place = client.post("blobs/uploads/").headers["Location"]
            answer = client.put(httpx.URL(place).copy_merge_params({"digest": each["digest"]}), content=data)
            assert answer.status_code == 201, answer.text
        raw = json.dumps(manifest).encode()
        ours = put("manifests", f"{tag}-only", raw, MANIFEST)
        other = put("manifests", "other", json.dumps({**manifest, "layers": []}).encode(), MANIFEST)
        entries = [
            {**other, "platform": {"os": "linux", "architecture": "s390x"}},
            {**ours, "platform": {"os": "linux", "architecture": architecture()}},
        ]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        put("manifests", tag, json.dumps(index).encode(), INDEX)
        return ours["digest"]


@pytest.fixture
def pushed(registry, make_layout, tmp_path):
    manifest = make_layout(tmp_path / "layout", LAYERS)
    return registry, push(registry, "team/tiny", tmp_path / "layout", manifest, "1.0")


@pytest.mark.slow
def test_an_image_is_pulled_by_tag_for_this_platform(store, pushed):
    host, _ = pushed
    said = []
    image = pull(store, f"{host}/team/tiny:1.0", progress=lambda what, share: said.append((what, share)))
    rootfs = image.root_image().rootfs
    assert image.name == "tiny-1.0"
    assert (rootfs / "c").read_text() == "2"
    assert not (rootfs / "b").exists()
    assert image.source.startswith(f"{host}/team/tiny@sha256:")
    assert list((store.folder / "downloads").iterdir()) == []
    assert all(0 <= share <= 1 for _, share in said)


@pytest.mark.slow
def test_an_image_is_pulled_by_digest(store, pushed):
    host, digest = pushed
    assert pull(store, f"{host}/team/tiny@{digest}", name="exact").source == f"{host}/team/tiny@{digest}"


@pytest.mark.slow
def test_a_download_goes_on_where_it_was_cut_off(store, pushed, tmp_path, make_layout):
    host, digest = pushed
    manifest = json.loads(
        httpx.get(f"http://{host}/v2/team/tiny/manifests/{digest}", headers={"Accept": MANIFEST}).text
    )
    layer = manifest["layers"][0]["digest"]
    whole = httpx.get(f"http://{host}/v2/team/tiny/blobs/{layer}").content
    (store.folder / "downloads").mkdir(parents=True)
    (store.folder / "downloads" / layer.removeprefix("sha256:")).write_bytes(whole[: len(whole) // 2])
    pull(store, f"{host}/team/tiny@{digest}", name="resumed")
    # What lies there may be wrong, too: then it is fetched again by the next try.
    (store.folder / "downloads" / layer.removeprefix("sha256:")).write_bytes(b"x" * (len(whole) // 2))
    with pytest.raises(ImageError, match="damaged"):
        pull(store, f"{host}/team/tiny@{digest}", name="wrong")
    assert pull(store, f"{host}/team/tiny@{digest}", name="right").entries > 2


@pytest.mark.slow
def test_what_the_registry_does_not_have_is_said(store, pushed):
    host, _ = pushed
    with pytest.raises(ImageError, match=r"has no team/tiny:2\.0"):
        pull(store, f"{host}/team/tiny:2.0")


class Hostile:
    """A registry that answers as told: path -> (status, headers, body)."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        hostile = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hostile.asked.append((self.path, dict(self.headers)))
                answer = hostile.answers.get(self.path.partition("?")[0], (404, {}, b""))
                status, headers, body = answer(self.headers) if callable(answer) else answer
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, folder, manifest):
        raw = json.dumps(manifest).encode()
        self.answers["/v2/x/manifests/latest"] = (200, {}, raw)
        for each in (manifest["config"], *manifest["layers"]):
            data = (folder / "blobs" / "sha256" / each["digest"].removeprefix("sha256:")).read_bytes()
            self.answers[f"/v2/x/blobs/{each['digest']}"] = (200, {}, data)


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", 0.0)
    server = Hostile()
    yield server
    server.close()


def test_a_token_is_fetched_where_the_registry_says_and_sent_along(store, hostile, make_layout, tmp_path):
    hostile.serve(tmp_path / "layout", make_layout(tmp_path / "layout", LAYERS))
    challenge = f'Bearer realm="http://{hostile.host}/token",service="s",scope="repository:x:pull"'
    hostile.answers["/token"] = (200, {}, b'{"token": "abc"}')
    answers = dict(hostile.answers)
    for path, answer in answers.items():
        if path != "/token":
            refused = (401, {"WWW-Authenticate": challenge}, b"")
            hostile.answers[path] = lambda headers, answer=answer, refused=refused: (
                answer if headers.get("Authorization") == "Bearer abc" else refused
            )
    assert pull(store, f"{hostile.host}/x", credentials=("me", "secret")).name == "x"
    asked = [(path, headers) for path, headers in hostile.asked if path.startswith("/token")]
    assert len(asked) == 1
    assert "scope=repository%3Ax%3Apull" in asked[0][0]
    assert asked[0][1]["Authorization"].startswith("Basic ")


def test_who_may_not_pull_is_told_what_to_set(store, hostile):
    hostile.answers["/v2/x/manifests/latest"] = (401, {"WWW-Authenticate": "Basic"}, b"")
    with pytest.raises(ImageError, match="CALLBOX_REGISTRY_AUTH"):
        pull(store, f"{hostile.host}/x")


def test_a_cut_connection_is_taken_up_again(store, hostile, make_layout, tmp_path):
    manifest = make_layout(tmp_path / "layout", LAYERS)
    hostile.serve(tmp_path / "layout", manifest)
    path = f"/v2/x/blobs/{manifest['layers'][1]['digest']}"
    whole = hostile.answers[path][2]
    ranges = []

    def cut(headers):
        start = int(headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        ranges.append(start)
        part = whole[start : start + len(whole) // 3 + 1]
        said = {
            "Content-Length": str(len(whole) - start),
            "Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}",
        }
        return 206 if start else 200, said, part

    hostile.answers[path] = cut
    pull(store, f"{hostile.host}/x")
    assert ranges[0] == 0
    assert ranges == sorted(set(ranges))
    assert len(ranges) >= 2


def test_a_connection_that_is_always_cut_is_given_up(store, hostile, make_layout, tmp_path):
    manifest = make_layout(tmp_path / "layout", LAYERS)
    hostile.serve(tmp_path / "layout", manifest)
    path = f"/v2/x/blobs/{manifest['layers'][0]['digest']}"
    hostile.answers[path] = (200, {"Content-Length": "5000"}, b"x")
    with pytest.raises(ImageError, match="broke off"):
        pull(store, f"{hostile.host}/x")
    assert len([each for each, _ in hostile.asked if each == path]) == module.TRIES_MAX


@pytest.mark.parametrize("how", ["other", "longer"])
def test_another_content_is_refused(store, hostile, make_layout, tmp_path, how):
    manifest = make_layout(tmp_path / "layout", LAYERS)
    hostile.serve(tmp_path / "layout", manifest)
    path = f"/v2/x/blobs/{manifest['layers'][0]['digest']}"
    whole = hostile.answers[path][2]
    hostile.answers[path] = (200, {}, whole[:-1] + b"!" if how == "other" else whole + b"!")
    with pytest.raises(ImageError, match="damaged" if how == "other" else "sends more"):
        pull(store, f"{hostile.host}/x")
    assert store.list() == []


def test_a_digest_is_not_taken_on_trust(store, hostile):
    wanted = "a" * 64
    hostile.answers[f"/v2/x/manifests/sha256:{wanted}"] = (200, {}, b"{}")
    with pytest.raises(ImageError, match="damaged"):
        pull(store, f"{hostile.host}/x@sha256:{wanted}")


def test_a_redirect_away_from_encryption_is_refused(store, hostile):
    hostile.answers["/v2/x/manifests/latest"] = (302, {"Location": "http://registry.invalid/x"}, b"")
    with pytest.raises(ImageError, match="without encryption"):
        pull(store, f"{hostile.host}/x")


def test_a_registry_elsewhere_cannot_send_us_to_this_host(tmp_path):
    reference = Reference.parse("registry.invalid/x")
    with module.Registry(reference, tmp_path) as registry:
        for url in ("https://127.0.0.1/token", "https://localhost:1/token", "https://[::1]/token"):
            with pytest.raises(ImageError, match="which is this host"):
                registry._check_address(httpx.Request("GET", url))
        with pytest.raises(ImageError, match="without encryption"):
            registry._check_address(httpx.Request("GET", "http://registry.invalid/v2/"))


def test_an_endless_manifest_is_cut_off(store, hostile, monkeypatch):
    hostile.answers["/v2/x/manifests/latest"] = (200, {}, b" " * 5 * 1024**2)
    with pytest.raises(ImageError, match="more than"):
        pull(store, f"{hostile.host}/x")


def test_references_are_read():
    assert Reference.parse("reg.example/a/b:1") == Reference("reg.example", "a/b", "1", None)
    assert Reference.parse("localhost/a").wanted == "latest"
    assert Reference.parse("[::1]:5000/a@sha256:" + "0" * 64).wanted == "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "text", ["python:3", "a/b:1", "", "reg.example/A", "reg.example/a b", "reg.example/../a", "x.y/"]
)
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(ConfigurationError, match="HOST/NAME"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.9.9.9:80", True), ("[::1]:5", True), ("localhost.example", False), ("10.0.0.1", False)],
)
def test_loopback_is_known(host, expected):
    assert is_loopback(host) is expected
