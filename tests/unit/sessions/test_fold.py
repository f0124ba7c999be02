"""A journal that says what cannot have been is refused, not folded into something that looks right."""

from __future__ import annotations

import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.errors import JournalDamaged
from callbox.messages import Message
from callbox.sessions.entries import Answered, Asked, Began, Decided, Entry, Intended, Replied
from callbox.sessions.fold import Placed, fold

CALLS = (ToolCall("a", "refund", {"n": 1}), ToolCall("b", "refund", {"n": 1}))
OPENED: tuple[Entry, ...] = (
    Began(run="r", prompt=(Message.user("Refund it."),)),
    Replied(message=Message("assistant", CALLS), opens=True, turn="t"),
    Asked(approval="apr", call="a", tool="refund", arguments={"n": 1}, digest="d", reason=""),
)
YES = Decided(approval="apr", approved=True, by="kim")
NO = Decided(approval="apr", approved=False, by="kim")
USE = Intended(call="a", version="1", approval="apr")
AGAIN = Intended(call="b", version="1", approval="apr")
UNASKED = Intended(call="a", version="1", approval="x")
ANSWERED = Answered(result=ToolResult("a", "refund", "refunded"))


def folded(*entries: Entry) -> object:
    return fold([Placed(seq, 0.0, entry) for seq, entry in enumerate((*OPENED, *entries), 1)], "s")


@pytest.mark.parametrize(
    "entries",
    [(USE,), (NO, USE), (YES, USE, AGAIN), (YES, USE, ANSWERED, AGAIN), (YES, UNASKED)],
)
def test_a_call_begins_under_a_yes_that_somebody_gave_and_once(entries: tuple[Entry, ...]) -> None:
    with pytest.raises(JournalDamaged):
        folded(*entries)


def test_a_yes_is_used_by_the_intent_that_names_it() -> None:
    state = fold([Placed(seq, 0.0, entry) for seq, entry in enumerate((*OPENED, YES, USE), 1)], "s")
    assert (state.approvals["apr"].approved, state.approvals["apr"].used) == (True, True)


def test_copies_of_a_run_give_their_calls_other_keys() -> None:
    opens = Replied(message=Message("assistant", CALLS), opens=True, turn="u")
    keys: set[str] = set()
    for reply in (OPENED[1], opens):
        state = fold([Placed(1, 0.0, OPENED[0]), Placed(2, 0.0, reply)], "s")
        assert state.turn is not None
        keys |= {state.turn.key_of(call.id) for call in CALLS}
    assert len(keys) == 4
