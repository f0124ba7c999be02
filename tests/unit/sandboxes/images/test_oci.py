import hashlib
import json
import tarfile

import pytest

from callbox.errors import ImageError
from callbox.sandboxes.images.limits import ImageLimits
from callbox.sandboxes.images.oci import architecture, choose_platform, import_image

LAYERS = [
    [("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), ("a/lower", b"1"), ("b", b"1")],
    [("a/upper", b"2"), ("a/.wh.lower", b"")],
]


def blob(folder, named):
    return folder / "blobs" / "sha256" / named["digest"].removeprefix("sha256:")


def test_a_layout_is_imported_with_its_layers_and_environment(store, make_layout, tmp_path):
    make_layout(tmp_path / "layout", LAYERS, env=["A=1", "B=x=y", "no sign"])
    image = import_image(store, "tiny", tmp_path / "layout")
    rootfs = image.root_image().rootfs
    assert (rootfs / "a" / "upper").read_text() == "2"
    assert not (rootfs / "a" / "lower").exists()
    assert image.env == {"A": "1", "B": "x=y"}
    store.verify("tiny")


def test_what_every_sandbox_has_is_added(store, make_layout, tmp_path):
    make_layout(tmp_path / "layout", LAYERS)
    rootfs = import_image(store, "tiny", tmp_path / "layout").root_image().rootfs
    assert (rootfs / "etc/passwd").read_text().splitlines()[1].startswith("box:x:1000:1000:")
    assert (rootfs / "work").stat().st_uid == 1000
    assert (rootfs / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_a_passwd_that_is_a_link_to_the_host_is_followed_inside_only(store, make_layout, tmp_path):
    host = tmp_path / "host-passwd"
    host.write_text("root:x:0:0::/root:/bin/sh\n")
    link = tarfile.TarInfo("etc/passwd")
    link.type, link.linkname = tarfile.SYMTYPE, str(host)
    make_layout(tmp_path / "layout", [[(link, None)]])
    rootfs = import_image(store, "tiny", tmp_path / "layout").root_image().rootfs
    assert host.read_text() == "root:x:0:0::/root:/bin/sh\n"
    assert "box:" in (rootfs / str(host).lstrip("/")).read_text()


def test_a_tar_of_a_layout_is_imported(store, make_layout, tmp_path):
    make_layout(tmp_path / "layout", LAYERS)
    with tarfile.open(tmp_path / "image.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "layout", ".")
    assert import_image(store, "tiny", tmp_path / "image.tar.gz").entries > 5


def test_an_archive_of_docker_save_is_imported(store, make_tar, tmp_path):
    layer = make_tar(tmp_path / "layer.tar", LAYERS[0]).read_bytes()
    config = json.dumps(
        {
            "os": "linux",
            "architecture": architecture(),
            "config": {"Env": ["A=1"]},
            "rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    listed = json.dumps([{"Config": name, "RepoTags": ["x:1"], "Layers": ["l/layer.tar"]}]).encode()
    entries = [("manifest.json", listed), (name, config), ("l/layer.tar", layer)]
    make_tar(tmp_path / "saved.tar", entries)
    assert import_image(store, "tiny", tmp_path / "saved.tar", reference="x:1").env == {"A": "1"}
    with pytest.raises(ImageError, match="no image"):
        import_image(store, "tiny", tmp_path / "saved.tar", reference="y:1")
    make_tar(tmp_path / "changed.tar", [*entries[:2], ("l/layer.tar", make_tar(tmp_path / "o.tar", []).read_bytes())])
    with pytest.raises(ImageError, match="not what the configuration names"):
        import_image(store, "tiny", tmp_path / "changed.tar")


@pytest.mark.parametrize("part", ["config", "layer"])
def test_a_blob_with_another_content_is_refused(store, make_layout, tmp_path, part):
    manifest = make_layout(tmp_path / "layout", LAYERS)
    path = blob(tmp_path / "layout", manifest["config"] if part == "config" else manifest["layers"][1])
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        import_image(store, "tiny", tmp_path / "layout")
    assert store.list() == []
    assert list((store.folder / "tmp").iterdir()) == []


def test_a_blob_that_is_missing_or_longer_is_refused(store, make_layout, tmp_path):
    manifest = make_layout(tmp_path / "layout", LAYERS)
    path = blob(tmp_path / "layout", manifest["layers"][0])
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ImageError, match="instead of"):
        import_image(store, "tiny", tmp_path / "layout")
    path.unlink()
    with pytest.raises(ImageError, match="missing"):
        import_image(store, "tiny", tmp_path / "layout")


def test_a_layout_that_links_to_the_host_reads_nothing_there(store, make_layout, tmp_path):
    make_layout(tmp_path / "layout", LAYERS)
    (tmp_path / "secret.json").write_text((tmp_path / "layout" / "index.json").read_text())
    (tmp_path / "layout" / "index.json").unlink()
    (tmp_path / "layout" / "index.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ImageError, match=r"no index\.json"):
        import_image(store, "tiny", tmp_path / "layout")


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "md5:abc", None, "sha256:" + "a" * 63])
def test_a_digest_cannot_be_a_path(store, make_layout, tmp_path, digest):
    make_layout(tmp_path / "layout", LAYERS)
    index = {"manifests": [{"digest": digest, "size": 1}]}
    (tmp_path / "layout" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ImageError, match="not sha256"):
        import_image(store, "tiny", tmp_path / "layout")


def test_another_processor_is_refused(store, make_layout, tmp_path):
    make_layout(tmp_path / "layout", LAYERS, arch="s390x")
    with pytest.raises(ImageError, match="s390x"):
        import_image(store, "tiny", tmp_path / "layout")


def test_the_manifest_for_this_platform_is_chosen():
    def offer(arch, letter):
        return {"digest": f"sha256:{letter * 64}", "size": 1, "platform": {"os": "linux", "architecture": arch}}

    index = {"manifests": [offer("s390x", "a"), offer(architecture(), "b")]}
    assert choose_platform(index).digest == "b" * 64
    with pytest.raises(ImageError, match="s390x"):
        choose_platform({"manifests": [offer("s390x", "a")]})


def test_limits_hold_across_layers(store, make_layout, tmp_path):
    make_layout(tmp_path / "layout", [[("a", b"x" * 600)], [("b", b"x" * 600)]])
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        import_image(store, "tiny", tmp_path / "layout", limits=ImageLimits(unpacked_bytes_max=1_000))
    with pytest.raises(ImageError, match="at most 1"):
        import_image(store, "tiny", tmp_path / "layout", limits=ImageLimits(layers_max=1))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '{"manifests": 3}'])
def test_an_index_that_is_none_is_refused(store, make_layout, tmp_path, text):
    make_layout(tmp_path / "layout", LAYERS)
    (tmp_path / "layout" / "index.json").write_text(text)
    with pytest.raises(ImageError):
        import_image(store, "tiny", tmp_path / "layout")


def test_what_was_left_out_is_said(store, make_layout, tmp_path):
    device = tarfile.TarInfo("dev/mem")
    device.type = tarfile.CHRTYPE
    make_layout(tmp_path / "layout", [[(device, None)]])
    said = []
    import_image(store, "tiny", tmp_path / "layout", report=said.append)
    assert "dev/mem" in said[-1]
