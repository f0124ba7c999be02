"""Arguments of a Gemini function call that come in pieces, each a value and the JSON Path of its place."""

import json
import re
from typing import Any

from callbox.dialects.wire import as_list, as_object
from callbox.values import JsonObject

# The part of RFC 9535 that names one place: $.a.b[0]['c d']["e"].
_STEP = re.compile(r"""\.([^.\[\]'"]+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\[("(?:[^"\\]|\\.)*")\]""")
_WHOLE_NUMBERS_TO = 2**53
"""Up to here a double holds every whole number."""


class PartialArguments:
    """Builds the arguments object. A piece without sense makes the whole unsound; nothing raises."""

    def __init__(self, begun: Any) -> None:
        self._root: JsonObject = json.loads(json.dumps(begun)) if isinstance(begun, dict) else {}
        self._path: tuple[str | int, ...] | None = None
        self._text: list[str] = []
        self.sound = True

    def take(self, pieces: Any) -> None:
        """Add the pieces of one chunk. Texts for one and the same place, one after another, are one text."""
        for piece in as_list(pieces):
            found = {key.replace("_", "").lower(): value for key, value in as_object(piece).items()}
            path = _steps(found.get("jsonpath"))
            if path is None:
                self.sound = False
            elif isinstance(text := found.get("stringvalue"), str):
                if path != self._path:
                    self._settle()
                    self._path = path
                self._text.append(text)
            else:
                self._settle()
                self._put(path, _value(found))

    def value(self) -> JsonObject:
        """The arguments so far."""
        self._settle()
        return self._root

    def _settle(self) -> None:
        if self._path is not None:
            self._put(self._path, "".join(self._text))
            self._path = None
            self._text = []

    def _put(self, path: tuple[str | int, ...], value: Any) -> None:
        place: Any = self._root
        for at, step in enumerate(path):
            last = at == len(path) - 1
            inner: Any = value if last else ([] if isinstance(path[at + 1], int) else {})
            if isinstance(place, dict) and isinstance(step, str):
                found = as_object(place)
                found[step] = inner if last else found.get(step, inner)
                place = found[step]
            elif isinstance(place, list) and isinstance(step, int) and step <= len(as_list(place)):
                # Only the next item: a far index would make a list of that length.
                items = as_list(place)
                items[step : step + 1] = [inner if last or step == len(items) else items[step]]
                place = items[step]
            else:
                self.sound = False
                return


def _steps(path: Any) -> tuple[str | int, ...] | None:
    if not isinstance(path, str) or not path.startswith("$"):
        return None
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            return None
        at = match.end()
        name, index, single, double = match.groups()
        if index is not None:
            steps.append(int(index[:18]))
        elif name is not None:
            steps.append(name)
        else:
            text = double if double is not None else json.dumps(re.sub(r"\\(.)", r"\1", single))
            try:
                steps.append(json.loads(text))
            except ValueError:
                return None
    return tuple(steps) or None


def _value(found: JsonObject) -> Any:
    if isinstance(truth := found.get("boolvalue"), bool):
        return truth
    number = found.get("numbervalue")
    if isinstance(number, float) and number.is_integer() and abs(number) <= _WHOLE_NUMBERS_TO:
        return int(number)
    return number
