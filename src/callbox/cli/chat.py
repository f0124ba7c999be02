"""`callbox chat`: talk to a model in the terminal, see its calls run, cancel with Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from callbox.agents.agent import Agent
from callbox.agents.events import CallFinished, CallProgress, CallRunning, RunEnded
from callbox.agents.stream import RunStream
from callbox.cli.approval import TerminalApprover
from callbox.cli.question import TOOLS
from callbox.cli.targets import load_toolset
from callbox.cli.terminal import clean, console, shorten, show_call, show_error, show_result
from callbox.errors import CallboxError, ConfigurationError
from callbox.messages import Message, TextDelta
from callbox.tools.toolset import Toolset


def chat(
    prompt: Annotated[str | None, typer.Argument(help="Ask this one question and leave.")] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help='"local", "openai:gpt-5", "anthropic:...", "gemini:..."')
    ] = "local",
    tools: Annotated[
        str | None,
        typer.Option("--tools", "-t", help='"module:toolset" or a module; default: the demo\'s two tools'),
    ] = None,
    instructions: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
) -> None:
    """Talk to a model that may call your tools. Ctrl-C cancels the answer, Ctrl-D leaves."""
    try:
        toolset = load_toolset(tools) if tools else Toolset(TOOLS)
        agent = Agent(model, toolset, instructions, approver=TerminalApprover())
    except CallboxError as error:
        show_error(error)
        raise typer.Exit(2) from None
    with asyncio.Runner() as runner:
        try:
            conversation = Conversation(agent)
            if prompt is not None:
                raise typer.Exit(_say(runner, conversation, prompt))
            console.print(Text(f"{model}, tools: {', '.join(toolset.names) or 'none'}. Ctrl-D leaves.", "dim"))
            _converse(runner, conversation, lambda: console.input("[bold]> [/bold]"))
        finally:
            runner.run(agent.aclose())


class Conversation:
    """What has been said so far; stays usable after a cancellation or a failure."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.history: list[Message] = []

    async def say(self, text: str) -> bool:
        """One run, shown as it happens; whether the model came to an answer."""
        stream = self._agent.stream(text, history=self.history)
        try:
            return await _show(stream)
        finally:
            await stream.aclose()
            self.history = stream.messages


def _converse(runner: asyncio.Runner, conversation: Conversation, read: Callable[[], str]) -> None:
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line:
            _say(runner, conversation, line)


def _say(runner: asyncio.Runner, conversation: Conversation, text: str) -> int:
    """One run; what the command would exit with after it."""
    try:
        return 0 if runner.run(conversation.say(text)) else 1
    except KeyboardInterrupt:  # the runner has cancelled the run, and the run its calls
        console.print(Text("\ncancelled", "yellow"))
    except CallboxError as error:
        show_error(error)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 1


async def _show(stream: RunStream) -> bool:
    writing = False
    async for event in stream:
        if isinstance(event, TextDelta):
            console.print(Text(clean(event.text)), end="")
            writing = True
            continue
        if writing and isinstance(event, (CallRunning, CallFinished, RunEnded)):
            console.print()
            writing = False
        if isinstance(event, CallRunning):
            show_call(event.call)
        elif isinstance(event, CallProgress):
            console.print(Text(f"    {event.progress:g}/{event.total or '?'} {shorten(event.message or '')}", "dim"))
        elif isinstance(event, CallFinished):
            show_result(event.result)
        elif isinstance(event, RunEnded):
            run = event.run
            if run.stop != "done":
                console.print(Text(f"[{run.stop}] {clean(run.output)}", "yellow"))
            tokens = f"{run.usage.input_tokens:,} + {run.usage.output_tokens:,} tokens"
            console.print(Text(f"{len(run.calls)} calls, {tokens}", "dim"))
            return run.stop == "done"
    return False
