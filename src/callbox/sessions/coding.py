"""Entries as JSON and back: compact, because a journal keeps them for ever; and tolerant of nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, cast

from callbox.calls.call import MISSING, NO_VENDOR, CallError, Problem, Repair, ToolCall, ToolResult
from callbox.calls.plain_values import check_plain
from callbox.calls.strict_json import StrictJsonError
from callbox.dialects.history import arguments_text
from callbox.errors import JournalDamaged
from callbox.limits import DEFAULT_LIMITS
from callbox.messages import Media, Message, Opaque, Part, Reasoning, Text, Usage
from callbox.sessions.entries import FORMAT, KINDS, Answered, Began, Entry, Replied
from callbox.values import JsonObject

_VERSION = "format"
"""Of the entry; a name that no entry uses: ``"v"`` is what only a vendor understands."""

_DUMP = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def encode(entry: Entry) -> bytes:
    """One entry as JSON text, UTF-8; lone surrogates, which JSON can carry and UTF-8 cannot, as escapes."""
    body = entry_json(entry)
    if FORMAT != 1:
        body[_VERSION] = FORMAT
    text = _DUMP(body)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode()


def decode(kind: str, data: bytes) -> Entry:
    """Read an entry.

    Raises:
        JournalDamaged: It is of a kind or a version that this callbox does not know, or not what `encode` writes.
    """
    known = KINDS.get(kind)
    if known is None:
        raise JournalDamaged(f"The journal has an entry of kind {kind!r}.", hint="A newer callbox wrote it: upgrade.")
    try:
        body = _loads(data)
        if body.pop(_VERSION, 1) > FORMAT:
            raise JournalDamaged(f"The journal has a newer {kind!r}.", hint="A newer callbox wrote it: upgrade.")
        return entry_from(known, body)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JournalDamaged(f"An entry of kind {kind!r} cannot be read ({type(error).__name__}).") from error


def _loads(text: bytes | str) -> Any:
    try:
        return _fast_loads()(text)
    except (ValueError, TypeError):  # lone surrogates, and nesting that only json.loads takes
        return json.loads(text)


@cache
def _fast_loads() -> Callable[[bytes | str], Any]:
    from pydantic_core import from_json  # reads what json.loads reads, in a third of the time

    return from_json


def entry_json(entry: Entry) -> dict[str, Any]:
    """The entry's JSON object."""
    match entry:
        case Began():
            return _with({"run": entry.run, "prompt": [_message(each) for each in entry.prompt]}, key=entry.prompt_key)
        case Replied():
            usage = entry.usage
            counts = [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens]
            said = None if entry.message is None else _message(entry.message)
            return {"m": said, "opens": entry.turn or entry.opens, "u": [*counts, usage.requests, usage.estimated]}
        case Answered():
            return _result(entry.result)
        case _:
            said = {each.name: (getattr(entry, each.name), each.default) for each in fields(entry)}
            return {name: value for name, (value, default) in said.items() if value != default}


def entry_from(kind: type[Entry], body: dict[str, Any]) -> Entry:
    """The entry of its JSON object. Raises whatever reading wrong JSON raises."""
    if kind is Began:
        prompt = tuple(_message_from(each) for each in body["prompt"])
        return Began(run=body["run"], prompt=prompt, prompt_key=body.get("key"))
    if kind is Replied:
        said = body["m"]
        message = None if said is None else _message_from(said)
        opens = body["opens"]
        turn = opens if isinstance(opens, str) else ""
        return Replied(message=message, opens=bool(opens), turn=turn, usage=Usage(*body["u"]))
    if kind is Answered:
        return Answered(result=_result_from(body))
    make = cast("Callable[..., Entry]", kind)
    return make(**body)


def _with(body: dict[str, Any], **optional: Any) -> dict[str, Any]:
    body.update({name: value for name, value in optional.items() if value is not None})
    return body


def keepable(call: ToolCall) -> ToolCall:
    """A call that could not be read, with arguments that can be written down: as text, if they are no JSON."""
    if call.error is None or isinstance(call.arguments, str):
        return call
    try:
        check_plain(call.arguments, DEFAULT_LIMITS)
    except StrictJsonError:
        return replace(call, arguments=arguments_text(call.arguments))
    return call


