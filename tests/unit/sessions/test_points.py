"""The named points of a session's life, and the places to which it does not rewind."""

from __future__ import annotations

import pytest

from callbox import Agent, tool
from callbox.errors import SessionError
from callbox.providers.scripted import Scripted
from callbox.sessions.journal import Journal
from callbox.sessions.points import POINTS, checked
from callbox.stores.memory import MemoryStore
from callbox.stores.store import SessionKey


def test_only_named_points_can_be_reached():
    told = []
    reach = checked(told.append)
    for point in POINTS:
        reach(point)
    assert told == list(POINTS)
    with pytest.raises(AssertionError, match=r"tea\.before"):
        reach("tea.before")


async def test_a_failure_of_whoever_is_told_is_not_hidden():
    def reach(point: str) -> None:
        raise KeyError(point)

    journal = Journal(MemoryStore(), SessionKey("acme", "s"), reach=reach)
    await journal.ensure()
    with pytest.raises(KeyError, match=r"lease\.taken"):
        async with journal.writing():
            pass
    assert (await journal.store.info(journal.key)).owner is None


async def test_a_session_does_not_rewind_to_between_a_call_and_its_result():
    paid = []

    @tool
    async def pay(amount: int) -> str:
        """Pay an amount."""
        paid.append(amount)
        return "paid"

    model = Scripted([{"call": "pay", "arguments": {"amount": 5}}, "Paid."])
    session = Agent(model=model, tools=[pay], store=MemoryStore()).session("s")
    await session.run("Pay 5")
    kinds = [each.entry.kind for each in await session.journal.read()]
    assert kinds == ["began", "replied", "intended", "answered", "replied", "ended"]
    for to in (2, 3):
        with pytest.raises(SessionError, match="Rewind to 1"):
            await session.rewind(to)
    await session.rewind(4)
    assert [message.role for message in await session.messages()] == ["user", "assistant", "tool"]
    assert paid == [5]
