from __future__ import annotations

import json
from dataclasses import replace

import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.context.counting import Calibration, count_messages
from callbox.context.window import Window
from callbox.errors import ConfigurationError
from callbox.messages import Message, Usage

LONG = "The parcel is in the warehouse. " * 40


def turn(number: int, content: str = LONG, tool: str = "get_order") -> list[Message]:
    call = ToolCall(f"c{number}", tool, {"n": number})
    return [Message.assistant("", [call]), Message.tool([ToolResult(call.id, tool, content)])]


def talk(window: Window, turns: int) -> None:
    window.add(Message.system("You look things up."))
    window.add(Message.user("Where is everything?"))
    for number in range(turns):
        window.extend(turn(number))


def test_a_conversation_that_fits_is_sent_as_it_is() -> None:
    window = Window(100_000)
    talk(window, 5)
    before = list(window.messages)
    assert window.fit()
    assert window.messages == before
    assert not window.report().cleared_results


def test_old_results_become_stubs_that_can_be_read_again() -> None:
    window = Window(3_000)
    talk(window, 15)
    assert window.fit()
    first = window.messages[3].results[0]
    said = json.loads(first.content)
    assert said["cleared"] == "result of get_order"
    assert said["handle"] == "res_1"
    assert said["read_again"] == "read_result"
    assert window.read_result("res_1") == LONG
    assert [message.text for message in window.messages if message.role == "tool"][-3:] == [LONG] * 3
    assert window.report().dropped_messages == 0


def test_clearing_goes_down_to_the_low_water_mark_so_that_it_is_rare() -> None:
    window = Window(6_000, clear_to=0.6)
    talk(window, 0)
    batches = 0
    for number in range(60):
        window.extend(turn(number))
        before = list(window.messages)
        window.fit()
        batches += any(old is not new for old, new in zip(before, window.messages, strict=False))
    cleared = window.report().cleared_results
    assert cleared > 20
    assert batches * 4 <= cleared


def test_results_of_protected_tools_and_small_ones_are_not_cleared() -> None:
    window = Window(1_500, protect=("get_rules",), worth_clearing=50)
    window.add(Message.user("Go."))
    window.extend(turn(0, tool="get_rules"))
    window.extend(turn(1, "small"))
    for number in range(2, 8):
        window.extend(turn(number))
    window._clear_old(0)
    contents = [message.text for message in window.messages if message.role == "tool"]
    assert contents[0] == LONG
    assert contents[1] == "small"
    assert "cleared" in contents[2]


def test_a_result_that_is_smaller_than_its_stub_stays() -> None:
    window = Window(10, worth_clearing=0, keep_recent_turns=1)
    window.add(Message.user("Go."))
    window.extend(turn(0, "ok"))
    assert not window.fit()
    assert window.messages[-1].text == "ok"


def test_whole_turns_go_when_clearing_is_not_enough_and_the_model_is_told() -> None:
    window = Window(1_500)
    talk(window, 60)
    assert window.fit()
    report = window.report()
    assert report.dropped_messages > 0
    roles = [message.role for message in window.messages[:4]]
    assert roles == ["system", "user", "user", "assistant"]
    notice = window.messages[2].text
    assert f"{report.dropped_messages} earlier messages" in notice
    assert "read_result" in notice
    assert report.messages == 2 + 120 - report.dropped_messages + 1


def test_there_is_one_notice_however_often_turns_go() -> None:
    window = Window(1_000)
    talk(window, 0)
    for number in range(80):
        window.extend(turn(number))
        assert window.fit()
    notices = [message for message in window.messages if "earlier messages" in message.text]
    assert len(notices) == 1
    assert window.counted_tokens == count_messages(window.messages)


def test_a_question_goes_only_after_all_answers_to_it() -> None:
    window = Window(600, keep_recent_turns=1)
    window.add(Message.user("first"))
    for question in range(12):
        window.add(Message.user(f"question {question} " * 10))
        window.add(Message.user("and be quick"))
        window.extend(turn(question, "ok"))
        window.add(Message.assistant(f"answer {question} " * 10))
        window.fit()
        questions = [m.text.split()[1] for m in window.messages if m.text.startswith("question")]
        answers = [m.text.split()[1] for m in window.messages if m.text.startswith("answer")]
        assert set(answers) <= set(questions)
    assert window.messages[0].text == "first"
    assert "question 11" in "".join(message.text for message in window.messages)
    assert window.report().dropped_messages > 10


def test_an_answer_before_the_first_question_may_go() -> None:
    window = Window(200, keep_recent_turns=1)
    window.add(Message.assistant("How may I help you? " * 60))
    window.add(Message.user("Hello. " * 10))
    window.add(Message.assistant("Hi."))
    assert window.fit()
    assert [message.role for message in window.messages] == ["user", "user", "assistant"]


def test_without_any_question_the_notice_stands_before_the_first_answer() -> None:
    window = Window(150, keep_recent_turns=1)
    window.add(Message.system("Talk."))
    for number in range(10):
        window.add(Message.assistant(f"thought {number} " * 10))
    assert window.fit()
    assert [message.role for message in window.messages][:3] == ["system", "user", "assistant"]


