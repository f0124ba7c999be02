"""callbox: ``python with_callbox.py step|fill|calls|load|appends URL PID ...`` prints one JSON object.

step: the store alone (append of an intent, append of an outcome, bodies made before), the journal (encode, fold, seal,
append), and whole runs of a session with a scripted model (the reply is recorded too: two appends for each call).
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

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

from callbox import Agent, ToolCall, ToolResult, tool
from callbox.messages import Message, Text, Usage
from callbox.providers.scripted import Scripted
from callbox.sessions.coding import encode
from callbox.sessions.entries import Answered, Began, Ended, Entry, Intended, Replied, turn_id
from callbox.sessions.journal import Journal
from callbox.sessions.sealing import Sealer, new_secret
from callbox.stores.opening import open_store
from callbox.stores.store import NewEvent, SessionKey, Store

USAGE = Usage(input_tokens=5_000, output_tokens=60, requests=1)


def call_of(seed: str, size: int = ARGUMENTS_BYTES) -> ToolCall:
    import json

    given = arguments(seed, size)
    return ToolCall(f"call_{seed}", NAME, given, json.dumps(given))


def call_entries(seed: str) -> tuple[Replied, Intended, Answered]:
    call = call_of(seed)
    said = Message("assistant", (call,))
    answer = ToolResult(call.id, NAME, result(seed), duration_ms=1.5, attempts=1)
    return (
        Replied(message=said, opens=True, turn=turn_id(), usage=USAGE),
        Intended(call=call.id, version="0123456789abcdef"),
        Answered(result=answer),
    )


def history_entries(messages: int) -> list[Entry]:
    """A run with so many messages of calls and results."""
    if not messages:
        return []
    entries: list[Entry] = [Began(run="run_0", prompt=(Message.user(QUESTION),))]
    for n in range(messages // 2):
        entries += call_entries(f"h{n}")
    said = Message("assistant", (Text(ANSWER),))
    return [*entries, Replied(message=said, opens=False, usage=USAGE), Ended(run="run_0", stop="done", output=ANSWER)]


async def fill(store: Store, name: str, messages: int) -> Journal:
    journal = Journal(store, SessionKey("default", name))
    await journal.ensure()
    if messages:
        async with journal.writing() as writer:
            await writer.write(*history_entries(messages))
    return journal


async def step_store(store: Store, history: int, marks: Marks) -> None:
    for run in range(RUNS):
        name = f"store-{history}-{run}"
        await fill(store, name, history)
        key = SessionKey("default", name)
        sealer = Sealer(key, new_secret())
        after = len(history_entries(history))
        pairs: list[list[NewEvent]] = []
        for n in range(STEPS + 1):
            _, intent, answer = call_entries(f"{run}-{n}")
            seq = after + 2 * n + 1
            pairs.append(
                [
                    NewEvent("intended", sealer.seal(seq, "intended", encode(intent))),
                    NewEvent("answered", sealer.seal(seq + 1, "answered", encode(answer))),
                ]
            )
        lease = await store.acquire(key, "benchmark", ttl_s=600)
        for intent_event, answer_event in pairs:
            marks.hit()
            await store.append(lease, after, [intent_event], status="running")
            await store.append(lease, after + 1, [answer_event], status="running")
            after += 2


async def step_journal(store: Store, history: int, marks: Marks) -> None:
    for run in range(RUNS):
        journal = await fill(store, f"journal-{history}-{run}", history)
        prepared = [call_entries(f"{run}-{n}") for n in range(STEPS + 1)]
        async with journal.writing() as writer:
            # One answer of the model with all calls, so that what is measured is nothing but intents and outcomes.
            said = Message("assistant", tuple([part for each in prepared for part in each[0].message.content]))
            opening = Replied(message=said, opens=True, turn=turn_id(), usage=USAGE)
            await writer.write(Began(run="run_1", prompt=(Message.user(QUESTION),)), opening)
            for _, intent, answer in prepared:
                marks.hit()
                await writer.write(intent)
                await writer.write(answer)


def agent_of(store: Store | str, calls: int, seed: str, marks: Marks | None, sizes: Sequence[int]) -> Agent:
    """A scripted model that asks for `calls` calls, one in each turn, with a tool that answers at once."""
    asked, answered = itertools.count(), itertools.count()
    arguments_bytes, result_bytes = sizes

    def model(_: object) -> Any:
        n = next(asked)
        if n == calls:
            return ANSWER
        call = call_of(f"{seed}-{n}", arguments_bytes)
        return {"call": NAME, "arguments": call.raw, "id": call.id}

    @tool
    async def look_up(query: str) -> str:
        """Look something up.

        Args:
            query: What.
        """
        if marks is not None:
            marks.hit()
        return result(f"{seed}-{next(answered)}", result_bytes)

    return Agent(Scripted(model), [look_up], store=store)


async def step_run(store: Store, history: int, marks: Marks) -> None:
    for run in range(RUNS):
        name = f"run-{history}-{run}"
        await fill(store, name, history)
        agent = agent_of(store, STEPS + 1, f"{run}", marks, (ARGUMENTS_BYTES, RESULT_BYTES))
        done = await agent.session(name).run(QUESTION)
        assert (done.stop, len(done.results)) == ("done", STEPS + 1), done.stop


async def step(url: str, server: Server) -> Any:
    store = open_store(url)
    figures: dict[str, dict[str, Any]] = {}
    for name, measure in (("store", step_store), ("journal", step_journal), ("run", step_run)):
        await measure(store, 2, Marks(server))  # warm up: lazy imports, connections, plans
        for history in HISTORIES:
            marks = Marks(server)
            await measure(store, history, marks)
            figures.setdefault(name, {})[str(history)] = marks.figures()
    await store.aclose()
    return figures


async def calls(url: str, count: int, sizes: Sequence[int]) -> Any:
    """Go on with the session ``filled``."""
    agent = agent_of(url, count, "more", None, sizes)
    run = await agent.session("filled").run(QUESTION)
    assert len(run.results) == count, run.output
    await agent.aclose()
    return {}


async def load(url: str, times: int) -> Any:
    """Messages of the session ``filled``, every time of a new agent with a store of its own, which connects then."""
    figures: list[tuple[float, float]] = []
    for _ in range(times):
        agent = agent_of(url, 0, "", None, (0, 0))
        cpu, wall = time.process_time(), time.perf_counter()
        messages = await agent.session("filled").messages()
        figures.append(((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3))
        assert len(messages) >= 200, len(messages)
        await agent.aclose()
    return {"figures": figures}


async def appends(url: str, server: Server, writers: int, seconds: float) -> Any:
    """Sessions that append one event of 400 bytes after another, all at the same time."""
    store = open_store(url)
    body = b"x" * 400
    keys = [SessionKey("default", f"w{n}") for n in range(writers)]
    await asyncio.gather(*[store.create(key, new_secret()) for key in keys])
    leases = await asyncio.gather(*[store.acquire(key, "benchmark", ttl_s=600) for key in keys])
    waits_ms: list[float] = []
    commits = count_commits(store)
    end = 0.0

    async def write(lease: Any) -> None:
        after = 0
        while time.perf_counter() < end:
            began = time.perf_counter()
            await store.append(lease, after, [NewEvent("answered", body)], status="running")
            waits_ms.append((time.perf_counter() - began) * 1e3)
            after += 1

    end = time.perf_counter() + seconds
    cpu, server_cpu, began, commits[0] = time.process_time(), server.cpu_s(), time.perf_counter(), 0
    await asyncio.gather(*[write(lease) for lease in leases])
    took, cpu, server_cpu = time.perf_counter() - began, time.process_time() - cpu, server.cpu_s() - server_cpu
    await store.aclose()
    done = len(waits_ms)
    waits_ms.sort()
    return {
        "done": done,
        "per_s": done / took,
        "cpu_ms": cpu / done * 1e3,
        "server_ms": server_cpu / done * 1e3,
        "p50": waits_ms[done // 2],
        "p99": waits_ms[int(done * 0.99)],
        "per_commit": done / commits[0],
    }


def count_commits(store: Any) -> list[int]:
    """A counter of the commits that a store's writer makes; each waits for the disk once."""
    counted, writer = [0], store._writer
    commit = writer._commit
    if asyncio.iscoroutinefunction(commit):

        async def counting(*given: Any) -> Any:
            counted[0] += 1
            return await commit(*given)

        writer._commit = counting
    else:

        def counting_too(*given: Any) -> Any:
            counted[0] += 1
            return commit(*given)

        writer._commit = counting_too
    return counted


async def main() -> None:
    command, url, pid, *rest = sys.argv[1:]
    server = Server(int(pid))
    match command:
        case "step":
            emit(await step(url, server))
        case "fill":
            store = open_store(url)
            await fill(store, "filled", int(rest[0]))
            await store.aclose()
        case "calls":
            emit(await calls(url, int(rest[0]), (int(rest[1]), int(rest[2]))))
        case "load":
            emit(await load(url, int(rest[0])))
        case "appends":
            emit(await appends(url, server, int(rest[0]), float(rest[1])))
        case _:
            sys.exit(f"no command {command}")


if __name__ == "__main__":
    asyncio.run(main())
