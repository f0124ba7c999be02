"""The life-cycle events of one sandbox: a bounded file of lines, for `callbox sandbox logs`."""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

_LOG = logging.getLogger("callbox.sandboxes.supervisor.events")


class EventLog:
    """Lines, oldest first. Losing some of them to a crash or a full disk is no failure of the sandbox."""

    def __init__(self, path: Path, *, kept: int, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        try:
            text = path.read_text(errors="replace")
        except OSError:
            text = ""
        self._lines = deque(text.splitlines(), maxlen=kept)

    @property
    def lines(self) -> list[str]:
        """What is remembered."""
        return list(self._lines)

    def add(self, wall: float, text: str) -> None:
        """Append one line."""
        line = f"{datetime.fromtimestamp(wall, UTC).isoformat(timespec='milliseconds')} {' '.join(text.split())}"
        self._lines.append(line)
        try:
            # A write to the page cache, some microseconds: not worth a thread.
            with self._path.open("a") as file:
                file.write(line + "\n")
                too_long = file.tell() > self._bytes_max
            if too_long:
                self._path.write_text("".join(f"{each}\n" for each in self._lines))
        except OSError as error:
            _LOG.debug("event of %s not written: %s", self._path, error)
