"""The scripted reviewer and the review that it writes, over tools whose tests run in a place that pretends."""

from __future__ import annotations

import json

import pytest
from pr_review.main import Review, Reviewer
from pr_review.progress import CallsShown
from pr_review.report import Facts, code, plain, verdict_of, write_review
from pr_review.reviewer import next_turn
from pr_review.sandbox_tests import Ended, TestBench, read_coverage, read_report
from pr_review.targets import RepositoryTarget
from pr_review.tools import ReviewTools
from rich.console import Console

from callbox import Gate, ToolCall
from callbox.errors import SandboxLost, ToolError
from callbox.messages import Message
from support_review import CALC_HEAD, make_pull_request

JUNIT = (
    '<testsuites><testsuite errors="0" failures="{failures}" skipped="1" tests="4" time="0.25">'
    '<testcase classname="t" name="ok"/>{cases}</testsuite></testsuites>'
)
FAILED = '<testcase classname="t" name="bad"><failure message="assert 1 == 2">long</failure></testcase>'


class PretendedPlace:
    """Keeps files in a dictionary, and answers a test run with what it was told."""

    folder = "/work"
    python = "python3"

    def __init__(self, coverage: dict[str, object]) -> None:
        self.coverage = coverage
        self.files: dict[str, bytes] = {}
        self.fails: set[str] = set()
        self.losses = 0
        self.runs: list[str] = []

    async def run(self, script, env, timeout_s):
        if self.losses:
            self.losses -= 1
            raise SandboxLost("gone")
        tree = env["TREE"]
        if "RUN" not in env:
            self.files[f"trees/{tree}.ready"] = b"ready\n"
            return Ended(0, "", False)
        self.runs.append(tree)
        fails = tree in self.fails
        junit = JUNIT.format(failures=int(fails), cases=FAILED if fails else "")
        out = env["OUT"].removeprefix("/work/")
        self.files[f"{out}/junit.xml"] = junit.encode()
        self.files[f"{out}/coverage.json"] = json.dumps({"files": self.coverage}).encode()
        self.files[f"results/{tree}/latest"] = f"{env['RUN']}\n".encode()
        return Ended(int(fails), "said", False)

    async def write(self, path, content):
        self.files[path] = content

    async def read(self, path, bytes_max):
        return self.files.get(path)


@pytest.fixture
def target(tmp_path):
    return RepositoryTarget(make_pull_request(tmp_path / "repo"), "main", "feature")


@pytest.fixture
def place():
    lines = {"executed_lines": [4, 5, 6, 10], "missing_lines": [7, 13, 14, 15, 16, 19]}
    return PretendedPlace({"calc.py": lines})


def review_of(target, place, tmp_path, decide, store="memory") -> Review:
    return Review(
        target=target,
        reviewer=Reviewer("scripted"),
        place=place,
        store=store,
        post_to=tmp_path / "review.md",
        decide=decide,
        decided_by="kim",
    )


async def yes(approval):
    assert approval.tool == "post_review"
    return True


async def later(approval):
    return None


async def no(approval):
    return False


async def test_a_review_names_tests_coverage_and_findings_and_is_posted_once(target, place, tmp_path):
    store = f"sqlite:///{tmp_path / 's.db'}"
    shown = CallsShown(Console(quiet=True))
    run = await review_of(target, place, tmp_path, yes, store).run(shown)
    assert run.stop == "done"
    posted = (tmp_path / "review.md").read_text()
    assert posted.strip() in run.output
    assert "| head | passed | 3 | 0 | 0 | 1 | 0.25 |" in posted
    line = CALC_HEAD.splitlines().index("    except:") + 1
    assert f"- **major** `calc.py:{line}` A bare except" in posted
    assert "| `calc.py` | " in posted
    assert "1.1 rounds" in posted
    assert "scripted reviewer" in posted
    assert shown.ran > 6

    before, told = (tmp_path / "review.md").stat().st_mtime_ns, []
    again = CallsShown(Console(quiet=True))
    run = await review_of(target, place, tmp_path, yes, store).run(again, told.append)
    assert "has not changed" in run.output
    assert (again.ran, told) == (2, [shown.ran])
    assert (tmp_path / "review.md").stat().st_mtime_ns == before


async def test_who_decides_later_finds_the_review_waiting(target, place, tmp_path):
    store = f"sqlite:///{tmp_path / 's.db'}"
    run = await review_of(target, place, tmp_path, later, store).run()
    assert (run.stop, [each.tool for each in run.approvals]) == ("approval", ["post_review"])
    assert not (tmp_path / "review.md").exists()
    shown = CallsShown(Console(quiet=True))
    run = await review_of(target, place, tmp_path, yes, store).run(shown)
    assert (run.stop, shown.ran) == ("done", 1)
    assert (tmp_path / "review.md").exists()


async def test_a_refused_review_is_not_posted_and_the_answer_says_so(target, place, tmp_path):
    run = await review_of(target, place, tmp_path, no).run()
    assert not (tmp_path / "review.md").exists()
    assert "Not posted. kim refused" in run.output


