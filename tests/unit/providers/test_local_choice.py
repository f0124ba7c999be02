"""Choosing tools by their words."""

from __future__ import annotations

from callbox.providers.local_choice import ToolIndex, words
from callbox.tools.tool import Tool


def tool(name: str, description: str, **properties: object) -> Tool:
    return Tool(name, description, {"type": "object", "properties": properties})


ORDER = tool("get_order", "Look up an order.", order_id={"type": "string", "description": "Id of the order"})
PARCEL = tool("track_parcel", "Find out where a parcel is and when it will arrive.")
WEATHER = tool("get_weather", "Weather in a city.", unit={"type": "string", "enum": ["celsius", "fahrenheit"]})
INDEX = ToolIndex([ORDER, PARCEL, WEATHER])


def names(question: str) -> list[str]:
    return [found.name for found, _ in INDEX.plan(question)]


def test_words_take_names_apart_and_forget_endings() -> None:
    assert words("trackParcels_now") == words("track parcel now")
    assert words("Where is the weather?") == words("weather")
    assert words("bus 42") == ["bus", "42"]


def test_the_tool_that_shares_most_words_is_the_best() -> None:
    assert names("What's the weather in Oslo?") == ["get_weather"]
    assert names("Which orders are there?") == ["get_order"]
    assert names("how warm in fahrenheit") == ["get_weather"]


def test_without_a_common_word_all_scores_are_zero() -> None:
    assert INDEX.scores("Thank you!") == [0.0, 0.0, 0.0]
    assert names("Thank you!") == ["get_order"]


def test_a_question_for_two_things_gets_two_tools_each_with_its_part() -> None:
    plan = INDEX.plan("What is in order A-1042, and when will its parcel arrive?")
    assert [(found.name, part) for found, part in plan] == [
        ("get_order", "What is in order A-1042"),
        ("track_parcel", "when will its parcel arrive?"),
    ]


def test_the_tools_come_in_the_order_of_the_question() -> None:
    assert names("Tell me the weather in Rome and then look up order B-7") == ["get_weather", "get_order"]


def test_a_part_that_names_no_tool_goes_with_its_neighbour() -> None:
    plan = INDEX.plan("Hello there! What is in order A-1? Thanks. And the weather in Rome, please?")
    assert plan[0] == (ORDER, "Hello there. What is in order A-1. Thanks")
    assert plan[1][0] is WEATHER


def test_a_part_that_only_resembles_a_tool_does_not_split_the_question() -> None:
    question = "Look up order A-1 and tell me which city"
    assert INDEX.plan(question) == [(ORDER, question)]


def test_nested_parameters_count() -> None:
    deep = tool("save", "Store it.", items={"type": "array", "items": {"properties": {"kettle": {"type": "string"}}}})
    assert ToolIndex([ORDER, deep]).plan("my kettle")[0][0] is deep
