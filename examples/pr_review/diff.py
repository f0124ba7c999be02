"""Unified diffs: which lines of which files are new, and which are gone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["added", "removed", "renamed", "changed"]

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(slots=True)
class FileDiff:
    """What happened to one file.

    Attributes:
        path: In the head; of a removed file, in the base.
        old_path: In the base; of a new file, the same as `path`.
        status: What happened.
        added: Numbers of new lines, as the head counts.
        removed: Numbers of lines that are gone, as the base counts.
        binary: Git did not compare its lines.
    """

    path: str
    old_path: str
    status: Status = "changed"
    added: set[int] = field(default_factory=set[int])
    removed: set[int] = field(default_factory=set[int])
    binary: bool = False

    @property
    def is_python(self) -> bool:
        """Whether it is Python source."""
        return self.path.endswith((".py", ".pyi"))

    @property
    def is_test(self) -> bool:
        """Whether it belongs to the tests."""
        return is_test(self.path)


def is_test(path: str) -> bool:
    """Whether pytest's or common habits of naming make a file part of the tests."""
    *folders, name = path.split("/")
    in_tests = any(folder in ("test", "tests", "testing") for folder in folders)
    return in_tests or name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"


def parse_diff(text: str) -> list[FileDiff]:
    """Read what ``git diff`` wrote with prefixes ``a/`` and ``b/``."""
    files: list[FileDiff] = []
    old_line = new_line = old_left = new_left = 0
    for line in text.split("\n"):
        if old_left > 0 or new_left > 0:
            mark = line[:1]
            if mark == "+":
                files[-1].added.add(new_line)
                new_line, new_left = new_line + 1, new_left - 1
            elif mark == "-":
                files[-1].removed.add(old_line)
                old_line, old_left = old_line + 1, old_left - 1
            elif mark != "\\":  # "\ No newline at end of file" is no line
                old_line, old_left = old_line + 1, old_left - 1
                new_line, new_left = new_line + 1, new_left - 1
        elif line.startswith("diff --git "):
            files.append(_of_header(line))
        elif files and (found := _HUNK.match(line)):
            old_line, new_line = int(found[1]), int(found[3])
            old_left, new_left = int(found[2] or 1), int(found[4] or 1)
        elif files:
            _read_header(files[-1], line)
    return files


def _of_header(line: str) -> FileDiff:
    # Only a file that was not renamed is named by this line alone, and then both halves are the same.
    rest = line.removeprefix("diff --git ")
    path = _unquote(rest[len(rest) // 2 + 1 :]).removeprefix("b/")
    return FileDiff(path, path)


def _read_header(file: FileDiff, line: str) -> None:
    if line.startswith("new file mode"):
        file.status = "added"
    elif line.startswith("deleted file mode"):
        file.status = "removed"
    elif line.startswith("rename from "):
        file.status, file.old_path = "renamed", _unquote(line.removeprefix("rename from "))
    elif line.startswith("rename to "):
        file.path = _unquote(line.removeprefix("rename to "))
    elif line.startswith("Binary files "):
        file.binary = True


def _unquote(path: str) -> str:
    """Git quotes names with control characters, quotes or backslashes as C does."""
    if not path.startswith('"'):
        return path
    inner = path[1:-1].encode("latin-1", "replace").decode("unicode_escape")
    return inner.encode("latin-1", "replace").decode("utf-8", "replace")
