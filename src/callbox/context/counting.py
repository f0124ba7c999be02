"""Counting tokens offline: an estimate, exact vocabularies as an extra, and learning from reported usage.

The estimate is arithmetic over classes of bytes: about ten scans of the text in C. Its weights were fitted to the
``o200k_base`` vocabulary on thirty kinds of text. `benchmarks/counting.py` prints the error: 1 to 9% for one text of
English, JSON, code or logs, more for languages with rare letters (Polish 14 to 29%). A model with another vocabulary
counts differently, other scripts than Latin most of all: `Calibration` learns by how much from what the vendor reports.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from callbox.calls.call import ToolCall, ToolResult
from callbox.errors import ConfigurationError
from callbox.messages import Media, Message, Opaque, Part, Reasoning, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from callbox.tools.tool import Tool
    from callbox.values import JsonObject

MESSAGE_TOKENS: Final = 4
"""What a message costs besides its content: role and delimiters. OpenAI documents 3 or 4; others do not
say."""

CALL_TOKENS: Final = 8
"""What a call costs besides name and arguments, and a result besides its content. No vendor documents it."""

IMAGE_TOKENS: Final = 1_000
"""One image, whatever its size: vendors charge from 85 to about 1,600 by size and detail."""

MEDIA_TOKENS: Final = 2_000
"""One sound or file, whatever its size."""


class Counter(Protocol):
    """Says how many tokens a text is."""

    def count(self, text: str) -> int:
        """Tokens of the text; 0 for the empty one."""
        ...


def _byte_classes() -> bytes:
    # Bytes that cost alike share a letter. Above ASCII the lead byte tells the script, and the
    # continuation bytes ("z") cost nothing by themselves.
    classes = bytearray(b"p" * 256)
    for first, last, letter in (
        (0x09, 0x09, "s"),
        (0x0A, 0x0A, "n"),
        (0x20, 0x20, "s"),
        (0x30, 0x39, "0"),
        (0x41, 0x5A, "A"),
        (0x61, 0x7A, "a"),
        (0x80, 0xC1, "z"),
        (0xC2, 0xC9, "L"),
        (0xCA, 0xCD, "M"),
        (0xCE, 0xCF, "g"),
        (0xD0, 0xD3, "c"),
        (0xD4, 0xDF, "h"),
        (0xE0, 0xE0, "i"),
        (0xE1, 0xE1, "v"),
        (0xE2, 0xE2, "y"),
        (0xE3, 0xE3, "j"),
        (0xE4, 0xE9, "k"),
        (0xEA, 0xED, "r"),
        (0xEE, 0xEF, "w"),
        (0xF0, 0xFF, "e"),
    ):
        classes[first : last + 1] = letter.encode() * (last + 1 - first)
    return bytes(classes)


_CLASSES: Final = _byte_classes()
_NOT_LEAD: Final = bytes(range(0xC2))
_NOT_ASCII: Final = bytes(range(0x80, 0x100))
# Tokens for one character of each script: Latin with marks, combining marks, Greek, Cyrillic, Hebrew and
# Arabic, Indic and Thai, Vietnamese and others, typographic signs, kana and CJK punctuation, Chinese
# characters, Hangul, full-width forms, emoji and rare characters.
_SCRIPTS: Final = (
    (b"L", 1.211),
    (b"M", 1.0),
    (b"g", 0.324),
    (b"c", 0.229),
    (b"h", 0.25),
    (b"i", 0.416),
    (b"v", 0.4),
    (b"y", 0.7),
    (b"j", 0.656),
    (b"k", 0.771),
    (b"r", 0.526),
    (b"w", 0.752),
    (b"e", 1.566),
)


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a text is, offline: 1 to 2 us per 100 characters of ASCII.

    Letters are cheap because they come in words; a capital inside a word and a letter after a digit mark
    what no vocabulary has words for (ids, base64, hex); runs of blanks and of punctuation merge.
    """
    if text.isascii():
        raw = text.encode("ascii")
        tokens = 0.0
        rest = len(raw)
    else:
        raw = text.encode("utf-8", "surrogatepass")
        leads = raw.translate(_CLASSES, _NOT_LEAD)
        tokens = sum([leads.count(script) * weight for script, weight in _SCRIPTS])
        rest = len(raw.translate(None, _NOT_ASCII))
    count = raw.translate(_CLASSES).count
    lower, upper, digits, blanks, lines = count(b"a"), count(b"A"), count(b"0"), count(b"s"), count(b"n")
    punctuation = rest - lower - upper - digits - blanks - lines
    tokens += (
        0.098 * lower
        + 0.285 * upper
        + 0.503 * digits
        + 0.5 * blanks
        + 0.977 * lines
        + 0.999 * punctuation
        - 0.98 * count(b"ss")
        - 1.134 * count(b"pp")
        + 1.02 * count(b"0a")
        + 1.874 * count(b"aA")
    )
    return max(1, round(tokens)) if text else 0


class Estimate:
    """The calibrated offline estimate, `estimate_tokens`."""

    def count(self, text: str) -> int:
        """See `Counter.count`."""
        return estimate_tokens(text)


ESTIMATE: Final = Estimate()


