"""What the reviewer makes of a change: diffs, trees, static analysis, coverage of changed lines."""

from __future__ import annotations

import io
import subprocess
import tarfile

import pytest
from pr_review.analysis import Analysis, analyze
from pr_review.coverage import cover_changes, first_lines, ranges
from pr_review.diff import FileDiff, is_test, parse_diff
from pr_review.functions import breaks_callers, read_module
from pr_review.repository import list_files, open_pull_request, pack_tree, read_diff, read_file, tree_id
from pr_review.sandbox_tests import FileCoverage

from callbox.errors import ConfigurationError
from support_review import CALC_BASE, CALC_HEAD, commit, git, make_pull_request


@pytest.fixture
def repo(tmp_path):
    return make_pull_request(tmp_path / "repo")


@pytest.fixture
def pull(repo):
    return open_pull_request(repo, "main", "feature")


def analysis_of(pull) -> Analysis:
    files = parse_diff(read_diff(pull, context_lines=0))
    return analyze(files, lambda path, branch: read_file(pull, path, branch), list_files(pull))


def test_a_diff_says_which_lines_are_new_and_which_are_gone(pull):
    for context_lines in (0, 3):
        files = {each.path: each for each in parse_diff(read_diff(pull, context_lines=context_lines))}
        assert files.keys() == {"CHANGES", "calc.py", "tests/test_calc.py"}
        old, new = CALC_BASE.splitlines(), CALC_HEAD.splitlines()
        calc = files["calc.py"]
        assert [line for at, line in enumerate(old, 1) if at not in calc.removed] == [
            line for at, line in enumerate(new, 1) if at not in calc.added
        ]


def test_added_removed_renamed_and_strange_files_are_told_apart(repo):
    git(repo, "checkout", "-q", "feature")
    (repo / "picture.bin").write_bytes(bytes(range(256)))
    (repo / "ünï code.py").write_text("x = 1\n")
    (repo / "dashes.py").write_text("a = 1\n--- b\n+++ c\n@@ -1 +1 @@\n")
    git(repo, "mv", "CHANGES", "HISTORY")
    git(repo, "rm", "-q", "tests/test_calc.py")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "Many")
    files = {each.path: each for each in parse_diff(read_diff(open_pull_request(repo, "feature~1", "feature")))}
    assert {path: each.status for path, each in files.items()} == {
        "HISTORY": "renamed",
        "dashes.py": "added",
        "picture.bin": "added",
        "tests/test_calc.py": "removed",
        "ünï code.py": "added",
    }
    assert files["HISTORY"].old_path == "CHANGES"
    assert files["picture.bin"].binary
    assert files["dashes.py"].added == {1, 2, 3, 4}


def test_the_base_is_where_the_two_parted(repo):
    git(repo, "checkout", "-q", "main")
    parted = git(repo, "rev-parse", "main")
    commit(repo, "Elsewhere", {"other.py": "x = 1\n"})
    assert open_pull_request(repo, "main", "feature").base == parted


@pytest.mark.parametrize(("base", "head"), [("main", "nothing"), ("main", "main"), ("main", "--help")])
def test_what_cannot_be_compared_is_refused(repo, base, head):
    with pytest.raises(ConfigurationError):
        open_pull_request(repo, base, head)


def test_a_folder_without_git_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no git repository"):
        open_pull_request(tmp_path, "main", "feature")


def test_a_tree_is_packed_whole_also_what_archives_leave_out(repo):
    git(repo, "checkout", "-q", "feature")
    (repo / "run.sh").write_text("#!/bin/sh\n")
    (repo / "run.sh").chmod(0o755)
    (repo / "link").symlink_to("calc.py")
    commit(repo, "More", {".gitattributes": "tests export-ignore\n"})
    pull = open_pull_request(repo, "main", "feature")
    with tarfile.open(fileobj=io.BytesIO(pack_tree(pull, "head"))) as tar:
        members = {member.name: member for member in tar}
        assert members.keys() == {".gitattributes", "CHANGES", "calc.py", "tests/test_calc.py", "run.sh", "link"}
        assert members["run.sh"].mode == 0o755
        assert members["link"].linkname == "calc.py"
        assert tar.extractfile("calc.py").read().decode() == CALC_HEAD
    assert tree_id(pull, "base") != tree_id(pull, "head")
    assert pack_tree(pull, "head") == pack_tree(pull, "head")


def test_hooks_and_external_diffs_of_the_repository_do_not_run(repo, tmp_path):
    ran = tmp_path / "ran"
    git(repo, "config", "diff.external", f"touch {ran}")
    open_pull = open_pull_request(repo, "main", "feature")
    assert "calc.py" in read_diff(open_pull)
    assert not ran.exists()


