"""Where images are kept: by content, checked, shared by every sandbox that uses them, never written to again.

::

    lock                        held (flock) by whoever changes what is below
    names/<name>                the digest that a name stands for
    images/<digest>/            manifest.json, rootfs/, disk.ext4
    layers/<key>/               what a build's step made (see `build.py`)
    building                    builds hold a shared flock on it, so that gc leaves layers alone
    downloads/<digest>          what a pull has fetched so far; flock as below
    tmp/<random>/               being made; its maker holds a flock on it, so gc knows the dead ones

Everything appears by a rename when it is whole, and disappears by one. A crash leaves only folders in ``tmp/``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
import time
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from callbox.errors import ConfigurationError, ImageError, SandboxNotFound
from callbox.sandboxes.driver import RootImage
from callbox.sandboxes.images.commands import need, run
from callbox.sandboxes.images.disk import disk_sha256, make_disk
from callbox.sandboxes.images.tree import Measure, Owners, measure, walk
from callbox.sandboxes.spec import check_name

_log = logging.getLogger("callbox.images")

MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image in the store.

    Attributes:
        name: What it is called.
        digest: sha256 over its tree's digest and its environment, hex.
        tree_digest: sha256 of its tree (see `tree.measure`), hex.
        disk_sha256: Of its ext4 file.
        created_at: Seconds since the epoch.
        size_bytes: Content of its files.
        entries: Files, folders and links in it.
        env: What every process in it gets.
        layers: Keys of the build steps that it was made from; they stay as long as it does.
        source: What it was made from: a recipe's digest, an archive's name, a reference.
        folder: Where it is.
    """

    name: str
    digest: str
    tree_digest: str
    disk_sha256: str
    created_at: float
    size_bytes: int
    entries: int
    env: Mapping[str, str]
    layers: Sequence[str]
    source: str
    folder: Path

    def root_image(self) -> RootImage:
        """Return it as drivers need it."""
        disk = self.folder / "disk.ext4"
        return RootImage(digest=self.digest, rootfs=self.folder / "rootfs", disk=disk, env=dict(self.env))


_STORED = frozenset(each.name for each in fields(Image)) - {"name", "folder"}


@dataclass(frozen=True, slots=True)
class Freed:
    """What gc removed."""

    images: int = 0
    layers: int = 0
    leftovers: int = 0
    bytes: int = 0


