"""Reading a local model's text: the same events whatever the pieces, and repetitions are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from callbox.calls.call import ToolCall
from callbox.messages import CallDelta, CallReady, CallStarted, Text, TextDelta
from callbox.providers.local_reading import ReplyReader, call_line

ONE = 'CALL f {"a":1}'
TWO = 'CALL f {"a":2}'


def read(text: str, cuts: list[int] | None = None, **options: object) -> tuple[ReplyReader, list]:
    reader = ReplyReader(**options)  # type: ignore[arg-type]  # test shorthand
    events = []
    places = sorted({min(cut, len(text)) for cut in cuts or range(len(text))} | {0, len(text)})
    for begin, end in pairwise(places):
        events += reader.feed(text[begin:end])
    return reader, events + reader.finish()


def calls(reader: ReplyReader) -> list[tuple[str, object]]:
    return [(part.name, part.arguments) for part in reader.parts if isinstance(part, ToolCall)]


def test_text_is_told_as_it_comes() -> None:
    reader, events = read("Hello there.\nHow are you?")
    assert "".join(event.text for event in events) == "Hello there.\nHow are you?"
    assert reader.parts == [Text("Hello there.\nHow are you?")]
    assert not reader.has_calls


def test_a_call_is_started_then_told_then_ready() -> None:
    reader, events = read(ONE)
    assert isinstance(events[0], CallStarted)
    assert events[0].name == "f"
    assert "".join(event.text for event in events if isinstance(event, CallDelta)) == '{"a":1}'
    assert isinstance(events[-1], CallReady)
    assert events[-1].call.id == events[0].id
    assert calls(reader) == [("f", '{"a":1}')]


def test_several_calls_have_one_index_each() -> None:
    reader, events = read(f"{ONE}\n{TWO}")
    assert [event.index for event in events if isinstance(event, CallStarted)] == [0, 1]
    assert [event.index for event in events if isinstance(event, CallReady)] == [0, 1]
    assert len(calls(reader)) == 2


def test_text_before_a_call_is_kept() -> None:
    reader, _ = read(f"I will look.\n{ONE}")
    assert reader.parts[0] == Text("I will look.")
    assert calls(reader) == [("f", '{"a":1}')]


def test_a_repeated_call_ends_the_reply_and_is_never_heard_of() -> None:
    reader, events = read(f"{ONE}\n{TWO}\n{ONE}\n{TWO}")
    assert reader.repeated
    assert calls(reader) == [("f", '{"a":1}'), ("f", '{"a":2}')]
    assert len([event for event in events if isinstance(event, CallStarted)]) == 2
    assert reader.feed("more") == []


def test_a_call_that_has_its_result_already_is_cut() -> None:
    reader, events = read(ONE, answered=[call_line("f", {"a": 1})])
    assert reader.repeated
    assert reader.parts == []
    assert events == []


def test_a_call_that_only_begins_like_an_answered_one_goes_through() -> None:
    reader, events = read('CALL f {"a":12}', answered=[call_line("f", {"a": 1})])
    assert calls(reader) == [("f", '{"a":12}')]
    assert not reader.repeated
    assert "".join(event.text for event in events if isinstance(event, CallDelta)) == '{"a":12}'


def test_a_further_call_must_take_something_new_from_the_question() -> None:
    asked = "Convert 120 USD to EUR, and $1,000 to JPY."
    first = call_line("money", {"amount": 120, "to": "EUR"})
    reader, events = read(f"{first}\n{call_line('money', {'amount': 1000, 'to': 'JPY'})}", asked=asked)
    assert len(calls(reader)) == 2
    assert len([event for event in events if isinstance(event, CallReady)]) == 2
    reader, events = read(f"{first}\n{call_line('money', {'amount': 7, 'to': 'EUR'})}", asked=asked)
    assert len(calls(reader)) == 1
    assert reader.repeated
    assert len([event for event in events if isinstance(event, CallStarted)]) == 1


def test_a_further_call_that_was_cut_before_it_could_be_judged_is_dropped() -> None:
    reader, _ = read(f'{ONE}\nCALL f {{"a":', asked="1 and 2")
    assert calls(reader) == [("f", '{"a":1}')]


def test_a_cut_call_stays_as_it_is_for_the_gate_to_refuse() -> None:
    reader, events = read('CALL f {"a":"un')
    assert calls(reader) == [("f", '{"a":"un')]
    assert not any(isinstance(event, CallReady) for event in events)


def test_broken_calls_of_an_unconstrained_model_are_calls_all_the_same() -> None:
    for text, expected in (
        ("CALL f(40,50)", ("f", "(40,50)")),
        ("CALL f", ("f", "")),
        ("CALL ", ("", "")),
        ('CALL f {"a":1} {"b":2}', ("f", '{"a":1} {"b":2}')),
    ):
        reader, events = read(text)
        assert calls(reader) == [expected]
        assert isinstance(events[0], CallStarted)


def test_what_only_begins_like_the_opener_is_text() -> None:
    for text in ("CAL", "CALLED it", "C", "CALL\n"):
        reader, events = read(text)
        assert "".join(event.text for event in events if isinstance(event, TextDelta)).strip() == text.strip()
        assert not reader.has_calls


def test_blank_lines_before_and_between_calls_are_no_text() -> None:
    reader, events = read(f"\n\n{ONE}\n\n{TWO}\n")
    assert not any(isinstance(event, TextDelta) for event in events)
    assert len(calls(reader)) == 2


def test_call_lines_are_compact_and_take_text_as_it_is() -> None:
    assert call_line("f", {"a": [1, "é"]}) == 'CALL f {"a":[1,"é"]}'
    assert call_line("f", "{broken") == "CALL f {broken"


@given(
    lines=st.lists(st.sampled_from([ONE, TWO, "Well.", "", 'CALL g {"s":"\\n{"}', "CALL", "CAL x", "CALL f(1)"])),
    cuts=st.lists(st.integers(0, 120)),
    guided=st.booleans(),
)
def test_any_cutting_reads_alike(lines: list[str], cuts: list[int], guided: bool) -> None:
    text = "\n".join(lines)
    asked = "1 and 2" if guided else None
    whole, _ = read(text, [0], asked=asked)
    pieces, events = read(text, cuts, asked=asked)
    assert [getattr(p, "text", None) or (p.name, p.arguments) for p in pieces.parts] == [
        getattr(p, "text", None) or (p.name, p.arguments) for p in whole.parts
    ]
    for part in pieces.parts:
        if isinstance(part, ToolCall):
            index = next(e.index for e in events if isinstance(e, CallStarted) and e.id == part.id)
            told = "".join(e.text for e in events if isinstance(e, CallDelta) and e.index == index)
            assert told.rstrip() == part.arguments
