"""Prompts for a local model: which tool is shown, what is known, when it has to answer."""

from __future__ import annotations

import json

import pytest

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.messages import Message
from callbox.providers.local_prompt import describe, write_prompt
from callbox.providers.provider import Request
from callbox.tools.tool import Tool


def tool(name: str, description: str, **properties: object) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return Tool(name, description, schema)


ORDER = tool("get_order", "Look up an order.", order_id={"type": "string"})
PARCEL = tool("track_parcel", "Where a parcel is.", number={"type": "string"})
TOOLS = (ORDER, PARCEL)
BOTH = "What is in order A-1, and where is its parcel?"


def request(*messages: Message, **options: object) -> Request:
    return Request(messages=messages, tools=options.pop("tools", TOOLS), **options)  # type: ignore[arg-type]


def answered(name: str, arguments: dict, content: object, error: CallError | None = None) -> list[Message]:
    call = ToolCall(f"c-{name}-{json.dumps(arguments)}", name, arguments)
    result = ToolResult.failed(call, error) if error else ToolResult(call.id, name, json.dumps(content))
    return [Message.assistant(calls=[call]), Message.tool([result])]


FOUND = answered("get_order", {"order_id": "A-1"}, {"parcel": "T-5"})
TRACKED = answered("track_parcel", {"number": "T-5"}, {"place": "Lyon"})


def test_the_best_tool_is_shown_alone_with_its_part_of_the_question() -> None:
    prompt = write_prompt(request(Message.user(BOTH)), "guided")
    assert prompt.tools == (ORDER,)
    assert prompt.text
    assert prompt.asked == "What is in order A-1"
    assert prompt.messages[-1]["content"] == (
        "Function:\nget_order: Look up an order.\n- order_id (string)\n\nQuestion: What is in order A-1"
    )


def test_the_next_tool_comes_with_what_is_known() -> None:
    prompt = write_prompt(request(Message.user(BOTH), *FOUND), "guided")
    assert prompt.tools == (PARCEL,)
    assert 'Known:\nget_order {"order_id":"A-1"} -> {"parcel": "T-5"}' in prompt.messages[-1]["content"]
    assert prompt.answered == {'CALL get_order {"order_id":"A-1"}'}


def test_when_all_have_answered_the_results_are_put_into_words() -> None:
    prompt = write_prompt(request(Message.user(BOTH), *FOUND, *TRACKED), "guided")
    assert prompt.tools == ()
    assert [made.question.split("\n")[0] for made in prompt.sentences] == [
        "Question: What is in order A-1",
        "Question: where is its parcel?",
    ]


def test_a_failed_tool_is_shown_once_more_and_then_its_failure_is_said() -> None:
    error = CallError("rejected_by_check", "there is no order A-9")
    failed = answered("get_order", {"order_id": "A-9"}, None, error)
    question = Message.user("What is in order A-1?")
    again = write_prompt(request(question, *failed), "guided")
    assert again.tools == (ORDER,)
    assert "failed: there is no order A-9" in again.messages[-1]["content"]
    other = answered("get_order", {"order_id": "A-8"}, None, error)
    given_up = write_prompt(request(question, *failed, *other), "guided")
    assert [made.verbatim for made in given_up.sentences] == ["I could not get order: there is no order A-9"] * 2
    corrected = write_prompt(request(question, *failed, *FOUND), "guided")
    assert len(corrected.sentences) == 1


def test_small_talk_is_answered_in_text_with_the_conversation_before_it() -> None:
    before = [Message.system("Be kind."), Message.user("Hi"), Message.assistant("Hello!")]
    prompt = write_prompt(request(*before, Message.user("Thank you!")), "guided")
    assert prompt.tools == ()
    assert prompt.messages == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Thank you!"},
    ]


def test_long_histories_are_left_out() -> None:
    before = [Message.user("x" * 2000), Message.assistant("short")]
    prompt = write_prompt(request(*before, Message.user("Thank you!")), "guided")
    assert [message["content"] for message in prompt.messages[1:]] == ["short", "Thank you!"]


def test_tool_choice_is_honoured() -> None:
    said = Message.user("Thank you!")
    assert write_prompt(request(said, tool_choice="none"), "guided").tools == ()
    required = write_prompt(request(said, tool_choice="required"), "guided")
    assert (required.tools, required.text) == ((ORDER,), False)
    named = write_prompt(request(Message.user("my order"), tool_choice="track_parcel"), "guided")
    assert (named.tools, named.text) == ((PARCEL,), False)
    forced_again = write_prompt(request(Message.user("my order"), *FOUND, tool_choice="get_order"), "guided")
    assert forced_again.tools == (ORDER,)
    assert write_prompt(request(Message.user(BOTH), *FOUND), "guided", answer=True).sentences


def test_several_calls_are_possible_where_the_question_enumerates() -> None:
    assert write_prompt(request(Message.user("orders A-1 and A-2")), "guided").several
    assert not write_prompt(request(Message.user("my order A-1")), "guided").several


def test_long_results_are_shortened() -> None:
    long = answered("get_order", {"order_id": "A-1"}, "x" * 5000)
    assert len(write_prompt(request(Message.user(BOTH), *long), "guided").messages[-1]["content"]) < 2500


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "format": "date"}, "string like date"),
        ({"enum": ["a", 1]}, '"a"|1'),
        ({"const": "x"}, '"x"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"type": ["integer", "null"]}, "integer or null"),
        ({"type": "array", "items": {"type": "number"}}, "array of number"),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, "{a: integer}"),
        ({"properties": {"a": {}}}, "{a: any}"),
        ({"$ref": "#/$defs/kind"}, "boolean"),
        (True, "any"),
    ],
)
def test_a_schema_is_described_in_few_words(schema: object, text: str) -> None:
    made = Tool("t", "D.", {"type": "object", "properties": {"v": schema}, "$defs": {"kind": {"type": "boolean"}}})
    assert describe(made) == f"t: D.\n- v ({text}, optional)"


def test_descriptions_of_parameters_are_kept() -> None:
    made = tool("t", " D. ", v={"type": "string", "description": "Which one"})
    assert describe(made) == "t: D.\n- v (string): Which one"


def test_open_prompts_hold_all_tools_and_the_whole_conversation() -> None:
    prompt = write_prompt(
        request(Message.system("Be brief."), Message.user(BOTH), *FOUND, Message.user("And?")), "open"
    )
    assert prompt.tools == TOOLS
    system, user, assistant, results = prompt.messages
    assert system["content"].startswith("Be brief.\n\nYou may call these tools:")
    assert '"name": "track_parcel"' in system["content"]
    assert user == {"role": "user", "content": BOTH}
    assert assistant == {"role": "assistant", "content": 'CALL get_order {"order_id":"A-1"}'}
    assert results == {"role": "user", "content": 'Result of get_order: {"parcel": "T-5"}\n\nAnd?'}
    assert prompt.asked is None


def test_open_prompts_without_tools_are_just_the_conversation() -> None:
    prompt = write_prompt(request(Message.user("Hi"), Message.assistant("Hello"), tools=()), "open")
    assert prompt.messages == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert write_prompt(Request(messages=[]), "guided").messages[-1]["content"] == ""