class ImageStore:
    """The images in a folder. Several processes may use it at once; methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> list[Image]:
        """Return all images that have a name, by name. Damaged ones are left out, and logged."""
        images: list[Image] = []
        names = self.folder / "names"
        for path in sorted(names.iterdir()) if names.is_dir() else []:
            if path.name.startswith("."):
                continue
            try:
                images.append(self.get(path.name))
            except (ImageError, SandboxNotFound) as error:
                _log.warning("image %s: %s", path.name, error)
        return images

    def get(self, name: str) -> Image:
        """Find an image by name.

        Raises:
            SandboxNotFound: There is none of that name.
            ImageError: Its manifest is damaged.
        """
        try:
            digest = (self.folder / "names" / check_name(name)).read_text().strip()
        except FileNotFoundError:
            how = (
                "callbox setup"
                if name == "python"
                else "callbox image list shows what there is; callbox setup makes python"
            )
            raise SandboxNotFound(f"There is no image {name!r}.", hint=f"Run: {how}") from None
        return self._image(name, digest)

    def by_digest(self, digest: str) -> Image:
        """Find an image by its digest, also when no name stands for it any more.

        Raises:
            SandboxNotFound: It is not here.
            ImageError: Its manifest is damaged.
        """
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ConfigurationError(f"{digest!r} is not a digest.", hint="It has 64 hex digits.")
        return self._image(digest[:12], digest)

    def remove(self, name: str) -> None:
        """Take a name away. The files stay until `gc`.

        Raises:
            SandboxNotFound: There is none of that name.
        """
        with self._locked():
            try:
                (self.folder / "names" / check_name(name)).unlink()
            except FileNotFoundError:
                raise SandboxNotFound(f"There is no image {name!r}.", hint="callbox image list shows them.") from None

    def name(self, name: str, digest: str) -> Image:
        """Let a name stand for an image that is here."""
        check_name(name)
        with self._locked():
            image = self._image(name, digest)
            _write(self._made("names") / name, digest + "\n")
        return image

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """Give a folder in the store's own file system to make things in. It is gone afterwards, with all in it."""
        path = self._made("tmp") / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield path
        finally:
            remove_tree(path)
            os.close(descriptor)

    def add(
        self,
        name: str,
        rootfs: Path,
        *,
        env: Mapping[str, str],
        source: str,
        layers: Sequence[str] = (),
        owners: Owners | None = None,
    ) -> Image:
        """Take a tree into the store under a name. The tree is moved, not copied.

        Args:
            name: What it is called from now on; another image of that name loses it.
            rootfs: The tree, in a `scratch` folder.
            env: What every process in it gets.
            source: What it was made from.
            layers: Keys of the layers it was made from.
            owners: Owners of a tree that was made without root; None: as they are on disk.

        Returns:
            The image. Where one of the same content was there already, that one.
        """
        check_name(name)
        rootfs.chmod(0o755)
        found = measure(rootfs, owners)
        digest = _image_digest(found, env)
        manifest = {
            "version": MANIFEST_VERSION,
            "digest": digest,
            "tree_digest": found.digest,
            "created_at": time.time(),
            "size_bytes": found.size_bytes,
            "entries": found.entries,
            "env": dict(env),
            "layers": list(layers),
            "source": source,
            "owners": None if owners is None else {path: list(owner) for path, owner in owners.items()},
        }
        target = self._made("images") / digest
        if not self._renewed(target, manifest):
            with self.scratch() as work:
                ready = work / digest
                ready.mkdir(mode=0o755)
                disk = ready / "disk.ext4"
                make_disk(rootfs, disk, found, owners=owners)
                rootfs.rename(ready / "rootfs")
                manifest["disk_sha256"] = disk_sha256(disk)
                _write(ready / "manifest.json", json.dumps(manifest, indent=1))
                # The name must not reach the disk before the content does.
                run([need("sync", "coreutils"), "--file-system", str(ready)], what="Writing the image to the disk")
                with self._locked():
                    if not target.exists():
                        ready.rename(target)
        return self.name(name, digest)

    def layer(self, key: str) -> Path | None:
        """Return the folder of a build step's layer, if it is here."""
        path = self.folder / "layers" / key
        return path if path.is_dir() else None

    def add_layer(self, key: str, folder: Path) -> Path:
        """Keep what a build step made; the folder is moved. Where another build was faster, its layer is returned."""
        with self._locked():
            target = self._made("layers") / key
            if not target.exists():
                folder.rename(target)
        return target

    @contextmanager
    def building(self) -> Generator[None]:
        """Keep gc from what a build uses before its image exists."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._flocked("building", fcntl.LOCK_SH):
            yield

    def _renewed(self, target: Path, manifest: Mapping[str, Any]) -> bool:
        """Where the same content is here already, write down what it was made from this time; else return False."""
        with self._locked():
            if not (target / "manifest.json").is_file():
                return False
            old = self._manifest(target.name)
            kept = {"disk_sha256": old["disk_sha256"], "created_at": old["created_at"], "owners": old["owners"]}
            _write(target / "manifest.json", json.dumps({**manifest, **kept}, indent=1))
            return True

    def verify(self, name: str) -> Image:
        """Read all of an image and compare it with its checksums.

        Raises:
            ImageError: It is not what was stored.
        """
        image = self.get(name)
        owners = self._manifest(image.digest)["owners"]
        found = measure(image.folder / "rootfs", None if owners is None else _owners(owners))
        hint = f"Remove it and make it again: callbox image rm {name}, callbox image gc"
        if found.digest != image.tree_digest or _image_digest(found, image.env) != image.digest:
            raise ImageError(f"The files of image {name!r} are not what was stored.", hint=hint)
        disk = image.folder / "disk.ext4"
        if not disk.is_file() or disk_sha256(disk) != image.disk_sha256:
            raise ImageError(f"The disk of image {name!r} is not what was stored.", hint=hint)
        return image

    def owners(self, image: Image) -> dict[str, tuple[int, int]] | None:
        """Return who owns what in an image that was made without root; None: as the files say."""
        owners = self._manifest(image.digest)["owners"]
        return None if owners is None else _owners(owners)

    def gc(self, in_use: Collection[str] = ()) -> Freed:
        """Remove images without a name, layers without an image, and what crashes left.

        Args:
            in_use: Digests of images that a sandbox or a snapshot still needs: they and their layers stay.
        """
        with self._locked():
            leftovers = self._leftovers()
            images = self._made("images")
            kept = {*in_use, *self._named()}
            dead_images = [each for each in images.iterdir() if each.name not in kept]
            # A damaged manifest ends this: what its image needs is not known.
            needed = {key for digest in kept if (images / digest).exists() for key in self._manifest(digest)["layers"]}
            dead_layers = [each for each in self._made("layers").iterdir() if each.name not in needed]
            if self._is_building():
                dead_images, dead_layers = [], []
            grave = self._made("tmp") / f"gc-{secrets.token_hex(8)}"
            grave.mkdir()
            for each in (*dead_images, *dead_layers, *leftovers):
                each.rename(grave / f"{each.parent.name}-{each.name}")
        # Long, and needs no lock: nobody finds them any more.
        freed = _allocated(grave)
        remove_tree(grave)
        return Freed(len(dead_images), len(dead_layers), len(leftovers), freed)

    def _named(self) -> set[str]:
        names = self._made("names")
        return {each.read_text().strip() for each in names.iterdir() if not each.name.startswith(".")}

    def _leftovers(self) -> list[Path]:
        dead: list[Path] = []
        for each in (*self._made("tmp").iterdir(), *self._made("downloads").iterdir()):
            descriptor = os.open(each, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                dead.append(each)
            except BlockingIOError:
                continue  # its maker is alive
            finally:
                os.close(descriptor)
        return dead

    def _image(self, name: str, digest: str) -> Image:
        raw = self._manifest(digest)
        known = {key: raw[key] for key in _STORED}
        return Image(name=name, folder=self.folder / "images" / digest, **known)

    def _manifest(self, digest: str) -> dict[str, Any]:
        path = self.folder / "images" / digest / "manifest.json"
        try:
            raw: Any = json.loads(path.read_text())
        except FileNotFoundError:
            raise SandboxNotFound(f"There is no image {digest[:12]}.", hint="callbox image list shows them.") from None
        except (ValueError, OSError) as error:
            raise ImageError(f"{path} is damaged: {error}.") from error
        if not isinstance(raw, dict):
            raise ImageError(f"{path} is damaged.")
        manifest = cast("dict[str, Any]", raw)
        if manifest.get("version") != MANIFEST_VERSION:
            raise ImageError(f"{path} was written by another version of callbox.", hint="Make the image again.")
        if manifest.get("digest") != digest or not {*_STORED, "owners"} <= manifest.keys():
            raise ImageError(f"{path} is damaged.")
        return manifest

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _is_building(self) -> bool:
        try:
            with self._flocked("building", fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
        except BlockingIOError:
            return True

    @contextmanager
    def _locked(self) -> Generator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._flocked("lock", fcntl.LOCK_EX):
            yield

    @contextmanager
    def _flocked(self, name: str, how: int) -> Generator[None]:
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, also folders that their own mode protects from us. Nothing there is fine."""

    def make_writable(function: Any, name: str, _: object) -> None:
        parent = Path(name).parent
        parent.chmod(0o700)
        if not Path(name).is_symlink():
            Path(name).chmod(0o700)
        function(name)

    if path.exists():
        shutil.rmtree(path, onerror=make_writable)


def _image_digest(found: Measure, env: Mapping[str, str]) -> str:
    said = json.dumps({"tree": found.digest, "env": dict(env)}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _owners(raw: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    return {path: (uid, gid) for path, (uid, gid) in raw.items()}


def _allocated(path: Path) -> int:
    """Bytes that a folder takes on the disk and gives back: files that others link to, too, give nothing."""
    total = 0
    links: Counter[tuple[int, int]] = Counter()
    for _, found in walk(path):
        inode = (found.st_dev, found.st_ino)
        links[inode] += 1
        if stat.S_ISDIR(found.st_mode) or links[inode] == found.st_nlink:
            total += found.st_blocks * 512
    return total


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
