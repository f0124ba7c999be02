"""An agent with tools of every kind and a model that follows a script: the same in every process of a test."""

from __future__ import annotations

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


def call(tool_name, **arguments):
    return {"call": tool_name, "arguments": arguments}


def agent(store, done, *turns):
    """Answers the last prompt with the turns, one after the other."""

    def say(messages):
        asked = max(at for at, message in enumerate(messages) if message.role == "user")
        return turns[sum(message.role == "assistant" for message in messages[asked:])]

    return Agent(model=Scripted(say), tools=tools(done), store=store)


def dying(at):
    """Ends the process when it comes to the point `at`."""

    def reach(point):
        if point == at:
            raise Stopped

    return reach
