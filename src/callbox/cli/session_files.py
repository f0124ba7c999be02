"""Documents of sessions in files: private, whole or not there, and never in place of another without being told."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import typer

from callbox.errors import ConfigurationError, JournalDamaged
from callbox.sessions.journal import Journal
from callbox.sessions.portable import DOCUMENT_BYTES_MAX, export_lines, export_session


async def export_session_to(journal: Journal, file: str, *, lines: bool, force: bool) -> None:
    """Write a session's document to a file that only this user can read; or to stdout.

    Raises:
        ConfigurationError: The file is there already.
        OSError: It cannot be written.
    """
    pieces = await export_lines(journal) if lines else iter([json.dumps(await export_session(journal), indent=2)])
    if file == "-":
        for piece in pieces:
            typer.echo(piece)
        return
    _write(Path(file), pieces, force=force)


def _write(path: Path, pieces: Iterator[str], *, force: bool) -> None:
    # A file of its own until it is whole: a full disk must not leave half a document, nor destroy an earlier one.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.writelines(f"{piece}\n" for piece in pieces)
            out.flush()
            os.fsync(out.fileno())
        if force:
            partial.replace(path)
        else:
            try:
                path.hardlink_to(partial)  # fails if there is one
            except FileExistsError:
                raise ConfigurationError(
                    f"{path} is there already.", hint="Choose another name, or give --force."
                ) from None
    finally:
        partial.unlink(missing_ok=True)


def read_source(file: str) -> bytes:
    """The bytes of a document.

    Raises:
        JournalDamaged: It is larger than any that is read.
        OSError: It cannot be read.
    """
    if file == "-":
        data = sys.stdin.buffer.read(DOCUMENT_BYTES_MAX + 1)
    else:
        with Path(file).open("rb") as source:
            data = source.read(DOCUMENT_BYTES_MAX + 1)
    if len(data) > DOCUMENT_BYTES_MAX:
        raise JournalDamaged(f"The document is larger than {DOCUMENT_BYTES_MAX} bytes.")
    return data
