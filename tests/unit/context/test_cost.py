from __future__ import annotations

from callbox.calls.call import ToolCall, ToolResult
from callbox.context.cost import RequestCost, RunCost
from callbox.context.counting import count_part
from callbox.context.selector import Selector
from callbox.context.window import Window
from callbox.messages import Message, Usage
from callbox.tools.tool import Tool

NOTHING = {"type": "object", "properties": {}}
TOOLS = [Tool(f"get_{name}", f"About {name}.", NOTHING) for name in ("cat", "dog", "bird", "fish")]
RESULT = ToolResult("c", "get_cat", "purring on the sofa " * 30)


def asked(window: Window, turns: int) -> None:
    window.add(Message.user("cat"))
    for _ in range(turns):
        window.add(Message.assistant("", [ToolCall("c", "get_cat")]))
        window.add(Message.tool([RESULT]))


def test_a_request_is_booked_with_what_the_vendor_reported() -> None:
    window, cost = Window(100_000), RunCost()
    asked(window, 2)
    cost.record(window, definitions=70, usage=Usage(input_tokens=900, output_tokens=12, cached_tokens=512))
    assert cost.last == RequestCost(
        definitions=70,
        history=window.tokens,
        results=2 * count_part(RESULT),
        input=900,
        output=12,
        cached=512,
    )


def test_without_a_report_the_input_is_what_was_counted() -> None:
    window, cost = Window(100_000), RunCost()
    asked(window, 1)
    cost.record(window, definitions=70)
    assert cost.last.input == 70 + window.tokens


def test_savings_of_selection_and_clearing_are_booked() -> None:
    window, cost = Window(900, keep_recent_turns=1), RunCost()
    asked(window, 12)
    window.fit()
    selector = Selector(TOOLS, max_tools=1)
    selector.note(Message.user("cat"))
    selection = selector.select()
    cost.record(window, selection=selection)
    report = window.report()
    assert cost.last.definitions == selection.tokens
    assert cost.last.saved_by_selection == selection.saved_tokens
    assert cost.last.saved_by_clearing == report.cleared_tokens + report.dropped_tokens > 0
    assert cost.last.results == report.result_tokens < report.tokens


def test_a_run_is_the_sum_of_its_requests() -> None:
    window, cost = Window(100_000), RunCost()
    asked(window, 1)
    usage = Usage(input_tokens=100, output_tokens=5, cached_tokens=50)
    cost.record(window, usage=usage)
    first = cost.last
    asked(window, 1)
    cost.record(window, usage=usage)
    assert cost.requests == 2
    assert cost.total.history == first.history + cost.last.history
    assert (cost.total.input, cost.total.output, cost.total.cached) == (200, 10, 100)


def test_counts_follow_the_calibration() -> None:
    window, cost = Window(100_000), RunCost()
    asked(window, 1)
    window.calibration.ratio = 2.0
    cost.record(window, definitions=50)
    assert cost.last.definitions == 100
    assert cost.last.history == 2 * window.counted_tokens


def test_a_cost_shows_what_is_in_it() -> None:
    window, cost = Window(100_000), RunCost()
    asked(window, 1)
    cost.record(window, usage=Usage(input_tokens=900, output_tokens=12))
    assert repr(cost) == f"RunCost(requests=1, last={cost.last!r}, total={cost.total!r})"
