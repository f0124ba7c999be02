"""A reviewer without a model: rules that call the tools in a sensible order and write down what they answered.

It stands in where there is no key for a model that can review, and it says so in its review. Every call is made for
real. It works on any pull request, because all that it knows is what the tools return.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from callbox.messages import Message
from callbox.providers.scripted import Scripted
from pr_review.analysis import PACKAGING
from pr_review.diff import is_test
from pr_review.report import CONTEXT_LINES, Facts, excerpt_key, verdict_of, write_review

EXCERPTS_MAX = 6
_CHANGELOG = re.compile(r"(^|/)(change|changes|changelog|history|news|releases?)(\.\w+)?\Z", re.IGNORECASE)

_HEAD = ("run_tests", {"branch": "head"})
_NO_NEWS = "The pull request has not changed since it was reviewed; its tests ran again and said the same."

Turn = str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One call that was answered.

    Attributes:
        commits: Base and head, as of the last fetch before it.
        value: What the tool returned; None if it failed.
        error: What it said then.
        fresh: In this run, not in an earlier one of the session.
    """

    name: str
    arguments: dict[str, Any]
    commits: tuple[str, str] | None
    value: dict[str, Any] | None
    error: str | None
    fresh: bool


def scripted_reviewer(pull: str) -> Scripted:
    """The reviewer as a provider, for `Agent(model=...)`.

    Args:
        pull: Name of the pull request.
    """
    return Scripted(lambda messages: next_turn(messages, pull), chunk_chars=500)


def next_turn(messages: Sequence[Message], pull: str) -> Turn:
    """What to call next; or the review, when all is known.

    Args:
        messages: The whole conversation, earlier runs of the session included.
        pull: Name of the pull request.
    """
    answers = list(read_answers(messages))
    calls = sum(len(message.calls) for message in messages)

    def call(wanted: list[tuple[str, dict[str, Any]]]) -> Turn:
        # Ids go on over restarts, where a script would begin again at 1.
        return [
            {"call": name, "arguments": arguments, "id": f"call_{calls + at}"}
            for at, (name, arguments) in enumerate(wanted, 1)
        ]

    fetched = _find(answers, "fetch_pull_request", {"name": pull}, fresh=True)
    if fetched is None:
        return call([("fetch_pull_request", {"name": pull})])
    if fetched.value is None:
        return f"There is nothing to review: the pull request cannot be fetched. {fetched.error}"
    # What was found out about these very commits, also in an earlier run, still holds.
    answers = [each for each in answers if each.commits == fetched.commits]
    for stage in (_first_look, _closer_look):
        if missing := [each for each in stage(answers, fetched.value) if _find(answers, *each) is None]:
            return call(missing)
    facts = gather(answers, fetched.value)
    review = write_review(facts)
    tried = next((each for each in reversed(answers) if each.name == "post_review" and each.fresh), None)
    if tried is not None:
        said = f"Posted to {tried.value['posted']}." if tried.value else f"Not posted. {tried.error}"
        return f"{review}\n\n---\n\n{said}"
    posted = next((each.value for each in reversed(answers) if each.name == "post_review" and each.value), None)
    if posted is not None:
        if not _find(answers, *_HEAD, fresh=True):
            return call([_HEAD])  # the pull request has not changed: do its tests still say the same?
        if _same_tests(answers):
            return f"{review}\n\n---\n\n{_NO_NEWS} It was posted to {posted['posted']}."
    return call([("post_review", {"verdict": verdict_of(facts)[0], "body": review})])


def read_answers(messages: Sequence[Message]) -> Iterator[Answer]:
    """Calls with their results, in order."""
    begun = max((at for at, message in enumerate(messages) if message.role == "user"), default=0)
    pending: dict[str, tuple[str, dict[str, Any]]] = {}
    commits: tuple[str, str] | None = None
    for at, message in enumerate(messages):
        for made in message.calls:
            given: object = made.arguments
            pending[made.id] = (made.name, cast("dict[str, Any]", given) if isinstance(given, dict) else {})
        for result in message.results:
            name, arguments = pending.pop(result.call_id, (result.name, {}))
            value = _read_json(result.content)
            if value is None:
                continue  # taken out of a long conversation: not known any more
            failed = result.is_error or "error" in value
            if name == "fetch_pull_request" and not failed:
                commits = (value["base"]["commit"], value["head"]["commit"])
            yield Answer(
                name=name,
                arguments=arguments,
                commits=commits,
                value=None if failed else value,
                error=str(value.get("message", value)) if failed else None,
                fresh=at > begun,
            )


