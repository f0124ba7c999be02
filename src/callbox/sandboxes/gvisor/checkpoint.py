"""Whether a checkpoint is whole, told from the file alone: for when nobody is left who heard runsc say so.

The format is gVisor's pkg/state/statefile: a magic number, metadata with its length and checksum, the size of a chunk,
and chunks, each with its compressed length. Every chunk but the last is full. A file that is not like that (a later
gVisor's) is not called whole.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"gVisorSF"
_METADATA_BYTES_MAX = 1 << 20
_CHUNK_BYTES_MAX = 64 << 20
_CHECKSUM_BYTES = 32
_RAW_DEFLATE = -15


def is_whole(checkpoint: Path) -> bool:
    """Whether the file has everything up to its last chunk. The chunks' own content is checked when it is restored."""
    try:
        with checkpoint.open("rb") as file:
            return _ends_with_last_chunk(file, checkpoint.stat().st_size)
    except (OSError, EOFError, zlib.error):
        return False


def _ends_with_last_chunk(file: BinaryIO, size: int) -> bool:
    if _read(file, len(_MAGIC)) != _MAGIC:
        return False
    (metadata,) = struct.unpack(">Q", _read(file, 8))
    if metadata > _METADATA_BYTES_MAX:
        return False
    file.seek(metadata + _CHECKSUM_BYTES, 1)
    (chunk_bytes,) = struct.unpack(">I", _read(file, 4))
    if not 0 < chunk_bytes <= _CHUNK_BYTES_MAX:
        return False
    while True:
        (length,) = struct.unpack(">I", _read(file, 4))
        end = file.tell() + length
        if end > size:
            return False
        if end == size:
            return 0 < len(zlib.decompress(_read(file, length), _RAW_DEFLATE, chunk_bytes)) < chunk_bytes
        file.seek(end)


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise EOFError
    return data
