"""Put into an image from elsewhere what every sandbox has: mount points, the user ``box``, ``/work``."""

from __future__ import annotations

from callbox.sandboxes.images.unpack import TreeWriter

BOX_ID = 1_000
"""User and group that programs in a sandbox run as, unless told otherwise."""

_FOLDERS = (
    ("proc", 0o755, (0, 0)),
    ("sys", 0o755, (0, 0)),
    ("dev", 0o755, (0, 0)),
    ("run", 0o755, (0, 0)),
    ("etc", 0o755, (0, 0)),
    ("tmp", 0o1777, (0, 0)),
    ("work", 0o755, (BOX_ID, BOX_ID)),
)
_TABLE_BYTES_MAX = 1024 * 1024


def furnish(writer: TreeWriter) -> None:
    """Add what is missing; what the image has is left as it is."""
    for path, mode, owner in _FOLDERS:
        writer.folder(path, mode=mode, owner=owner)
    _add_line(writer, "etc/passwd", f"box:x:{BOX_ID}:{BOX_ID}::/work:/bin/sh", "root:x:0:0:root:/root:/bin/sh")
    _add_line(writer, "etc/group", f"box:x:{BOX_ID}:", "root:x:0:")
    # A sandbox has no network; where this is a symlink to a resolver's state, it would dangle.
    writer.file("etc/resolv.conf", b"")
    if not writer.place("etc/hosts", follow=True).exists():
        writer.file("etc/hosts", b"127.0.0.1\tlocalhost\n::1\tlocalhost\n")


def _add_line(writer: TreeWriter, path: str, line: str, first: str) -> None:
    # The table may be a symlink, to wherever the image's maker likes: it is followed inside the image only.
    place = writer.place(path, follow=True)
    lines = [first]
    if place.is_file() and place.stat().st_size <= _TABLE_BYTES_MAX:
        lines = place.read_text(errors="surrogateescape").splitlines()
    names = {each.split(":")[0] for each in lines}
    ids = {each.split(":")[2] for each in lines if each.count(":") >= 2}
    if "box" in names or str(BOX_ID) in ids:
        return
    content = "".join(f"{each}\n" for each in (*lines, line))
    writer.file(str(place.relative_to(writer.root)), content.encode(errors="surrogateescape"))
