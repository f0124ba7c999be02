from __future__ import annotations

import json

import pytest

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.context.results import READ_CHARS_MAX, ClearedResults, read_result_tool, stub
from callbox.errors import ToolError


def kept(content: str) -> ClearedResults:
    cleared = ClearedResults()
    cleared.keep("res_1", content)
    return cleared


def test_a_stub_says_what_was_there_and_how_to_read_it() -> None:
    result = ToolResult("c1", "get_order", "long " * 100, value={"big": 1})
    replacement = stub(result, "res_7", 812)
    assert json.loads(replacement.content) == {
        "cleared": "result of get_order",
        "handle": "res_7",
        "tokens": 812,
        "read_again": "read_result",
    }
    assert (replacement.call_id, replacement.name, replacement.value) == ("c1", "get_order", None)
    assert replacement.truncated


def test_a_stub_of_an_error_stays_an_error() -> None:
    failed = ToolResult.failed(ToolCall("c1", "get_order"), CallError("tool_failed", "broken"))
    assert stub(failed, "res_1", 10).is_error


def test_a_content_is_kept_once() -> None:
    cleared = kept("first")
    cleared.keep("res_1", "second")
    assert cleared.read("res_1") == "first"
    assert cleared.handles == ("res_1",)
    assert len(cleared) == 1
    assert "res_1" in cleared
    assert "res_2" not in cleared


def test_an_offset_outside_of_the_content_is_refused_with_the_possible_ones() -> None:
    with pytest.raises(ToolError, match="4 characters") as caught:
        kept("0123").read("res_1", 5)
    assert caught.value.suggestion == "Use an offset from 0 to 3."


def test_reading_an_unknown_handle_names_the_known_ones() -> None:
    with pytest.raises(ToolError, match="res_9") as caught:
        kept("x").read("res_9")
    assert caught.value.suggestion == "Use one of these: res_1."
    with pytest.raises(ToolError) as caught:
        ClearedResults().read("res_9")
    assert caught.value.suggestion == "Nothing has been cleared so far."


def test_an_error_names_a_bounded_number_of_handles() -> None:
    cleared = ClearedResults()
    for number in range(1_000):
        cleared.keep(f"res_{number}", "x")
    with pytest.raises(ToolError) as caught:
        cleared.read("nonsense")
    assert len(caught.value.suggestion or "") < 300
    assert "res_999" in (caught.value.suggestion or "")


def test_one_reading_is_bounded() -> None:
    cleared = kept("x" * (READ_CHARS_MAX + 10))
    assert len(cleared.read("res_1", 0, 10**9)) == READ_CHARS_MAX
    assert cleared.read("res_1", 0, -5) == "x"


async def test_the_tool_reads_slice_by_slice() -> None:
    tool = read_result_tool(kept("0123456789"))
    assert await tool("res_1") == "0123456789"
    assert await tool("res_1", 0, 4) == "0123\n[characters 0 to 4 of 10; go on with offset=4]"
    assert await tool("res_1", 4, 100) == "456789"
    assert await tool("res_1", 10) == ""


def test_the_tool_only_reads_and_is_always_sent() -> None:
    tool = read_result_tool(ClearedResults(), name="look_again")
    assert (tool.name, tool.reads_only, tool.pinned, tool.idempotent) == ("look_again", True, True, True)
    assert tool.parameters["required"] == ["handle"]
    assert tool.parameters["additionalProperties"] is False
