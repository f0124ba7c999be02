"""From the pieces of calls in a stream to events, for every dialect whose vendor sends arguments as text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from callbox.calls.call import NO_VENDOR
from callbox.calls.streaming import CallAssembler, CompletionScanner, OpenCall
from callbox.ids import new_id
from callbox.messages import CallDelta, CallReady, CallStarted, StreamEvent
from callbox.values import JsonValue


class CallEvents:
    """Feeds a `CallAssembler` and says what each piece means.

    `CallStarted` comes once the id and the name are known. That a server sends no ids shows only in what it
    does next: there the id is made, and the call announced, when its arguments are closed or the stream ends.

    Args:
        names_in_pieces: Some servers send a name bit by bit; so it is known only when the arguments begin.
    """

    def __init__(self, *, names_in_pieces: bool = False) -> None:
        self._names_in_pieces = names_in_pieces
        self._assembler = CallAssembler()
        self._ready: set[int] = set()

    @property
    def calls(self) -> list[OpenCall]:
        """The calls so far, in the order in which they were begun."""
        return self._assembler.calls

    def locate(self, key: Hashable | None, call_id: str, name: str) -> OpenCall:
        """The call that a piece belongs to, begun now if it is new."""
        return self._assembler.locate(key, call_id or None, name or None)

    def piece(
        self,
        key: Hashable | None,
        call_id: str,
        name: str,
        text: str,
        vendor: Mapping[str, JsonValue] = NO_VENDOR,
    ) -> list[StreamEvent]:
        """Take one piece.

        Args:
            key: The vendor's index or item id of the call; None where it sends neither.
            call_id: The id under which the result goes back; ``""`` where this piece has none.
            name: The tool's name in callbox's terms; ``""`` where this piece has none.
            text: The next fragment of the arguments.
            vendor: What the vendor must get back with the call; added to what was there.
        """
        call = self.locate(key, call_id, name)
        if name and not call_id and call.scanner.complete and text.strip():
            # Servers that send whole calls without ids, all under index 0 or none: a closed call gets no more.
            call = self.locate(key, new_id("call"), name)
        if vendor:
            call.vendor = {**call.vendor, **vendor}
        return self.extend(call, text)

    def extend(self, call: OpenCall, text: str) -> list[StreamEvent]:
        """More of the arguments of a call that is known already."""
        if text:
            call.fragments.append(text)
            call.scanner.feed(text)
        if call.name and not call.id and call.scanner.complete:
            call.id = new_id("call")
        events: list[StreamEvent] = []
        if call.announced:
            if text:
                events.append(CallDelta(call.index, text))
        elif call.id and call.name and (text or call.fragments or not self._names_in_pieces):
            # In their order, whatever interleaves: a call waits only for its own arguments.
            for earlier in self.calls[: call.index]:
                if earlier.id and earlier.name and not earlier.announced:
                    events += _announce(earlier)
            events += _announce(call)
        if call.announced and call.scanner.complete:
            events += self._say_ready(call)
        return events

    def whole(self, call: OpenCall, text: str, *, complete: bool) -> list[StreamEvent]:
        """All of a call's arguments once more, as some vendors send them at the end: that text is the truth.

        `complete`: the vendor says that the model had finished writing them.
        """
        so_far = call.text
        if text.startswith(so_far):
            events = self.extend(call, text[len(so_far) :])
        else:
            call.fragments, call.scanner = [text], CompletionScanner()
            call.scanner.feed(text)
            events = self.extend(call, "")
        return events + (self._say_ready(call) if complete and call.announced else [])

    def _say_ready(self, call: OpenCall) -> list[StreamEvent]:
        if call.index in self._ready:
            return []
        self._ready.add(call.index)
        return [CallReady(call.index, call.as_call())]

    def close(self, *, complete: bool) -> list[StreamEvent]:
        """The stream ended. `complete`: the vendor said so; what has no closing bracket is whole, too."""
        events: list[StreamEvent] = []
        for call in self.calls:
            if not call.id:
                call.id = new_id("call")
            if not call.announced:
                events += _announce(call)
            if complete or call.scanner.complete:
                events += self._say_ready(call)
        return events


def _announce(call: OpenCall) -> list[StreamEvent]:
    call.announced = True
    text = call.text
    started: list[StreamEvent] = [CallStarted(call.index, call.id, call.name)]
    return [*started, CallDelta(call.index, text)] if text else started
