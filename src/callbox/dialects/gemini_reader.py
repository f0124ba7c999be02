"""Reading Gemini generateContent replies, whole or streamed.

Wire format: https://ai.google.dev/api/generate-content and https://ai.google.dev/api/caching#Part. Keys are
taken in camelCase, as REST has them, and in snake_case, as the Python SDK takes them.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from callbox.calls.call import NO_VENDOR, ToolCall
from callbox.dialects.gemini_arguments import PartialArguments
from callbox.dialects.unreadable import cut_off, read_object
from callbox.dialects.wire import as_count, as_list, as_object, as_text, plain
from callbox.ids import new_id
from callbox.messages import (
    NO_USAGE,
    CallDelta,
    CallReady,
    CallStarted,
    Finished,
    FinishReason,
    Media,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningDelta,
    Reply,
    StreamEvent,
    Text,
    TextDelta,
    Usage,
)
from callbox.values import JsonObject

NAME = "gemini"

MADE_ID = "id"
"""In a call's or a result's `vendor`, with None: its id is ours. Older versions of the API know no ids."""

_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "paused",
    **dict.fromkeys(
        ["SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"],
        "filter",
    ),
    **dict.fromkeys(["ESCALATION", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"], "filter"),
}
_FAILED = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"})
_STANDARD = str.maketrans("-_", "+/")
_SNAKE = re.compile(r"_([a-z0-9])")


def camel(found: Any) -> JsonObject:
    """An object of the API with its own keys in camelCase; what is inside is left alone."""
    found = as_object(found)
    if not any("_" in key for key in found):
        return found
    return {_SNAKE.sub(lambda match: match[1].upper(), key): value for key, value in found.items()}


def part_object(item: Any) -> JsonObject:
    """A part with keys in camelCase and bytes in one spelling: REST and SDK write base64 in two alphabets."""
    part = camel(plain(item))
    if isinstance(part.get("thoughtSignature"), str):
        part = {**part, "thoughtSignature": part["thoughtSignature"].translate(_STANDARD)}
    return part


def own_name(name: str) -> str:
    """The tool's own name; see `vendor_name`."""
    return name[1:] if re.match(r"_+[0-9-]", name) else name


def vendor_name(name: str) -> str:
    """A name as Gemini takes it: beginning with a letter or an underscore.

    One underscore more goes before a digit or a dash, also where there are underscores already: so no two
    names become one, and the way back needs no list of tools.
    """
    return f"_{name}" if re.match(r"_*[0-9-]", name) else name


def _besides(part: JsonObject, *known: str) -> JsonObject:
    return {key: value for key, value in part.items() if key not in known and value is not None}


def read_part(part: JsonObject) -> Part | None:
    """One part, as `part_object` gives it; None for a text that says nothing."""
    if isinstance(part.get("functionCall"), dict):
        return read_call(part)
    if isinstance(text := part.get("text"), str):
        besides = _besides(part, "text", "thought")
        if part.get("thought") is True:
            return Reasoning(text, {NAME: besides}) if text or besides else None
        # Signatures come on empty texts, too, and must go back in the very part that they came in.
        return Text(text, {NAME: besides} if besides else NO_VENDOR) if text or besides else None
    if len(part) == 1 and (media := _read_media(part)) is not None:
        return media
    return Opaque(NAME, part) if part else None


def _read_media(part: JsonObject) -> Media | None:
    inline, file = camel(part.get("inlineData")), camel(part.get("fileData"))
    if inline.keys() == {"mimeType", "data"}:
        return Media(as_text(inline["mimeType"]), data=as_text(inline["data"]).translate(_STANDARD))
    if file.keys() == {"mimeType", "fileUri"}:
        return Media(as_text(file["mimeType"]), url=as_text(file["fileUri"]))
    return None


def read_call(part: JsonObject, *, made_id: Callable[[], str] = lambda: new_id("call")) -> ToolCall:
    """A part with a function call."""
    found = camel(part["functionCall"])
    vendor = _besides(part, "functionCall")
    call_id = as_text(found.get("id"))
    if not call_id:
        call_id = made_id()
        vendor[MADE_ID] = None
    return ToolCall(
        call_id,
        own_name(as_text(found.get("name"))),
        read_object(found.get("args")),
        vendor={NAME: vendor} if vendor else NO_VENDOR,
    )


def read_usage(found: Any) -> Usage:
    """Gemini counts thoughts beside the candidates' tokens; ours include them."""
    counts = {key: as_count(value) for key, value in camel(found).items()}
    if not counts:
        return NO_USAGE
    thoughts = counts.get("thoughtsTokenCount", 0)
    return Usage(
        input_tokens=counts.get("promptTokenCount", 0) + counts.get("toolUsePromptTokenCount", 0),
        output_tokens=counts.get("candidatesTokenCount", 0) + thoughts,
        cached_tokens=counts.get("cachedContentTokenCount", 0),
        reasoning_tokens=thoughts,
        requests=1,
    )


