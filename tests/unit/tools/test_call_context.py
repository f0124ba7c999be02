"""What a tool may do with its context outside of a gate, as in its own tests."""

from __future__ import annotations

from callbox.tools.call_context import CallContext


def test_a_bare_context_takes_reports_in_every_length() -> None:
    context = CallContext(call_id="c", tool="f", idempotency_key="k")
    context.report(0.5)
    context.report(1, 2)
    context.report(1, 2, "half way")
    assert context.remaining_s() is None
    assert not context.is_cancelled()
