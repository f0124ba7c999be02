"""callbox: `Agent` with the scripted provider; every stage of the gate is passed."""

from typing import Annotated, Literal

from pydantic import Field
from workload import ANSWER, NAME, QUESTION, arguments, main

from callbox import Agent, tool
from callbox.agents.conversation import Context
from callbox.providers.scripted import Scripted


@tool(effect="read")
async def get_weather(
    city: str, days: Annotated[int, Field(ge=1, le=14)], unit: Literal["celsius", "fahrenheit"]
) -> dict[str, object]:
    """Look up the weather of a city.

    Args:
        city: Name of the city.
        days: Days to look ahead.
        unit: Unit of the temperature.
    """
    return {"city": city, "days": days, "unit": unit, "degrees": 14}


async def run(turns: int, parallel: int, context: Context | None = None) -> int:
    turn = 0

    def model(messages: object) -> object:
        nonlocal turn
        turn += 1
        if turn > turns:
            return ANSWER
        return [{"call": NAME, "arguments": arguments(turn, index)} for index in range(parallel)]

    result = await Agent(Scripted(model), [get_weather], context=context).run(QUESTION)
    return sum(not one.is_error for one in result.results)


if __name__ == "__main__":
    main(run)
