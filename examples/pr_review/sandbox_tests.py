"""Runs a branch's tests with coverage where they can do no harm, and reads what pytest and coverage recorded."""

from __future__ import annotations

import asyncio
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from uuid import uuid4

from callbox.errors import SandboxLost, ToolError

Outcome = Literal["passed", "failed", "no_tests", "broken", "timed_out"]

TESTS_TIMEOUT_S = 540
REPORT_BYTES_MAX = 50 * 1_048_576
FAILURES_MAX = 20
MESSAGE_CHARS_MAX = 400
OUTPUT_CHARS_MAX = 2_000

_NO_TESTS = 5  # exit code of pytest; 4, in the script below, is for options that it does not know

# A copy: tests write files, and the next run must see the tree as it was committed.
_RUN = r"""set -u
run="/tmp/run-$RUN"
trap 'rm -rf "$run"' EXIT
mkdir -p "$OUT" && cp -a "trees/$TREE" "$run" && cd "$run" || exit 99
export COVERAGE_FILE="$OUT/.coverage" PYTHONPATH="src:." PYTHONDONTWRITEBYTECODE=1
run_tests() {
  "$PYTHON" -m coverage run --rcfile=/dev/null --branch --source=. -m pytest -q -p no:cacheprovider \
    --junitxml="$OUT/junit.xml" "$@"
}
run_tests
code=$?
if [ $code -eq 4 ]; then
  echo "pytest refused its own options here (plugins that are not installed?): running it without them"
  : > "$OUT/without-options"
  run_tests -o addopts=
  code=$?
fi
"$PYTHON" -m coverage json --rcfile=/dev/null -q -o "$OUT/coverage.part" && mv "$OUT/coverage.part" "$OUT/coverage.json"
# Only what is whole becomes the latest; a run that went on after its caller was killed cannot get between.
cd "$OUT/.." && echo "$RUN" > ".$RUN" && mv ".$RUN" latest && find . -mindepth 1 -maxdepth 1 -type d ! -name "$RUN" \
  -exec rm -rf {} +
exit $code
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended in a `Place`."""

    exit_code: int
    output: str
    timed_out: bool


class Place(Protocol):
    """Where tests run: a sandbox, or (only when somebody insists) this host. Paths are relative to its folder."""

    folder: str
    python: str

    async def run(self, script: str, env: Mapping[str, str], timeout_s: float) -> Ended:
        """Run a script of ``/bin/sh``; its outputs together."""
        ...

    async def write(self, path: str, content: bytes) -> None:
        """Make or replace a file."""
        ...

    async def read(self, path: str, bytes_max: int) -> bytes | None:
        """A file's content; None if there is none. Raises `ToolError` for one that is larger."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """One test that failed."""

    test: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TestReport:
    """What pytest recorded.

    Attributes:
        outcome: ``"broken"``: pytest could not run them all to the end; `output` says why.
        duration_s: As pytest measured it.
        failures: The first 20.
        output: The end of what was printed, where something went wrong.
        note: What was done otherwise than asked.
    """

    outcome: Outcome
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    duration_s: float = 0.0
    failures: list[Failure] = field(default_factory=list[Failure])
    output: str | None = None
    note: str | None = None

    __test__ = False  # not a test of ours, whatever its name begins with


@dataclass(frozen=True, slots=True)
class FileCoverage:
    """Lines of one file that can run, by whether they did. Of a statement of several lines, the first."""

    ran: frozenset[int]
    missed: frozenset[int]


@dataclass(slots=True)
class TestBench:
    """Runs tests in a place. The same tree is brought there once, and measured once at a time."""

    place: Place
    __test__ = False
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict[str, asyncio.Lock])

    async def run(self, tree: str, pack: Callable[[], bytes]) -> TestReport:
        """Run the tests of a tree, now, and keep what they covered.

        Args:
            tree: Id of its content.
            pack: Gives it as a tar, if it is not there yet.
        """
        async with self._lock(tree):
            return await self._run(tree, pack)

    async def coverage(self, tree: str, pack: Callable[[], bytes]) -> dict[str, FileCoverage] | None:
        """What the last run of a tree's tests covered, by path; they are run if they never were. None: no record."""
        async with self._lock(tree):
            found = await self._recorded(tree)
            if found is None:
                await self._run(tree, pack)
                found = await self._recorded(tree)
        return None if found is None else read_coverage(found)

    async def _recorded(self, tree: str) -> bytes | None:
        run = await self.place.read(f"results/{tree}/latest", 64)
        if run is None or not re.fullmatch(rb"[0-9a-f]{32}\n", run):  # tests of a stranger may write there, too
            return None
        return await self.place.read(f"results/{tree}/{run.decode().strip()}/coverage.json", REPORT_BYTES_MAX)

    async def _run(self, tree: str, pack: Callable[[], bytes]) -> TestReport:
        for attempt in (1, 2):
            try:
                await self._bring(tree, pack)
                return await self._measure(tree)
            except SandboxLost:
                # Its memory is gone, which held nothing of ours; the next call boots it again, files as they were.
                if attempt == 2:
                    raise
        raise AssertionError("the second attempt returns or raises")

    async def _bring(self, tree: str, pack: Callable[[], bytes]) -> None:
        if await self.place.read(f"trees/{tree}.ready", 64) is not None:
            return
        await self.place.write(f"incoming/{tree}.tar", await asyncio.to_thread(pack))
        script = (
            'rm -rf "trees/$TREE" && mkdir -p "trees/$TREE" && tar -xf "incoming/$TREE.tar" -C "trees/$TREE" '
            '&& rm -f "incoming/$TREE.tar" && echo ready > "trees/$TREE.ready"'
        )
        done = await self.place.run(script, {"TREE": tree}, 120)
        if done.exit_code:
            raise ToolError(f"The files could not be unpacked: {done.output[-OUTPUT_CHARS_MAX:]}")

    async def _measure(self, tree: str) -> TestReport:
        run = uuid4().hex
        out = f"results/{tree}/{run}"
        env = {"TREE": tree, "RUN": run, "OUT": f"{self.place.folder}/{out}", "PYTHON": self.place.python}
        done = await self.place.run(_RUN, env, TESTS_TIMEOUT_S)
        junit = await self.place.read(f"{out}/junit.xml", REPORT_BYTES_MAX)
        note = None
        if await self.place.read(f"{out}/without-options", 64) is not None:
            note = "The repository's own pytest options did not work in the sandbox; the tests ran without them."
        return read_report(junit, done, note)

    def _lock(self, tree: str) -> asyncio.Lock:
        return self._locks.setdefault(tree, asyncio.Lock())


