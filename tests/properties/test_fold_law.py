"""Laws of the fold: entry by entry or all at once, from memory or as they were written, a journal comes to the same.

The journals are random, and such as a session writes: every entry follows from what came before.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.errors import JournalDamaged
from callbox.messages import Message
from callbox.sessions.coding import decode, encode
from callbox.sessions.entries import Answered, Asked, Began, Decided, Ended, Entry, Intended, Noted, Replied, Rewound
from callbox.sessions.fold import Placed, SessionState, effective, fold

ENTRIES_MAX = 40
UNREADABLE = CallError("malformed_json", "No JSON.")


def reply(draw: Any) -> Replied:
    """An answer with some calls, of which some could not be read; ids come again in every turn."""
    calls = [
        ToolCall(f"call_{number}", draw(st.sampled_from(["pay", "look"])), {"n": number},
                 error=draw(st.sampled_from([None, None, None, UNREADABLE])))
        for number in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    text = draw(st.sampled_from(["", "Well."]))
    if not calls and not text:
        return Replied(message=None, opens=False)
    return Replied(message=Message.assistant(text, calls), opens=bool(calls), turn="T-_4" if calls else "")


def choices(state: SessionState, inside: dict[int, bool], number: int, draw: Any) -> list[Entry]:
    """What a session may write next."""
    can: list[Entry] = [Noted(values={f"n{number % 3}": number})]
    if state.turn is None:
        places = [to for to, is_inside in inside.items() if not is_inside and to < state.seq]
        can += [Rewound(to=draw(st.sampled_from(places)))] if places and draw(st.integers(0, 3)) == 0 else []
    if not state.unfinished:
        key = draw(st.sampled_from([None, f"k{number}"]))
        can += [Began(run=f"run_{number}", prompt=(Message.user("Go"),), prompt_key=key)] * 3
    elif state.turn is None and state.run is not None:
        can += [reply(draw), reply(draw), reply(draw), Ended(run=state.run.id, stop="done", output="")]
    if state.turn is not None:
        can += _calls(state, number)
    return can


def _calls(state: SessionState, number: int) -> list[Entry]:
    assert state.turn is not None
    can: list[Entry] = []
    for call in state.turn.missing():
        can.append(Answered(result=ToolResult(call.id, call.name, "fine")))
        if call.id not in state.turn.intents:
            can.append(Intended(call=call.id, version="1"))
            can += [Intended(call=call.id, version="1", approval=each.id) for each in state.approvals.values()
                    if each.approved and not each.used and each.call_id == call.id]  # fmt: skip
            can.append(Asked(approval=f"apr_{number}", call=call.id, tool=call.name, arguments=call.arguments,
                             digest=call.id, reason=""))  # fmt: skip
    can += [Decided(approval=each.id, approved=yes, by="kim") for each in state.waiting for yes in (True, False)]
    return can


@st.composite
def journals(draw: Any) -> list[Placed]:
    """A journal, with the places of its entries."""
    placed: list[Placed] = []
    inside = {0: False}  # whether a turn is open after an entry: there a session does not rewind to
    for number in range(1, draw(st.integers(0, ENTRIES_MAX)) + 1):
        state = fold(placed, "s")
        entry = draw(st.sampled_from(choices(state, inside, number, draw)))
        placed.append(Placed(number, float(number), entry))
        inside[number] = fold(placed, "s").turn is not None
    return placed


def applied(placed: list[Placed]) -> SessionState:
    """As a process does it that writes: each entry as it comes, and all of them again only after a rewind."""
    state = SessionState()
    for at, each in enumerate(placed):
        if isinstance(each.entry, Rewound):
            state = fold(placed[: at + 1], "s")
        else:
            state.apply(each, "s")
    return state


@given(journals())
def test_all_at_once_or_one_by_one_a_journal_comes_to_the_same(placed: list[Placed]) -> None:
    before = deepcopy(placed)
    assert applied(placed) == fold(placed, "s")
    assert placed == before, "folding changes no entry"


@given(journals())
def test_every_prefix_is_a_journal(placed: list[Placed]) -> None:
    for end in range(len(placed) + 1):
        state = fold(placed[:end], "s")
        assert state.seq == end
        answered(state)


def answered(state: SessionState) -> None:
    """Each call in the conversation has its result, in the next message."""
    for at, message in enumerate(state.messages):
        if message.calls:
            assert [each.call_id for each in state.messages[at + 1].results] == [each.id for each in message.calls]
        if message.role == "tool":
            assert state.messages[at - 1].calls


@given(journals())
def test_what_was_written_and_read_comes_to_the_same(placed: list[Placed]) -> None:
    read = [Placed(each.seq, each.at, decode(each.entry.kind, encode(each.entry))) for each in placed]
    assert fold(read, "s") == fold(placed, "s")


@given(journals(), st.data())
def test_a_rewound_journal_comes_to_what_it_was_there(placed: list[Placed], data: st.DataObject) -> None:
    to = data.draw(st.integers(0, len(placed)))
    rewound = [*placed, Placed(len(placed) + 1, 0.0, Rewound(to=to))]
    there = fold(placed[:to], "s")
    live, last = effective(rewound)
    if not any(isinstance(each.entry, Rewound) for each in placed[to:]):
        there.seq = last
        assert fold(rewound, "s") == there
    assert last == len(rewound)
    assert all(each.seq <= to for each in live)


@given(journals(), st.data())
def test_an_entry_out_of_its_place_is_refused(placed: list[Placed], data: st.DataObject) -> None:
    state = applied(placed)
    seq = data.draw(st.integers(0, state.seq))
    with pytest.raises(JournalDamaged):
        state.apply(Placed(seq, 0.0, Noted()), "s")
    with pytest.raises(JournalDamaged):
        state.apply(Placed(state.seq + 1, 0.0, Decided(approval="nobody's", approved=True, by="kim")), "s")
