"""Assembling calls that arrive in pieces, whatever the chunking.

Vendors identify the pieces of a call by an index, by an id, by both, or (some compatible servers) badly:

- an index is trusted before an id: two names under two indexes are two calls even if they share an id
- a new id begins a new call, even under an index that was used before, if it brings a name or if the call of
  that index is closed; without a name it is the same call, from a server that makes up an id for every piece
- an id that comes after the first piece is the id of the call that had none
- a piece with neither belongs to the call that was begun last
- another name for a call whose arguments are closed begins a new call
- before the arguments, a name may come in pieces, or longer each time; after that the name stays
- empty pieces, repeated ids and repeated names change nothing; text for no call begins a call without a name
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from callbox.calls.call import NO_VENDOR, ToolCall
from callbox.values import JsonValue

_MARK = re.compile(r"[^ \t\n\r]")
_STRUCTURE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')
_CLOSER = {"{": "}", "[": "]"}


class CompletionScanner:
    """Says when a JSON object or array that arrives in pieces is closed. Linear, whatever the pieces.

    It looks at brackets and strings only: what it calls complete may still be no JSON, and what it does not
    call complete is no JSON object or array.

    Attributes:
        complete: One object or array is closed, and nothing but white space is around it.
    """

    __slots__ = ("_broken", "_escaped", "_expected", "_in_string", "complete")

    def __init__(self) -> None:
        self._expected: list[str] = []
        self._in_string = False
        self._escaped = False
        self._broken = False
        self.complete = False

    def feed(self, text: str) -> bool:
        """Take more text; return whether the value is complete now."""
        at = 0
        if self._escaped and text:
            self._escaped = False
            at = 1
        while not self._broken:
            pattern = _IN_STRING if self._in_string else _STRUCTURE if self._expected else _MARK
            match = pattern.search(text, at)
            if match is None:
                break
            at = match.end()
            if not self._in_string:
                self._take(match[0])
            elif match[0] == '"':
                self._in_string = False
            elif at < len(text):
                at += 1
            else:
                self._escaped = True
        return self.complete

    def _take(self, mark: str) -> None:
        if mark in "{[" and not self.complete:
            self._expected.append(_CLOSER[mark])
        elif mark == '"' and self._expected:
            self._in_string = True
        elif self._expected and mark == self._expected[-1]:
            self._expected.pop()
            self.complete = not self._expected
        else:
            # Text before or after the value, or the wrong bracket: nothing can make this JSON again.
            self._broken = True
            self.complete = False


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

    def take_name(self, name: str) -> None:
        """A name, or more of it."""
        if not self.name or (name.startswith(self.name) and not self.fragments):
            self.name = name
        elif not self.fragments:
            self.name += name


class CallAssembler:
    """Collects the calls of one reply."""

    def __init__(self) -> None:
        self.calls: list[OpenCall] = []
        self._by_key: dict[Hashable, OpenCall] = {}
        self._by_id: dict[str, OpenCall] = {}
        self._keyed: set[int] = set()

    def locate(self, key: Hashable | None, call_id: str | None, name: str | None) -> OpenCall:
        """The call that a piece belongs to, begun now if it is new.

        Args:
            key: The vendor's index or item id; None where it sends neither.
            call_id: The id under which the result goes back, if the piece has one.
            name: The tool's name, if the piece has one.
        """
        found = self._find(key, call_id, name)
        if found is None:
            found = OpenCall(len(self.calls), "", "")
            self.calls.append(found)
        if key is not None:
            self._by_key[key] = found
            self._keyed.add(found.index)
        if call_id:
            found.id = found.id or call_id
            self._by_id[call_id] = found
        if name and name != found.name:
            found.take_name(name)
        return found

    def _find(self, key: Hashable | None, call_id: str | None, name: str | None) -> OpenCall | None:
        by_key = self._by_key.get(key) if key is not None else None
        by_id = self._by_id.get(call_id) if call_id else None
        if by_key is not None:
            found = by_key
            if call_id and by_key.id not in ("", call_id):
                is_new = by_id is None and (name or by_key.scanner.complete)
                found = None if is_new else by_id or by_key
        elif key is not None:
            # The id of a call that was begun under another index: the same call, unless it brings its own name.
            found = None if by_id is not None and name and by_id.index in self._keyed else by_id
        elif by_id is not None or not self.calls:
            found = by_id
        else:
            last = self.calls[-1]
            is_late = not last.id and not name and not last.scanner.complete
            found = last if not call_id or is_late else None
        is_another = found is not None and name and name != found.name and found.scanner.complete
        return None if is_another else found
