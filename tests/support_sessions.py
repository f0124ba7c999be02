"""An agent with tools of every kind and a model that follows a script: the same in every process of a test."""

from __future__ import annotations

import pytest

from callbox import Agent, CallContext, tool
from callbox.providers.scripted import Scripted


class Stopped(BaseException):
    """As if the process had ended here."""


def tools(done):
    """Tools that write down in `done` what they do."""

    @tool
    async def pay(amount: int) -> str:
        """Pay an amount."""
        done.append(("pay", amount))
        return f"paid {amount}"

    @tool(idempotent=True)
    async def put(name: str, context: CallContext) -> str:
        """Put a thing."""
        done.append(("put", name, context.idempotency_key))
        return "there"

    @tool(approval="always")
    async def refund(amount: int, note: str = "") -> str:
        """Refund an amount."""
        done.append(("refund", amount))
        return "refunded"

    return [pay, put, refund]


def call(tool_name, call_id=None, **arguments):
    said = {"call": tool_name, "arguments": arguments}
    return said if call_id is None else {**said, "id": call_id}


def script(*turns):
    """Turns by how many answers the last prompt has: the same in every process."""

    def say(messages):
        asked = max([at for at, message in enumerate(messages) if message.role == "user"], default=0)
        return turns[sum(message.role == "assistant" for message in messages[asked:])]

    return Scripted(say)


def agent(store, done, *turns):
    """Answers the last prompt with the turns, one after the other."""
    return Agent(model=script(*turns), tools=tools(done), store=store)


def dying(at, times=1):
    """Ends the process the first `times` times that it comes to the point `at`."""
    left = [times]

    def reach(point):
        if point == at and left[0]:
            left[0] -= 1
            raise Stopped

    return reach


async def die(session, prompt, **options):
    """Run it in a process that ends on the way."""
    with pytest.raises((Stopped, BaseExceptionGroup)):
        await session.run(prompt, **options)