_ROLES = {"system": "s", "user": "u", "assistant": "a", "tool": "t"}
_LONG_ROLES: dict[str, Any] = {short: role for role, short in _ROLES.items()}


def _message(message: Message) -> list[Any]:
    return [_ROLES[message.role], *[_part(part) for part in message.content]]


def _message_from(value: list[Any]) -> Message:
    return Message(_LONG_ROLES[value[0]], tuple([_part_from(part) for part in value[1:]]))


def _part(part: Part) -> Any:
    match part:
        case Text(text, vendor):
            return {"text": text, "v": dict(vendor)} if vendor else text
        case ToolCall():
            return _call(part)
        case ToolResult():
            return {"result": _result(part)}
        case Reasoning(text, vendor):
            return _with({"think": text}, v=dict(vendor) or None)
        case Media(mime_type, data, url):
            return _with({"mime": mime_type}, data=data, url=url)
        case Opaque(dialect, content):
            return {"dialect": dialect, "data": content}


def _part_from(value: Any) -> Part:
    if isinstance(value, str):
        return Text(value)
    part: dict[str, Any] = value
    if "call" in part:
        return _call_from(part)
    if "text" in part:
        return Text(part["text"], part.get("v", NO_VENDOR))
    if "result" in part:
        return _result_from(part["result"])
    if "think" in part:
        return Reasoning(part["think"], part.get("v", NO_VENDOR))
    if "mime" in part:
        return Media(part["mime"], part.get("data"), part.get("url"))
    return Opaque(part["dialect"], part["data"])


def _call(call: ToolCall) -> dict[str, Any]:
    body: dict[str, Any] = {"call": call.id, "name": call.name}
    # What the model wrote, as it wrote it; what was read from that again only where reading it again would differ.
    if call.raw is not None:
        body["raw"] = call.raw
    if call.raw is None or not _reads_as(call.raw, call.arguments):
        body["args"] = call.arguments
    repairs = [[repair.kind, repair.path] for repair in call.repairs]
    error = None if call.error is None else _error(call.error)
    return _with(body, fixed=repairs or None, error=error, v=dict(call.vendor) or None)


def _call_from(body: Mapping[str, Any]) -> ToolCall:
    raw = body.get("raw")
    return ToolCall(
        body["call"],
        body["name"],
        body["args"] if "args" in body else _loads(cast("str", raw)),
        raw,
        tuple([Repair(*each) for each in body.get("fixed", ())]),
        _error_from(body["error"]) if "error" in body else None,
        body.get("v", NO_VENDOR),
    )


def _reads_as(raw: str, arguments: Any) -> bool:
    try:
        return _DUMP(_loads(raw)) == _DUMP(arguments)
    except (ValueError, RecursionError):
        return False


def _result(result: ToolResult) -> dict[str, Any]:
    body: dict[str, Any] = {"id": result.call_id, "name": result.name}
    if result.error is None or result.error.render() != result.content:
        body["text"] = result.content
    error = None if result.error is None else _error(result.error)
    return _with(
        body,
        error=error,
        ms=round(result.duration_ms, 1) or None,
        runs=None if result.attempts == 1 else result.attempts,
        cut=result.truncated or None,
        v=dict(result.vendor) or None,
    )


def _result_from(body: Mapping[str, Any]) -> ToolResult:
    error = _error_from(body["error"]) if "error" in body else None
    content = body["text"] if "text" in body or error is None else error.render()
    return ToolResult(
        body["id"],
        body["name"],
        content,
        error,
        None,
        body.get("ms", 0.0),
        body.get("runs", 1),
        body.get("cut", False),
        body.get("v", NO_VENDOR),
    )


def _error(error: CallError) -> JsonObject:
    body: dict[str, Any] = _present(error, ("code", "message", "path", "expected", "received", "suggestion"))
    if error.problems:
        names = ("code", "path", "message", "expected", "received", "suggestion")
        body["problems"] = [_present(problem, names) for problem in error.problems]
    if error.retryable:
        body["retryable"] = True
    return body


def _error_from(body: dict[str, Any]) -> CallError:
    problems = tuple([Problem(**each) for each in body.get("problems", ())])
    make = cast("Callable[..., CallError]", CallError)
    return make(**{**body, "problems": problems})


def _present(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in names if getattr(value, name) is not MISSING}
    return {
        name: each for name, each in found.items() if each is not MISSING and (each is not None or name == "received")
    }
