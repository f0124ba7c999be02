"""A conversation in no vendor's terms, and what a model's reply is made of, whole or streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from callbox.calls.call import NO_VENDOR, ToolCall, ToolResult
from callbox.values import JsonObject, JsonValue

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

FinishReason: TypeAlias = Literal["stop", "calls", "length", "refusal", "filter", "paused", "unknown"]
"""Why the model stopped: it was done; it wants calls run; its output budget ended; it refused; the vendor cut it."""


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text."""

    text: str
    vendor: Mapping[str, JsonValue] = field(default=NO_VENDOR, repr=False)


@dataclass(frozen=True, slots=True)
class Media:
    """An image, sound or file: either base64 `data` or a `url`."""

    mime_type: str
    data: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thought, as far as the vendor shows it, with what must be handed back to that vendor unchanged."""

    text: str
    vendor: Mapping[str, JsonValue] = field(default=NO_VENDOR, repr=False)


@dataclass(frozen=True, slots=True)
class Opaque:
    """A content block that only its own dialect understands; other dialects leave it out."""

    dialect: str
    data: JsonObject


Part: TypeAlias = Text | Media | Reasoning | Opaque | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `assistant` messages may hold calls, `tool` messages hold the results of the calls before them."""

    role: Role
    content: tuple[Part, ...]

    @staticmethod
    def system(text: str) -> Message:
        """Instructions."""
        return Message("system", (Text(text),))

    @staticmethod
    def user(text: str) -> Message:
        """What the person says."""
        return Message("user", (Text(text),))

    @staticmethod
    def assistant(text: str = "", calls: tuple[ToolCall, ...] | list[ToolCall] = ()) -> Message:
        """What the model says and asks for."""
        return Message("assistant", ((Text(text), *calls) if text else tuple(calls)))

    @staticmethod
    def tool(results: tuple[ToolResult, ...] | list[ToolResult]) -> Message:
        """The results of one turn's calls."""
        return Message("tool", tuple(results))

    @property
    def text(self) -> str:
        """All text parts, joined; for a `tool` message the results' contents."""
        return "".join(
            part.text if isinstance(part, Text) else part.content
            for part in self.content
            if isinstance(part, (Text, ToolResult))
        )

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls in it, in the model's order."""
        return tuple([part for part in self.content if isinstance(part, ToolCall)])

    @property
    def results(self) -> tuple[ToolResult, ...]:
        """The results in it."""
        return tuple([part for part in self.content if isinstance(part, ToolResult)])


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the vendor counted them; `estimated` when callbox had to.

    `cached_tokens` are part of `input_tokens`; `reasoning_tokens` are part of `output_tokens`.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.requests + other.requests,
            self.estimated or other.estimated,
        )

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole answer of a model."""

    message: Message
    finish: FinishReason = "stop"
    usage: Usage = NO_USAGE
    model: str | None = None
    refusal: str | None = None

    @property
    def held_back(self) -> bool:
        """The model refused to give this answer, or its vendor cut it for its content: it must not be acted upon."""
        return self.finish in ("refusal", "filter")

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls in it, in the model's order."""
        return self.message.calls


# What a streamed reply is made of, in order: deltas while the model writes, then exactly one Finished.


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's shown thoughts."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model began to write a call. `index`: its place among the calls of this reply, from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of a call's arguments, as JSON text; a fragment, not JSON by itself."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallReady:
    """A call's arguments are complete JSON; the model may still be writing other calls."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Finished:
    """The whole reply; always the last event."""

    reply: Reply


StreamEvent: TypeAlias = TextDelta | ReasoningDelta | CallStarted | CallDelta | CallReady | Finished
