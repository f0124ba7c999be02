"""The work that every subject does: a scripted model asks for one tool of three arguments, turn after turn.

A subject is a script with a function ``run(turns, parallel) -> answered calls`` that is called twice: once to warm up
(lazy imports, caches), once measured. CPU time of the whole process, children included in none of them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

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


def main(run: Callable[[int, int], int]) -> None:
    """Measure one subject: ``script.py TURNS PARALLEL`` prints one JSON object."""
    turns, parallel = int(sys.argv[1]), int(sys.argv[2])
    run(3, parallel)
    began = time.process_time()
    answered = run(turns, parallel)
    spent = time.process_time() - began
    assert answered == turns * parallel, f"{answered} of {turns * parallel} calls were answered"
    print(json.dumps({"us_per_call": spent / answered * 1e6}))
