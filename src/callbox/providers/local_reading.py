"""Reading what a local model writes, piece by piece: text, and calls that are one line each.

A line that begins with the opener is a call; everything else is text. Small models end a list of calls badly:
they begin to say the same call again. So a call that equals one before it (in this reply, or already
answered) is cut, and nobody downstream ever hears of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from callbox.calls.call import ToolCall
from callbox.calls.streaming import CompletionScanner
from callbox.ids import new_id
from callbox.messages import CallDelta, CallReady, CallStarted, Part, StreamEvent, Text, TextDelta
from callbox.providers.local_grammar import OPENER

if TYPE_CHECKING:
    from collections.abc import Collection

_NAME_CHARACTER = re.compile(r"[A-Za-z0-9_.-]")


def call_line(name: str, arguments: Any) -> str:
    """A call as the model writes it: ``CALL get_order {"order_id":"A-1"}``."""
    text = arguments if isinstance(arguments, str) else _compact(arguments)
    return f"{OPENER}{name} {text}"


def _compact(arguments: Any) -> str:
    return json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)


def _words(text: str) -> list[str]:
    """Words and numbers, as they are compared: ``$1,000`` is 1000, ``5.0`` is 5."""
    plain = re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", text.lower())
    return [word.removesuffix(".0") for word in re.findall(r"[0-9]+(?:\.[0-9]+)?|[^\W\d_]+", plain)]


@dataclass(slots=True)
class _Line:
    """One call while it is being written."""

    index: int
    id: str = field(default_factory=lambda: new_id("call"))
    name: str = ""
    arguments: str = ""
    named: bool = False
    started: bool = False
    sent: int = 0
    scanner: CompletionScanner = field(default_factory=CompletionScanner)

    @property
    def text(self) -> str:
        """As it stands on its line."""
        return OPENER + self.name + (f" {self.arguments}" if self.named else "")

    def take(self, character: str) -> None:
        if not self.named and _NAME_CHARACTER.match(character):
            self.name += character
            return
        if self.named or character != " ":
            self.arguments += character
            self.scanner.feed(character)
        self.named = True

    def events(self) -> list[StreamEvent]:
        """What of it has not been told yet."""
        out: list[StreamEvent] = []
        if not self.started:
            self.started = True
            out.append(CallStarted(self.index, self.id, self.name))
        if len(self.arguments) > self.sent:
            out.append(CallDelta(self.index, self.arguments[self.sent :]))
            self.sent = len(self.arguments)
        return out


class ReplyReader:
    """Turns the pieces of one reply into events.

    Args:
        answered: `call_line`s that have a result already.
        asked: The question, when a further call must take something new from it.

    Attributes:
        parts: The reply so far.
        repeated: The model began to repeat itself: stop it, there is nothing more to come.
    """

    def __init__(self, answered: Collection[str] = (), asked: str | None = None) -> None:
        self.parts: list[Part] = []
        self.repeated = False
        self._known = set(answered)
        self._untaken = None if asked is None else set(_words(asked))
        self._held = ""
        """The beginning of a line that may yet become a call."""
        self._in_text = False
        self._call: _Line | None = None
        self._calls = 0
        self._text = ""
        self._told = 0
        self._events: list[StreamEvent] = []

    @property
    def has_calls(self) -> bool:
        """At least one call was complete, or was cut by the end."""
        return any(isinstance(part, ToolCall) for part in self.parts)

    def feed(self, text: str) -> list[StreamEvent]:
        """Take more text."""
        for character in text:
            if not self.repeated:
                self._take(character)
        call = self._call
        if call is not None and call.named and not self._may_be_cut(call):
            self._events.extend(call.events())
        return self._drain()

    def finish(self) -> list[StreamEvent]:
        """The model stopped. A call that was cut stays as it is, for the gate to refuse."""
        if self._call is not None and (self._call.scanner.complete or not self._must_be_new(self._call)):
            self._end_call()
        self._text += self._held
        self._held = ""
        events = self._drain()
        self._end_text()
        return events

    def _take(self, character: str) -> None:
        if self._call is not None:
            self._take_in_call(self._call, character)
        elif self._in_text:
            self._text += character
            self._in_text = character != "\n"
        else:
            self._held += character
            if self._held == OPENER:
                self._held = ""
                self._end_text()
                self._call = _Line(self._calls)
            elif not OPENER.startswith(self._held):
                # Blank lines before the first word, and between calls, are no text.
                self._text += self._held if self._text else self._held.lstrip()
                self._held = ""
                self._in_text = character != "\n"

    def _take_in_call(self, call: _Line, character: str) -> None:
        if character == "\n":
            self._end_call()
            return
        done = call.scanner.complete
        call.take(character)
        if not done and call.scanner.complete:
            taken = set(_words(call.arguments))
            if call.text in self._known or (self._must_be_new(call) and taken.isdisjoint(self._untaken or ())):
                self._call = None
                self.repeated = True
            elif self._untaken is not None:
                self._untaken -= taken

    def _must_be_new(self, call: _Line) -> bool:
        return call.index > 0 and self._untaken is not None

    def _may_be_cut(self, call: _Line) -> bool:
        """It is held back until that is decided."""
        if self._must_be_new(call):
            return not call.scanner.complete
        return not call.scanner.complete and any(known.startswith(call.text) for known in self._known)

    def _end_call(self) -> None:
        call, self._call = self._call, None
        assert call is not None
        arguments = call.arguments.rstrip()
        made = ToolCall(call.id, call.name, arguments)
        self._events.extend(call.events())
        if call.scanner.complete:
            self._events.append(CallReady(call.index, made))
        self.parts.append(made)
        self._known.add(call.text)
        self._calls += 1

    def _drain(self) -> list[StreamEvent]:
        self._tell_text()
        events, self._events = self._events, []
        return events

    def _tell_text(self) -> None:
        if len(self._text) > self._told:
            self._events.append(TextDelta(self._text[self._told :]))
            self._told = len(self._text)

    def _end_text(self) -> None:
        self._tell_text()
        text = self._text.strip()
        self._text, self._told = "", 0
        if text:
            self.parts.append(Text(text))
