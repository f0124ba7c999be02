"""Two tools and a question that needs both, answered by a small model in this process: no key, no network.

python examples/quickstart.py            # or, with a key of yours: python examples/quickstart.py openai:MODEL
"""

import sys

from callbox import Agent, tool

ORDERS = {"A-1042": {"item": "a blue kettle", "parcel": "TRK-58"}}
PARCELS = {"TRK-58": {"place": "Hamburg", "arrives": "on Friday"}}


@tool(effect="read")
def get_order(order_id: str) -> dict[str, str]:
    """Look up an order: what is in it, and the number of its parcel.

    Args:
        order_id: The order's id, like "A-1042".
    """
    return ORDERS[order_id]


@tool(effect="read")
async def track_parcel(parcel: str) -> dict[str, str]:
    """Find out where a parcel is and when it will arrive.

    Args:
        parcel: The parcel's number, like "TRK-1".
    """
    return PARCELS[parcel]


@get_order.check
def order_exists(order_id: str) -> str | None:
    """What is wrong with the arguments goes back to the model, which may then correct itself."""
    return None if order_id in ORDERS else f"There is no order {order_id}."


if __name__ == "__main__":
    agent = Agent(model=sys.argv[1] if len(sys.argv) > 1 else "local", tools=[get_order, track_parcel])
    run = agent.run_sync("What is in order A-1042, and when will its parcel arrive?")
    for call, result in zip(run.calls, run.results, strict=True):
        print(f"{call.name}({call.arguments}) -> {result.content}")
    print(run.output)
