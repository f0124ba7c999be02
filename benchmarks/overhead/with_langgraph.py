"""langgraph: the prebuilt agent with a chat model of our own, no checkpointer."""

import warnings
from typing import Annotated, Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from pydantic import Field
from workload import ANSWER, NAME, QUESTION, arguments, main

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langgraph.prebuilt import create_react_agent

import json


class Replay(BaseChatModel):
    turns: int
    parallel: int
    turn: int = 0

    @property
    def _llm_type(self) -> str:
        return "replay"

    def bind_tools(self, tools: Any, **kwargs: Any) -> "Replay":
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.turn += 1
        turn = self.turn
        if turn > self.turns:
            message = AIMessage(ANSWER)
        else:
            calls = [
                {"name": NAME, "args": json.loads(arguments(turn, index)), "id": f"call_{turn}_{index}"}
                for index in range(self.parallel)
            ]
            message = AIMessage("", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._generate(messages)


async def run(turns: int, parallel: int) -> int:
    answered = 0

    @tool
    async def get_weather(
        city: str, days: Annotated[int, Field(ge=1, le=14)], unit: Literal["celsius", "fahrenheit"]
    ) -> dict[str, object]:
        """Look up the weather of a city."""
        nonlocal answered
        answered += 1
        return {"city": city, "days": days, "unit": unit, "degrees": 14}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agent = create_react_agent(Replay(turns=turns, parallel=parallel), [get_weather])
    await agent.ainvoke({"messages": [("user", QUESTION)]}, {"recursion_limit": 10 * turns + 50})
    return answered


if __name__ == "__main__":
    main(run)
