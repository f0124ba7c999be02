"""Choosing the tools that a small model is shown: it fills in one well, and cannot choose among several.

Lexical and deterministic: the words of a tool's name, description and parameters against the words of the
    question, weighted by how few of the tools have them. A question that asks for two things is taken apart
    first, so that each part can find its own tool.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from callbox.tools.tool import Tool

_WORD = re.compile(r"[a-z]+|[0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CLAUSE = re.compile(
    r"[.?!;]\s+|,?\s+(?:and|then|also|plus|as well as)\s+|,\s+(?=(?:what|how|who|where|when)\b)",
    re.IGNORECASE,
)
_STOP = frozenset(
    _WORD.findall(
        "a an and are as at be by can could do does for from get give has have how i if in into is it "
        "its me my of on or our please tell that the their them then this to us was we what when where "
        "which who will with would you your many much some any there need want like know find show"
    )
)
_NAME_WEIGHT = 3
_SATURATION = 3.0
_ENDINGS = ("ations", "ation", "ings", "ing", "ers", "er", "ies", "es", "ed", "s", "e", "y")


def words(text: str) -> list[str]:
    """The stems of a text's words, in order; names in snake_case and camelCase are taken apart."""
    spaced = _CAMEL.sub(" ", text).lower()
    return [_stem(word) for word in _WORD.findall(spaced) if word not in _STOP]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


class ToolIndex:
    """The words of some tools."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = tuple(tools)
        self._words = [_tool_words(tool.name, tool.description, json.dumps(tool.parameters)) for tool in tools]
        self._names = [frozenset(words(tool.name)) for tool in tools]
        frequencies = Counter(word for counts in self._words for word in counts)
        total = len(self.tools)
        self._weight = {word: math.log(1 + total / count) for word, count in frequencies.items()}

    def scores(self, question: str) -> list[float]:
        """For each tool how well it fits; 0 means that no word is shared."""
        asked = set(words(question))
        return [
            sum(self._weight[word] * _saturated(counts[word]) for word in asked if word in counts)
            for counts in self._words
        ]

    def best(self, question: str) -> int:
        """The place of the tool that fits best; the first of equals."""
        scores = self.scores(question)
        return scores.index(max(scores))

    def plan(self, question: str) -> list[tuple[Tool, str]]:
        """The tools that the question needs, in its order, each with what it asks of that tool; at least one.

        The best tool for the whole question is always among them. Another one is, when a part of the question
        names it: shares a word with its name, and fits it better than any other tool.
        """
        first = self.best(question)
        parts: dict[int, list[str]] = {}
        loose: list[str] = []
        for part in (part.strip() for part in _CLAUSE.split(question) if part.strip()):
            place = self.best(part)
            named = place == first or not self._names[place].isdisjoint(words(part))
            if named and self.scores(part)[place] > 0:
                parts.setdefault(place, []).extend([*loose, part])
                loose = []
            elif parts:  # goes with what was said before it, or else with what comes next
                parts[next(reversed(parts))].append(part)
            else:
                loose.append(part)
        if len(parts) < 2 or first not in parts:
            return [(self.tools[first], question)]
        return [(self.tools[place], ". ".join(said)) for place, said in parts.items()]


def _saturated(count: int) -> float:
    return count * (_SATURATION + 1) / (count + _SATURATION)


@lru_cache(maxsize=4096)
def _tool_words(name: str, description: str, parameters: str) -> Counter[str]:
    counts = Counter(words(description))
    for word in words(name):
        counts[word] += _NAME_WEIGHT
    counts.update(words(" ".join(_schema_text(json.loads(parameters)))))
    return counts


def _schema_text(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        node = cast("dict[str, Any]", schema)
        for name, child in cast("dict[str, Any]", node.get("properties") or {}).items():
            yield name
            yield from _schema_text(child)
        if isinstance(node.get("description"), str):
            yield node["description"]
        yield from (value for value in node.get("enum") or () if isinstance(value, str))
        yield from _schema_text(node.get("items"))
