"""Kernel modules: find them in a kernel's tree, unpack them, and put them in an order in which they can be loaded.

`modules.dep` is made by depmod when a kernel is *installed*; a package that is only unpacked has none. So what a
module needs is read where depmod reads it: in the module itself (ELF section `.modinfo`, "depends=").
"""

from __future__ import annotations

import lzma
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from callbox.errors import ImageError

MODULE_BYTES_MAX = 64 * 1024 * 1024
"""Of one module, unpacked."""

_SUFFIXES = (".ko", ".ko.xz", ".ko.gz")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")


@dataclass(frozen=True, slots=True)
class Module:
    """One module, unpacked. `name` has underscores, as the kernel calls it."""

    name: str
    content: bytes
    needs: tuple[str, ...]


def resolve(tree: Path, wanted: tuple[str, ...]) -> list[Module]:
    """Find modules and all they need in ``lib/modules/<version>``, in load order. What is built in is left out.

    Raises:
        ImageError: A module is not there, or not readable.
    """
    files = {
        _canonical(path.name.split(".ko")[0]): path
        for path in sorted(tree.rglob("*.ko*"))
        if path.name.endswith((*_SUFFIXES, ".ko.zst")) and path.is_file()
    }
    builtin = _builtin(tree)
    order: dict[str, Module] = {}

    def add(name: str, chain: tuple[str, ...]) -> None:
        if name in order or name in builtin:
            return
        if name in chain:
            raise ImageError(f"The kernel's modules need each other in a circle: {' -> '.join((*chain, name))}.")
        if name not in files:
            raise ImageError(
                f"The kernel in {tree} has no module {name}.", hint="Use Debian's cloud kernel: callbox setup."
            )
        module = read_module(name, files[name])
        for needed in module.needs:
            add(needed, (*chain, name))
        order[name] = module

    for name in wanted:
        add(_canonical(name), ())
    return list(order.values())


def read_module(name: str, path: Path) -> Module:
    """Read one module from its file, compressed or not.

    Raises:
        ImageError: It is not a module, or compressed in a way that Python 3.11 cannot read.
    """
    content = _unpacked(path)
    info = _modinfo(content, path)
    needs = tuple(_canonical(each) for each in info.get("depends", "").split(",") if each)
    return Module(name, content, needs)


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def _builtin(tree: Path) -> set[str]:
    listing = tree / "modules.builtin"
    lines = listing.read_text().splitlines() if listing.is_file() else []
    return {_canonical(Path(line).name.removesuffix(".ko")) for line in lines}


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        if path.name.endswith(".xz"):
            unpacked = lzma.LZMADecompressor().decompress(data, MODULE_BYTES_MAX)
        elif path.name.endswith(".gz"):
            unpacked = zlib.decompressobj(wbits=31).decompress(data, MODULE_BYTES_MAX)
        elif path.name.endswith(".zst"):
            raise ImageError(
                f"{path.name} is compressed with zstd.", hint="Unpack the kernel's modules first: unzstd --rm *.ko.zst"
            )
        else:
            unpacked = data
    except (lzma.LZMAError, zlib.error) as error:
        raise ImageError(f"The module {path} is damaged: {error}.") from error
    if len(unpacked) >= MODULE_BYTES_MAX:
        raise ImageError(f"The module {path} is larger than {MODULE_BYTES_MAX:,} bytes.")
    return unpacked


def _modinfo(content: bytes, path: Path) -> dict[str, str]:
    if content[:6] != b"\x7fELF\x02\x01":
        raise ImageError(f"{path} is not a 64-bit module.")
    try:
        (sections_at,) = struct.unpack_from("<Q", content, 0x28)
        size, count, names_index = struct.unpack_from("<HHH", content, 0x3A)
        headers = [_SECTION_HEADER.unpack_from(content, sections_at + size * index) for index in range(count)]
        names_at = headers[names_index][4]
        for header in headers:
            start = names_at + header[0]
            if content[start : content.index(b"\0", start)] == b".modinfo":
                raw = content[header[4] : header[4] + header[5]]
                pairs = (item.decode(errors="replace").partition("=") for item in raw.split(b"\0") if item)
                return {key: value for key, _, value in pairs}
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise ImageError(f"The module {path} is damaged: {error}.") from error
    raise ImageError(f"{path} says nothing about itself: not a kernel module.")
