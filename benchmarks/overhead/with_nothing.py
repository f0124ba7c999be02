"""A hand-written loop as one finds it in production: parse, validate with `jsonschema`, a time-out, gather, append."""

import asyncio
import json

import jsonschema
from workload import ANSWER, NAME, QUESTION, SCHEMA, arguments, main

VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


async def get_weather(city: str, days: int, unit: str) -> dict[str, object]:
    return {"city": city, "days": days, "unit": unit, "degrees": 14}


TOOLS = {NAME: (get_weather, VALIDATOR)}


async def answer(call: dict[str, object]) -> dict[str, object]:
    try:
        function, validator = TOOLS[call["function"]["name"]]
        given = json.loads(call["function"]["arguments"])
        problems = [error.message for error in validator.iter_errors(given)]
        content = {"error": problems} if problems else await asyncio.wait_for(function(**given), 60)
    except Exception as error:
        content = {"error": str(error)}
    return {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(content)}


async def run(turns: int, parallel: int) -> int:
    messages: list[dict[str, object]] = [{"role": "user", "content": QUESTION}]
    answered = 0
    for turn in range(1, turns + 2):
        if turn > turns:
            messages.append({"role": "assistant", "content": ANSWER})
            break
        calls = [
            {
                "id": f"call_{turn}_{index}",
                "type": "function",
                "function": {"name": NAME, "arguments": arguments(turn, index)},
            }
            for index in range(parallel)
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        results = await asyncio.gather(*map(answer, calls))
        answered += sum('"error"' not in result["content"] for result in results)
        messages.extend(results)
    return answered


if __name__ == "__main__":
    main(run)
