"""Reading Anthropic Messages replies, whole or streamed.

Wire format: https://platform.claude.com/docs/en/api/messages and .../build-with-claude/streaming.
"""

import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from callbox.calls.call import NO_VENDOR, ToolCall
from callbox.dialects.assembly import CallEvents
from callbox.dialects.history import arguments_text
from callbox.dialects.unreadable import cut_off, read_object
from callbox.dialects.wire import as_count, as_list, as_object, as_text, plain
from callbox.ids import new_id
from callbox.messages import (
    NO_USAGE,
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

NAME = "anthropic"

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "paused",
    "refusal": "refusal",
}


def kept(block: JsonObject, *known: str) -> dict[str, Any]:
    """What a block says besides the `known` keys, to be handed back unchanged, under our name."""
    rest = {key: value for key, value in block.items() if key not in known and value is not None}
    return {NAME: rest} if rest else {}


def read_part(block: JsonObject) -> Part | None:
    """One content block as a part; None for an empty text, which the API itself would refuse."""
    match block.get("type"):
        case "text":
            vendor = kept(block, "type", "text")
            text = as_text(block.get("text"))
            return Text(text, vendor or NO_VENDOR) if text or vendor else None
        case "thinking":
            return Reasoning(as_text(block.get("thinking")), {NAME: _without(block, "thinking")})
        case "redacted_thinking":
            return Reasoning("", {NAME: dict(block)})
        case "tool_use":
            return _read_call(block)
        case "image" | "document":
            return _read_media(block) or Opaque(NAME, block)
        case _:
            return Opaque(NAME, block)


def _without(block: JsonObject, key: str) -> JsonObject:
    return {name: value for name, value in block.items() if name != key and value is not None}


def _read_call(block: JsonObject) -> ToolCall:
    arguments = read_object(block.get("input"))
    vendor = kept(block, "type", "id", "name", "input")
    return ToolCall(
        as_text(block.get("id")) or new_id("call"),
        as_text(block.get("name")),
        arguments,
        vendor=vendor or NO_VENDOR,
    )


def _read_media(block: JsonObject) -> Media | None:
    """An image or a document that `Media` can say whole; else None, and the block stays as it is."""
    source = as_object(block.get("source"))
    kind, mime = source.get("type"), as_text(source.get("media_type"))
    if block.keys() != {"type", "source"}:
        return None
    if kind == "base64" and source.keys() == {"type", "media_type", "data"}:
        return Media(mime, data=as_text(source["data"]))
    if kind == "url" and source.keys() == {"type", "url"}:
        return Media("image/*" if block["type"] == "image" else "application/pdf", url=as_text(source["url"]))
    return None


def read_usage(found: JsonObject) -> Usage:
    """Anthropic counts tokens read from and written to the cache beside `input_tokens`; ours include them."""
    if not found:
        return NO_USAGE
    cached = as_count(found.get("cache_read_input_tokens"))
    written = as_count(found.get("cache_creation_input_tokens"))
    details = as_object(found.get("output_tokens_details"))
    return Usage(
        input_tokens=as_count(found.get("input_tokens")) + cached + written,
        output_tokens=as_count(found.get("output_tokens")),
        cached_tokens=cached,
        reasoning_tokens=as_count(details.get("thinking_tokens")),
        requests=1,
    )


def read_reply(body: JsonObject, *, cut: bool = False) -> Reply:
    """A whole `Message` object; anything else gives an empty reply. `cut`: its last block is unfinished."""
    blocks = [as_object(block) for block in as_list(body.get("content"))]
    finish = _FINISH.get(as_text(body.get("stop_reason")), "unknown")
    parts = [part for block in blocks if block and (part := read_part(block)) is not None]
    last = parts[-1] if parts else None
    if isinstance(last, ToolCall) and (cut or finish == "length") and not _is_text(last.arguments):
        # The server closes the object that the model could not finish: it is not what the model meant.
        parts[-1] = cut_off(last)
    message = Message("assistant", tuple(parts))
    return Reply(
        message,
        finish,
        read_usage(as_object(body.get("usage"))),
        as_text(body.get("model")) or None,
        _refusal(body, message) if finish == "refusal" else None,
    )


def _is_text(arguments: Any) -> bool:
    return isinstance(arguments, str) and bool(arguments)


def _refusal(body: JsonObject, message: Message) -> str:
    details = as_object(body.get("stop_details"))
    return (
        as_text(details.get("explanation"))
        or message.text
        or as_text(details.get("category"))
        or "The model refused to answer."
    )


@dataclass(slots=True)
class _Block:
    """A content block that is being written. Fragments are joined once, at the end."""

    block: JsonObject
    fragments: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    call_id: str = ""
    closed: bool = False

    def add(self, key: str, text: str) -> None:
        self.fragments.setdefault(key, []).append(text)

    def whole(self) -> JsonObject:
        for key, fragments in self.fragments.items():
            self.block[key] = as_text(self.block.get(key)) + "".join(fragments)
        self.fragments.clear()
        return self.block


