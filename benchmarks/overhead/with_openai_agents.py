"""openai-agents: `Runner` with a `Model` of our own, tracing switched off."""

from typing import Annotated, Literal

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)
from pydantic import Field
from workload import ANSWER, NAME, QUESTION, arguments, main


class Replay(Model):
    def __init__(self, turns: int, parallel: int) -> None:
        self.turns, self.parallel, self.turn = turns, parallel, 0

    async def get_response(self, *args: object, **kwargs: object) -> ModelResponse:
        self.turn += 1
        turn = self.turn
        if turn > self.turns:
            text = ResponseOutputText(text=ANSWER, type="output_text", annotations=[])
            output = [
                ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")
            ]
        else:
            output = [
                ResponseFunctionToolCall(
                    name=NAME,
                    arguments=arguments(turn, index),
                    call_id=f"call_{turn}_{index}",
                    type="function_call",
                )
                for index in range(self.parallel)
            ]
        return ModelResponse(output=output, usage=Usage(), response_id=None)

    def stream_response(self, *args: object, **kwargs: object) -> object:
        raise NotImplementedError


async def run(turns: int, parallel: int) -> int:
    answered = 0

    @function_tool
    async def get_weather(
        city: str, days: Annotated[int, Field(ge=1, le=14)], unit: Literal["celsius", "fahrenheit"]
    ) -> dict[str, object]:
        """Look up the weather of a city."""
        nonlocal answered
        answered += 1
        return {"city": city, "days": days, "unit": unit, "degrees": 14}

    agent = Agent(name="a", model=Replay(turns, parallel), tools=[get_weather])
    config = RunConfig(tracing_disabled=True)
    await Runner.run(agent, QUESTION, max_turns=turns + 2, run_config=config)
    return answered


if __name__ == "__main__":
    main(run)
