"""The house looks after itself: what `make check` cannot see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import callbox

ROOT = Path(callbox.__file__).parent
REPOSITORY = ROOT.parent.parent
INSIDE = ROOT / "sandboxes" / "certify" / "inside"  # programs that run in a sandbox: read as text, they print
SOURCES = sorted(path for path in ROOT.rglob("*.py") if not path.is_relative_to(INSIDE))
PURE = ("tools", "calls", "dialects", "policy", "context")
LINES_MAX = 500


def names(tree: ast.AST) -> set[str]:
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PURE], ids=str)
def test_pure_floors_open_no_files_and_print_nothing(path):
    assert not names(ast.parse(path.read_text())) & {"open", "print", "input"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_one_reads(path):
    assert len(path.read_text().splitlines()) <= LINES_MAX


def test_only_the_command_line_prints():
    printing = [path for path in SOURCES if "print" in names(ast.parse(path.read_text()))]
    assert printing == []


def test_there_is_no_drawer_for_everything():
    assert not [path for path in SOURCES if re.search(r"util|helper|misc|common", path.stem)]


def test_nothing_is_left_unfinished():
    pattern = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    assert not [path for path in SOURCES if pattern.search(path.read_text())]


def test_every_module_says_what_it_is_for():
    silent = [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_the_public_names_are_sorted_and_there():
    assert callbox.__all__ == sorted(callbox.__all__, key=lambda name: (name[0].islower(), name))
    for name in callbox.__all__:
        assert getattr(callbox, name) is not None
    assert dir(callbox) == callbox.__all__
    with pytest.raises(AttributeError):
        _ = callbox.nothing_of_the_kind


def test_every_module_is_imported_by_another_or_is_an_entry_point():
    texts = {path: path.read_text() for path in SOURCES}
    entry_points = {
        "callbox.cli.main",
        "callbox.context.embeddings",
        "callbox.providers.scripted",
        "callbox.sandboxes.blocking",
    }
    lonely = []
    for path in SOURCES:
        if path.name in ("__init__.py", "__main__.py"):
            continue
        module = ".".join(("callbox", *path.relative_to(ROOT).with_suffix("").parts))
        package = module.rpartition(".")[0]
        ways = (re.escape(module), f'"{path.stem}"', rf"from {re.escape(package)} import (\w+, )*{path.stem}\b")
        used = any(re.search("|".join(ways), text) for other, text in texts.items() if other != path)
        if not used and module not in entry_points:
            lonely.append(module)
    assert lonely == []


def test_every_page_that_is_linked_exists():
    broken = []
    for page in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_the_reference_pages_are_what_the_code_says():
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "reference.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
