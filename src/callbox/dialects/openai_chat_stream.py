"""Reading a streamed Chat Completions reply, chunk by chunk."""

from __future__ import annotations

from typing import Any, cast

from callbox.calls.streaming import OpenCall
from callbox.dialects.assembly import CallEvents
from callbox.dialects.history import arguments_text
from callbox.dialects.openai_chat_reply import (
    FINISH,
    KNOWN_FIELDS,
    NAME,
    REASONING_FIELDS,
    call_vendor,
    extra_fields,
    read_model,
    read_reply,
    thinking_text,
)
from callbox.dialects.wire import as_object, as_objects, as_text, plain
from callbox.messages import NO_USAGE, Finished, Message, ReasoningDelta, Reply, StreamEvent, TextDelta
from callbox.values import JsonObject


class OpenAIChatReader:
    """Reads one streamed reply.

    At its end it builds the message that a whole response would have held, and reads that: both read alike.
    """

    def __init__(self) -> None:
        self._calls = CallEvents(names_in_pieces=True)
        self._opaque: dict[Any, JsonObject] = {}
        self._order: list[int | JsonObject] = []
        # Texts grow in lists: adding strings up would copy a long answer once per chunk.
        self._content: list[tuple[JsonObject, list[str]]] = []
        self._reasoning: list[str] = []
        self._reasoning_field = ""
        self._message: JsonObject = {}
        self._choice: Any = None
        self._started = False
        self._finish_reason: Any = None
        self._usage: Any = None
        self._model: str | None = None
        self._closed = False

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """See `StreamReader.feed`."""
        body = as_object(plain(chunk))
        if self._closed or not body:
            return []
        self._model = self._model or read_model(body)
        self._usage = body.get("usage") or self._usage
        events: list[StreamEvent] = []
        for choice in as_objects(body.get("choices")):
            if not self._started and choice:
                self._started = True
                self._choice = choice.get("index")
            if choice and choice.get("index") == self._choice:
                # Some servers send usage beside the choice, some a last delta under the name of "message".
                events += self._delta(as_object(choice.get("delta") or choice.get("message")))
                self._usage = choice.get("usage") or self._usage
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return events

    def finish(self) -> list[StreamEvent]:
        """See `StreamReader.finish`."""
        if self._closed:
            return []
        self._closed = True
        finish = FINISH.get(as_text(self._finish_reason))
        events = self._calls.close(complete=finish in ("stop", "calls"))
        if not self._started:
            return [*events, Finished(Reply(Message("assistant", ()), "unknown", NO_USAGE, self._model))]
        calls = self._calls.calls
        items = [_whole(calls[entry]) if isinstance(entry, int) else entry for entry in self._order]
        content = [{**part, "text": "".join(texts)} if texts else part for part, texts in self._content]
        message = {**self._message, "content": content, "tool_calls": items}
        if self._reasoning:
            message[self._reasoning_field] = "".join(self._reasoning)
        return [*events, Finished(read_reply(message, self._finish_reason, self._usage, self._model))]

    def _delta(self, delta: JsonObject) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for name in REASONING_FIELDS:
            text = delta.get(name)
            if isinstance(text, str) and text and self._reasoning_field in ("", name):
                self._reasoning_field = name
                self._reasoning.append(text)
                events.append(ReasoningDelta(text))
        content = delta.get("content")
        if isinstance(content, str) and content:
            self._add_content({"type": "text", "text": content})
            events.append(TextDelta(content))
        for part in as_objects(content):
            self._add_content(part)
            if part.get("type") == "thinking":
                events.append(ReasoningDelta(thinking_text(part)))
            elif part.get("type") == "text":
                events.append(TextDelta(as_text(part.get("text"))))
        legacy = as_object(delta.get("function_call"))
        if legacy:
            events += self._piece("function_call", {"function": legacy, "legacy": True})
        for piece in as_objects(delta.get("tool_calls")):
            events += self._piece(piece.get("index"), piece)
        self._message = _merge(self._message, extra_fields(delta, KNOWN_FIELDS))
        return events

    def _piece(self, key: Any, piece: JsonObject) -> list[StreamEvent]:
        key = key if isinstance(key, (int, str)) else None
        function = as_object(piece.get("function"))
        if not function and (key in self._opaque or piece.get("type", "function") not in ("function", None)):
            # A custom tool's call, or a kind that is not known here: kept, not read.
            if key not in self._opaque:
                self._order.append(self._opaque.setdefault(key, {}))
            known = self._opaque[key]
            known.update(_merge(known, {name: value for name, value in piece.items() if name != "index"}))
            return []
        known_calls = len(self._calls.calls)
        events = self._calls.piece(
            key,
            as_text(piece.get("id")),
            as_text(function.get("name")),
            arguments_text(function.get("arguments")),
            call_vendor(piece),
        )
        self._order.extend(range(known_calls, len(self._calls.calls)))
        return events

    def _add_content(self, part: JsonObject) -> None:
        texts = [part["text"]] if part.get("type") == "text" and isinstance(part.get("text"), str) else []
        last, last_texts = self._content[-1] if self._content else ({}, [])
        if texts and last_texts:
            last_texts += texts
        elif part.get("type") == last.get("type") == "thinking":
            self._content[-1] = (_merge(last, part), [])
        else:
            self._content.append((part, texts))


def _whole(call: OpenCall) -> JsonObject:
    function = {"name": call.name, "arguments": call.text}
    return {"id": call.id, "function": function, **as_object(call.vendor.get(NAME))}


def _merge(old: JsonObject, new: JsonObject) -> JsonObject:
    """What two pieces of a streamed object make: texts and lists grow, objects merge, others are replaced."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if key in ("id", "type", "name", "role") or value is None:
            merged[key] = value or before
        elif isinstance(before, str) and isinstance(value, str):
            merged[key] = before + value
        elif isinstance(before, list) and isinstance(value, list):
            merged[key] = [*cast("list[Any]", before), *cast("list[Any]", value)]
        elif isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merge(as_object(before), as_object(value))
        else:
            merged[key] = value
    return merged