class AnthropicReader:
    """Reads the events of one streamed message; see `dialect.StreamReader`.

    Arguments arrive as text and stay text: with eager input streaming they need not even be JSON.
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._by_index: dict[Hashable, _Block] = {}
        self._by_call: dict[str, _Block] = {}
        self._unsettled: list[_Block] = []
        self._calls = CallEvents()
        self._body: JsonObject = {}
        self._usage: JsonObject = {}
        self._finished: Finished | None = None

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """Take one event of the stream."""
        if self._finished is not None:
            return []
        event = as_object(plain(chunk))
        match event.get("type"):
            case "message_start":
                self._take_message(as_object(event.get("message")))
            case "content_block_start":
                return self._start(_index(event), dict(as_object(event.get("content_block"))))
            case "content_block_delta":
                return self._delta(_index(event), as_object(event.get("delta")))
            case "content_block_stop":
                block = self._block_at(_index(event))
                if block is not None:
                    block.closed = True
            case "message_delta":
                self._take_message(as_object(event.get("delta")))
                self._take_usage(event.get("usage"))
            case _:
                # ping, message_stop, and what will be added: the API asks clients to ignore unknown events.
                pass
        return []

    def finish(self) -> list[StreamEvent]:
        """The stream ended; see `dialect.StreamReader`."""
        if self._finished is not None:
            return []
        finish = _FINISH.get(as_text(self._body.get("stop_reason")), "unknown")
        last = self._blocks[-1] if self._blocks else None
        cut = last is not None and (finish == "length" or (finish == "unknown" and not last.closed))
        if cut:
            # Truncated arguments are never completed, and none at all may be truncated, too.
            self._unsettled = [block for block in self._unsettled if block is not last]
        events = self._settle(self._unsettled)
        events += self._calls.close(complete=finish not in ("length", "unknown"))
        self._finished = Finished(self._reply(cut=cut))
        return [*events, self._finished]

    def _take_message(self, found: JsonObject) -> None:
        for key in ("model", "stop_reason", "stop_details"):
            if found.get(key) is not None:
                self._body[key] = found[key]
        self._take_usage(found.get("usage"))

    def _take_usage(self, found: Any) -> None:
        # Counts are cumulative: the latest of each is right.
        self._usage.update({key: value for key, value in as_object(found).items() if value is not None})

    def _block_at(self, index: Hashable | None) -> _Block | None:
        if index is None:
            return self._blocks[-1] if self._blocks else None
        return self._by_index.get(index)

    def _begin(self, index: Hashable | None, block: JsonObject) -> _Block:
        begun = _Block(block)
        self._blocks.append(begun)
        if index is not None:
            self._by_index[index] = begun
        if block.get("type") == "tool_use":
            begun.call_id = block["id"]
            self._by_call[begun.call_id] = begun
        return begun

    def _start(self, index: Hashable | None, block: JsonObject) -> list[StreamEvent]:
        events = self._settle([begun for begun in self._unsettled if begun.closed])
        kind = block.get("type")
        if kind == "tool_use":
            call_id = as_text(block.get("id")) or new_id("call")
            again = self._by_call.get(call_id)
            if again is not None:
                self._by_index[index] = again
                return events
            block["id"] = call_id
            begun = self._begin(index, block)
            self._unsettled.append(begun)
            return [*events, *self._calls.piece(index, call_id, as_text(block.get("name")), "")]
        self._begin(index, block)
        if kind == "text" and (text := as_text(block.get("text"))):
            events.append(TextDelta(text))
        elif kind == "thinking" and (text := as_text(block.get("thinking"))):
            events.append(ReasoningDelta(text))
        return events

    def _settle(self, blocks: list[_Block]) -> list[StreamEvent]:
        """Calls without a delta have the input of their start; sure only once something comes after."""
        events: list[StreamEvent] = []
        for block in blocks:
            if not block.fragments:
                text = arguments_text(block.block.get("input") or {})
                block.add("input", text)
                events += self._calls.piece(None, block.call_id, "", text)
        self._unsettled = [block for block in self._unsettled if not block.fragments]
        return events

    def _delta(self, index: Hashable | None, delta: JsonObject) -> list[StreamEvent]:
        kind = as_text(delta.get("type"))
        block = self._block_at(index)
        if kind == "text_delta" and (text := as_text(delta.get("text"))):
            self._typed(block, index, "text").add("text", text)
            return [TextDelta(text)]
        if kind == "thinking_delta" and (text := as_text(delta.get("thinking"))):
            self._typed(block, index, "thinking").add("thinking", text)
            return [ReasoningDelta(text)]
        if kind == "input_json_delta":
            return self._arguments(block, index, as_text(delta.get("partial_json")))
        if block is None:
            return []
        if kind == "citations_delta":
            block.block["citations"] = [*as_list(block.block.get("citations")), delta.get("citation")]
            return []
        for key, value in delta.items():
            # signature_delta, and deltas that are not known yet: text grows, anything else is replaced.
            if key != "type" and isinstance(value, str):
                block.add(key, value)
            elif key != "type":
                block.block[key] = value
        return []

    def _typed(self, block: _Block | None, index: Hashable | None, kind: str) -> _Block:
        """The block, if text of this kind may grow there; else a new one, for its start was lost."""
        if block is not None and block.block.get("type") == kind:
            return block
        return self._begin(index, {"type": kind})

    def _arguments(self, block: _Block | None, index: Hashable | None, text: str) -> list[StreamEvent]:
        if not text:
            return []
        if block is None or block.block.get("type") in ("text", "thinking"):
            block = self._begin(index, {"type": "tool_use", "name": "", "id": new_id("call")})
        block.add("input", text)
        return self._calls.piece(None, block.call_id, "", text) if block.call_id else []

    def _reply(self, *, cut: bool) -> Reply:
        blocks: list[JsonObject] = []
        for begun in self._blocks:
            if begun.call_id:
                begun.block["input"] = ""
            elif "input" in begun.fragments:
                begun.block["input"] = _server_input("".join(begun.fragments.pop("input")), begun.block.get("input"))
            blocks.append(begun.whole())
        return read_reply({**self._body, "content": blocks, "usage": self._usage}, cut=cut)


def _index(event: JsonObject) -> Hashable | None:
    index = event.get("index")
    return index if isinstance(index, (int, str)) else None


def _server_input(text: str, before: Any) -> Any:
    """The input of a call that the vendor runs itself: an object, which is all that the API takes back."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return as_object(found) or before or {}
