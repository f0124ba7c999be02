"""Small git repositories with a pull request in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

CALC_BASE = '''\
"""Arithmetic."""


def add(a, b):
    return a + b


def divide(a, b):
    return a / b


def gone():
    return 1
'''

CALC_HEAD = '''\
"""Arithmetic."""


def add(a, b, *, rounded=False):
    total = a + b
    if rounded:
        return round(
            total
        )
    return total


def divide(a, by, seen=[]):
    try:
        return a / by
    except:
        return None


def _hidden():
    # TODO: remove
    return 2
'''

TESTS_BASE = """\
from calc import add, divide


def test_add():
    assert add(1, 2) == 3


def test_divide():
    assert divide(4, 2) == 2
"""

TESTS_HEAD = """\
from calc import add


def test_add():
    assert add(1, 2) == 3
    add(2, 2) == 5


def test_more():
    assert add(1, 1) == 2
"""


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def commit(folder: Path, message: str, files: dict[str, str]) -> str:
    """Write files and commit all there is."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def make_pull_request(folder: Path) -> Path:
    """A repository with branches ``main`` and ``feature``."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "Base", {"calc.py": CALC_BASE, "tests/test_calc.py": TESTS_BASE, "CHANGES": "1.0\n"})
    git(folder, "checkout", "-q", "-b", "feature")
    new = {"calc.py": CALC_HEAD, "tests/test_calc.py": TESTS_HEAD, "CHANGES": "1.1 rounds\n1.0\n"}
    commit(folder, "Round on demand", new)
    git(folder, "checkout", "-q", "main")
    return folder
