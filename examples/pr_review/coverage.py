"""Which of the changed lines ran while the tests ran."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from pr_review.diff import FileDiff
from pr_review.sandbox_tests import FileCoverage


@dataclass(frozen=True, slots=True)
class ChangedCoverage:
    """Changed lines of one file, as far as they can run; a statement of several lines counts as its first.

    Attributes:
        ran, missed: Line numbers in the head.
        measured: False: no test imported the file, or it is not Python: nothing is known.
    """

    path: str
    ran: list[int]
    missed: list[int]
    measured: bool = True


def cover_changes(file: FileDiff, source: str, found: FileCoverage | None) -> ChangedCoverage:
    """Put together what changed in a file and what ran of it.

    Args:
        file: The diff of the file.
        source: The file as it is in the head.
        found: What coverage recorded of it.
    """
    if found is None:
        return ChangedCoverage(file.path, [], [], measured=False)
    first = first_lines(source)
    changed = {first.get(line, line) for line in file.added}
    return ChangedCoverage(file.path, sorted(changed & found.ran), sorted(changed & found.missed))


def first_lines(source: str) -> dict[int, int]:
    """Of every line that belongs to a statement: the line on which that statement begins.

    Coverage counts a statement on its first line, while a diff may touch any of them. Of a compound statement (``if``,
    ``def``) only the head counts; what is in it are statements of their own.
    """
    first: dict[int, int] = {}
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return first
    for node in ast.walk(tree):
        if not isinstance(node, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            continue
        body: list[ast.stmt] = getattr(node, "body", [])
        begin = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
        end = body[0].lineno - 1 if body else getattr(node, "end_lineno", begin)
        if body:  # the first statement of the body may be decorated
            end = min([end, *(each.lineno - 1 for each in getattr(body[0], "decorator_list", []))])
        for line in range(begin, end + 1):
            # A line belongs to the innermost statement, and `ast.walk` comes to the inner ones later.
            first[line] = begin
    # Comments and blank lines belong to nothing that runs.
    said = source.split("\n")
    return {line: begin for line, begin in first.items() if said[line - 1].strip()[:1] not in ("", "#")}


def ranges(lines: list[int]) -> str:
    """Line numbers as people write them: ``12-14, 20``."""
    parts: list[list[int]] = []
    for line in lines:
        if parts and line == parts[-1][1] + 1:
            parts[-1][1] = line
        else:
            parts.append([line, line])
    return ", ".join(str(begin) if begin == end else f"{begin}-{end}" for begin, end in parts)