async def test_a_new_commit_is_reviewed_anew(target, place, tmp_path):
    from support_review import commit, git

    store = f"sqlite:///{tmp_path / 's.db'}"
    await review_of(target, place, tmp_path, yes, store).run()
    git(target.folder, "checkout", "-q", "feature")
    commit(target.folder, "Better", {"calc.py": CALC_HEAD.replace("except:", "except ZeroDivisionError:")})
    shown = CallsShown(Console(quiet=True))
    await review_of(target, place, tmp_path, yes, store).run(shown)
    assert shown.ran > 4
    assert "bare except" not in (tmp_path / "review.md").read_text()


async def test_tests_that_fail_now_ask_for_changes(target, place, tmp_path):
    tools = ReviewTools(target, TestBench(place), tmp_path / "review.md")
    place.fails.add(tools._tree("head")[0])
    await review_of(target, place, tmp_path, yes).run()
    posted = (tmp_path / "review.md").read_text()
    assert "**Verdict: request changes.** 1 tests fail that passed before." in posted
    assert "- head: `t::bad`: `assert 1 == 2`" in posted


async def test_a_sandbox_that_was_lost_is_asked_once_more(target, place):
    place.losses = 1
    report = await TestBench(place).run("t", lambda: b"tar")
    assert report.outcome == "passed"
    place.losses, place.files = 2, {}
    with pytest.raises(SandboxLost):
        await TestBench(place).run("t", lambda: b"tar")


async def test_a_tree_is_brought_once_and_its_coverage_needs_no_second_run(place):
    bench, packed = TestBench(place), []

    def pack() -> bytes:
        packed.append(1)
        return b"tar"

    await bench.coverage("t", pack)
    await bench.coverage("t", pack)
    await bench.run("t", pack)
    assert (len(packed), place.runs) == (1, ["t", "t"])


async def test_made_up_arguments_are_answered_with_what_there_is(target, place, tmp_path):
    gate = Gate(ReviewTools(target, TestBench(place), tmp_path / "review.md").toolset)
    results = await gate.execute(
        [
            ToolCall("1", "fetch_pull_request", {"name": "pull/99"}),
            ToolCall("2", "check_coverage", {"files": ["nothing.py"]}),
            ToolCall("3", "get_pr_diff", {"path": "../../etc/passwd"}),
            ToolCall("4", "read_file", {"path": "../../etc/passwd"}),
            ToolCall("5", "run_tests", {"branch": "other"}),
            ToolCall("6", "post_review", {"verdict": "approve", "body": "x"}),
        ]
    )
    codes = [result.error.code for result in results]
    assert codes[:3] == ["rejected_by_check"] * 3
    assert codes[3:] == ["tool_failed", "invalid_arguments", "approval_required"]
    assert "'feature'" in results[0].content
    assert "calc.py" in results[1].content
    assert not (tmp_path / "review.md").exists()


async def test_a_long_diff_is_read_in_pieces(target, place, tmp_path, monkeypatch):
    monkeypatch.setattr("pr_review.tools.DIFF_CHARS_MAX", 100)
    tools = ReviewTools(target, TestBench(place), tmp_path / "review.md")
    pieces, offset = [], 0
    while offset is not None:
        piece = await tools.get_pr_diff(offset=offset)
        pieces.append(piece["diff"])
        offset = piece["next_offset"]
    assert len("".join(pieces)) == piece["chars"]
    assert all(len(each) <= 100 for each in pieces)


def test_what_pytest_recorded_is_read_and_what_it_did_not_is_said():
    failed = read_report(JUNIT.format(failures=1, cases=FAILED).encode(), Ended(1, "out", False))
    assert (failed.outcome, failed.passed, failed.failed, failed.skipped) == ("failed", 2, 1, 1)
    assert [(each.test, each.message) for each in failed.failures] == [("t::bad", "assert 1 == 2")]
    assert read_report(None, Ended(1, "No module named pytest", False)).outcome == "broken"
    assert read_report(None, Ended(5, "", False)).outcome == "no_tests"
    assert read_report(None, Ended(137, "", True)).outcome == "timed_out"
    assert read_report(JUNIT.format(failures=0, cases="").encode(), Ended(3, "", False)).outcome == "broken"
    with pytest.raises(ToolError):
        read_coverage(b'{"files": {"a.py": 1}}')


def test_nothing_of_a_stranger_becomes_markdown():
    assert code("a`b\nc|d") == "`a'b c\\|d`"
    assert plain("[x](y) <b> *z*") == "\\[x\\](y) \\<b\\> \\*z\\*"


def test_a_review_without_answers_says_what_is_missing():
    pull = {
        "repository": "r",
        "pull_request": "p",
        "title": "t",
        "base": {"ref": "main", "commit": "a" * 40},
        "head": {"ref": "p", "commit": "b" * 40},
        "files_changed": 0,
        "files": [],
    }
    facts = Facts(pull, failures={"run_tests": "The sandbox is gone."})
    assert verdict_of(facts)[0] == "comment"
    assert "They could not be run: The sandbox is gone." in write_review(facts)


def test_a_pull_request_that_cannot_be_fetched_ends_the_review():
    first = next_turn([Message.user("Review")], "p")
    assert [each["call"] for each in first] == ["fetch_pull_request"]
    call = ToolCall(first[0]["id"], "fetch_pull_request", {"name": "p"})
    from callbox import ToolResult
    from callbox.calls.call import CallError

    failed = ToolResult.failed(call, CallError("tool_failed", "No index has it."))
    said = next_turn([Message.user("Review"), Message.assistant("", [call]), Message.tool([failed])], "p")
    assert "No index has it." in said