def read_report(junit: bytes | None, done: Ended, note: str | None = None) -> TestReport:
    """Read pytest's JUnit file, and its exit code where that says more."""
    output = done.output[-OUTPUT_CHARS_MAX:] or None
    if done.timed_out:
        return TestReport(outcome="timed_out", output=output, note=note)
    if done.exit_code == _NO_TESTS:
        return TestReport(outcome="no_tests", output=output, note=note)
    try:
        suites = list(ET.fromstring(junit or b"").iter("testsuite"))
    except ET.ParseError:
        return TestReport(outcome="broken", output=output, note=note)

    def total(name: str) -> int:
        return sum(int(suite.get(name) or 0) for suite in suites)

    failed, errors, skipped = total("failures"), total("errors"), total("skipped")
    failures: list[Failure] = []
    for case in (case for suite in suites for case in suite.iter("testcase")):
        for trouble in (*case.findall("failure"), *case.findall("error")):
            name = "::".join(filter(None, [case.get("classname"), case.get("name")]))
            failures.append(Failure(name, _cut(trouble.get("message") or trouble.text or "")))
    outcome: Outcome = "passed" if done.exit_code == 0 else "failed" if done.exit_code == 1 and failed else "broken"
    return TestReport(
        outcome=outcome,
        passed=total("tests") - failed - errors - skipped,
        failed=failed,
        errors=errors,
        skipped=skipped,
        duration_s=round(sum(float(suite.get("time") or 0) for suite in suites), 3),
        failures=failures[:FAILURES_MAX],
        output=None if outcome == "passed" else output,
        note=note,
    )


def read_coverage(content: bytes) -> dict[str, FileCoverage]:
    """Read what ``coverage json`` wrote.

    Raises:
        ToolError: It is something else. Tests of a stranger may write there, too.
    """
    try:
        files: dict[str, Any] = json.loads(content)["files"]
        return {
            path: FileCoverage(_numbers(found["executed_lines"]), _numbers(found["missing_lines"]))
            for path, found in files.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolError(f"The coverage record cannot be read: {type(error).__name__}.") from None


def _numbers(lines: list[Any]) -> frozenset[int]:
    return frozenset(line for line in lines if type(line) is int and line > 0)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_CHARS_MAX else f"{text[:MESSAGE_CHARS_MAX]} ..."
