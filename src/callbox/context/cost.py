"""What a request and a run cost in tokens, and what selection and clearing saved. Sums only: no history is
read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import add
from typing import TYPE_CHECKING, Final

from callbox.messages import NO_USAGE, Usage

if TYPE_CHECKING:
    from callbox.context.selector import Selection
    from callbox.context.window import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCost:
    """Tokens of one request, or of several together.

    `input`, `output` and `cached` are the vendor's numbers where it gave them; the others are callbox's
    count, scaled to the vendor's by `Calibration`.

    Attributes:
        definitions: Of the tools that were sent.
        history: Of the messages that were sent.
        results: Of the results among these messages.
        input: Of the whole request.
        output: What the model wrote.
        cached: The part of `input` that the vendor had in its cache.
        saved_by_selection: Definitions that were not sent.
        saved_by_clearing: Results that were sent as stubs, and turns that were left out or summarised.
    """

    definitions: int = 0
    history: int = 0
    results: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    saved_by_selection: int = 0
    saved_by_clearing: int = 0


_FIELDS: Final = tuple(field.name for field in fields(RequestCost))


class RunCost:
    """Tokens of one run.

    Args:
        settle: Called before somebody looks, for who books late.
    """

    __slots__ = ("_last", "_requests", "_settle", "_total")

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        self._settle = settle
        self._requests = 0
        # Plain numbers, made into objects when somebody looks: this is booked in every turn.
        self._last: tuple[int, ...] = (0,) * len(_FIELDS)
        self._total: tuple[int, ...] = self._last

    def __repr__(self) -> str:
        return f"RunCost(requests={self.requests}, last={self.last!r}, total={self.total!r})"

    @property
    def requests(self) -> int:
        """How many requests there were."""
        self._settled()
        return self._requests

    @property
    def last(self) -> RequestCost:
        """The last request."""
        self._settled()
        return RequestCost(**dict(zip(_FIELDS, self._last, strict=True)))

    @property
    def total(self) -> RequestCost:
        """All requests together. What is sent twice counts twice: that is what is paid."""
        self._settled()
        return RequestCost(**dict(zip(_FIELDS, self._total, strict=True)))

    def record(
        self,
        window: Window,
        *,
        selection: Selection | None = None,
        definitions: int = 0,
        usage: Usage = NO_USAGE,
    ) -> None:
        """Book the request that was just sent, before its reply is added to the window.

        Args:
            window: Whose messages were sent.
            selection: The tools that were sent, where a `Selector` chose them.
            definitions: Otherwise, tokens of their definitions by the window's own counter.
            usage: What the vendor reported.
        """
        scale, history = window.calibration.scale, window.tokens
        sent = scale(selection.tokens if selection else definitions)
        self._last = (
            sent,
            history,
            window.result_tokens,
            usage.input_tokens or sent + history,
            usage.output_tokens,
            usage.cached_tokens,
            scale(selection.saved_tokens) if selection else 0,
            window.saved_tokens,
        )
        self._total = tuple(map(add, self._total, self._last))
        self._requests += 1

    def _settled(self) -> None:
        if self._settle is not None:
            self._settle()
