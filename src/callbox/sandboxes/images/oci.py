"""Import images from elsewhere: an OCI layout (folder or tar), or what `docker save` wrote.

Formats: OCI image-spec 1.1 (image-layout.md, manifest.md, layer.md) and Docker's image specification 1.2. Every blob
is checked against the digest that names it, every layer once more against the configuration's "diff ids".
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from callbox.errors import ImageError
from callbox.sandboxes.images.furnish import furnish
from callbox.sandboxes.images.limits import LIMITS, ImageLimits
from callbox.sandboxes.images.store import Image, ImageStore
from callbox.sandboxes.images.unpack import TreeWriter

_log = logging.getLogger("callbox.images")

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")

Report = Callable[[str], None]
"""Gets one line of progress."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What names a blob: digest (64 hex of sha256) and size."""

    digest: str
    size: int
    media_type: str


class Blobs(Protocol):
    """Where the parts of an image come from."""

    def fetch(self, descriptor: Descriptor, *, bytes_max: int) -> Path:
        """Return a file with the blob, checked: size and sha256."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """An image, found but not unpacked: configuration, layers (lowest first) as files."""

    config: Mapping[str, Any]
    layers: Sequence[Path]


def import_image(
    store: ImageStore,
    name: str,
    path: Path,
    *,
    reference: str | None = None,
    limits: ImageLimits = LIMITS,
    report: Report | None = None,
) -> Image:
    """Import an OCI layout (folder or tar) or a `docker save` archive.

    Args:
        store: Where to.
        name: What it is called there.
        path: The folder or the tar (also gzip or zstd).
        reference: Which image, where there are several: a tag, or ``sha256:...``.
        limits: How much it may be.
        report: Gets lines of progress, and what was left out.

    Raises:
        ImageError: Damaged, hostile, over a limit, or not such an archive.
    """
    with store.scratch() as work:
        folder = path
        if not path.is_dir():
            if not path.is_file():
                raise ImageError(f"There is no {path}.")
            folder = work / "archive"
            writer = TreeWriter(folder, limits=_archive_limits(limits))
            writer.add(path)
            writer.finish()
        layout = Layout(folder, limits)
        parts = layout.find(reference)
        return assemble(store, name, parts, work, source=f"archive:{path.name}", limits=limits, report=report)


def assemble(
    store: ImageStore,
    name: str,
    parts: Parts,
    work: Path,
    *,
    source: str,
    limits: ImageLimits = LIMITS,
    report: Report | None = None,
) -> Image:
    """Unpack layers one over the other, check them, and take the result into the store."""
    check_platform(parts.config)
    expected = _diff_ids(parts.config)
    if len(expected) != len(parts.layers):
        raise ImageError(f"The image has {len(parts.layers)} layers, its configuration says {len(expected)}.")
    writer = TreeWriter(work / "rootfs", limits=limits)
    for number, (layer, diff_id) in enumerate(zip(parts.layers, expected, strict=True), start=1):
        if report is not None:
            report(f"Unpacking layer {number} of {len(expected)}")
        found = writer.add(layer, whiteouts=True)
        if found != diff_id:
            raise ImageError(f"Layer {number} is not what the configuration names: it has sha256 {found[:12]}...")
    furnish(writer)
    owners = writer.finish()
    if writer.skipped:
        shown = ", ".join(writer.skipped[:5])
        said = f"{len(writer.skipped)} devices, pipes or sockets were left out: {shown}"
        _log.warning("%s: %s", name, said)
        if report is not None:
            report(said)
    return store.add(name, work / "rootfs", env=read_env(parts.config), source=source, owners=owners)


class Layout:
    """An image archive, as files beneath one folder. Paths and symlinks in it never lead out of it."""

    def __init__(self, folder: Path, limits: ImageLimits = LIMITS) -> None:
        self._inside = TreeWriter(folder)  # only resolves paths here
        self._limits = limits

    def find(self, reference: str | None) -> Parts:
        """Find one image: in an OCI index where there is one, else in Docker's list."""
        if self._file("index.json") is not None:
            return self._from_index(reference)
        if self._file("manifest.json") is not None:
            return self._from_docker(reference)
        raise ImageError("This is no OCI layout and no archive of docker save: it has no index.json or manifest.json.")

    def fetch(self, descriptor: Descriptor, *, bytes_max: int) -> Path:
        """See `Blobs.fetch`."""
        path = self._file(f"blobs/sha256/{descriptor.digest}")
        if path is None:
            raise ImageError(f"The blob sha256:{descriptor.digest} is missing.")
        check_blob(path, descriptor, bytes_max=bytes_max)
        return path

    def _from_index(self, reference: str | None) -> Parts:
        index = self._document("index.json")
        entries = as_objects(index.get("manifests"))
        if reference is not None:
            entries = [each for each in entries if reference in _references(each)]
            if not entries:
                raise ImageError(f"The archive has no image {reference!r}.", hint="Give a tag that it has.")
        elif len({str(each.get("digest")) for each in entries}) > 1 and not any(
            each.get("platform") for each in entries
        ):
            names = sorted({name for each in entries for name in _references(each)})
            raise ImageError(f"The archive has several images: {', '.join(names)}.", hint="Say which: --reference")
        return load_parts(self, {"manifests": entries}, self._limits)

    def _from_docker(self, reference: str | None) -> Parts:
        raw = self._json("manifest.json")
        entries = as_objects(raw)
        tags = {str(tag): each for each in entries for tag in as_list(each.get("RepoTags"))}
        if reference is not None:
            if reference not in tags:
                raise ImageError(f"The archive has no image {reference!r}.", hint=f"It has: {', '.join(sorted(tags))}")
            entry = tags[reference]
        elif len(entries) == 1:
            entry = entries[0]
        else:
            raise ImageError(
                f"The archive has {len(entries)} images: {', '.join(sorted(tags))}.", hint="Say which: --reference"
            )
        config_name = str(entry.get("Config"))
        config_path = self._needed(config_name)
        found = re.search(r"([0-9a-f]{64})(\.json)?\Z", config_name)
        if found is None:
            raise ImageError(f"The configuration {config_name!r} is not named by its digest.")
        size = config_path.stat().st_size
        check_blob(config_path, Descriptor(found[1], size, ""), bytes_max=self._limits.document_bytes_max)
        layers = [self._needed(str(each)) for each in as_list(entry.get("Layers"))]
        # Layers have no digest here but the one in the configuration, which `assemble` compares with.
        return Parts(read_document(config_path, self._limits), layers)

    def _document(self, name: str) -> dict[str, Any]:
        raw = self._json(name)
        if not isinstance(raw, dict):
            raise ImageError(f"{name} is no JSON object.")
        return cast("dict[str, Any]", raw)

    def _json(self, name: str) -> Any:
        return read_json(self._needed(name), self._limits)

    def _needed(self, name: str) -> Path:
        path = self._file(name)
        if path is None:
            raise ImageError(f"The archive lacks {name!r}.")
        return path

    def _file(self, name: str) -> Path | None:
        path = self._inside.place(name, follow=True)
        return path if path.is_file() else None


