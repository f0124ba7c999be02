"""Identifiers: short, unique, sortable by nothing, safe in URLs and file names."""

from __future__ import annotations

import os
from base64 import b32encode


def new_id(prefix: str) -> str:
    """Make ``prefix_`` + 26 lower-case base32 characters (128 random bits)."""
    return f"{prefix}_{b32encode(os.urandom(16)).decode('ascii').rstrip('=').lower()}"
