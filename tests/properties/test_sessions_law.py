"""Laws of sessions: an entry is read as it was written; and a run that crashes comes to what it would have come to."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from callbox import Agent, CallContext, tool
from callbox.agents.conversation import Context
from callbox.calls.call import CallError, Problem, Repair, ToolCall, ToolResult
from callbox.dialects import find_dialect
from callbox.errors import ProviderAuthError
from callbox.messages import Media, Message, Opaque, Reasoning, Reply, Text, Usage
from callbox.providers.scripted import Scripted
from callbox.sessions.coding import decode, encode
from callbox.sessions.entries import Answered, Asked, Began, Decided, Ended, Entry, Intended, Noted, Replied, Rewound
from callbox.stores.memory import MemoryStore

# --- entries ---

TEXT = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(["", "\ud800", "\0", '{"a": 1}', "x" * 50])
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from([10**300, -0.0, 1e308, math.inf])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
CODES = st.sampled_from(["malformed_json", "outcome_unknown", "approval_refused"])
PROBLEMS = st.builds(Problem, st.just("wrong_type"), TEXT, TEXT, st.none() | TEXT, JSON, st.none() | TEXT)
ERRORS = st.builds(
    CallError, CODES, TEXT, st.none() | TEXT, st.none() | TEXT, JSON, st.none() | TEXT,
    st.lists(PROBLEMS, max_size=2).map(tuple), st.booleans(),
) | st.builds(CallError, CODES, TEXT)  # fmt: skip
CALLS = st.builds(
    ToolCall, TEXT, TEXT, OBJECTS | JSON, st.none() | TEXT | JSON.map(repr),
    st.lists(st.builds(Repair, TEXT, TEXT), max_size=2).map(tuple), st.none() | ERRORS, OBJECTS,
)  # fmt: skip
RESULTS = st.builds(
    ToolResult, TEXT, TEXT, TEXT, st.none() | ERRORS, st.none(), st.floats(0, 1e6), st.integers(0, 5), st.booleans(),
    OBJECTS,
) | st.builds(lambda call, error: ToolResult.failed(call, error), CALLS, ERRORS)  # fmt: skip
PARTS = (
    st.builds(Text, TEXT, OBJECTS)
    | st.builds(Text, TEXT)
    | st.builds(Reasoning, TEXT, OBJECTS)
    | st.builds(Media, st.just("image/png"), st.none() | TEXT, st.none() | TEXT)
    | st.builds(Opaque, TEXT, OBJECTS)
    | CALLS
    | RESULTS
)
MESSAGES = st.builds(
    Message, st.sampled_from(["system", "user", "assistant", "tool"]), st.lists(PARTS, max_size=3).map(tuple)
)
COUNTS = st.integers(0, 2**40)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Began, run=TEXT, prompt=st.lists(MESSAGES, max_size=3).map(tuple), prompt_key=st.none() | TEXT),
    st.builds(
        Replied,
        message=st.none() | MESSAGES,
        opens=st.booleans(),
        usage=st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.booleans()),
    ),
    st.builds(Intended, call=TEXT, version=TEXT, approval=st.none() | TEXT),
    st.builds(Answered, result=RESULTS),
    st.builds(Asked, approval=TEXT, call=TEXT, tool=TEXT, arguments=OBJECTS, digest=TEXT, reason=TEXT),
    st.builds(Decided, approval=TEXT, approved=st.booleans(), by=TEXT, note=TEXT),
    st.builds(Ended, run=TEXT, stop=TEXT, output=TEXT),
    st.builds(Rewound, to=st.integers(0, 2**40)),
    st.builds(Noted, values=OBJECTS),
)


@given(ENTRIES)
@example(Answered(result=ToolResult("c", "t", "x" * 200_000, truncated=True)))
@example(Began(run="r", prompt=(Message.system("s"), Message.user("u")), prompt_key=""))
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    body = encode(entry)
    read = decode(entry.kind, body)
    # What is equal to Python may be written differently: 1 and True, 0.0 and -0.0.
    assert read == entry
    assert encode(read) == body
    assert repr(read) == repr(entry) or isinstance(entry, Answered | Replied | Began)


DIALECTS = [find_dialect(name) for name in ("openai", "openai-responses", "anthropic", "gemini", "mcp")]


@given(st.lists(MESSAGES, max_size=3))
def test_vendors_are_told_the_same_after_a_crash(messages: list[Message]) -> None:
    entry = decode("began", encode(Began(run="r", prompt=tuple(messages))))
    assert isinstance(entry, Began)
    for dialect in DIALECTS:
        assert repr(dialect.write(entry.prompt)) == repr(dialect.write(messages)), dialect.name


# --- crashes ---


class Stopped(BaseException):
    """As if the process had ended here."""


class World:
    """Tools, and what they have done."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.keys: dict[str, set[str]] = {}

    @property
    def tools(self) -> list[Any]:
        @tool
        async def pay(n: int) -> str:
            """Pay."""
            self.paid.append(n)
            return f"paid {n}"

        @tool(effect="read")
        async def look(n: int) -> str:
            """Look."""
            return f"{n} " + "far away " * (100 * n)

        @tool(idempotent=True)
        async def put(n: int, context: CallContext) -> str:
            """Put."""
            self.keys.setdefault(context.call_id + context.run_id, set()).add(context.idempotency_key)
            return f"put {n}"

        @tool(approval="always")
        async def refund(n: int) -> str:
            """Refund."""
            self.paid.append(n)
            return f"refunded {n}"

        return [pay, look, put, refund]


