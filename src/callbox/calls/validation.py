"""All problems of a call's arguments at once, in words that a model can act on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from callbox.calls.advice import advise
from callbox.calls.call import MISSING, Problem, ProblemCode
from callbox.calls.explanation import Explainer, Finding, Path
from callbox.calls.shapes import Document
from callbox.calls.suggestion import distance, misspelt
from callbox.calls.wording import cut, kind_of, listing, literal, plural, shorten, with_article
from callbox.limits import Limits
from callbox.tools.tool import Tool
from callbox.values import json_pointer

_EXPLAINERS_MAX = 256
_STEP_CHARS_MAX = 100
_FORMS_MAX = 6
_explainers: dict[str, Explainer] = {}


@dataclass(frozen=True, slots=True)
class Problems:
    """What is wrong: the problems that are told, sorted by path, and how many more there are."""

    told: tuple[Problem, ...]
    more: int = 0


def explainer_of(tool: Tool) -> Explainer:
    """The tool's explainer; made when its first wrong call comes."""
    found = _explainers.get(tool.version)
    if found is None:
        if len(_explainers) >= _EXPLAINERS_MAX:
            _explainers.clear()
        found = _explainers[tool.version] = Explainer(tool.parameters)
    return found


def tell(document: Document, findings: Iterable[Finding], arguments: Any, limits: Limits) -> Problems:
    """Put findings in words. One mistake gives one problem: what only follows from another one is left out.

    Args:
        document: The schema.
        findings: From `Explainer.explain`.
        arguments: What was explained.
        limits: `problems_max`.
    """
    kept = _without_consequences(findings)
    renamed = _misspellings(kept, arguments)
    kept = [one for one in kept if one.code != "missing_required" or renamed.get(one.path) != ""]
    kept.sort(key=_order)
    told = [_problem(document, finding, renamed.get(finding.path)) for finding in kept[: limits.problems_max]]
    return Problems(tuple(told), len(kept) - len(told))


def _order(finding: Finding) -> tuple[list[tuple[bool, str | int]], str]:
    # Text and numbers cannot be compared with each other.
    return [(isinstance(step, str), step) for step in finding.path], finding.code


def _without_consequences(findings: Iterable[Finding]) -> list[Finding]:
    by_path: dict[Path, dict[ProblemCode, Finding]] = defaultdict(dict)
    for finding in findings:
        by_path[finding.path].setdefault(finding.code, finding)
    missing = {path[:-1] for path, codes in by_path.items() if "missing_required" in codes}
    extra = {path[:-1] for path, codes in by_path.items() if "unexpected_property" in codes}
    kept: list[Finding] = []
    for path, codes in by_path.items():
        # A value of the wrong type breaks bounds and lists of values too, and one that is no listed value
        # breaks patterns: told is the one mistake that must be put right first.
        for decisive in ("unexpected_property", "wrong_type", "not_in_enum"):
            if decisive in codes:
                kept.append(codes[decisive])
                break
        else:
            kept += [
                finding
                for code, finding in codes.items()
                if not (code == "too_short" and finding.keyword == "minProperties" and path in missing)
                and not (code == "too_long" and finding.keyword == "maxProperties" and path in extra)
            ]
    return kept


def _misspellings(findings: list[Finding], arguments: Any) -> dict[Path, str]:
    """New names of misspelt properties, by path; ``""`` for a missing property that was only misspelt.

    Where other properties are allowed, a misspelt one is no problem but explains the one that is missing:
    that one gets its wrong name, by its own path.
    """
    missing: dict[Path, list[str]] = defaultdict(list)
    unexpected: dict[Path, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.code == "missing_required":
            missing[finding.path[:-1]].append(str(finding.path[-1]))
        elif finding.code == "unexpected_property":
            unexpected[finding.path[:-1]].append(finding)
    renamed: dict[Path, str] = {}
    for parent, extras in unexpected.items():
        present = _at(arguments, parent)
        absent = list(missing[parent])
        absent += [name for name in extras[0].known if name not in absent and name not in present]
        pairs = [
            (slips, absent.index(name), index, str(extra.path[-1]), name)
            for index, extra in enumerate(extras[:20])
            for name in absent[:200]
            if (slips := distance(str(extra.path[-1]), name)) is not None
        ]
        taken: set[str] = set()
        for _, _, _, wrong, right in sorted(pairs):
            if (*parent, wrong) in renamed or right in taken:
                continue
            renamed[(*parent, wrong)] = right
            taken.add(right)
            if right in missing[parent]:
                renamed[(*parent, right)] = ""
    for finding in findings:
        parent = finding.path[:-1]
        if finding.code == "missing_required" and parent not in unexpected:
            present = cast("dict[str, Any]", _at(arguments, parent))
            unknown = [name for name in islice(present, 50) if name not in finding.known]
            wrong = misspelt(str(finding.path[-1]), unknown)
            if wrong is not None:
                renamed[finding.path] = wrong
    return renamed


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _problem(document: Document, finding: Finding, rename: str | None) -> Problem:
    path = json_pointer([step if isinstance(step, int) else shorten(step, _STEP_CHARS_MAX) for step in finding.path])
    subject = f'"{path}"' if path else "The arguments object"
    received = finding.value if finding.value is MISSING else shorten(finding.value)
    places = list(finding.places)
    if finding.code == "missing_required":
        expected = document.describe_any(places) if places else None
        suggestion = f"Rename {literal(rename)} to {literal(finding.path[-1])}." if rename else None
        return Problem(finding.code, path, f"{subject} is required and missing.", expected, received, suggestion)
    if finding.code == "unexpected_property":
        expected = f"one of the properties: {listing(finding.known)}" if finding.known else None
        name = literal(finding.path[-1])
        suggestion = f"Rename {name} to {literal(rename)}." if rename else f"Leave {name} out."
        return Problem(finding.code, path, f"{subject} is not a known property.", expected, received, suggestion)
    if finding.code == "no_match" and len(places) > 1:
        several = finding.keyword == "several"
        verdict = "fits more than one of these forms and must fit only one" if several else "fits none of these forms"
        forms = listing([document.name_of(place) for place in places], _FORMS_MAX)
        return Problem(finding.code, path, f"{subject} {verdict}.", cut(f"one of: {forms}"), received)
    expected = document.describe_any(places)
    suggestion = advise(finding.code, finding.value, document, places)
    return Problem(finding.code, path, f"{subject} {_verdict(finding, expected)}.", expected, received, suggestion)


def _verdict(finding: Finding, expected: str) -> str:
    value, code = finding.value, finding.code
    if code == "wrong_type":
        got = literal(value) if kind_of(value) == "number" else with_article(kind_of(value))
        return f"must be {expected}, not {got}"
    if code == "not_in_enum":
        return f"must be {expected}"
    if code in ("too_long", "too_short"):
        held = cast("str | list[Any] | dict[str, Any]", value)
        unit = "character" if isinstance(held, str) else "property" if isinstance(held, dict) else "item"
        return f"is {code.replace('_', ' ')}: {plural(len(held), unit)}"
    return _VERDICTS[code]


_VERDICTS: dict[ProblemCode, str] = {
    "out_of_range": "is out of range",
    "invalid_format": "does not have the expected form",
    "not_unique": "has an item more than once",
    "not_allowed": "is not allowed to be like this",
    "no_match": "does not fit the schema",
}