class _Answer:
    """What a response says besides its parts; the latest chunk of a stream that says it wins."""

    def __init__(self) -> None:
        self._reason = ""
        self._explanation = ""
        self._blocked = ""
        self._usage: Any = None
        self._model: str | None = None

    def take(self, response: Any) -> list[JsonObject]:
        """Note a whole response or a chunk; return the parts of its first candidate."""
        body = camel(plain(response))
        self._usage = body.get("usageMetadata") or self._usage
        self._model = as_text(body.get("modelVersion")) or self._model
        feedback = camel(body.get("promptFeedback"))
        reason = as_text(feedback.get("blockReason"))
        self._blocked = as_text(feedback.get("blockReasonMessage")) or reason or self._blocked
        candidates = as_list(body.get("candidates"))
        candidate = camel(candidates[0]) if candidates else {}
        self._reason = as_text(candidate.get("finishReason")) or self._reason
        self._explanation = as_text(candidate.get("finishMessage")) or self._explanation
        content = camel(candidate.get("content"))
        return [part_object(item) for item in as_list(content.get("parts"))]

    def reply(self, parts: list[Part]) -> Reply:
        """All that was noted, with the parts."""
        message = Message("assistant", tuple(parts))
        finish = _FINISH.get(self._reason, "unknown")
        refusal = None
        if self._blocked and not parts:
            finish, refusal = "filter", self._blocked
        elif finish == "filter" or self._reason in _FAILED:
            # A call that the vendor itself could not read never reaches us; its message is all there is.
            refusal = ": ".join(text for text in (self._reason, self._explanation) if text)
        elif finish == "stop" and message.calls:
            finish = "calls"
        return Reply(message, finish, read_usage(self._usage), self._model, refusal)


def read_reply(response: Any) -> Reply:
    """A whole GenerateContentResponse; anything else gives an empty reply. The first candidate is read."""
    answer = _Answer()
    parts = [part for found in answer.take(response) if (part := read_part(found)) is not None]
    return answer.reply(parts)


class GeminiReader:
    """Reads the chunks of one streamed response; see `dialect.StreamReader`.

    Every chunk is a response of its own with the next parts. Calls come whole, or, on Vertex AI with
    ``streamFunctionCallArguments``, in pieces that name the place of each value.
    """

    def __init__(self) -> None:
        self._answer = _Answer()
        self._parts: list[Part] = []
        self._text: list[str] = []
        self._thinking = False
        self._open: tuple[JsonObject, ToolCall, PartialArguments] | None = None
        self._calls = 0
        self._finished: Finished | None = None

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """Take one chunk."""
        if self._finished is not None:
            return []
        events: list[StreamEvent] = []
        for part in self._answer.take(chunk):
            if isinstance(part.get("functionCall"), dict):
                self._end_text()
                events += self._function_call(part, camel(part["functionCall"]))
            elif isinstance(text := part.get("text"), str) and not _besides(part, "text", "thought"):
                events += self._more_text(text, thinking=part.get("thought") is True)
            elif (whole := read_part(part)) is not None:
                # A part with a signature stays by itself: the vendor forbids to join it with others.
                self._end_text()
                self._parts.append(whole)
                if isinstance(whole, (Text, Reasoning)) and whole.text:
                    events.append((TextDelta if isinstance(whole, Text) else ReasoningDelta)(whole.text))
        return events

    def finish(self) -> list[StreamEvent]:
        """The stream ended; see `dialect.StreamReader`."""
        if self._finished is not None:
            return []
        self._end_text()
        if self._open is not None:
            self._parts.append(cut_off(self._whole()))
        self._finished = Finished(self._answer.reply(self._parts))
        return [self._finished]

    def _more_text(self, text: str, *, thinking: bool) -> list[StreamEvent]:
        if not text:
            return []
        if self._text and thinking != self._thinking:
            self._end_text()
        self._thinking = thinking
        self._text.append(text)
        return [ReasoningDelta(text) if thinking else TextDelta(text)]

    def _end_text(self) -> None:
        if self._text:
            text = "".join(self._text)
            self._parts.append(Reasoning(text, {NAME: {}}) if self._thinking else Text(text))
            self._text = []

    def _function_call(self, part: JsonObject, found: JsonObject) -> list[StreamEvent]:
        if self._continues(found):
            return self._continue(part, found)
        events: list[StreamEvent] = []
        if self._open is not None:
            # The next call begins without a word that this one is over.
            events += self._close()
        pieces, goes_on = found.get("partialArgs"), found.get("willContinue") is True
        if not found.get("name") and not found.get("args") and not pieces:
            # After the last piece the vendor sends one more, which is empty.
            return events
        call = read_call(part)
        events.append(CallStarted(self._calls, call.id, call.name))
        if pieces is None and not goes_on:
            return events + self._ready(call)
        arguments = PartialArguments(call.arguments)
        arguments.take(pieces)
        self._open = (part, call, arguments)
        return events if goes_on else events + self._close()

    def _continues(self, found: JsonObject) -> bool:
        if self._open is None:
            return False
        _, call, _ = self._open
        call_id, name = as_text(found.get("id")), as_text(found.get("name"))
        if call_id and call_id != call.id:
            return False
        return not name or (
            own_name(name) == call.name and found.get("args") is None and bool(found.get("partialArgs"))
        )

    def _continue(self, part: JsonObject, found: JsonObject) -> list[StreamEvent]:
        assert self._open is not None
        before, call, arguments = self._open
        arguments.take(found.get("partialArgs"))
        self._open = ({**before, **_besides(part, "functionCall")}, call, arguments)
        return [] if found.get("willContinue") is True else self._close()

    def _close(self) -> list[StreamEvent]:
        assert self._open is not None
        whole = self._whole()
        if not self._open[2].sound:
            whole = cut_off(whole)
        self._open = None
        return self._ready(whole)

    def _whole(self) -> ToolCall:
        assert self._open is not None
        part, call, arguments = self._open
        # Signatures may come with any piece.
        again = read_call(part, made_id=lambda: call.id)
        return ToolCall(call.id, call.name, arguments.value(), vendor=again.vendor)

    def _ready(self, call: ToolCall) -> list[StreamEvent]:
        index = self._calls
        self._calls += 1
        self._parts.append(call)
        try:
            text = json.dumps(call.arguments, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            return []
        delta = CallDelta(index, text)
        return [delta] if call.error is not None else [delta, CallReady(index, call)]
