"""`callbox demo question`: a question that needs two tools, answered in front of your eyes."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Annotated

import typer
from rich.text import Text

from callbox.agents.agent import Agent
from callbox.agents.events import CallFinished, CallRunning, RunEnded
from callbox.agents.run import Run
from callbox.cli.terminal import clean, console, errors, show_call, show_error, show_result
from callbox.errors import CallboxError, ConfigurationError
from callbox.messages import TextDelta
from callbox.tools.signature import tool

QUESTION = "What is in order A-1042, and when will its parcel arrive?"

_ORDERS = {"A-1042": {"item": "a blue kettle", "parcel": "TRK-58"}, "B-77": {"item": "a lamp", "parcel": "TRK-91"}}
_PARCELS = {
    "TRK-58": {"place": "Hamburg", "arrives": "on Friday"},
    "TRK-91": {"place": "Lyon", "arrives": "on Monday"},
}
_KEYS = {"OPENAI_API_KEY": "openai:MODEL", "ANTHROPIC_API_KEY": "anthropic:MODEL", "GEMINI_API_KEY": "gemini:MODEL"}


@tool(effect="read")
def get_order(order_id: str) -> dict[str, str]:
    """Look up an order: what is in it, and the number of its parcel.

    Args:
        order_id: The order's id, like "A-1042".
    """
    return _ORDERS[order_id]


@tool(effect="read")
def track_parcel(parcel: str) -> dict[str, str]:
    """Find out where a parcel is and when it will arrive.

    Args:
        parcel: The parcel's number, like "TRK-1".
    """
    return _PARCELS[parcel]


@get_order.check
def order_exists(order_id: str) -> str | None:
    """The model may have made the number up: say which ones there are."""
    return None if order_id in _ORDERS else f"There is no order {order_id}; there are {', '.join(_ORDERS)}."


@track_parcel.check
def parcel_exists(parcel: str) -> str | None:
    """See `order_exists`."""
    return None if parcel in _PARCELS else f"There is no parcel {parcel}; look at the order for its number."


TOOLS = (get_order, track_parcel)


def question(
    model: Annotated[
        str, typer.Option("--model", "-m", help='"local", or "openai:MODEL" and the like with a key of yours')
    ] = "local",
) -> None:
    """Answer a question that needs two tools: by default with a small model in this process, without key or network."""
    try:
        run = asyncio.run(_run(model))
    except CallboxError as error:
        show_error(error)
        raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from None
    except KeyboardInterrupt:
        console.print(Text("\ncancelled", "yellow"))
        raise typer.Exit(130) from None
    if run.stop != "done":
        errors.print(Text(f"[{run.stop}] {clean(run.output)}", "red"))
        raise typer.Exit(1)


async def _run(model: str) -> Run:
    console.print(Text.assemble(("Question  ", "dim"), (QUESTION, "bold")))
    if model == "local":
        console.print(
            Text(
                "Model     SmolLM2-135M in this process, one thread, no key, no network. It takes a few seconds.", "dim"
            )
        )
    else:
        console.print(Text(f"Model     {model}", "dim"))
    begun = time.perf_counter()
    async with Agent(model=model, tools=TOOLS) as agent:
        run = await _show(agent)
    seconds = time.perf_counter() - begun
    usage = run.usage
    console.print(
        Text(
            f"{len(run.calls)} calls in {run.turns} turns, {usage.input_tokens:,} tokens read "
            f"({usage.cached_tokens:,} of them cached), {usage.output_tokens:,} written, {seconds:.1f} s",
            "dim",
        )
    )
    _suggest(model)
    return run


async def _show(agent: Agent) -> Run:
    writing = False
    stream = agent.stream(QUESTION)
    try:
        async for event in stream:
            if isinstance(event, TextDelta):
                if not writing:
                    console.print(Text("Answer    ", "dim"), end="")
                    writing = True
                console.print(Text(clean(event.text), "bold green"), end="")
            elif isinstance(event, CallRunning):
                show_call(event.call)
            elif isinstance(event, CallFinished):
                show_result(event.result)
            elif isinstance(event, RunEnded):
                if writing:
                    console.print()
                return event.run
    finally:
        await stream.aclose()
    raise AssertionError("the last event is RunEnded")


def _suggest(model: str) -> None:
    """What to do next; names of keys are looked at, never their values."""
    found = [spec for key, spec in _KEYS.items() if os.environ.get(key)] if model == "local" else []
    if found:
        console.print(Text(f"You have a key: try callbox demo question --model {found[0]}", "dim"))
    console.print(Text("Next: callbox chat, or examples/quickstart.py for the same in your own code.", "dim"))
