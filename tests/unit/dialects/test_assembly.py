"""From pieces of calls to events."""

from __future__ import annotations

import pytest

from callbox.dialects.assembly import CallEvents
from callbox.messages import CallDelta, CallReady, CallStarted, StreamEvent


def story(events: list[StreamEvent]) -> list[str]:
    """The events in short, made-up ids left out."""
    out: list[str] = []
    for event in events:
        if isinstance(event, CallStarted):
            out.append(f"{event.index} starts {event.name}")
        elif isinstance(event, CallDelta):
            out.append(f"{event.index} + {event.text}")
        elif isinstance(event, CallReady):
            out.append(f"{event.index} ready {event.call.arguments}")
    return out


def test_a_call_is_announced_when_its_id_and_name_are_known_and_ready_when_closed() -> None:
    calls = CallEvents()
    assert story(calls.piece(0, "a", "", "")) == []
    assert story(calls.piece(0, "", "f", "")) == ["0 starts f"]
    assert story(calls.piece(0, "", "", '{"x":')) == ['0 + {"x":']
    assert story(calls.piece(0, "", "", "1}")) == ["0 + 1}", '0 ready {"x":1}']
    assert story(calls.piece(0, "", "", "")) == []
    assert story(calls.close(complete=True)) == []


def test_a_name_in_pieces_is_announced_when_it_is_whole() -> None:
    calls = CallEvents(names_in_pieces=True)
    assert story(calls.piece(0, "a", "fore", "")) == []
    assert story(calls.piece(0, "", "cast", "")) == []
    assert story(calls.piece(0, "", "", "{}")) == ["0 starts forecast", "0 + {}", "0 ready {}"]


def test_calls_are_announced_in_their_order() -> None:
    calls = CallEvents(names_in_pieces=True)
    calls.piece(0, "a", "f", "")
    calls.piece(1, "b", "g", "")
    assert story(calls.piece(1, "", "", "{")) == ["0 starts f", "1 starts g", "1 + {"]


def test_without_ids_a_call_is_announced_once_its_arguments_are_closed() -> None:
    calls = CallEvents()
    assert story(calls.piece(0, "", "f", '{"x":')) == []
    assert story(calls.piece(0, "", "", "1}")) == ["0 starts f", '0 + {"x":1}', '0 ready {"x":1}']
    assert calls.calls[0].id.startswith("call_")


def test_whole_calls_without_ids_under_one_index_are_several_calls() -> None:
    calls = CallEvents()
    for _ in range(2):
        calls.piece(0, "", "f", "{}")
        calls.piece(0, "", "f", "")
    assert [call.text for call in calls.calls] == ["{}", "{}"]
    assert calls.calls[0].id != calls.calls[1].id


@pytest.mark.parametrize(("complete", "ready"), [(True, ["0 ready [1"]), (False, [])])
def test_at_the_end_a_call_is_ready_if_the_vendor_said_that_it_was_done(complete: bool, ready: list[str]) -> None:
    calls = CallEvents()
    calls.piece(None, "", "", "[1")
    assert story(calls.close(complete=complete)) == ["0 starts ", "0 + [1", *ready]
    assert calls.calls[0].id


def test_what_the_vendor_wants_back_is_gathered_from_all_pieces() -> None:
    calls = CallEvents()
    calls.piece(0, "a", "f", "", {"one": 1})
    (ready,) = [event for event in calls.piece(0, "", "", "{}", {"two": 2}) if isinstance(event, CallReady)]
    assert ready.call.vendor == {"one": 1, "two": 2}


def test_arguments_repeated_at_the_end_add_what_was_missing() -> None:
    calls = CallEvents()
    calls.piece(0, "a", "f", '{"x"')
    assert story(calls.whole(calls.calls[0], '{"x":1}', complete=False)) == ["0 + :1}", '0 ready {"x":1}']
    assert story(calls.whole(calls.calls[0], '{"x":1}', complete=True)) == []


def test_arguments_repeated_at_the_end_win_over_the_pieces() -> None:
    calls = CallEvents()
    calls.piece(0, "a", "f", '{"y"')
    assert story(calls.whole(calls.calls[0], '{"x":1}', complete=True)) == ['0 ready {"x":1}']
    assert calls.calls[0].text == '{"x":1}'


@pytest.mark.parametrize(("complete", "ready"), [(True, ["0 ready "]), (False, [])])
def test_empty_arguments_are_ready_if_the_vendor_says_so(complete: bool, ready: list[str]) -> None:
    calls = CallEvents()
    calls.piece(0, "a", "f", "")
    assert story(calls.whole(calls.calls[0], "", complete=complete)) == ready
