"""The table of the life cycle: complete, without dead ends, and what the docs show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from callbox.errors import SandboxStateError
from callbox.sandboxes.states import ASLEEP, AWAKE, HELD, MEANING, TABLE, Event, State, mermaid, next_state

PAGE = Path(__file__).parents[3] / "docs" / "sandboxes.md"


def reachable(start: State) -> set[State]:
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for (state, _), after in TABLE.items():
            if state == here and after not in seen:
                seen.add(after)
                todo.append(after)
    return seen


def test_every_state_is_reached_from_the_beginning():
    assert reachable(State.CREATING) == set(State)


@pytest.mark.parametrize("state", State)
def test_every_state_reaches_gone(state):
    assert State.GONE in reachable(state)


def test_nothing_leaves_gone():
    assert reachable(State.GONE) == {State.GONE}


@pytest.mark.parametrize("state", [state for state in State if state not in (State.STOPPING, State.GONE)])
def test_everything_that_lives_can_be_deleted(state):
    assert next_state(state, Event.DELETED) is State.STOPPING


@pytest.mark.parametrize("state", sorted(ASLEEP))
def test_everything_asleep_can_be_woken(state):
    assert next_state(state, Event.WOKEN) is State.RUNNING


@pytest.mark.parametrize("state", sorted(HELD | ASLEEP))
def test_everything_can_break(state):
    assert next_state(state, Event.BROKE) is State.FAILED


def test_every_event_happens_somewhere_and_every_state_has_a_meaning():
    assert {event for _, event in TABLE} == set(Event)
    assert set(MEANING) == set(State)
    assert AWAKE < HELD


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_what_is_not_in_the_table_is_refused(state, event):
    if (state, event) in TABLE:
        assert next_state(state, event) is TABLE[state, event]
    else:
        with pytest.raises(SandboxStateError, match=f"that is {state} cannot be {event}"):
            next_state(state, event)


def test_the_diagram_and_the_table_in_the_docs_are_drawn_from_the_table():
    page = PAGE.read_text()
    drawn = re.search(r"```mermaid\n(.*?)\n```", page, re.DOTALL)
    assert drawn is not None
    assert drawn[1] == mermaid()
    assert all(f"| `{state}` | {meaning} |" in page for state, meaning in MEANING.items())