def test_findings_have_rule_file_and_line(pull):
    analysis = analysis_of(pull)
    found = {(each.rule, each.path, each.line) for each in analysis.findings}
    lines = CALC_HEAD.splitlines()
    expected = {
        ("api_removed", "calc.py", CALC_BASE.splitlines().index("def gone():") + 1),
        ("signature_changed", "calc.py", lines.index("def divide(a, by, seen=[]):") + 1),
        ("mutable_default", "calc.py", lines.index("def divide(a, by, seen=[]):") + 1),
        ("bare_except", "calc.py", lines.index("    except:") + 1),
        ("note_left", "calc.py", lines.index("    # TODO: remove") + 1),
        ("untested", "calc.py", lines.index("def divide(a, by, seen=[]):") + 1),
        ("useless_comparison", "tests/test_calc.py", 6),
        ("test_removed", "tests/test_calc.py", 8),
    }
    assert found == expected
    assert analysis.tests_added == ["tests/test_calc.py::test_more"]
    assert analysis.tests_changed == ["tests/test_calc.py::test_add"]
    changes = {each.name: each for each in analysis.functions}
    assert {name: each.what for name, each in changes.items()} == {
        "add": "changed",
        "divide": "changed",
        "gone": "removed",
        "_hidden": "added",
    }
    assert not changes["_hidden"].public
    assert changes["add"].signature_before == "add(a, b)"


def test_only_new_lines_are_blamed(repo):
    git(repo, "checkout", "-q", "feature")
    commit(repo, "Next", {"calc.py": CALC_HEAD + "\n\nFIRST = 1\n"})
    pull = open_pull_request(repo, "feature~1", "feature")
    assert analysis_of(pull).findings == []


def test_code_that_python_cannot_read_is_a_blocker(repo):
    git(repo, "checkout", "-q", "feature")
    commit(repo, "Broken", {"calc.py": "def add(:\n"})
    found = analysis_of(open_pull_request(repo, "main", "feature")).findings[0]
    assert (found.severity, found.rule, found.path, found.line) == ("blocker", "syntax_error", "calc.py", 1)


def test_what_a_package_hands_on_is_public_though_its_module_is_private(tmp_path):
    repo = tmp_path / "repo"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main")
    body = "def shown(a):\n    return a\n\n\ndef other(a):\n    return a\n"
    commit(repo, "Base", {"pkg/__init__.py": "from pkg._code import shown\n", "pkg/_code.py": body})
    commit(repo, "Break", {"pkg/_code.py": body.replace("(a)", "(a, b)")})
    findings = analysis_of(open_pull_request(repo, "HEAD~1", "HEAD")).findings
    assert [each.message for each in findings if each.rule == "signature_changed"] == [
        "Callers of shown break: parameter 'b' is now required."
    ]


@pytest.mark.parametrize(
    ("before", "after", "breaks"),
    [
        ("a", "a, b=1", False),
        ("a", "a, *, b=1", False),
        ("a", "a: int", False),
        ("a, b", "a", True),
        ("a, b", "a, *rest", False),
        ("a, b", "a, c", True),
        ("a, b", "b, a", True),
        ("a, b=1", "a, b", True),
        ("a", "a, *, b", True),
        ("a, *, b=1", "a", True),
        ("a, *, b=1", "a, **more", False),
        ("a, *, b", "a, b", False),
        ("*rest", "", True),
        ("**more", "", True),
        ("a, /", "b, /", False),
    ],
)
def test_signatures_that_break_callers(before, after, breaks):
    old, new = (read_module(f"def f({each}):\n    pass\n").functions["f"] for each in (before, after))
    assert (breaks_callers(old, new) is not None) is breaks


def test_coverage_of_a_statement_is_that_of_its_first_line():
    source = CALC_HEAD
    lines = source.splitlines()
    at = lines.index("            total") + 1
    file = FileDiff("calc.py", "calc.py", added={at, at - 2})
    found = FileCoverage(ran=frozenset({at - 2}), missed=frozenset({at - 1}))
    covered = cover_changes(file, source, found)
    assert (covered.ran, covered.missed) == ([at - 2], [at - 1])
    assert not cover_changes(file, source, None).measured


def test_comments_and_bodies_do_not_count_as_their_heads():
    source = "def f(a,\n      b):\n    # why\n\n    return (a +\n            b)\n"
    assert first_lines(source) == {1: 1, 2: 1, 5: 5, 6: 5}
    assert first_lines("def (") == {}


def test_line_numbers_are_told_as_ranges():
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([]) == ""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tests/a.py", True),
        ("pkg/test_a.py", True),
        ("a_test.py", True),
        ("conftest.py", True),
        ("pkg/latest.py", False),
    ],
)
def test_what_belongs_to_the_tests(path, expected):
    assert is_test(path) is expected


def test_git_itself_is_asked_about_nothing_that_the_user_configured(pull, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert "calc.py" in list_files(pull)
    assert subprocess.run(["git", "status"], cwd=pull.folder, capture_output=True, check=False).returncode
