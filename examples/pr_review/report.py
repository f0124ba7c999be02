"""The review as Markdown, written from what the tools answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

COVERAGE_WANTED_PERCENT = 80
ROWS_MAX = 30
CONTEXT_LINES = 2
"""Lines before and after one that is quoted."""
QUOTED_LINES_MAX = 24

_SEVERITIES = ("blocker", "major", "minor", "info")
_OUTCOMES = {
    "passed": "passed",
    "failed": "FAILED",
    "no_tests": "no tests found",
    "broken": "could not run",
    "timed_out": "timed out",
}
_FOOTER = (
    "Written by callbox's scripted reviewer: rules, no model. "
    "All numbers are what pytest, coverage and Python's own parser said."
)
_VERDICTS = {"approve": "approve", "comment": "comment", "request_changes": "request changes"}


@dataclass(slots=True)
class Facts:
    """What is known of a pull request; None: the tool had no answer.

    Attributes:
        pull: Of `fetch_pull_request`.
        excerpts: Numbered lines of code, by `excerpt_key`.
        failures: Of tools that failed, what they said.
    """

    pull: dict[str, Any]
    analysis: dict[str, Any] | None = None
    base_tests: dict[str, Any] | None = None
    head_tests: dict[str, Any] | None = None
    coverage: dict[str, Any] | None = None
    author_says: list[str] = field(default_factory=list[str])
    excerpts: dict[str, str] = field(default_factory=dict[str, str])
    failures: dict[str, str] = field(default_factory=dict[str, str])


def excerpt_key(path: str, first_line: int) -> str:
    """Names an excerpt of a file."""
    return f"{path}:{first_line}"


def verdict_of(facts: Facts) -> tuple[str, str]:
    """What to advise, and why in one sentence."""
    head, base = facts.head_tests, facts.base_tests
    worst = {each["severity"] for each in facts.analysis["findings"]} if facts.analysis else set[str]()
    if head is None or head["outcome"] in ("broken", "timed_out", "no_tests"):
        said = _OUTCOMES[head["outcome"]] if head else "were not run"
        return "comment", f"The tests of the head {said}, so nothing proves this change."
    if head["outcome"] == "failed":
        broken = base is not None and base["outcome"] == "passed"
        return "request_changes", f"{head['failed']} tests fail" + (" that passed before." if broken else ".")
    if "blocker" in worst:
        return "request_changes", "Some of the code cannot work; see the findings."
    if facts.analysis is None:
        return "comment", "The code could not be analyzed."
    majors = sum(each["severity"] == "major" for each in facts.analysis["findings"])
    if majors:
        return "comment", f"The tests pass; {majors} findings should be looked at before this is merged."
    percent = facts.coverage["percent"] if facts.coverage else None
    if percent is not None and percent < COVERAGE_WANTED_PERCENT:
        return "comment", f"The tests pass, but only {percent:g} % of the changed lines ran in them."
    return "approve", "The tests pass, and nothing that was found speaks against it."


def write_review(facts: Facts) -> str:
    """The whole review."""
    pull = facts.pull
    verdict, why = verdict_of(facts)
    added, removed = (sum(each[name] for each in pull["files"]) for name in ("added", "removed"))
    commits = f"{code(pull['base']['commit'][:12])} → {code(pull['head']['commit'][:12])}"
    lines = [
        f"# Review of {plain(pull['repository'])}, {plain(pull['pull_request'])}: {plain(pull['title'])}",
        "",
        f"**Verdict: {_VERDICTS[verdict]}.** {why}",
        "",
        f"{commits}, {pull['files_changed']} files, {added:,} lines added, {removed:,} removed.",
        "",
        *_tests(facts),
        *_coverage(facts),
        *_findings(facts),
        *_changes(facts),
        *_author(facts),
        "---",
        "",
        _FOOTER,
    ]
    return "\n".join(lines)


def _tests(facts: Facts) -> Iterator[str]:
    yield from ("## Tests", "")
    runs = [("base", facts.base_tests), ("head", facts.head_tests)]
    if not any(run for _, run in runs):
        yield from (f"They could not be run: {plain(facts.failures.get('run_tests', 'no answer'))}", "")
        return
    yield from ("| | outcome | passed | failed | errors | skipped | seconds |", "|---|---|---:|---:|---:|---:|---:|")
    for branch, run in runs:
        if run is None:
            yield f"| {branch} | not run | | | | | |"
        else:
            counts = " | ".join(str(run.get(name, 0)) for name in ("passed", "failed", "errors", "skipped"))
            yield f"| {branch} | {_OUTCOMES[run['outcome']]} | {counts} | {run.get('duration_s', 0):.2f} |"
    yield ""
    before = {each["test"] for each in (facts.base_tests or {}).get("failures", [])}
    for branch, run in runs:
        if run and run.get("note"):
            yield from (f"{branch}: {plain(run['note'])}", "")
        for failure in (run or {}).get("failures", [])[:ROWS_MAX]:
            if branch == "head" or failure["test"] in before:
                known = " (in the base, too)" if branch == "head" and failure["test"] in before else ""
                yield f"- {branch}: {code(failure['test'])}{known}: {code(failure['message'])}"
        if run and run["outcome"] in ("broken", "timed_out") and run.get("output"):
            yield from ("", "```text", *_block(run["output"].splitlines()[-QUOTED_LINES_MAX:]), "```")
    analysis = facts.analysis or {}
    counts = [(len(analysis.get(f"tests_{what}", [])), what) for what in ("added", "changed", "removed")]
    if any(count for count, _ in counts):
        yield from ("", "Test functions: " + ", ".join(f"{count} {what}" for count, what in counts) + ".")
    yield ""


def _coverage(facts: Facts) -> Iterator[str]:
    yield from ("## Coverage of the changed lines", "")
    found = facts.coverage
    if found is None:
        said = facts.failures.get("check_coverage")
        yield from (f"Not measured: {plain(said)}" if said else "No Python outside the tests has changed.", "")
        return
    measured = [each for each in found["files"] if each.get("measured", True)]
    with_lines = [each for each in measured if each["ran"] + each["not_ran"]]
    if found["percent"] is not None:
        total = found["changed_lines_that_can_run"]
        yield from (f"{found['ran']} of {total} changed lines that can run did run: {found['percent']:g} %.", "")
    if with_lines:
        yield from ("| file | ran | did not run | lines that did not run |", "|---|---:|---:|---|")
        for each in sorted(with_lines, key=lambda each: -each["not_ran"])[:ROWS_MAX]:
            yield f"| {code(each['path'])} | {each['ran']} | {each['not_ran']} | {each['lines_that_did_not_run']} |"
        yield ""
    unknown = [code(each["path"]) for each in found["files"] if not each.get("measured", True)]
    if unknown:
        yield from (f"Never imported by a test: {', '.join(unknown[:ROWS_MAX])}.", "")


def _findings(facts: Facts) -> Iterator[str]:
    yield from ("## Findings", "")
    if facts.analysis is None:
        yield from (f"None: {plain(facts.failures.get('analyze_code_diff', 'no answer'))}", "")
        return
    findings: list[dict[str, Any]] = facts.analysis["findings"]
    if not findings:
        yield from ("None.", "")
        return
    shown = 0
    for severity in _SEVERITIES:
        same = [each for each in findings if each["severity"] == severity]
        for each in same[: ROWS_MAX - shown]:
            shown += 1
            where = f"{each['path']}:{each['line']}" if each["line"] else each["path"]
            yield f"- **{severity}** {code(where)} {plain(each['message'])} ({each['rule']})"
            excerpt = next(
                (
                    text
                    for at in (2, 1, 0)
                    if (text := facts.excerpts.get(excerpt_key(each["path"], each["line"] - at)))
                ),
                None,
            )
            if excerpt and severity in ("blocker", "major"):
                yield from ("", "  ```python", *(f"  {line}" for line in _block(excerpt.splitlines())), "  ```", "")
    if (rest := facts.analysis["findings_total"] - shown) > 0:
        yield f"- and {rest} more"
    yield ""


def _changes(facts: Facts) -> Iterator[str]:
    functions: list[dict[str, Any]] = facts.analysis["functions"] if facts.analysis else []
    if not functions:
        return
    counts = ", ".join(
        f"{sum(each['what'] == what for each in functions)} {what}" for what in ("added", "changed", "removed")
    )
    yield from ("## What changed in the code", "", f"Functions outside the tests: {counts}.", "")
    for each in sorted(functions, key=lambda each: not each["public"])[:ROWS_MAX]:
        where, kind = code(f"{each['path']}:{each['line']}"), "public" if each["public"] else "internal"
        if "signature_before" in each:
            said = f"{code(each['signature_before'])} is now {code(each['signature'])}"
        elif each["what"] == "changed":
            said = f"{code(each['name'])}: same signature, other body"
        else:
            said = f"{each['what']}: {code(each['signature'])}"
        yield f"- {where} {said} ({kind})"
    if (rest := (facts.analysis or {}).get("functions_total", 0) - ROWS_MAX) > 0:
        yield f"- and {rest} more"
    yield ""


def _author(facts: Facts) -> Iterator[str]:
    said = [line for line in facts.author_says if line.strip()][:QUOTED_LINES_MAX]
    if said:
        yield from ("## What the change says about itself", "", "```text", *_block(said), "```", "")


def code(text: str) -> str:
    """As code, whatever is in it: names and messages are those of strangers."""
    line = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else "``"


def plain(text: str) -> str:
    """As text without Markdown or HTML of its own."""
    line = " ".join(text.split())
    for char in "\\`*_[]<>|#":
        line = line.replace(char, f"\\{char}" if char != "#" else "\\#")
    return line


def _block(lines: list[str]) -> list[str]:
    """Lines that cannot end the block that they stand in."""
    return [line.replace("```", "'''") for line in lines]
