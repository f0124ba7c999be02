"""With many tools, only those that a question may need go into its request.

`ToolIndex` ranks tools for a query: BM25 over names, descriptions and parameters, and embeddings where
there are any. `Selector` decides for one conversation what is sent: pinned tools, tools that were called or
found before (so that the history stays valid), and the best of the rest. The selection changes only when
the user says something new or `find_tools` found something, and it keeps the toolset's order: definitions
stand at the front of a request, and a vendor's prompt cache ends where they differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from callbox.context.counting import Counter, count_tool
from callbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from callbox.tools.tool import Tool
    from callbox.values import JsonObject

Embed: TypeAlias = Callable[[list[str]], Sequence[Sequence[float]]]
"""Turns texts into vectors, all of one length."""

QUERY_CHARS_MAX: Final = 2_000
"""Characters of a query. Of a longer one the end is kept, where the question usually stands."""

# Chosen on BFCL (benchmarks/selection.py): the name counts three times, and long descriptions are punished
# less than by BM25's customary b of 0.75.
_NAME_WEIGHT: Final = 3
_K1: Final = 2.0
_B: Final = 0.5
_LEXICAL_SHARE: Final = 0.5
_DEPTH_MAX: Final = 5

# getUserByID2 is get, User, By, ID, 2; text in other scripts stays in runs.
_WORD: Final = re.compile(r"[A-Z]{2,}s?(?![a-z])|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")
_FIRST_CJK: Final = "\u2e80"


def words(text: str) -> list[str]:
    """The words of a text or an identifier, lower case, singular: ``"listOpenPRs"`` is list, open, pr."""
    found: list[str] = []
    for match in _WORD.finditer(text):
        word = match[0].lower()
        if word[0] >= _FIRST_CJK and len(word) > 2:
            # Chinese and Japanese write no spaces: pairs of characters are the usual substitute for words.
            found += [word[at : at + 2] for at in range(len(word) - 1)]
        else:
            found.append(_singular(word))
    return found


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def describe(tool: Tool) -> str:
    """What is embedded of a tool: its name in words, its description, its parameters with theirs."""
    said = [f"{' '.join(words(tool.name))}: {tool.description}"]
    for name, child in _members(tool.parameters, "properties").items():
        about = cast("JsonObject", child).get("description") if isinstance(child, dict) else None
        said.append(f"{name}: {about}" if about else name)
    return " ".join(said)


def _members(schema: JsonObject, keyword: str) -> JsonObject:
    found: Any = schema.get(keyword)
    return cast("JsonObject", found) if isinstance(found, dict) else {}


def _document(tool: Tool) -> list[str]:
    said = words(tool.name) * _NAME_WEIGHT + words(tool.title or "") + words(tool.description)
    # The last one is no word of any query: the library divides by zero when all documents are empty.
    return [*said, *_schema_words(tool.parameters, _DEPTH_MAX), ""]


def _schema_words(schema: JsonObject, depth: int) -> list[str]:
    out: list[str] = []
    choices: Any = schema.get("enum")
    if isinstance(choices, list):
        out += [word for choice in cast("list[Any]", choices) for word in words(str(choice))]
    if depth:
        for name, child in _members(schema, "properties").items():
            out += words(name)
            if isinstance(child, dict):
                inner = cast("JsonObject", child)
                out += words(str(inner.get("description", ""))) + _schema_words(inner, depth - 1)
        out += _schema_words(_members(schema, "items"), depth - 1)
    return out


class ToolIndex:
    """Ranks tools by how well they fit a query. Made once for a toolset, shared by its conversations.

    Args:
        tools: What to rank.
        embed: Turns texts into vectors; None ranks by words alone. `embeddings.minilm` makes a ready-made
            one.

    Raises:
        ConfigurationError: Two tools have one name.
    """

    def __init__(self, tools: Iterable[Tool], *, embed: Embed | None = None) -> None:
        self.tools = tuple(tools)
        self._embed = embed
        self._bm25: Any = None
        self._common: frozenset[str] = frozenset()
        self._vectors: Any = None
        self._costs: tuple[Counter, dict[str, int]] | None = None
        if len({tool.name for tool in self.tools}) < len(self.tools):
            raise ConfigurationError("Two tools of one index have the same name.", hint="Index one Toolset.")

    def rank(self, query: str) -> list[Tool]:
        """All tools, best first; equally good ones in the order they came in.

        Raises:
            ConfigurationError: The extra ``callbox[selection]`` is not installed.
        """
        if not self.tools:
            return []
        query = query[-QUERY_CHARS_MAX:]
        scores = self._score_words(query)
        if self._embed is not None:
            meaning = self._score_meaning(query, self._embed)
            scores = _LEXICAL_SHARE * _standardize(scores) + _standardize(meaning)
        return [self.tools[place] for place in (-scores).argsort(kind="stable").tolist()]

    def costs(self, counter: Counter) -> dict[str, int]:
        """Tokens of each tool's definition, by name. Counted once."""
        if self._costs is None or self._costs[0] is not counter:
            self._costs = counter, {tool.name: count_tool(tool, counter) for tool in self.tools}
        return self._costs[1]

    def _score_words(self, query: str) -> Any:
        import numpy as np

        index = self._bm25 = self._bm25 or self._build()
        # Each word once: a word that the user repeats is not more about the tool, in a long text least of
        # all.
        wanted = [word for word in dict.fromkeys(words(query)) if word not in self._common]
        known = [word for word in wanted if word in index.vocab_dict]
        # The library takes no query without words; then all tools are equally good.
        return index.get_scores(known) if known else np.zeros(len(self.tools))

    def _build(self) -> Any:
        try:
            import bm25s
            from bm25s.stopwords import STOPWORDS_EN_PLUS
        except ImportError:
            raise ConfigurationError(
                "Choosing among tools needs a package that is not installed.",
                hint="Run: pip install 'callbox[selection]'. Or send all tools.",
            ) from None
        index = cast("Any", bm25s).BM25(k1=_K1, b=_B)
        index.index([_document(tool) for tool in self.tools], show_progress=False)
        common = cast("tuple[str, ...]", STOPWORDS_EN_PLUS)
        self._common = frozenset(word for each in common for word in words(each))
        return index

    def _score_meaning(self, query: str, embed: Embed) -> Any:
        if self._vectors is None:
            self._vectors = _directions(embed([describe(tool) for tool in self.tools]))
        return self._vectors @ _directions(embed([query]))[0]


def _directions(vectors: Sequence[Sequence[float]]) -> Any:
    """Vectors as a matrix of unit vectors, so that a product is the cosine."""
    import numpy as np

    matrix: Any = np.asarray(vectors, dtype="float32")
    lengths: Any = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0.0, lengths, 1.0)


def _standardize(scores: Any) -> Any:
    """Scores in standard deviations from their mean, so that two kinds of score can be added."""
    spread = float(scores.std())
    return (scores - scores.mean()) / spread if spread > 0.0 else scores * 0.0
