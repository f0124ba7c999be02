"""Reading one call: parse, resolve, validate, and explain what is wrong. CPU time per call, side by side.

Peers do what one writes by hand: `json` and `jsonschema` (all errors), and `json` and pydantic.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
from rich.console import Console
from rich.table import Table

from callbox import Gate, ToolCall, Toolset

ROUNDS = 7
CALLS = 2_000

SMALL = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
LARGE = {
    "type": "object",
    "properties": {"rows": {"type": "array", "items": SMALL}},
    "required": ["rows"],
    "additionalProperties": False,
}
GOOD = {"city": "Paris", "days": 3, "unit": "celsius"}
BAD = {"citi": "Paris", "days": "3", "unit": "kelvin"}
CASES = {
    "3 arguments, valid": (SMALL, json.dumps(GOOD)),
    "3 arguments, 3 mistakes": (SMALL, json.dumps(BAD)),
    "100 rows of 3, valid": (LARGE, json.dumps({"rows": [GOOD] * 100})),
    "100 rows of 3, 1 mistake": (LARGE, json.dumps({"rows": [GOOD] * 99 + [{**GOOD, "days": 99}]})),
    "truncated JSON": (SMALL, json.dumps(GOOD)[:-5]),
}


class Small(pydantic.BaseModel, extra="forbid", strict=True):
    city: str
    days: Annotated[int, pydantic.Field(ge=1, le=14)]
    unit: Literal["celsius", "fahrenheit"]


class Large(pydantic.BaseModel, extra="forbid", strict=True):
    rows: list[Small]


def with_callbox(schema: dict[str, Any], text: str) -> Callable[[], object]:
    definition = {"name": "f", "description": "Does something.", "parameters": schema}
    gate = Gate(Toolset.from_schemas([definition]))
    call = ToolCall("c", "f", text)
    return lambda: gate.prepare((call,))


def with_jsonschema(schema: dict[str, Any], text: str) -> Callable[[], object]:
    validator = jsonschema.Draft202012Validator(schema)

    def read() -> object:
        try:
            value = json.loads(text)
        except ValueError as error:
            return str(error)
        return [(list(error.absolute_path), error.message) for error in validator.iter_errors(value)]

    return read


def with_pydantic(schema: dict[str, Any], text: str) -> Callable[[], object]:
    model = Small if schema is SMALL else Large

    def read() -> object:
        try:
            return model.model_validate_json(text)
        except pydantic.ValidationError as error:
            return error.errors()

    return read


SUBJECTS = {"callbox": with_callbox, "json + jsonschema": with_jsonschema, "pydantic": with_pydantic}


def measure(read: Callable[[], object], calls: int) -> float:
    """Microseconds of CPU per call."""
    began = time.process_time()
    for _ in range(calls):
        read()
    return (time.process_time() - began) / calls * 1e6


def main() -> None:
    best: dict[tuple[str, str], float] = {}
    readers = {(case, name): make(*CASES[case]) for case in CASES for name, make in SUBJECTS.items()}
    for _ in range(ROUNDS):  # side by side: a busy moment of the machine hits all of them
        for key, read in readers.items():
            figure = measure(read, CALLS // 20 if "rows" in key[0] else CALLS)
            best[key] = min(figure, best.get(key, figure))
    table = Table("us of CPU per call (best of rounds)", *SUBJECTS, box=None, pad_edge=False)
    for case in CASES:
        table.add_row(case, *(f"{best[case, name]:,.1f}" for name in SUBJECTS))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
