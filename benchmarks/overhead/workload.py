"""The work that every subject does: a scripted model asks for one tool of three arguments, turn after turn.

A subject is a script with a coroutine function ``run(turns, parallel) -> answered calls`` that is awaited twice in one
event loop: once to warm up (lazy imports, caches), once measured, in CPU time of the whole process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

QUESTION = "What is the weather?"
ANSWER = "It is mild."
NAME = "get_weather"
DESCRIPTION = "Look up the weather of a city."
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Name of the city."},
        "days": {"type": "integer", "minimum": 1, "maximum": 14, "description": "Days to look ahead."},
        "unit": {
            "type": "string",
            "enum": ["celsius", "fahrenheit"],
            "description": "Unit of the temperature.",
        },
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}


def arguments(turn: int, index: int) -> str:
    """The JSON text that the model writes."""
    return json.dumps({"city": f"City {turn}-{index}", "days": 1 + turn % 14, "unit": "celsius"})


def main(run: Callable[[int, int], Awaitable[int]]) -> None:
    """Measure one subject: ``script.py TURNS PARALLEL`` prints one JSON object."""
    asyncio.run(_measure(run, int(sys.argv[1]), int(sys.argv[2])))


async def _measure(run: Callable[[int, int], Awaitable[int]], turns: int, parallel: int) -> None:
    await run(10, parallel)
    began = time.process_time()
    answered = await run(turns, parallel)
    spent = time.process_time() - began
    assert answered == turns * parallel, f"{answered} of {turns * parallel} calls were answered"
    print(json.dumps({"us_per_call": spent / answered * 1e6}))
