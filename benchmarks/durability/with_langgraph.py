"""langgraph: ``python with_langgraph.py step|fill|calls|load SAVER URL PID ...`` prints one JSON object.

step: a graph of two nodes, model and tool, which is the least that an agent is: the checkpoint after the model's node
is what the intent is with us, the checkpoint after the tool's node the outcome. And the saver alone: one `put` with the
call and one `put_writes` with its result, which is the least that makes both durable.

SAVER: SqliteSaver, AsyncSqliteSaver, PostgresSaver, AsyncPostgresSaver; with ``:async`` graphs have their default
durability, which does not wait for the disk, with ``:delta`` messages are kept in a `DeltaChannel` (beta); else "sync".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import warnings
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, TypedDict

from workload import (
    ANSWER,
    ARGUMENTS_BYTES,
    HISTORIES,
    NAME,
    QUESTION,
    RESULT_BYTES,
    RUNS,
    STEPS,
    Marks,
    Server,
    arguments,
    emit,
    result,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
    from langgraph.channels.delta import DeltaChannel
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.graph import END, START, StateGraph
    from langgraph.graph.message import add_messages

SIZES = (ARGUMENTS_BYTES, RESULT_BYTES)


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def extended(state: list[AnyMessage], writes: Sequence[list[AnyMessage]]) -> list[AnyMessage]:
    return [*state, *[message for write in writes for message in write]]


class DeltaState(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(extended)]


def call_message(seed: str, size: int) -> AIMessage:
    calls = [{"name": NAME, "args": arguments(seed, size), "id": f"call_{seed}"}]
    return AIMessage("", tool_calls=calls, id=f"m_{seed}")


def result_message(seed: str, size: int) -> ToolMessage:
    return ToolMessage(result(seed, size), tool_call_id=f"call_{seed}", name=NAME, id=f"r_{seed}")


def history_messages(messages: int) -> list[AnyMessage]:
    if not messages:
        return []
    said: list[AnyMessage] = [HumanMessage(QUESTION, id="q0")]
    for n in range(messages // 2):
        said += [call_message(f"h{n}", ARGUMENTS_BYTES), result_message(f"h{n}", RESULT_BYTES)]
    return [*said, AIMessage(ANSWER, id="a0")]


def graph(saver: Any, calls: int, seed: str, marks: Marks | None, sizes: Sequence[int], state: type) -> Any:
    """A model that asks for `calls` calls, one in each turn, and a tool that answers at once."""
    asked = 0

    def ask() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked > calls:
            return {"messages": [AIMessage(ANSWER, id=f"a_{seed}")]}
        return {"messages": [call_message(f"{seed}-{asked}", sizes[0])]}

    def answer() -> dict[str, Any]:
        if marks is not None:
            marks.hit()
        return {"messages": [result_message(f"{seed}-{asked}", sizes[1])]}

    async def ask_async(_: Any) -> dict[str, Any]:
        return ask()

    async def answer_async(_: Any) -> dict[str, Any]:
        return answer()

    waits = type(saver).__name__.startswith("Async")
    made = StateGraph(state)
    made.add_node("model", ask_async if waits else lambda _: ask())
    made.add_node("tool", answer_async if waits else lambda _: answer())
    made.add_edge(START, "model")
    made.add_conditional_edges("model", lambda given: "tool" if given["messages"][-1].tool_calls else END)
    made.add_edge("tool", "model")
    return made.compile(checkpointer=saver)


def config_of(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}, "recursion_limit": 100_000}


@contextlib.asynccontextmanager
async def opened(name: str, url: str) -> AsyncIterator[Any]:
    """A saver as its documentation opens it."""
    path = url.removeprefix("sqlite:///")
    if name == "SqliteSaver":
        from langgraph.checkpoint.sqlite import SqliteSaver

        with SqliteSaver.from_conn_string(path) as saver:
            saver.setup()
            yield saver
    elif name == "AsyncSqliteSaver":
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(path) as saver:
            await saver.setup()
            yield saver
    elif name == "PostgresSaver":
        from langgraph.checkpoint.postgres import PostgresSaver

        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()
            yield saver
    else:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(url) as saver:
            await saver.setup()
            yield saver


async def settings(saver: Any) -> str:
    """What its connection waits for at a commit."""
    if "Sqlite" not in type(saver).__name__:
        return ""
    names = ("journal_mode", "synchronous")
    if type(saver).__name__ == "SqliteSaver":
        return ", ".join(f"{name}={saver.conn.execute(f'PRAGMA {name}').fetchone()[0]}" for name in names)
    values: list[str] = []
    for name in names:
        async with saver.conn.execute(f"PRAGMA {name}") as cursor:
            values.append(f"{name}={(await cursor.fetchone())[0]}")
    return ", ".join(values)


async def prefill(saver: Any, thread: str, messages: int, state: type) -> None:
    if messages:
        empty = graph(saver, 0, "", None, SIZES, state)
        values = {"messages": history_messages(messages)}
        if type(saver).__name__.startswith("Async"):
            await empty.aupdate_state(config_of(thread), values, as_node="__start__")
        else:
            empty.update_state(config_of(thread), values, as_node="__start__")


async def invoke(made: Any, thread: str, durability: str) -> Any:
    given = {"messages": [HumanMessage(QUESTION)]}
    if type(made.checkpointer).__name__.startswith("Async"):
        return await made.ainvoke(given, config_of(thread), durability=durability)
    return made.invoke(given, config_of(thread), durability=durability)


async def step_run(saver: Any, history: int, marks: Marks, durability: str, state: type) -> None:
    for run in range(RUNS):
        thread = f"run-{history}-{run}"
        await prefill(saver, thread, history, state)
        done = await invoke(graph(saver, STEPS + 1, f"{run}", marks, SIZES, state), thread, durability)
        marks.end()
        assert len(done["messages"]) >= history + 2 * STEPS + 2, len(done["messages"])


async def step_saver(saver: Any, history: int, marks: Marks) -> None:
    waits = type(saver).__name__.startswith("Async")
    for run in range(RUNS):
        messages = history_messages(history)
        config = config_of(f"saver-{history}-{run}")
        version = None
        for n in range(STEPS + 1):
            marks.hit()
            messages = [*messages, call_message(f"{run}-{n}", ARGUMENTS_BYTES)]
            answer = result_message(f"{run}-{n}", RESULT_BYTES)
            version = saver.get_next_version(version, None)
            checkpoint = {
                **empty_checkpoint(),
                "channel_values": {"messages": messages},
                "channel_versions": {"messages": version},
            }
            metadata = {"source": "loop", "step": n, "parents": {}}
            given = (config, checkpoint, metadata, {"messages": version})
            writes = [("messages", [answer])]
            if waits:
                config = await saver.aput(*given)
                await saver.aput_writes(config, writes, f"task-{n}")
            else:
                config = saver.put(*given)
                saver.put_writes(config, writes, f"task-{n}")
            messages = [*messages, answer]


async def step(name: str, url: str, server: Server) -> Any:
    saver_name, _, variant = name.partition(":")
    durability, state = ("async" if variant == "async" else "sync"), (DeltaState if variant == "delta" else State)
    figures: dict[str, Any] = {}
    async with opened(saver_name, url) as saver:
        figures["settings"] = await settings(saver)
        await step_run(saver, 2, Marks(server), durability, state)
        if not variant:
            await step_saver(saver, 2, Marks(server))
        for history in HISTORIES:
            marks = Marks(server, to_the_end=variant == "async")
            await step_run(saver, history, marks, durability, state)
            figures.setdefault("run", {})[str(history)] = marks.figures()
            if not variant:
                marks = Marks(server)
                await step_saver(saver, history, marks)
                figures.setdefault("saver", {})[str(history)] = marks.figures()
    return figures


async def load(name: str, url: str, times: int) -> Any:
    """The checkpoint of the thread ``filled`` with its messages, every time with a connection of its own."""
    figures: list[tuple[float, float]] = []
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        async with opened(name, url) as saver:
            if name.startswith("Async"):
                found = await saver.aget_tuple(config_of("filled"))
            else:
                found = saver.get_tuple(config_of("filled"))
            messages = found.checkpoint["channel_values"]["messages"]
            figures.append(((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3))
            assert len(messages) >= 200, len(messages)
    return {"figures": figures}


async def main() -> None:
    command, name, url, pid, *rest = sys.argv[1:]
    saver_name, _, variant = name.partition(":")
    state = DeltaState if variant == "delta" else State
    if command == "step":
        return emit(await step(name, url, Server(int(pid))))
    if command == "load":
        return emit(await load(name, url, int(rest[0])))
    async with opened(saver_name, url) as saver:
        if command == "fill":
            await prefill(saver, "filled", int(rest[0]), state)
        elif command == "calls":
            sizes = (int(rest[1]), int(rest[2]))
            done = await invoke(graph(saver, int(rest[0]), "more", None, sizes, state), "filled", "sync")
            assert isinstance(done["messages"][-1], AIMessage), json.dumps(str(done))[:500]
        else:
            sys.exit(f"no command {command}")
    return None


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(main())
