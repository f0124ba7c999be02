"""The tools of the reviewer. Each is short: the work is done by the modules beside this one."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from callbox import Toolset, tool
from callbox.errors import ConfigurationError, ToolError
from pr_review import repository
from pr_review.analysis import Analysis, analyze
from pr_review.coverage import ChangedCoverage, cover_changes, ranges
from pr_review.diff import FileDiff, parse_diff
from pr_review.package import FetchError
from pr_review.repository import Branch, PullRequest
from pr_review.sandbox_tests import TESTS_TIMEOUT_S, TestBench
from pr_review.targets import Target

FILES_MAX = 200
DIFF_CHARS_MAX = 24_000
LINES_MAX = 400
FINDINGS_MAX = 80
FUNCTIONS_MAX = 120
REVIEW_CHARS_MAX = 60_000

Verdict = Literal["approve", "comment", "request_changes"]
Path_ = Annotated[str, Field(min_length=1, max_length=500)]


class ReviewTools:
    """What the reviewer may do with one pull request.

    Nothing is remembered here from one call for the next: after a restart, earlier calls come from the journal and do
    not run again. What is kept below can be found again at any time.

    Args:
        target: What is reviewed.
        bench: Where its tests run.
        post_to: The file that the review is posted to.
    """

    def __init__(self, target: Target, bench: TestBench, post_to: Path) -> None:
        self.target = target
        self.bench = bench
        self.post_to = post_to

    @property
    def toolset(self) -> Toolset:
        """All of them."""
        return Toolset(
            [
                self.fetch_pull_request,
                self.get_pr_diff,
                self.read_file,
                self.analyze_code_diff,
                self.run_tests,
                self.check_coverage,
                self.post_review,
            ]
        )

    @tool(effect="read", timeout_s=120, retries=1)
    async def fetch_pull_request(self, name: str) -> dict[str, Any]:
        """Fetch a pull request: its commits, and the files that it changes. Call this first.

        Args:
            name: Of the pull request, like "pull/1".
        """
        del name  # the check below has seen to it that it is the one
        try:
            pull, files = await self._load()
        except (FetchError, ConfigurationError) as error:
            raise ToolError(error.message, retryable=error.retryable, suggestion=error.hint) from None
        return {
            "repository": self.target.repository,
            "pull_request": pull.name,
            "title": pull.title,
            "base": {"ref": pull.base_ref, "commit": pull.base},
            "head": {"ref": pull.head_ref, "commit": pull.head},
            "files_changed": len(files),
            "files": [_file(each) for each in files[:FILES_MAX]],
        }

    @fetch_pull_request.check
    def there_is_one(self, name: str) -> str | None:
        """The model may have made the name up."""
        return None if name == self.target.pull else f"There is no {name!r}; the pull request is {self.target.pull!r}."

    @tool(effect="read")
    async def get_pr_diff(
        self,
        path: Path_ | None = None,
        offset: Annotated[int, Field(ge=0)] = 0,
    ) -> dict[str, Any]:
        """Read the unified diff of the pull request, of one file or of all.

        Args:
            path: Only this file; leave it out for all.
            offset: Character to begin at, to read on where an earlier answer ended.
        """
        pull, _ = await self._load()
        paths = () if path is None else self._paths_of(path)
        text = await asyncio.to_thread(repository.read_diff, pull, *paths)
        piece = text[offset : offset + DIFF_CHARS_MAX]
        end = offset + len(piece)
        return {"diff": piece, "chars": len(text), "next_offset": end if end < len(text) else None}

    @get_pr_diff.check
    def is_changed(self, path: str | None) -> str | None:
        """A path that is not part of the change has no diff."""
        return None if path is None else self._unchanged([path])

    @tool(effect="read")
    async def read_file(
        self,
        path: Path_,
        branch: Branch = "head",
        first_line: Annotated[int, Field(ge=1)] = 1,
        last_line: Annotated[int, Field(ge=1)] | None = None,
    ) -> dict[str, Any]:
        """Read lines of a file, at most 400 at once.

        Args:
            path: The file, from the root of the repository.
            branch: "head" has the change, "base" does not.
            first_line: Where to begin.
            last_line: Where to end, this line included.
        """
        await self._load()
        text = await asyncio.to_thread(self._read, path, branch)
        if text is None:
            raise ToolError(f"There is no {path} in the {branch}.", suggestion="Take a path of fetch_pull_request.")
        lines = text.splitlines()
        end = min(len(lines), last_line or len(lines), first_line + LINES_MAX - 1)
        numbered = [f"{number:5} {lines[number - 1]}" for number in range(first_line, end + 1)]
        return {"path": path, "branch": branch, "lines_total": len(lines), "text": "\n".join(numbered)}

    @tool(effect="read", timeout_s=120)
    async def analyze_code_diff(self) -> dict[str, Any]:
        """Analyze the changed Python code: functions that changed, broken signatures, risky habits, missing tests.

        Findings have a severity (blocker, major, minor, info), a rule, a file and a line.
        """
        analysis = await asyncio.to_thread(self._analyze)
        return {
            "functions": [_compact(asdict(each)) for each in analysis.functions[:FUNCTIONS_MAX]],
            "functions_total": len(analysis.functions),
            "findings": [asdict(each) for each in analysis.findings[:FINDINGS_MAX]],
            "findings_total": len(analysis.findings),
            "tests_added": analysis.tests_added[:FILES_MAX],
            "tests_changed": analysis.tests_changed[:FILES_MAX],
            "tests_removed": analysis.tests_removed[:FILES_MAX],
        }

    @tool(effect="read", timeout_s=TESTS_TIMEOUT_S + 60)
    async def run_tests(self, branch: Branch) -> dict[str, Any]:
        """Run the whole test suite of a branch in the sandbox, without network, and measure coverage on the way.

        Args:
            branch: "head" has the change, "base" does not.
        """
        # It reads: the only thing that it changes is a sandbox of its own.
        pull, _ = await self._load()
        report = await self.bench.run(*self._tree(branch))
        return {"branch": branch, "commit": pull.commit(branch), **_compact(asdict(report))}

    @tool(effect="read", timeout_s=TESTS_TIMEOUT_S + 60)
    async def check_coverage(
        self, files: Annotated[list[Path_], Field(min_length=1, max_length=FILES_MAX)]
    ) -> dict[str, Any]:
        """Say which changed lines of some files ran in the head's tests, and which did not.

        Args:
            files: Python files that the pull request adds or changes.
        """
        _, changed = await self._load()
        measured = await self.bench.coverage(*self._tree("head"))
        if measured is None:
            raise ToolError("Nothing was measured: the tests of the head left no coverage.", suggestion="run_tests")
        by_path = {each.path: each for each in changed}
        found = [
            cover_changes(by_path[path], await asyncio.to_thread(self._read, path, "head") or "", measured.get(path))
            for path in dict.fromkeys(files)
        ]
        ran, missed = (sum(len(getattr(each, name)) for each in found) for name in ("ran", "missed"))
        return {
            "changed_lines_that_can_run": ran + missed,
            "ran": ran,
            "percent": round(100 * ran / (ran + missed), 1) if ran + missed else None,
            "files": [_coverage(each) for each in found],
        }

    @check_coverage.check
    def are_changed(self, files: list[str]) -> str | None:
        """Only changed files have changed lines."""
        return self._unchanged(files)

    @tool(effect="write", approval="always")
    def post_review(
        self, verdict: Verdict, body: Annotated[str, Field(min_length=1, max_length=REVIEW_CHARS_MAX)]
    ) -> dict[str, Any]:
        """Post the review where everybody reads it. Once, at the end, when all else is known.

        Args:
            verdict: What you advise.
            body: The review, in Markdown: what was tested, what it came to, findings with file and line.
        """
        self.post_to.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=self.post_to.parent, prefix=".review-")
        with os.fdopen(number, "w") as file:
            file.write(body.rstrip() + "\n")
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).replace(self.post_to)
        return {"posted": str(self.post_to), "verdict": verdict}

    async def _load(self) -> tuple[PullRequest, list[FileDiff]]:
        """Find the pull request again, in a thread: git is asked, and perhaps an index."""
        return await asyncio.to_thread(lambda: (self._pull, self._files))

    @cached_property
    def _pull(self) -> PullRequest:
        return self.target.fetch()

    @cached_property
    def _files(self) -> list[FileDiff]:
        return parse_diff(repository.read_diff(self._pull, context_lines=0))

    @cached_property
    def _read(self) -> Callable[[str, Branch], str | None]:
        def read(path: str, branch: Branch) -> str | None:
            return repository.read_file(self._pull, path, branch)

        return lru_cache(maxsize=256)(read)

    def _analyze(self) -> Analysis:
        return analyze(self._files, self._read, repository.list_files(self._pull))

    def _tree(self, branch: Branch) -> tuple[str, Callable[[], bytes]]:
        pull = self._pull
        return repository.tree_id(pull, branch), lambda: repository.pack_tree(pull, branch)

    def _paths_of(self, path: str) -> tuple[str, ...]:
        """Both names of a file that was renamed."""
        file = next(each for each in self._files if each.path == path)
        return tuple(dict.fromkeys([file.old_path, file.path]))

    def _unchanged(self, paths: Iterable[str]) -> str | None:
        changed = [each.path for each in self._files]
        wrong = [path for path in paths if path not in changed]
        if not wrong:
            return None
        return f"Not part of the change: {', '.join(wrong[:5])}. Changed: {', '.join(changed[:20])}."


def _file(file: FileDiff) -> dict[str, Any]:
    described: dict[str, Any] = {"path": file.path, "status": file.status}
    if file.status == "renamed":
        described["was"] = file.old_path
    return {**described, "added": len(file.added), "removed": len(file.removed)}


def _coverage(found: ChangedCoverage) -> dict[str, Any]:
    if not found.measured:
        return {"path": found.path, "measured": False}
    return {
        "path": found.path,
        "ran": len(found.ran),
        "lines_that_ran": ranges(found.ran),
        "not_ran": len(found.missed),
        "lines_that_did_not_run": ranges(found.missed),
    }


def _compact(values: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing."""
    return {name: value for name, value in values.items() if value not in (None, [], "")}
