"""Reading one call: parse, repair, resolve, restore, validate. Whatever it holds, the answer is a value."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from callbox.calls import feedback
from callbox.calls.call import CallError, Repair, ToolCall
from callbox.calls.plain_values import check_plain
from callbox.calls.repair import read_text, repair, write_integers
from callbox.calls.strict_json import StrictJsonError, integral_floats_read
from callbox.calls.validation import explainer_of, tell
from callbox.calls.wording import listing
from callbox.ids import new_id
from callbox.limits import DEFAULT_LIMITS, Limits
from callbox.tools.tool import Tool
from callbox.values import JsonObject, JsonValue

_ID_CHARS_MAX = 40
"""OpenAI's limit on the id of a tool call, the tightest of the vendors'."""


def read_call(
    call: ToolCall,
    find: Callable[[str], Tool | None],
    names: Sequence[str],
    limits: Limits,
    restore: Callable[[Tool, JsonObject], JsonObject] | None = None,
) -> tuple[ToolCall, Tool | None]:
    """Bring one call to arguments that fit its tool's schema, or to the error that says what is wrong.

    Never raises for anything in the call. Reading a call that has been read gives the same call again.

    Args:
        call: As a dialect gave it: `arguments` is JSON text, or what a vendor's SDK made of it. A call that
            carries an error keeps it.
        find: The tool of a name.
        names: All names, for suggestions.
        limits: Size, depth and the like.
        restore: `Dialect.restore`: arguments in the vendor's terms, back in the original schema's.

    Returns:
        The call and, where its name is known, its tool. Without an error, `arguments` is the object in the
        original schema's terms, `raw` the text that the model wrote, and `repairs` what was corrected. With
        one, `arguments` stays what it was.
    """
    tool = find(call.name) if isinstance(call.name, str) else None
    if call.error is not None:
        return call, tool
    given = call.arguments
    value: JsonValue
    repairs = call.repairs
    try:
        if type(given) is str:
            raw: str | None = given
            floats = integral_floats_read()
            value, done = read_text(given, limits)
            has_integral_floats = integral_floats_read() != floats + 1
            if done:
                repairs += done
        else:
            raw = call.raw
            has_integral_floats = check_plain(given, limits)
            value = given
    except StrictJsonError as refused:
        if refused.kind != "empty":
            return _failed(call, _malformed(refused)), tool
        raw, value, has_integral_floats = given, None, False
    if tool is None:
        return _failed(call, feedback.unknown_tool(call.name, names)), None
    if value is None:
        value = {}
        if not tool.validator.is_valid(value):
            return _failed(call, _nothing_sent(tool)), tool
        repairs += (Repair("empty_means_no_arguments", ""),)
    if type(value) is dict:
        arguments = value if restore is None else restore(tool, value)
        if tool.validator.is_valid(arguments):
            if has_integral_floats:
                arguments, written = write_integers(explainer_of(tool), arguments)
                repairs += written
            return ToolCall(call.id, call.name, arguments, raw, repairs, None, call.vendor), tool
        value = arguments
    return _read_wrong(call, tool, value, raw, repairs, limits, restore), tool


def _read_wrong(
    call: ToolCall,
    tool: Tool,
    value: JsonValue,
    raw: str | None,
    repairs: tuple[Repair, ...],
    limits: Limits,
    restore: Callable[[Tool, JsonObject], JsonObject] | None,
) -> ToolCall:
    """The call repaired, or with all its problems."""

    def accept(candidate: JsonObject) -> JsonObject | None:
        restored = candidate if restore is None else restore(tool, candidate)
        return restored if tool.validator.is_valid(restored) else None

    explainer = explainer_of(tool)
    try:
        outcome = repair(explainer, tool.name, value, limits, accept)
        if outcome.arguments is None:
            found = tell(explainer.document, outcome.findings, outcome.value, limits)
            return _failed(call, feedback.invalid_arguments(found.told, found.more))
        # What came out of strings was within the limits by itself; see that it still is where it stands now.
        arguments, done = outcome.arguments, outcome.repairs
        if check_plain(arguments, limits):
            arguments, written = write_integers(explainer, arguments)
            done += written
        return ToolCall(call.id, call.name, arguments, raw, (*repairs, *done), None, call.vendor)
    except StrictJsonError as refused:
        return _failed(call, _malformed(refused))


def _failed(call: ToolCall, error: CallError) -> ToolCall:
    return replace(call, error=error)


def _malformed(refused: StrictJsonError) -> CallError:
    return feedback.malformed_json(refused.message, suggestion=refused.suggestion)


def _nothing_sent(tool: Tool) -> CallError:
    required: list[str] = tool.parameters.get("required", [])
    needs = f" with {listing(required)}" if required else ""
    return feedback.malformed_json("The arguments are empty.", suggestion=f"Send a JSON object{needs}.")


def deduplicate_ids(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """See that no two calls of one turn share an id.

    Vendors refuse two results for one id, and what was done is recorded by id.

    - The same call again (id, name and arguments) is a stream that was replayed: it is left out, and so runs once.
    - Another call under the same id is what servers send that number their calls badly. It is a call of its own, and
      gets an id of its own, derived from the first so that the same reply always gives the same ids; the repair
      ``"duplicate_id"`` says so. **The history must hold the calls as returned here**, not as they came: then each id
      has one call and one result in it, which all vendors accept.
    - A call without an id gets a new one.

    Applying it twice changes nothing.
    """
    if len(calls) == 1 and isinstance(calls[0].id, str) and calls[0].id:
        return list(calls)
    return unique_calls(calls)[0]


def unique_calls(calls: Sequence[ToolCall]) -> tuple[list[ToolCall], list[int]]:
    """`deduplicate_ids`, and for each of the given calls the place of the one that is kept for it."""
    taken = {call.id for call in calls if isinstance(call.id, str) and call.id}
    if len(taken) == len(calls):
        return list(calls), list(range(len(calls)))
    kept: list[ToolCall] = []
    places: list[int] = []
    # By id, and then by what is asked for: a reply of thousands of calls under one id must not be compared in pairs.
    known: dict[str, dict[tuple[object, object], int]] = {}
    for call in calls:
        if not isinstance(call.id, str) or not call.id:
            places.append(len(kept))
            kept.append(replace(call, id=new_id("call")))
            continue
        before = known.setdefault(call.id, {})
        asked = (call.name, _text_of(call.arguments))
        if asked in before:
            places.append(before[asked])
            continue
        before[asked] = len(kept)
        places.append(len(kept))
        if len(before) == 1:
            kept.append(call)
            continue
        fresh = _derived_id(call.id, len(before), taken)
        taken.add(fresh)
        kept.append(replace(call, id=fresh, repairs=(*call.repairs, Repair("duplicate_id", ""))))
    return kept, places


def _derived_id(call_id: str, number: int, taken: set[str]) -> str:
    while True:
        ending = f"-{number}"
        # An id that was longer than the tightest vendor's limit comes from a vendor without it.
        room = max(_ID_CHARS_MAX, len(call_id)) - len(ending)
        fresh = call_id[:room] + ending
        if fresh not in taken:
            return fresh
        number += 1


def _text_of(arguments: Any) -> object:
    """What arguments can be compared by; Python's own ``==`` holds 1 and True for the same."""
    if isinstance(arguments, str):
        return arguments
    try:
        check_plain(arguments, DEFAULT_LIMITS)
    except StrictJsonError:
        return id(arguments)
    return "\0" + json.dumps(arguments, sort_keys=True)
