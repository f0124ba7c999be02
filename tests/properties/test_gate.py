"""No input makes the gate raise, and every call has exactly one result."""

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from callbox import Gate, ToolCall, tool
from callbox.dialects import NAMES


@tool(effect="read")
async def look(key: str, depth: int = 1) -> str:
    """Look at something.

    Args:
        key: What to look at.
        depth: How deep.
    """
    return f"{key} {depth}"


@tool(effect="write")
def put(items: list[dict[str, int]], note: str | None = None) -> dict[str, int]:
    """Put items somewhere."""
    return {"count": len(items)}


@tool(effect="destructive")
async def explode(how: str) -> None:
    """Fail in a way that the model chooses."""
    raise {"exit": SystemExit, "cancel": asyncio.CancelledError}.get(how, RuntimeError)(how)


GATE = Gate([look, put, explode])

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["look", "put", "explode", "lok", ""]) | st.text(max_size=70)
sensible = st.fixed_dictionaries(
    {}, optional={"key": scalars, "depth": scalars, "items": values, "note": scalars, "how": st.just("exit")}
)
arguments = st.one_of(
    sensible,
    sensible.map(lambda value: json.dumps(value)),
    sensible.map(lambda value: json.dumps(value)[:-1]),
    values,
    st.text(max_size=60),
)
calls = st.builds(ToolCall, st.sampled_from(["a", "b", "c", ""]) | st.text(max_size=10), names, arguments)


@given(st.lists(calls, max_size=8))
def test_every_call_has_exactly_one_result(made):
    results = asyncio.run(GATE.execute(made))
    assert len(results) == len(made)
    for call, result in zip(made, results, strict=True):
        assert result.name == call.name
        assert isinstance(result.content, str)
        if result.error is not None:
            assert json.loads(result.content)["error"] == result.error.code
    for name in NAMES:
        json.dumps(GATE.write(name, results))


responses = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "message", "tool_calls", "function", "name", "arguments", "id", "content", "type", "input",
             "output", "candidates", "parts", "functionCall", "args", "method", "params", "index", "delta"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@given(st.sampled_from(NAMES), responses)
def test_no_response_makes_read_raise(dialect, response):
    for call in GATE.read(dialect, response):
        assert isinstance(call, ToolCall)


@given(st.sampled_from(NAMES), st.lists(responses, max_size=6))
def test_no_stream_makes_a_turn_raise(dialect, chunks):
    async def read():
        async with GATE.stream(dialect) as turn:
            for chunk in chunks:
                turn.feed(chunk)
            results = await turn.results()
            assert len(results) == len(turn.calls)

    asyncio.run(read())