class _Exact:
    """A real vocabulary."""

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count

    def count(self, text: str) -> int:
        """See `Counter.count`."""
        try:
            return self._count(text)
        except (TypeError, UnicodeEncodeError):
            # A lone surrogate has no UTF-8 form; a replacement character is sent in its place, or an escape.
            return self._count(text.encode("utf-8", "replace").decode("utf-8"))


def exact(name: str = "o200k_base") -> Counter:
    """Count with a real vocabulary, shipped in the extra ``callbox[tokens]``: no download.

    Args:
        name: An encoding (``"o200k_base"``, ``"cl100k_base"``, ``"llama3"``, ``"qwen3"``) or a model that
            has one (``"gpt-4o"``).

    Raises:
        ConfigurationError: The extra is not installed, or it has no such vocabulary.
    """
    try:
        import quicktok
    except ImportError:
        raise ConfigurationError(
            "Exact token counting needs a package that is not installed.",
            hint="Run: pip install 'callbox[tokens]'. Or use the default, the offline estimate.",
        ) from None
    # The package ships no types.
    library = cast("Any", quicktok)
    try:
        return _Exact(library.encoding_for_model(name).count)
    except KeyError:
        pass
    try:
        return _Exact(library.get_encoding(name).count)
    except (RuntimeError, OSError):
        raise ConfigurationError(
            f"There is no vocabulary {name!r}.",
            hint="Use o200k_base, o200k_harmony, cl100k_base, llama3 or qwen3, or leave it to the estimate.",
        ) from None


def count_json(value: object, counter: Counter = ESTIMATE) -> int:
    """Tokens of a JSON value, written the way vendors are sent it: compact, not escaped."""
    return counter.count(_compact(value))


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def count_part(part: Part, counter: Counter = ESTIMATE) -> int:
    """Tokens of one part of a message. What only a vendor understands (signatures) is left out."""
    if isinstance(part, ToolResult):
        return CALL_TOKENS + counter.count(part.content)
    if isinstance(part, ToolCall):
        written = part.raw
        if written is None and isinstance(part.arguments, str):
            written = part.arguments
        if written is None:
            written = _compact(part.arguments)
        return CALL_TOKENS + counter.count(part.name + written)
    if isinstance(part, (Text, Reasoning)):
        return counter.count(part.text)
    if isinstance(part, Opaque):
        return count_json(part.data, counter)
    return _count_media(part)


def _count_media(media: Media) -> int:
    return IMAGE_TOKENS if media.mime_type.startswith("image/") else MEDIA_TOKENS


def count_message(message: Message, counter: Counter = ESTIMATE) -> int:
    """Tokens of one message with all its parts."""
    return MESSAGE_TOKENS + sum([count_part(part, counter) for part in message.content])


def count_messages(messages: Iterable[Message], counter: Counter = ESTIMATE) -> int:
    """Tokens of a conversation. Reads all of it: `Window` keeps this number up to date without doing so."""
    return sum([count_message(message, counter) for message in messages])


def define(tool: Tool) -> JsonObject:
    """What every dialect says about a tool, in no vendor's terms: name, description, parameters."""
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}


def count_tool(tool: Tool, counter: Counter = ESTIMATE) -> int:
    """Tokens of one tool's definition in a request, before a dialect dresses it."""
    return count_json(define(tool), counter)


def count_definitions(definitions: Sequence[JsonObject], counter: Counter = ESTIMATE) -> int:
    """Tokens of a request's ``tools``, as a dialect wrote them (`Dialect.define`)."""
    return sum([count_json(definition, counter) for definition in definitions])


class Calibration:
    """Learns how many tokens the vendor counts for one of ours.

    The ratio is an exponential average of what is observed, bounded, so that one odd report (an image that
    the vendor counts differently, a cache that it does not report) cannot make the window absurd.

    Args:
        weight: Share of a new observation in the average, 0 to 1.
        lowest, highest: What the ratio never leaves.
    """

    SMALLEST: Final = 50
    """Tokens below which a request says more about the vendor's fixed overhead than about the ratio."""

    def __init__(self, *, weight: float = 0.3, lowest: float = 0.5, highest: float = 3.0) -> None:
        if not (0.0 < weight <= 1.0 and 0.0 < lowest <= 1.0 <= highest):
            raise ConfigurationError(
                f"A calibration with weight={weight}, lowest={lowest}, highest={highest} cannot be.",
                hint="weight is above 0 and at most 1; lowest is at most 1 and highest at least 1.",
            )
        self.ratio = 1.0
        self.observations = 0
        self._weight = weight
        self._lowest = lowest
        self._highest = highest

    def observe(self, counted: int, reported: int) -> float:
        """Take one request's own count and the vendor's `Usage.input_tokens`; return the new ratio.

        Estimated usage must not come in here: it would only confirm the estimate.
        """
        if counted >= self.SMALLEST and reported > 0:
            seen = min(max(reported / counted, self._lowest), self._highest)
            # The first observation is worth more than the guess of 1.0 that it replaces.
            weight = self._weight if self.observations else 1.0
            self.ratio += weight * (seen - self.ratio)
            self.observations += 1
        return self.ratio

    def scale(self, counted: int) -> int:
        """Tokens as the vendor would count them."""
        return round(counted * self.ratio)
