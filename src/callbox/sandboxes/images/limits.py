"""How much an image from elsewhere may make us read, unpack and keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """Bounds for archives and registries, which may be hostile.

    Attributes:
        unpacked_bytes_max: Content of all files of all layers together.
        entries_max: Entries of all layers together.
        header_bytes_max: Of one entry of a tar, with its extended headers.
        path_chars_max: Of one path.
        layers_max: Layers of one image.
        document_bytes_max: Of an index, a manifest or a configuration.
        blob_bytes_max: Of one packed layer.
        archive_bytes_max: Of what an archive of an image (`docker save`) holds.
    """

    unpacked_bytes_max: int = 32 * 1024**3
    entries_max: int = 2_000_000
    header_bytes_max: int = 1024**2
    path_chars_max: int = 4_096
    layers_max: int = 128
    document_bytes_max: int = 4 * 1024**2
    blob_bytes_max: int = 16 * 1024**3
    archive_bytes_max: int = 32 * 1024**3


LIMITS = ImageLimits()
