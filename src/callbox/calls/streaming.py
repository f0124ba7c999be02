"""Assembling calls that arrive in pieces, whatever the chunking.

Vendors identify the pieces of a call by an index, by an id, by both, or (some compatible servers) badly. Rules:

- a piece with an id that no open call has begins a new call, even under an index that was used before
- a piece with an index belongs to the latest call of that index
- a piece with neither belongs to the call that was begun last
- empty pieces, repeated ids and repeated names change nothing; a piece of text for no call begins a call without a name
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from callbox.calls.call import NO_VENDOR, ToolCall
from callbox.values import JsonValue

_STRUCTURE = re.compile(r'["\\{}\[\]]')
_IN_STRING = re.compile(r'["\\]')


class CompletionScanner:
    """Says when a JSON object or array that arrives in pieces has been closed. Linear in the text, whatever the pieces."""

    __slots__ = ("_depth", "_escaped", "_in_string", "complete")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.complete = False

    def feed(self, text: str) -> bool:
        """Take more text; return whether the value is closed now. It does not check that the text is JSON."""
        at = 0
        if self._escaped and text:
            self._escaped = False
            at = 1
        while match := (_IN_STRING if self._in_string else _STRUCTURE).search(text, at):
            at = match.end()
            character = match[0]
            if self._in_string:
                if character == '"':
                    self._in_string = False
                elif at < len(text):
                    at += 1
                else:
                    self._escaped = True
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                self.complete = self._depth <= 0
        return self.complete


@dataclass(slots=True)
class OpenCall:
    """A call that is being written."""

    index: int
    id: str
    name: str
    fragments: list[str] = field(default_factory=list[str])
    scanner: CompletionScanner = field(default_factory=CompletionScanner)
    vendor: Mapping[str, JsonValue] = NO_VENDOR
    announced: bool = False

    @property
    def text(self) -> str:
        """The arguments so far."""
        return "".join(self.fragments)

    def as_call(self) -> ToolCall:
        """The call as it stands, its arguments still text."""
        return ToolCall(self.id, self.name, self.text, vendor=self.vendor)


class CallAssembler:
    """Collects the calls of one reply."""

    def __init__(self) -> None:
        self.calls: list[OpenCall] = []
        self._by_key: dict[Hashable, OpenCall] = {}
        self._by_id: dict[str, OpenCall] = {}

    def locate(self, key: Hashable | None, call_id: str | None, name: str | None) -> OpenCall:
        """The call that a piece belongs to, begun now if it is new. `key` is the vendor's index or item id."""
        found: OpenCall | None
        if call_id:
            found = self._by_id.get(call_id)
            if found is None:
                # An index seen before, whose call has no id yet: the id came late. Otherwise this is a new call.
                candidate = self._by_key.get(key) if key is not None else None
                found = candidate if candidate is not None and not candidate.id else self._begin()
                found.id = call_id
                self._by_id[call_id] = found
        elif key is not None:
            found = self._by_key.get(key) or self._begin()
        else:
            found = self.calls[-1] if self.calls else self._begin()
        if key is not None:
            self._by_key[key] = found
        if name and not found.name:
            found.name = name
        return found

    def _begin(self) -> OpenCall:
        call = OpenCall(len(self.calls), "", "")
        self.calls.append(call)
        return call
