"""A conversation that outlives its process, and a call that waits for a person, for days if need be.

python examples/durable_session.py          # it pauses: a refund needs a person's yes
callbox approvals ls                        # in this terminal or another one, now or next week
callbox approvals approve apr_...
python examples/durable_session.py          # it goes on; kill it wherever you like, and the refund is made once

No key is needed: the model is a script, and says so. python examples/durable_session.py openai:MODEL takes a real one.
"""

import asyncio
import sys

from callbox import Agent, CallContext, tool
from callbox.messages import Message
from callbox.providers.scripted import Scripted

PROMPT = "The kettle of order A-1042 arrived broken. Please refund it."
PRICES = {"A-1042": 39}


@tool(effect="read")
def get_price(order_id: str) -> int:
    """Look up what was paid for an order, in euros.

    Args:
        order_id: The order's id, like "A-1042".
    """
    return PRICES[order_id]


@tool(approval="always")
async def refund(order_id: str, amount: int, context: CallContext) -> str:
    """Pay money back.

    Args:
        order_id: The order's id.
        amount: Euros.
    """
    # A real one would hand the key to the bank, which then pays once, however often it is asked.
    print(f"  refunding {amount} euros for {order_id}, with the key {context.idempotency_key}")
    return f"Refunded {amount} euros."


def script(messages: tuple[Message, ...]) -> object:
    """Stands in for a model: what to answer, by how much was said since the prompt."""
    asked = max(at for at, message in enumerate(messages) if message.role == "user")
    steps: list[object] = [
        {"call": "get_price", "arguments": {"order_id": "A-1042"}},
        {"call": "refund", "arguments": {"order_id": "A-1042", "amount": 39}},
        "You have your 39 euros back.",
    ]
    return steps[sum(message.role == "assistant" for message in messages[asked:])]


async def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else Scripted(script)
    if len(sys.argv) == 1:
        print("(The model is a script.)")
    async with Agent(model=model, tools=[get_price, refund]) as agent:
        session = agent.session("refund-A-1042", ttl_s=30 * 86_400)
        # The key says that it is the same message: said again, it goes on or is answered as it was, and not done again.
        run = await session.run(PROMPT, key="message-1")
        if run.stop == "approval":
            print(f"Waits for a person. Run: callbox approvals approve {run.approvals[0].id}")
        else:
            print(run.output)


if __name__ == "__main__":
    asyncio.run(main())
