"""pydantic-ai: `Agent` with its own `FunctionModel`."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import UsageLimits
from workload import ANSWER, NAME, QUESTION, arguments, main


async def run(turns: int, parallel: int) -> int:
    turn = answered = 0

    def model(messages: object, info: object) -> ModelResponse:
        nonlocal turn
        turn += 1
        if turn > turns:
            return ModelResponse(parts=[TextPart(ANSWER)])
        return ModelResponse(
            parts=[
                ToolCallPart(NAME, arguments(turn, index), tool_call_id=f"call_{turn}_{index}")
                for index in range(parallel)
            ]
        )

    agent = Agent(FunctionModel(model))

    @agent.tool_plain
    async def get_weather(
        city: str, days: Annotated[int, Field(ge=1, le=14)], unit: Literal["celsius", "fahrenheit"]
    ) -> dict[str, object]:
        """Look up the weather of a city."""
        nonlocal answered
        answered += 1
        return {"city": city, "days": days, "unit": unit, "degrees": 14}

    await agent.run(QUESTION, usage_limits=UsageLimits(request_limit=None))
    return answered


if __name__ == "__main__":
    main(run)
