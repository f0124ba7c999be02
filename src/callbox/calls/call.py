"""A call, its result, and what can be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from callbox.values import JsonObject, JsonValue

ErrorCode: TypeAlias = Literal[
    "malformed_json",
    "unknown_tool",
    "invalid_arguments",
    "rejected_by_check",
    "denied",
    "approval_required",
    "approval_refused",
    "rate_limited",
    "budget_exhausted",
    "timeout",
    "cancelled",
    "tool_failed",
    "outcome_unknown",
    "sandbox_lost",
]

ProblemCode: TypeAlias = Literal[
    "missing_required",
    "wrong_type",
    "not_in_enum",
    "unexpected_property",
    "invalid_format",
    "out_of_range",
    "too_long",
    "too_short",
    "not_unique",
    "not_allowed",
    "no_match",
]


class _NoVendor(Mapping[str, JsonValue]):
    """An empty mapping that cannot be filled.

    A mappingproxy has no hash before Python 3.12, which dataclasses take for mutable and refuse as a default;
    nor can it be pickled.
    """

    __slots__ = ()

    def __getitem__(self, key: str) -> JsonValue:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "{}"

    def __reduce__(self) -> str:
        return "NO_VENDOR"


NO_VENDOR: Mapping[str, JsonValue] = _NoVendor()


class _Missing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # it is known by identity, so a copy must be the thing itself


MISSING: Any = _Missing()
"""There was nothing at that path (None would say that there was a null)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the arguments.

    Attributes:
        code: What kind of mistake.
        path: JSON Pointer of the value, in the terms of the tool's own schema; ``""`` is the whole object.
        message: One sentence for the model.
        expected: What the schema wants there, in a few words.
        received: What was there, shortened; `MISSING` where nothing was.
        suggestion: What to send instead, where that is clear.
    """

    code: ProblemCode
    path: str
    message: str
    expected: str | None = None
    received: JsonValue = MISSING
    suggestion: str | None = None

    def as_dict(self) -> JsonObject:
        """As it is sent to the model; only the keys that apply."""
        out: JsonObject = {"code": self.code, "path": self.path, "message": self.message}
        if self.expected is not None:
            out["expected"] = self.expected
        if self.received is not MISSING:
            out["received"] = self.received
        if self.suggestion is not None:
            out["suggestion"] = self.suggestion
        return out


@dataclass(frozen=True, slots=True)
class CallError:
    """Why a call has no ordinary result: one JSON object for the model, with a stable `code`.

    Attributes:
        code: Stable; programs may switch on it.
        message: For the model to read.
        path, expected, received, suggestion: Of the one problem, when there is just one.
        problems: All of them, when there are several.
        retryable: The very same call may succeed later.
    """

    code: ErrorCode
    message: str
    path: str | None = None
    expected: str | None = None
    received: JsonValue = MISSING
    suggestion: str | None = None
    problems: tuple[Problem, ...] = ()
    retryable: bool = False

    def as_dict(self) -> JsonObject:
        """As it is sent to the model; only the keys that apply."""
        out: JsonObject = {"error": self.code, "message": self.message}
        if self.path is not None:
            out["path"] = self.path
        if self.expected is not None:
            out["expected"] = self.expected
        if self.received is not MISSING:
            out["received"] = self.received
        if self.suggestion is not None:
            out["suggestion"] = self.suggestion
        if self.problems:
            out["problems"] = [problem.as_dict() for problem in self.problems]
        return out

    def render(self) -> str:
        """The JSON text that the model sees. ASCII, so that no lone surrogate can break a vendor's encoder."""
        return json.dumps(self.as_dict(), ensure_ascii=True)


@dataclass(frozen=True, slots=True)
class Repair:
    """One lossless correction that was made to a call's arguments, for the record.

    Attributes:
        kind: ``"code_fence"``, ``"json_in_string"``, ``"null_means_omitted"``, ``"wrapped_arguments"``, ...
        path: JSON Pointer of what was corrected.
    """

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a model emitted: a request to run one tool.

    Attributes:
        id: The vendor's id of the call; made by callbox where the vendor has none.
        name: The tool's name, in callbox's terms (a name that a vendor refused is mapped back).
        arguments: The arguments object; while it has not been read, or cannot be, the JSON text as it came.
        raw: The JSON text as the model wrote it, once `arguments` has been read from it; not compared.
        repairs: What was corrected on the way, losslessly.
        error: What makes this call impossible to run, found while reading it.
        vendor: What only the vendor understands and must get back unchanged (signatures, numeric ids).
    """

    id: str
    name: str
    arguments: Any = field(default_factory=dict[str, Any])
    raw: str | None = field(default=None, compare=False, repr=False)
    repairs: tuple[Repair, ...] = ()
    error: CallError | None = None
    vendor: Mapping[str, JsonValue] = field(default=NO_VENDOR, repr=False)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What goes back for one call; always exactly one.

    Attributes:
        call_id: `ToolCall.id`.
        name: `ToolCall.name`.
        content: The text that the model sees. For an error it is one JSON object, see `CallError`.
        error: None for success.
        value: What the tool returned, before it became text; not sent, not compared.
        duration_ms: From intent to outcome; 0 for a call that never ran.
        attempts: How many times the tool was run.
        truncated: `content` is shorter than what the tool returned.
        vendor: `ToolCall.vendor`.
    """

    call_id: str
    name: str
    content: str
    error: CallError | None = None
    value: Any = field(default=None, compare=False, repr=False)
    duration_ms: float = field(default=0.0, compare=False)
    attempts: int = field(default=0, compare=False)
    truncated: bool = field(default=False, compare=False)
    vendor: Mapping[str, JsonValue] = field(default=NO_VENDOR, repr=False)

    @property
    def is_error(self) -> bool:
        """The call did not do what was asked."""
        return self.error is not None

    @staticmethod
    def failed(call: ToolCall, error: CallError) -> ToolResult:
        """The result of a call that did not succeed."""
        return ToolResult(call.id, call.name, error.render(), error, vendor=call.vendor)
