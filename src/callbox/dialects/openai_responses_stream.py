"""Reading a streamed reply of the Responses API, event by event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from callbox.calls.streaming import OpenCall
from callbox.dialects.assembly import CallEvents
from callbox.dialects.history import arguments_text
from callbox.dialects.openai_responses_reply import read_response
from callbox.dialects.wire import as_object, as_objects, as_text, plain
from callbox.ids import new_id
from callbox.messages import Finished, ReasoningDelta, StreamEvent, TextDelta
from callbox.values import JsonObject

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


@dataclass(slots=True)
class _Slot:
    """One item of the output, while it is written.

    Attributes:
        kind: The item's type.
        item: The item itself, once the API has sent it whole.
        texts: What was written so far: by kind of text and its place in the item.
        call: For a function call, its arguments' assembly.
    """

    kind: str
    item: JsonObject | None = None
    texts: dict[tuple[str, Any], list[str]] = field(default_factory=dict[tuple[str, Any], list[str]])
    call: OpenCall | None = None


class OpenAIResponsesReader:
    """Reads one streamed reply.

    The last event of a good stream holds the whole response, and that is what is read: both read alike. Of a
    stream that was cut there are the items that were done, and of those that were not, what had come.
    """

    def __init__(self) -> None:
        self._calls = CallEvents()
        self._slots: list[_Slot] = []
        self._by_id: dict[str, _Slot] = {}
        self._by_index: dict[int, _Slot] = {}
        self._response: JsonObject = {}
        self._ended = False
        self._closed = False

    def feed(self, chunk: Any) -> list[StreamEvent]:
        """See `StreamReader.feed`."""
        event = as_object(plain(chunk))
        kind = as_text(event.get("type"))
        if self._closed:
            return []
        if kind in ("response.output_item.added", "response.output_item.done"):
            return self._item(event, done=kind.endswith("done"))
        if kind == "response.function_call_arguments.delta":
            return self._arguments(event)
        if kind == "response.function_call_arguments.done":
            text = arguments_text(event.get("arguments"))
            return self._calls.whole(self._call(event), text, complete=False)
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            text = self._text(event, "message", kind, event.get("content_index"))
            return [TextDelta(text)] if text and kind == "response.output_text.delta" else []
        if kind == "response.reasoning_summary_text.delta":
            return self._thought(event, kind, event.get("summary_index"))
        if kind == "response.reasoning_text.delta":
            return self._thought(event, kind, event.get("content_index"))
        if kind.startswith("response.") and isinstance(event.get("response"), dict):
            self._response = as_object(event["response"])
            self._ended = self._ended or kind in _ENDS
        return []

    def finish(self) -> list[StreamEvent]:
        """See `StreamReader.finish`."""
        if self._closed:
            return []
        self._closed = True
        events = self._calls.close(complete=self._ended and self._response.get("status") == "completed")
        output = as_objects(self._response.get("output")) if self._ended else []
        # Some gateways leave the last event's output empty: then it is what was streamed.
        output = self._named(output) or [_so_far(slot) for slot in self._slots]
        response = {**self._response, "output": output} if output or self._response else {}
        if not self._ended:
            response["status"] = "in_progress"
        return [*events, Finished(read_response(response))]

    def _slot(self, event: JsonObject, kind: str, *, new: bool = False) -> _Slot:
        """The item that an event is about.

        By its id, or by its place where a gateway makes up another id for every event.
        """
        item_id = as_text(event.get("item_id")) or as_text(as_object(event.get("item")).get("id"))
        index = event.get("output_index")
        found = self._by_id.get(item_id) if item_id else None
        if found is None and not new and isinstance(index, int):
            found = self._by_index.get(index)
        if found is None and not new and not item_id and not isinstance(index, int) and self._slots:
            found = self._slots[-1]
        if found is None or found.kind != kind:
            found = _Slot(kind)
            self._slots.append(found)
        if item_id:
            self._by_id[item_id] = found
        if isinstance(index, int):
            self._by_index[index] = found
        return found

    def _item(self, event: JsonObject, *, done: bool) -> list[StreamEvent]:
        item = as_object(event.get("item"))
        slot = self._slot(event, as_text(item.get("type")), new=not done)
        if done:
            slot.item = item
        if slot.kind != "function_call":
            return []
        text = arguments_text(item.get("arguments"))
        if slot.call is None:
            events = self._begin(slot, item, "" if done else text)
        else:
            events = []
            slot.call.name = slot.call.name or as_text(item.get("name"))
            slot.call.id = slot.call.id or as_text(item.get("call_id"))
        call = slot.call
        if done and call is not None:
            # Results go back by call_id. An item without one gets it here, so that all events name the same.
            call.id = call.id or new_id("call")
            slot.item = {**item, "call_id": call.id}
            events += self._calls.whole(call, text, complete=item.get("status") in ("completed", None))
        return events

    def _begin(self, slot: _Slot, item: JsonObject, text: str) -> list[StreamEvent]:
        key = len(self._slots) - 1 if slot is self._slots[-1] else self._slots.index(slot)
        call_id, name = as_text(item.get("call_id")), as_text(item.get("name"))
        slot.call = self._calls.locate(key, call_id, name)
        return self._calls.piece(key, call_id, name, text)

    def _call(self, event: JsonObject) -> OpenCall:
        slot = self._slot(event, "function_call")
        if slot.call is None:
            self._begin(slot, {}, "")
        assert slot.call is not None
        return slot.call

    def _arguments(self, event: JsonObject) -> list[StreamEvent]:
        call = self._call(event)
        return self._calls.extend(call, as_text(event.get("delta")))

    def _text(self, event: JsonObject, kind: str, text_kind: str, place: Any) -> str:
        delta = as_text(event.get("delta"))
        place = place if isinstance(place, int) else 0
        self._slot(event, kind).texts.setdefault((text_kind, place), []).append(delta)
        return delta

    def _thought(self, event: JsonObject, kind: str, place: Any) -> list[StreamEvent]:
        slot = self._slot(event, "reasoning")
        known = len(slot.texts)
        text = self._text(event, "reasoning", kind, place)
        if not text:
            return []
        # Summaries come in parts; a whole item's text has an empty line between them.
        return [ReasoningDelta(f"\n\n{text}" if known and len(slot.texts) > known else text)]

    def _named(self, output: list[JsonObject]) -> list[JsonObject]:
        """The output with the ids under which its calls were announced, where the API has given none."""
        announced = iter(self._calls.calls)
        named: list[JsonObject] = []
        for item in output:
            if item.get("type") == "function_call":
                call = next(announced, None)
                if call is not None and not item.get("call_id"):
                    item = {**item, "call_id": call.id}
            named.append(item)
        return named


def _so_far(slot: _Slot) -> JsonObject:
    """An item as it stood when the stream was cut; without an id, because the API knows no such item."""
    if slot.item is not None:
        return slot.item
    if slot.call is not None:
        return {
            "type": "function_call",
            "call_id": slot.call.id,
            "name": slot.call.name,
            "arguments": slot.call.text,
        }
    texts = [{"type": kind, "text": "".join(text)} for (kind, _), text in slot.texts.items()]
    if slot.kind == "reasoning":
        return {"type": "reasoning", "summary": texts}
    content = [
        {"type": "refusal", "refusal": piece["text"]}
        if piece["type"] == "response.refusal.delta"
        else {"type": "output_text", "text": piece["text"]}
        for piece in texts
    ]
    return {"type": "message", "role": "assistant", "content": content}