def _read_json(text: str) -> dict[str, Any] | None:
    try:
        value: object = json.loads(text)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def gather(answers: Sequence[Answer], pull: dict[str, Any]) -> Facts:
    """What the review is written from: the latest answer to each question."""

    def latest(name: str, matches: Callable[[dict[str, Any]], bool] = lambda _: True) -> Answer | None:
        return next((each for each in reversed(answers) if each.name == name and matches(each.arguments)), None)

    def value(answer: Answer | None) -> dict[str, Any] | None:
        return None if answer is None else answer.value

    excerpts = {
        excerpt_key(each.arguments["path"], each.arguments["first_line"]): each.value["text"]
        for each in answers
        if each.name == "read_file" and each.value and "first_line" in each.arguments
    }
    words = value(latest("get_pr_diff", lambda arguments: "path" in arguments))
    return Facts(
        pull=pull,
        analysis=value(latest("analyze_code_diff")),
        base_tests=value(latest("run_tests", lambda arguments: arguments.get("branch") == "base")),
        head_tests=value(latest("run_tests", lambda arguments: arguments.get("branch") == "head")),
        coverage=value(latest("check_coverage")),
        author_says=_added_lines(words["diff"]) if words else [],
        excerpts=excerpts,
        failures={each.name: each.error or "no answer" for each in answers if each.value is None},
    )


def _first_look(_: Sequence[Answer], pull: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All of it only reads, so it runs side by side."""
    changelog = next((each["path"] for each in pull["files"] if _CHANGELOG.search(each["path"])), None)
    return [
        ("run_tests", {"branch": "base"}),
        ("run_tests", {"branch": "head"}),
        ("analyze_code_diff", {}),
        ("get_pr_diff", {"path": changelog} if changelog else {}),
    ]


def _closer_look(answers: Sequence[Answer], pull: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Coverage of what changed, and the code around what was found."""
    wanted: list[tuple[str, dict[str, Any]]] = []
    analysis = _find(answers, "analyze_code_diff", {})
    source = [each["path"] for each in pull["files"] if each["status"] != "removed" and _is_source(each["path"])]
    if source:
        wanted.append(("check_coverage", {"files": source}))
    findings: list[dict[str, Any]] = analysis.value["findings"] if analysis and analysis.value else []
    for each in findings[:EXCERPTS_MAX]:
        if each["severity"] in ("blocker", "major") and each["line"]:
            branch = "base" if each["rule"] in ("test_removed", "api_removed") else "head"
            first = max(1, each["line"] - CONTEXT_LINES)
            lines = {"first_line": first, "last_line": each["line"] + CONTEXT_LINES}
            excerpt = ("read_file", {"path": each["path"], "branch": branch, **lines})
            if excerpt not in wanted:
                wanted.append(excerpt)
    return wanted


def _is_source(path: str) -> bool:
    return path.endswith(".py") and not is_test(path) and not PACKAGING.search(path)


def _find(answers: Sequence[Answer], name: str, arguments: dict[str, Any], *, fresh: bool = False) -> Answer | None:
    """The last answer to a question, if it was asked."""
    return next(
        (
            each
            for each in reversed(answers)
            if each.name == name and each.arguments == arguments and (each.fresh or not fresh)
        ),
        None,
    )


def _same_tests(answers: Sequence[Answer]) -> bool:
    """Whether the head's tests said the same before the review was posted and after."""
    counted = ("outcome", "passed", "failed", "errors", "skipped")
    runs = [each for each in answers if each.name == "run_tests" and each.arguments.get("branch") == "head"]
    said = {tuple((each.value or {}).get(name) for name in counted) for each in (runs[0], runs[-1])}
    return len(said) == 1


def _added_lines(diff: str) -> list[str]:
    return [line[1:] for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