def load_parts(blobs: Blobs, manifest: Mapping[str, Any], limits: ImageLimits) -> Parts:
    """Follow an index to the manifest for this platform, and fetch configuration and layers."""
    for _ in range(4):  # an index in an index is allowed; a long chain of them is a joke
        if "manifests" not in manifest:
            break
        chosen = choose_platform(manifest)
        manifest = read_document(blobs.fetch(chosen, bytes_max=limits.document_bytes_max), limits)
    if "config" not in manifest or "layers" not in manifest:
        raise ImageError("This manifest is of no known kind.", hint="Only images with schema version 2 can be used.")
    config = descriptor(manifest["config"])
    layers = [descriptor(each) for each in as_list(manifest["layers"])]
    if len(layers) > limits.layers_max:
        raise ImageError(f"The image has {len(layers)} layers; at most {limits.layers_max} are unpacked.")
    document = read_document(blobs.fetch(config, bytes_max=limits.document_bytes_max), limits)
    check_platform(document)  # before gigabytes are fetched for nothing
    return Parts(document, [blobs.fetch(each, bytes_max=limits.blob_bytes_max) for each in layers])


def choose_platform(index: Mapping[str, Any]) -> Descriptor:
    """Choose an index's manifest for Linux on this processor."""
    wanted = ("linux", architecture())
    entries = as_objects(index.get("manifests"))
    offered: list[str] = []
    for each in entries:
        named = each.get("platform")
        if not isinstance(named, dict):
            continue
        found = cast("dict[str, Any]", named)
        offered.append(f"{found.get('os')}/{found.get('architecture')}")
        if (found.get("os"), found.get("architecture")) == wanted:
            return descriptor(each)
    unnamed = [each for each in entries if not isinstance(each.get("platform"), dict)]
    if unnamed:
        return descriptor(unnamed[0])
    raise ImageError(f"There is no image for {'/'.join(wanted)}; there is {', '.join(offered) or 'nothing'}.")


