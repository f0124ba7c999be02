"""What a request and a run cost in tokens, and what selection and clearing saved. Sums only: no history is
read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    def __add__(self, other: RequestCost) -> RequestCost:
        return RequestCost(
            definitions=self.definitions + other.definitions,
            history=self.history + other.history,
            results=self.results + other.results,
            input=self.input + other.input,
            output=self.output + other.output,
            cached=self.cached + other.cached,
            saved_by_selection=self.saved_by_selection + other.saved_by_selection,
            saved_by_clearing=self.saved_by_clearing + other.saved_by_clearing,
        )


@dataclass(slots=True)
class RunCost:
    """Tokens of one run.

    Attributes:
        requests: How many requests there were.
        last: The last of them.
        total: All of them together. What is sent twice counts twice: that is what is paid.
    """

    requests: int = 0
    last: RequestCost = RequestCost()
    total: RequestCost = RequestCost()

    def record(
        self,
        window: Window,
        *,
        selection: Selection | None = None,
        definitions: int = 0,
        usage: Usage = NO_USAGE,
    ) -> RequestCost:
        """Book the request that was just sent, before its reply is added to the window.

        Args:
            window: Whose messages were sent.
            selection: The tools that were sent, where a `Selector` chose them.
            definitions: Otherwise, tokens of their definitions by the window's own counter.
            usage: What the vendor reported.

        Returns:
            That request's cost.
        """
        report, scale = window.report(), window.calibration.scale
        sent = scale(selection.tokens if selection else definitions)
        self.last = RequestCost(
            definitions=sent,
            history=report.tokens,
            results=report.result_tokens,
            input=usage.input_tokens or sent + report.tokens,
            output=usage.output_tokens,
            cached=usage.cached_tokens,
            saved_by_selection=scale(selection.saved_tokens) if selection else 0,
            saved_by_clearing=report.cleared_tokens + report.dropped_tokens,
        )
        self.total += self.last
        self.requests += 1
        return self.last
