"""Tiny trees, archives and modules."""

import gzip
import hashlib
import io
import json
import tarfile

import pytest

from callbox.sandboxes.images.oci import architecture
from callbox.sandboxes.images.store import ImageStore


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "images")


@pytest.fixture
def make_tree():
    def make(root, files):
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return root

    return make


@pytest.fixture
def make_tar():
    """Entries: (name, content) for files, (name, None) for folders, or ready TarInfo with content."""

    def make(path, entries, mode="w"):
        with tarfile.open(path, mode) as tar:
            for name, content in entries:
                info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
                if not isinstance(name, tarfile.TarInfo) and content is None:
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                if content is not None:
                    info.size = len(content)
                tar.addfile(info, None if content is None else io.BytesIO(content))
        return path

    return make


@pytest.fixture
def make_layout(make_tar, tmp_path):
    """An OCI layout with layers of entries; returns its folder, its manifest and its digests."""

    def make(folder, layers, env=("A=1",), tag="1.0", arch=None):
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)

        def put(data, media_type):
            digest = hashlib.sha256(data).hexdigest()
            (blobs / digest).write_bytes(data)
            return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

        diff_ids, descriptors = [], []
        for number, entries in enumerate(layers):
            raw = make_tar(tmp_path / f"layer{number}.tar", entries).read_bytes()
            diff_ids.append(f"sha256:{hashlib.sha256(raw).hexdigest()}")
            packed = gzip.compress(raw, mtime=0) if number % 2 == 0 else raw
            descriptors.append(put(packed, "application/vnd.oci.image.layer.v1.tar+gzip"))
        config = {
            "os": "linux",
            "architecture": arch or architecture(),
            "config": {"Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": descriptors,
        }
        named = put(json.dumps(manifest).encode(), manifest["mediaType"])
        named["annotations"] = {"org.opencontainers.image.ref.name": tag}
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
        return manifest

    return make
