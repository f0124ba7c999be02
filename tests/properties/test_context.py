"""Laws of the window: whatever the conversation and the budget, what is sent is whole, bounded and honest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbox.calls.call import ToolCall, ToolResult
from callbox.context.compaction import plan_compaction
from callbox.context.counting import ESTIMATE, count_messages, count_part, estimate_tokens
from callbox.context.results import READ_CHARS_MAX, ClearedResults
from callbox.context.window import Window
from callbox.dialects import find_dialect
from callbox.errors import ToolError
from callbox.messages import Message, Usage

TOOLS = ("get_order", "search", "run_sql")


@dataclass
class Talk:
    """A conversation that is being made up; every turn is whole."""

    turns: list[list[Message]] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        return [message for turn in self.turns for message in turn]


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    talk = Talk()
    if draw(st.booleans()):
        talk.turns.append([Message.system("You look things up. " * draw(st.integers(1, 5)))])
    if draw(st.integers(0, 9)) == 0:
        talk.turns.append([Message.assistant("How may I help you?")])
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        talk.turns.append([Message.user("Where is my order? " * draw(st.integers(1, 20)))])
        for _ in range(draw(st.integers(0, 6))):
            sizes = draw(st.lists(st.integers(0, 120), max_size=4))
            names = [draw(st.sampled_from(TOOLS)) for _ in sizes]
            calls = [ToolCall(f"c{number + i}", name, {"n": i}) for i, name in enumerate(names)]
            number += len(sizes)
            text = draw(st.sampled_from(["", "Let me see."])) or ("" if calls else "Done.")
            results = [
                ToolResult(call.id, call.name, f"row {call.id} " * size)
                for call, size in zip(calls, sizes, strict=True)
            ]
            turn = [Message.assistant(text, calls)]
            if results and draw(st.booleans()):
                turn += [Message.tool([result]) for result in results]
            elif results:
                turn.append(Message.tool(results))
            talk.turns.append(turn)
    return talk


@st.composite
def windows(draw: st.DrawFn) -> Window:
    window = Window(
        draw(st.integers(1, 2_500)),
        keep_recent_turns=draw(st.integers(1, 3)),
        clear_to=draw(st.sampled_from([0.3, 0.7, 1.0])),
        protect=draw(st.sampled_from([(), ("search",)])),
        worth_clearing=draw(st.sampled_from([0, 40, 100])),
    )
    if reported := draw(st.sampled_from([0, 700, 1_000, 1_900])):
        window.calibration.observe(1_000, reported)
    return window


def run(window: Window, talk: Talk, reserve: int = 0) -> None:
    """Add the turns one by one, as an agent does, and make room before each request."""
    for turn in talk.turns:
        window.extend(turn)
        window.fit(reserve=reserve)


def assert_paired(events: list[tuple[str, str]]) -> None:
    """Every result answers a call that is open, and no other turn comes before all calls are answered."""
    waiting: list[str] = []
    for kind, name in events:
        if kind == "call":
            waiting.append(name)
        elif kind == "result":
            assert name in waiting
            waiting.remove(name)
        else:
            assert not waiting
    assert not waiting


def events_of(messages: list[Message]) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for message in messages:
        if not message.results:
            out.append(("other", message.role))
        out += [("call", call.id) for call in message.calls]
        out += [("result", result.call_id) for result in message.results]
    return out


def wire_events(wire: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The same of any vendor's messages."""
    out: list[tuple[str, str]] = []
    for message in wire:
        blocks: list[Any] = [message]
        for key in ("tool_calls", "content", "parts"):
            inside = message.get(key)
            if isinstance(inside, list):
                blocks += inside
        for block in blocks:
            if block.get("type") == "function":
                out.append(("call", block["id"]))
            elif "functionCall" in block:
                out.append(("call", block["functionCall"]["id"]))
            elif block.get("type") in ("function_call", "tool_use"):
                out.append(("call", block.get("call_id") or block["id"]))
            elif block.get("type") == "function_call_output" or block.get("role") == "tool":
                out.append(("result", block.get("call_id") or block["tool_call_id"]))
            elif block.get("type") == "tool_result":
                out.append(("result", block["tool_use_id"]))
            elif "functionResponse" in block:
                out.append(("result", block["functionResponse"]["id"]))
            elif "text" in block or isinstance(block.get("content"), str):
                out.append(("other", "text"))
    return out


@given(talks(), windows())
def test_calls_and_results_never_come_apart(talk: Talk, window: Window) -> None:
    for turn in talk.turns:
        window.extend(turn)
        window.fit()
        assert_paired(events_of(window.messages))


@pytest.mark.parametrize("vendor", ["openai", "openai-responses", "anthropic", "gemini"])
@given(talk=talks(), window=windows())
def test_calls_and_results_never_come_apart_on_the_wire(vendor: str, talk: Talk, window: Window) -> None:
    run(window, talk)
    events = wire_events(find_dialect(vendor).write(window.messages))
    assert_paired(events)
    calls = [call.id for message in window.messages for call in message.calls]
    assert [name for kind, name in events if kind == "call"] == calls


@given(talks(), windows(), st.integers(0, 300))
def test_the_window_fits_or_says_so(talk: Talk, window: Window, reserve: int) -> None:
    for turn in talk.turns:
        window.extend(turn)
        fits = window.fit(reserve=reserve)
        assert fits == (window.tokens + reserve <= window.budget_tokens)
        assert fits != window.over_budget
        if not fits:
            assert window.droppable() == []