LOCKED = "locked"
"""A turn at which the model's API does not know us, once."""


class Dying:
    """Ends the process at the given steps of its life, counted over all its lives."""

    def __init__(self, steps: set[int]) -> None:
        self._steps = steps
        self.count = 0

    def __call__(self, point: str) -> None:
        self.count += 1
        if self.count in self._steps:
            raise Stopped(point)


def say(turns: list[Any], messages: Any, unlocked: set[int]) -> Any:
    """The turn after the last that can be seen: numbers are in the texts, since old messages may be left out."""
    said = [message.text for message in messages if message.role != "tool" and message.text.startswith("#")]
    number = int(said[-1].split()[0][1:]) + 1
    turn = turns[number % 100] if number % 100 < len(turns) else "Done."
    if turn == LOCKED:
        if number not in unlocked:
            unlocked.add(number)
            raise ProviderAuthError("Not with this key.")
        turn = "Done."
    if isinstance(turn, Reply):
        parts = (Text(f"#{number} "), *turn.message.content)
        return replace(turn, message=Message("assistant", parts))
    return [f"#{number} ", *turn] if isinstance(turn, list) else f"#{number} {turn}"


async def life(turns: list[Any], steps: set[int], context: Context, prompts: int) -> tuple[World, list[Any], list[str]]:
    world, store, dying = World(), MemoryStore(), Dying(steps)
    outputs: list[str] = []
    unlocked: set[int] = set()

    def session() -> Any:
        agent = Agent(
            model=Scripted(lambda seen: say(turns, seen, unlocked)), tools=world.tools, store=store, context=context
        )
        return agent.session("s", reach=dying, busy_wait_s=0.0)

    for prompt in range(prompts):
        run = None
        while run is None or run.stop == "approval":
            try:
                made = session()
                run = await made.run(f"#{100 * prompt - 1} go", key=str(prompt))
                for each in run.approvals if run.stop == "approval" else ():
                    await made.approve(each.id, by="kim") if each.arguments["n"] % 2 else await made.refuse(
                        each.id, by="kim", note="odd only"
                    )
            except (Stopped, BaseExceptionGroup, ProviderAuthError):  # the same prompt under the same key goes on
                run = None
        outputs.append(f"{run.stop} {run.output} {len(run.calls)} {run.turns}")
    messages = await session().messages()
    return world, messages, outputs


N = st.integers(1, 4)
MADE = st.builds(
    lambda place, name, n, wrong: {"call": name, "arguments": {"n": "many" if wrong else n}, "id": f"c{place}"},
    st.integers(0, 2), st.sampled_from(["pay", "look", "look", "put", "refund", "nothing"]), N,
    st.sampled_from([False] * 5 + [True]),
)  # fmt: skip
READS = st.builds(lambda n: {"call": "read_result", "arguments": {"handle": f"res_{n}", "max_chars": 30}, "id": "r"}, N)
TURN = (
    st.lists(MADE, min_size=1, max_size=4, unique_by=lambda each: each["id"])
    | READS.map(lambda each: [each])
    | st.sampled_from(
        [
            Reply(Message("assistant", (Reasoning("hm", {"signature": "s"}),)), "paused"),
            Reply(Message("assistant", ()), "paused"),
            LOCKED,
        ]
    )
)


@settings(deadline=None, max_examples=60)
@given(
    turns=st.lists(TURN, min_size=1, max_size=7),
    steps=st.sets(st.integers(1, 90), max_size=8),
    budget=st.sampled_from([None, 900, 1_500]),
    prompts=st.integers(1, 3),
)
def test_crashes_change_nothing_but_what_they_hid(
    turns: list[Any], steps: set[int], budget: int | None, prompts: int
) -> None:
    context = Context(budget_tokens=budget, keep_recent_turns=1)
    whole, expected, outputs = asyncio.run(life(turns, set(), context, prompts))
    crashed, messages, outputs_after = asyncio.run(life(turns, steps, context, prompts))
    hidden = 0
    results = [result for message in expected for result in message.results]
    read_too_early = any(result.name == "read_result" and result.error is not None for result in results)
    assert len(messages) == len(expected)
    for message, other in zip(messages, expected, strict=True):
        if message.role != "tool":
            assert message == other
            continue
        for result, would in zip(message.results, other.results, strict=True):
            if result.error is not None and result.error.code == "outcome_unknown":
                hidden += 1
                assert would.name in ("pay", "refund")
            elif result.name == "read_result" and read_too_early:
                pass  # before something was cleared there is nothing to read; a new process gives what it has
            elif result.name == "read_result" and hidden and result.content.startswith('{"error": "outcome_unknown"'):
                pass  # what it reads is the call whose outcome a crash hid
            else:
                assert result == would
    assert outputs_after == outputs
    assert len(whole.paid) - hidden <= len(crashed.paid) <= len(whole.paid), "an effect was lost, or came twice"
    assert all(len(keys) >= 1 for keys in crashed.keys.values())
