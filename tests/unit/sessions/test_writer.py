"""What a writer holds back is written together with what comes next, or at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from callbox.errors import StoreUnavailable
from callbox.sessions import journal as journals
from callbox.sessions.entries import Began, Ended, Noted
from callbox.sessions.journal import Journal
from callbox.stores.memory import MemoryStore
from callbox.stores.store import NewEvent, SessionKey
from support_sessions import agent, call

KEY = SessionKey("acme", "one")


class Counting(MemoryStore):
    """Tells the kinds of each append; refuses all while it is away."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[list[str]] = []
        self.away = False

    async def append(self, lease: Any, after: int, events: Sequence[NewEvent], **options: Any) -> None:
        """See `Store.append`."""
        if self.away:
            raise StoreUnavailable("Away.")
        await super().append(lease, after, events, **options)
        self.appends.append([event.kind for event in events])


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
async def journal(store: Counting) -> Journal:
    made = Journal(store, KEY)
    await made.ensure()
    return made


async def test_what_is_held_is_in_the_state_and_in_the_next_append(store: Counting, journal: Journal) -> None:
    async with journal.writing() as writer:
        await writer.write(Began(run="r", prompt=()))
        await writer.hold(Noted(values={"a": 1}))
        await writer.hold(Noted(values={"a": 2}))
        assert (writer.state.seq, writer.state.notes) == (3, {"a": 2})
        assert store.appends == [["began"]]
        await writer.write(Ended(run="r", stop="done", output=""))
        assert store.appends == [["began"], ["noted", "noted", "ended"]]
        believed = writer.state
    assert await journal.state() == believed


async def test_what_is_held_is_written_at_the_end(store: Counting, journal: Journal) -> None:
    async with journal.writing() as writer:
        await writer.hold(Noted(values={"a": 1}))
    assert (await journal.state()).notes == {"a": 1}


async def test_a_store_that_is_away_at_the_end_keeps_nobody(
    store: Counting, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journals, "APPEND_WAIT_S", 0.0)
    async with journal.writing() as writer:
        await writer.hold(Noted(values={"a": 1}))
        store.away = True
    assert "was not written" in caplog.text
    store.away = False
    async with journal.writing() as writer:
        assert writer.state.notes == {}


async def test_a_call_takes_two_appends_and_is_written_before_it_runs(store: Counting) -> None:
    done: list[Any] = []
    turns = [[call("put", f"c{n}", name=str(n))] for n in range(4)]
    await agent(store, done, *turns, "Fine.").session("s").run("Put four")
    assert store.appends == [["began"], *[["replied", "intended"], ["answered"]] * 4, ["replied", "ended"]]
