"""Repairs that lose nothing and guess nothing, kept only where the schema then accepts what it refused.

Never: completing JSON that was cut off, changing the type of a scalar, renaming, dropping what is not
expected. Those change what the model said; it is told, and says it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from callbox.calls.call import MISSING, Repair
from callbox.calls.explanation import FINDINGS_MAX, Explainer, Finding, Path
from callbox.calls.shapes import items, members
from callbox.calls.strict_json import StrictJsonError, parse
from callbox.limits import Limits
from callbox.values import JsonObject, JsonValue, json_pointer

_FENCE = re.compile(r"\s*```[A-Za-z0-9]{0,10}\s(.*)```\s*", re.DOTALL)
_WRAPPERS = ("arguments", "parameters", "args", "params", "input", "kwargs")
_NAMES = ("name", "tool", "tool_name", "function")
_ENCODINGS_MAX = 3
_ROUNDS_MAX = 4
_FLOATS_MAX = 10_000


# Text


def read_text(text: str, limits: Limits) -> tuple[JsonValue, tuple[Repair, ...]]:
    """Parse arguments, out of a code fence if they stand in one, and again if they are JSON in a string.

    Raises:
        StrictJsonError: The text is refused.
    """
    value, repairs = _unfenced(text, limits)
    if isinstance(value, str):
        return _decoded(value, limits, repairs)
    return value, repairs


def _unfenced(text: str, limits: Limits) -> tuple[JsonValue, tuple[Repair, ...]]:
    try:
        return parse(text, limits), ()
    except StrictJsonError:
        found = _FENCE.fullmatch(text) if len(text) <= limits.arguments_bytes_max else None
        if found is None:
            raise
    return parse(found[1], limits), (Repair("code_fence", ""),)


def _decoded(text: str, limits: Limits, repairs: tuple[Repair, ...]) -> tuple[JsonValue, tuple[Repair, ...]]:
    """An object that was encoded more than once; the string itself where there is none in it."""
    value: JsonValue = text
    for _ in range(_ENCODINGS_MAX):
        try:
            value, more = _unfenced(value, limits)
        except StrictJsonError:
            break
        repairs = (*repairs, *more, Repair("json_in_string", ""))
        if isinstance(value, dict):
            return value, repairs
        if not isinstance(value, str):
            break
    return text, repairs[:0]


# The arguments object


Accept: TypeAlias = Callable[[JsonObject], JsonObject | None]
"""Arguments in the tool's own terms if its schema accepts them, else None."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of trying.

    Attributes:
        arguments: What the judge accepted; None if something remains that only the model can put right.
        repairs: What was done to get there.
        value: The value as it was sent, with what could be repaired.
        findings: What remains to be said about it; not looked for when `arguments` were accepted.
    """

    arguments: JsonObject | None
    repairs: tuple[Repair, ...]
    value: JsonValue
    findings: list[Finding]


def repair(explainer: Explainer, name: str, value: JsonValue, limits: Limits, accept: Accept) -> Outcome:
    """Try all repairs, guided by what the schema refuses.

    Args:
        explainer: Of the tool's schema.
        name: The tool's name.
        value: What the schema refuses.
        limits: For JSON inside of strings.
        accept: The judge.
    """
    best: Outcome | None = None
    for candidate, unwrapped in _roots(explainer, name, value):
        accepted = accept(candidate) if unwrapped else None
        if accepted is not None:
            return Outcome(accepted, unwrapped, candidate, [])
        inside = _repair_inside(explainer, candidate, limits)
        if inside.repairs and (accepted := accept(cast("JsonObject", inside.value))) is not None:
            return Outcome(accepted, (*unwrapped, *inside.repairs), inside.value, [])
        best = best or (None if unwrapped else inside)
    return best or Outcome(None, (), value, explainer.explain(value))


def _roots(explainer: Explainer, name: str, value: JsonValue) -> Iterator[tuple[JsonObject, tuple[Repair, ...]]]:
    if isinstance(value, list):
        # Arguments are one object, so a list of one object can mean nothing else; two would be two calls.
        if len(value) == 1 and isinstance(value[0], dict):
            yield value[0], (Repair("list_of_one", ""),)
        return
    if not isinstance(value, dict):
        return
    yield value, ()
    known = explainer.document.shape(explainer.document.root).properties
    for wrapper in _WRAPPERS:
        inside = value.get(wrapper)
        if isinstance(inside, dict) and wrapper not in known:
            others = [key for key in value if key != wrapper]
            # The whole call as its own arguments; anything else beside the wrapper would be lost.
            if all(key in _NAMES and key not in known and value[key] == name for key in others):
                yield inside, (Repair("wrapped_arguments", json_pointer([wrapper])),)


# Inside of it


@dataclass(frozen=True, slots=True)
class _Change:
    path: Path
    kind: str
    value: Any  # MISSING: leave it out


def _repair_inside(explainer: Explainer, value: JsonObject, limits: Limits) -> Outcome:
    repairs: tuple[Repair, ...] = ()
    findings = explainer.explain(value)
    for _ in range(_ROUNDS_MAX):
        # By path, because one value can be refused by several schemas.
        proposed = {
            change.path: change for finding in findings if (change := _change(explainer, finding, limits)) is not None
        }
        changes = list(proposed.values())
        if not changes:
            break
        changed = _apply(value, changes)
        after = explainer.explain(changed)
        blamed = {finding.path[:length] for finding in after for length in range(len(finding.path) + 1)}
        kept = [change for change in changes if change.path not in blamed]
        if len(kept) < len(changes):
            changed = _apply(value, kept)
            after = explainer.explain(changed)
        if not kept or (len(after) > len(findings) - len(kept) and len(findings) < FINDINGS_MAX):
            break
        value, findings = changed, after
        repairs += tuple(Repair(change.kind, json_pointer(change.path)) for change in kept)
    return Outcome(None, repairs, value, findings)


def _change(explainer: Explainer, finding: Finding, limits: Limits) -> _Change | None:
    if finding.value is None and finding.code != "unexpected_property":
        # Where leaving it out is no better, it was required: the next look at the value says so.
        is_member = bool(finding.path) and isinstance(finding.path[-1], str)
        return _Change(finding.path, "null_means_omitted", MISSING) if is_member else None
    if finding.code != "wrong_type" or not isinstance(finding.value, str):
        return None
    if finding.value.lstrip()[:1] not in ("{", "[", "`"):
        return None
    wanted = frozenset[str]().union(*(explainer.document.kinds(place) for place in finding.places))
    if "string" in wanted or not wanted & {"object", "array"}:
        return None
    try:
        value, _ = _unfenced(finding.value, limits)
    except StrictJsonError:
        return None
    kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else None
    return _Change(finding.path, "json_in_string", value) if kind in wanted else None


def _apply(value: JsonObject, changes: Iterable[_Change]) -> JsonObject:
    """A copy with the changes made; containers that do not change are shared with the original."""
    copies: dict[Path, Any] = {(): dict(value)}
    for change in changes:
        here = copies[()]
        for length, step in enumerate(change.path[:-1], 1):
            path = change.path[:length]
            if path not in copies:
                inner = here[step]
                here[step] = copies[path] = inner.copy()
            here = copies[path]
        if change.value is MISSING:
            del here[change.path[-1]]
        else:
            here[change.path[-1]] = change.value
    return copies[()]


# Numbers


def write_integers(explainer: Explainer, value: JsonObject) -> tuple[JsonObject, tuple[Repair, ...]]:
    """Turn numbers like ``3.0`` into ``3`` where the schema wants an integer: to JSON Schema they are one.

    Some vendors keep all numbers as floats, and a function that is given 3.0 for an `int` fails in surprising
    places. The engine says where: a fraction put in the number's place is refused there, and only there, as
    no integer.
    """
    floats = dict(_integral_floats(value))
    if not floats:
        return value, ()
    probe = _apply(value, [_Change(path, "", 0.5) for path in floats])
    paths = dict.fromkeys(
        finding.path
        for finding in explainer.explain(probe, _FLOATS_MAX)
        if finding.code == "wrong_type"
        and finding.path in floats
        and any("integer" in explainer.document.kinds(place) for place in finding.places)
    )
    changed = _apply(value, [_Change(path, "", int(floats[path])) for path in paths])
    return changed, tuple(Repair("integer_as_float", json_pointer(path)) for path in paths)


def _integral_floats(value: JsonObject) -> Iterator[tuple[Path, float]]:
    waiting: list[tuple[Path, object]] = [((), value)]
    count = 0
    while waiting:
        path, held = waiting.pop()
        parts = members(held).items() if isinstance(held, dict) else enumerate(items(held))
        for step, item in parts:
            if isinstance(item, float) and item.is_integer():
                yield (*path, step), item
                count += 1
                if count == _FLOATS_MAX:
                    return
            elif isinstance(item, (dict, list)):
                waiting.append(((*path, step), cast("object", item)))