def check_platform(config: Mapping[str, Any]) -> None:
    """Refuse an image whose programs do not run here."""
    found = (config.get("os", "linux"), config.get("architecture", architecture()))
    if found != ("linux", architecture()):
        raise ImageError(f"The image is for {found[0]}/{found[1]}; this is linux/{architecture()}.")


def architecture() -> str:
    """Return this processor's name in OCI's words."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def descriptor(raw: Any) -> Descriptor:
    """Read a descriptor.

    Raises:
        ImageError: It names no sha256, or no size.
    """
    fields = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
    found = _DIGEST.match(str(fields.get("digest")))
    size = fields.get("size")
    if found is None or type(size) is not int or size < 0:
        raise ImageError(f"The image names a part by {str(fields.get('digest'))[:80]!r}, size {size!r}: not sha256.")
    return Descriptor(found[1], size, str(fields.get("mediaType", "")))


def is_index(media_type: str) -> bool:
    """Tell whether a document lists manifests for several platforms."""
    return media_type.split(";")[0].strip() in _INDEXES


def check_blob(path: Path, expected: Descriptor, *, bytes_max: int) -> None:
    """Compare a file with the descriptor that names it.

    Raises:
        ImageError: Another size or content, or too large.
    """
    size = path.stat().st_size
    if size > bytes_max:
        raise ImageError(f"A part of the image has {size:,} bytes; at most {bytes_max:,} are taken.")
    if size != expected.size:
        raise ImageError(f"The blob sha256:{expected.digest} has {size:,} bytes instead of {expected.size:,}.")
    with path.open("rb", buffering=0) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.digest:
        raise ImageError(f"The blob sha256:{expected.digest} is damaged: its content has sha256 {found}.")


def read_json(path: Path, limits: ImageLimits) -> Any:
    """Read a small JSON file that may be hostile."""
    if path.stat().st_size > limits.document_bytes_max:
        raise ImageError(f"{path.name} is larger than {limits.document_bytes_max:,} bytes.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path.name} is not JSON: {error}.") from error


def read_document(path: Path, limits: ImageLimits) -> dict[str, Any]:
    """Read a JSON object, see `read_json`."""
    raw = read_json(path, limits)
    if not isinstance(raw, dict):
        raise ImageError(f"{path.name} is no JSON object.")
    return cast("dict[str, Any]", raw)


def read_env(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that an image's configuration declares."""
    inner = config.get("config")
    lines = as_list(cast("dict[str, Any]", inner).get("Env")) if isinstance(inner, dict) else []
    pairs = (str(line).partition("=") for line in lines)
    return {key: value for key, sign, value in pairs if key and sign and "\0" not in key + value}


def as_list(raw: Any) -> list[Any]:
    """Return a list as it is, and nothing for anything else."""
    return cast("list[Any]", raw) if isinstance(raw, list) else []


def as_objects(raw: Any) -> list[dict[str, Any]]:
    """Return the objects in a list; nothing for anything else."""
    return [cast("dict[str, Any]", each) for each in as_list(raw) if isinstance(each, dict)]


def _diff_ids(config: Mapping[str, Any]) -> list[str]:
    rootfs = config.get("rootfs")
    raw = as_list(cast("dict[str, Any]", rootfs).get("diff_ids")) if isinstance(rootfs, dict) else []
    found = [_DIGEST.match(str(each)) for each in raw]
    if not all(found):
        raise ImageError("The image's configuration does not name its layers by sha256.")
    return [each[1] for each in found if each is not None]


def _references(entry: Mapping[str, Any]) -> set[str]:
    notes = entry.get("annotations")
    found = cast("dict[str, Any]", notes) if isinstance(notes, dict) else {}
    keys = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
    return {str(found[key]) for key in keys if key in found} | ({str(entry["digest"])} if "digest" in entry else set())


def _archive_limits(limits: ImageLimits) -> ImageLimits:
    return ImageLimits(unpacked_bytes_max=limits.archive_bytes_max, entries_max=100_000)