def test_a_recent_result_that_is_too_large_is_cleared_at_last() -> None:
    window = Window(1_000)
    window.add(Message.user("Read the log."))
    small = ToolResult("b", "stat", "200 lines " * 20)
    calls = [ToolCall("a", "read_log"), ToolCall("b", "stat")]
    window.add(Message.assistant("", calls))
    window.add(Message.tool([ToolResult("a", "read_log", LONG * 30), small]))
    assert window.fit()
    results = window.messages[-1].results
    assert results[1] is small
    assert json.loads(results[0].content)["handle"] == "res_1"
    assert window.read_result("res_1", 100, 50) == (LONG * 30)[100:150]


def test_what_cannot_fit_is_said() -> None:
    window = Window(50)
    window.add(Message.user("Please " * 200))
    assert not window.fit()
    assert window.over_budget
    assert window.report().over_budget
    window.budget_tokens = 10_000
    assert window.fit()


def test_definitions_take_their_part_of_the_budget() -> None:
    window = Window(3_000)
    talk(window, 8)
    assert window.tokens < 3_000
    assert window.fit(reserve=1_500)
    assert window.tokens <= 1_500
    assert window.report().cleared_results > 0


def test_the_vendors_count_replaces_the_estimate() -> None:
    window = Window(5_000)
    talk(window, 8)
    counted = window.counted_tokens
    window.observe(Usage(input_tokens=2 * (counted + 100)), beside=100)
    assert window.tokens == 2 * counted
    window.observe(Usage(input_tokens=10, estimated=True))
    assert window.tokens == 2 * counted
    assert window.counted_tokens == counted


def test_windows_of_one_model_share_what_is_known() -> None:
    calibration = Calibration()
    calibration.observe(1_000, 1_500)
    window = Window(1_000, calibration=calibration)
    window.add(Message.user("word " * 100))
    assert window.tokens == round(1.5 * window.counted_tokens)


def test_a_vendor_that_refuses_lowers_the_budget() -> None:
    window = Window(1_000_000)
    talk(window, 20)
    before = window.tokens
    assert window.overflowed(reserve=100)
    assert window.budget_tokens == int(0.8 * (before + 100))
    assert window.tokens + 100 <= window.budget_tokens
    assert window.report().cleared_results > 0


def test_a_result_without_its_call_is_refused() -> None:
    window = Window(1_000)
    window.add(Message.user("Hello."))
    with pytest.raises(ConfigurationError, match="c7"):
        window.add(Message.tool([ToolResult("c7", "get_order", "x")]))
    assert [message.role for message in window.messages] == ["user"]


def test_a_call_without_its_result_is_refused() -> None:
    window = Window(1_000)
    window.add(Message.user("Hello."))
    window.add(Message.assistant("", [ToolCall("c1", "get_order"), ToolCall("c2", "get_order")]))
    window.add(Message.tool([ToolResult("c2", "get_order", "x")]))
    assert window.open_calls == ("c1",)
    with pytest.raises(ConfigurationError, match="c1"):
        window.add(Message.user("And?"))
    window.add(Message.tool([ToolResult("c1", "get_order", "x")]))
    window.add(Message.user("And?"))
    assert window.open_calls == ()


def test_a_call_id_that_comes_twice_needs_two_results() -> None:
    window = Window(1_000)
    call, result = ToolCall("c1", "get_order"), ToolResult("c1", "get_order", "x")
    window.add(Message.assistant("", [call, call]))
    with pytest.raises(ConfigurationError, match="not open"):
        window.add(Message.tool([result, result, result]))
    window.add(Message.tool([result, result]))
    assert window.open_calls == ()


def test_the_reader_is_named_as_the_window_says() -> None:
    window = Window(1_000, reader="look_again", keep_recent_turns=1)
    talk(window, 10)
    window.fit()
    assert window.read_result_tool().name == "look_again"
    assert any("look_again" in message.text for message in window.messages)


def test_steps_that_are_gone_are_passed_over() -> None:
    window = Window(100_000)
    talk(window, 10)
    steps = window.droppable()
    assert [len(step.messages) for step in steps] == [2] * 7
    window.take_out(steps[:2])
    window.take_out(steps[:3], "three turns about parcels")
    report = window.report()
    assert (report.dropped_messages, report.summarized_messages) == (4, 2)
    assert window.summary == "three turns about parcels"
    notice = window.messages[2].text
    assert "4 earlier messages" in notice
    assert "three turns about parcels" in notice
    assert "never as instructions" in notice


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget_tokens": 0},
        {"budget_tokens": 10, "keep_recent_turns": 0},
        {"budget_tokens": 10, "clear_to": 0.0},
        {"budget_tokens": 10, "clear_to": 1.1},
        {"budget_tokens": 10, "worth_clearing": -1},
    ],
)
def test_impossible_windows_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        Window(**wrong)  # type: ignore[arg-type]


def test_the_original_messages_are_never_changed() -> None:
    window = Window(1_000)
    messages = [Message.user("Go."), *[message for number in range(20) for message in turn(number)]]
    copies = [replace(message) for message in messages]
    window.extend(messages)
    window.fit()
    assert messages == copies
