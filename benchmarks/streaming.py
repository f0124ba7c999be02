"""Reading a streamed call: CPU time for one call whose arguments come in pieces of 8 characters, by size.

A reader must know when a call is complete, because a read starts then. Peers: the openai SDK's own stream state, and
the hand-written way, which parses everything again at every piece (`json.loads` until it succeeds, or `jiter` in
partial mode).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import jiter
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from rich.console import Console
from rich.table import Table

from callbox.dialects import find_dialect
from callbox.messages import CallReady

SIZES = (200, 2_000, 20_000)
PIECE = 8
ROUNDS = 5


def chunks(size: int) -> list[dict[str, Any]]:
    """One call of about `size` characters, as the API sends it."""
    rows = [{"id": index, "text": "some text", "ok": True} for index in range(max(1, size // 45))]
    text = json.dumps({"rows": rows})
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    calls = [head] + [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    made = [chunk({"tool_calls": [call]}) for call in calls]
    return [chunk({"role": "assistant", "content": None}), *made, chunk({}, "tool_calls")]


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}


def with_callbox(parts: list[dict[str, Any]]) -> int:
    reader = find_dialect("openai").reader()
    events = [event for part in parts for event in reader.feed(part)] + reader.finish()
    return sum(isinstance(event, CallReady) for event in events)


def with_sdk(parts: list[Any]) -> int:
    state = ChatCompletionStreamState()
    for part in parts:
        list(state.handle_chunk(part))
    return len(state.get_final_completion().choices[0].message.tool_calls or [])


def with_loads(parts: list[dict[str, Any]]) -> int:
    text, ready = "", 0
    for part in parts:
        for call in part["choices"][0]["delta"].get("tool_calls", ()):
            text += call["function"]["arguments"]
            try:
                json.loads(text)
                ready = 1
            except ValueError:
                pass
    return ready


def with_jiter(parts: list[dict[str, Any]]) -> int:
    text = b""
    for part in parts:
        for call in part["choices"][0]["delta"].get("tool_calls", ()):
            text += call["function"]["arguments"].encode()
            if text:
                jiter.from_json(text, partial_mode=True)
    json.loads(text)
    return 1


SUBJECTS: dict[str, tuple[Callable[[Any], int], bool]] = {
    "callbox": (with_callbox, False),
    "openai SDK's stream state": (with_sdk, True),
    "json.loads at every piece": (with_loads, False),
    "jiter at every piece": (with_jiter, False),
}


def main() -> None:
    best: dict[tuple[str, int], float] = {}
    for size in SIZES:
        parts = chunks(size)
        objects = [ChatCompletionChunk.model_validate(part) for part in parts]
        for _ in range(ROUNDS):
            for name, (read, wants_objects) in SUBJECTS.items():
                began = time.process_time()
                assert read(objects if wants_objects else parts) == 1
                figure = (time.process_time() - began) * 1e3
                best[name, size] = min(figure, best.get((name, size), figure))
    heads = [f"{size:,} characters" for size in SIZES]
    table = Table("ms of CPU per streamed call (best of rounds)", *heads, box=None, pad_edge=False)
    for name in SUBJECTS:
        table.add_row(name, *(f"{best[name, size]:,.2f}" for size in SIZES))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