@given(talks(), windows())
def test_instructions_the_questions_at_both_ends_and_recent_turns_stay(talk: Talk, window: Window) -> None:
    run(window, talk)
    kept = {id(message) for message in window.messages}
    users = [message for message in talk.messages if message.role == "user"]
    always = [message for message in talk.messages if message.role == "system"] + [users[0], users[-1]]
    answers = [turn for turn in talk.turns if turn[0].role == "assistant"][-window.keep_recent_turns :]
    always += [turn[0] for turn in answers]
    assert all(id(message) in kept for message in always)
    sent = [result.call_id for message in window.messages for result in message.results]
    recent = [result.call_id for turn in answers for message in turn for result in message.results]
    assert sent[len(sent) - len(recent) :] == recent


@given(talks(), windows())
def test_what_was_cleared_or_left_out_can_be_read_again_exactly(talk: Talk, window: Window) -> None:
    run(window, talk)
    results = [result for message in talk.messages for result in message.results]
    sent = {result.call_id: result for message in window.messages for result in message.results}
    for number, result in enumerate(results, 1):
        handle = f"res_{number}"
        if result.call_id in sent and sent[result.call_id].content == result.content:
            assert handle not in window.cleared
            continue
        text = ""
        while len(text) < len(result.content):
            text += window.read_result(handle, len(text), 100)
        assert text == result.content


@given(talks(), windows())
def test_bookkeeping_equals_a_recount(talk: Talk, window: Window) -> None:
    window.calibration.ratio = 1.0
    for turn in talk.turns:
        window.extend(turn)
        window.fit()
        assert window.counted_tokens == count_messages(window.messages)
    report = window.report()
    results = [result for message in window.messages for result in message.results]
    assert report.result_tokens == sum(count_part(result) for result in results)
    everything = count_messages(talk.messages)
    assert report.tokens + report.cleared_tokens + report.dropped_tokens == everything
    left_out = len(talk.messages) - report.dropped_messages
    assert report.messages == left_out + (1 if report.dropped_messages else 0)


@given(talks(), windows())
def test_adding_touches_nothing_that_is_there(talk: Talk, window: Window) -> None:
    messages = window.messages
    for turn in talk.turns:
        for message in turn:
            before = list(messages)
            window.add(message)
            assert window.messages is messages
            assert len(messages) == len(before) + 1
            assert all(old is new for old, new in zip(before, messages, strict=False))
            assert messages[-1] is message
        before, fitting = list(messages), not window.over_budget
        window.fit()
        if fitting:
            assert all(old is new for old, new in zip(before, messages, strict=True))


@given(talks(), windows(), st.text(min_size=1, max_size=50), st.booleans())
def test_a_summary_replaces_whole_turns(talk: Talk, window: Window, said: str, fit_first: bool) -> None:
    for turn in talk.turns[:-1]:
        window.extend(turn)
        if fit_first:
            window.fit()
    plan = plan_compaction(window, output_tokens_max=20, worthwhile=30)
    window.extend(talk.turns[-1])
    if plan is None:
        return
    summary = said.strip()
    worthwhile = bool(summary) and window.calibration.scale(window.counter.count(summary)) < plan.tokens
    before = list(window.messages)
    assert plan.apply(said) == worthwhile
    assert_paired(events_of(window.messages))
    assert window.counted_tokens == count_messages(window.messages)
    if worthwhile:
        assert any(summary in message.text for message in window.messages)
        assert window.report().summarized_messages == sum(len(step.entries) for step in plan.steps)
        assert all(any(message is sent for sent in window.messages) for message in talk.turns[-1])
    else:
        assert window.messages == before


@given(talks(), st.integers(1, 5_000), st.integers(1, 20_000))
def test_the_calibrated_window_follows_the_vendor(talk: Talk, counted: int, reported: int) -> None:
    window = Window(1_000)
    run(window, talk)
    window.observe(Usage(input_tokens=reported))
    ratio = window.calibration.ratio
    assert 0.5 <= ratio <= 3.0
    if window.counted_tokens >= 50 and 0.5 <= reported / window.counted_tokens <= 3.0:
        assert abs(window.tokens - reported) <= 1


@given(st.text(max_size=300), st.text(max_size=300))
def test_an_estimate_is_a_sane_number(one: str, other: str) -> None:
    assert (estimate_tokens(one) == 0) == (one == "")
    assert estimate_tokens(one) <= 10 * len(one.encode("utf-8", "surrogatepass")) + 1
    together = estimate_tokens(one + other)
    assert abs(together - estimate_tokens(one) - estimate_tokens(other)) <= 10
    assert ESTIMATE.count(one) == estimate_tokens(one)


@given(st.integers(), st.integers(), st.text(max_size=200))
def test_reading_again_is_slicing_or_a_clear_error(offset: int, max_chars: int, content: str) -> None:
    cleared = ClearedResults()
    cleared.keep("res_1", content)
    if 0 <= offset <= len(content):
        wanted = content[offset : offset + min(max(1, max_chars), READ_CHARS_MAX)]
        assert cleared.read("res_1", offset, max_chars) == wanted
    else:
        with pytest.raises(ToolError, match="outside"):
            cleared.read("res_1", offset, max_chars)
