from __future__ import annotations

import pytest

from callbox.calls.call import ToolCall
from callbox.context.counting import count_tool
from callbox.context.selection import ToolIndex
from callbox.context.selector import Selector
from callbox.errors import ConfigurationError
from callbox.messages import Message
from callbox.tools.tool import Tool

SUBJECTS = ("weather", "email", "flight", "currency", "calendar", "music", "recipe", "stock", "map", "news")


def made(name: str, *, pinned: bool = False) -> Tool:
    return Tool(name, f"Everything about {name.split('_')[1]}.", {"type": "object", "properties": {}}, pinned=pinned)


TOOLS = [made(f"get_{subject}") for subject in SUBJECTS]


def names(selector: Selector) -> list[str]:
    return [tool.name for tool in selector.select().tools]


def test_few_tools_are_all_sent_without_ranking() -> None:
    selector = Selector(TOOLS, max_tools=10)
    selector.note(Message.user("weather"))
    assert not selector.needed
    selection = selector.select()
    assert list(selection.tools) == TOOLS
    assert (selection.left_out, selection.saved_tokens) == (0, 0)
    assert selection.tokens == sum(count_tool(tool) for tool in TOOLS)


def test_the_best_are_sent_in_the_toolsets_order_with_a_finder_last() -> None:
    selector = Selector(TOOLS, max_tools=3)
    selector.note(Message.user("news about the stock of flight companies"))
    assert names(selector) == ["get_flight", "get_stock", "get_news", "find_tools"]


def test_what_is_saved_is_counted() -> None:
    selector = Selector(TOOLS, max_tools=3)
    selector.note(Message.user("weather"))
    selection = selector.select()
    assert selection.left_out == 7
    sent = sum(count_tool(tool) for tool in selection.tools)
    assert selection.tokens == sent
    assert selection.saved_tokens == sum(count_tool(tool) for tool in TOOLS) - sent


def test_the_selection_stays_between_two_user_messages() -> None:
    selector = Selector(TOOLS, max_tools=2)
    selector.note(Message.user("the weather"))
    first = selector.select()
    selector.note(Message.assistant("Then some music?", [ToolCall("c1", "get_weather")]))
    assert selector.select() is first
    selector.note(Message.user("play music"))
    assert "get_music" in names(selector)


def test_pinned_and_called_tools_stay() -> None:
    tools = [*TOOLS[:9], made("get_help", pinned=True)]
    selector = Selector(tools, max_tools=4, pinned=["get_map"])
    selector.note(Message.user("the weather"))
    selector.note(Message.assistant("", [ToolCall("c1", "get_weather"), ToolCall("c2", "no_such_tool")]))
    selector.note(Message.user("stock of music"))
    assert names(selector) == ["get_weather", "get_music", "get_map", "get_help", "find_tools"]


def test_a_new_question_always_gets_tools_however_many_were_called() -> None:
    selector = Selector(TOOLS, max_tools=4)
    calls = [ToolCall(f"c{number}", tool.name) for number, tool in enumerate(TOOLS[:8])]
    selector.note(Message.assistant("", calls))
    selector.note(Message.user("news please"))
    assert names(selector) == [*[tool.name for tool in TOOLS[:8]], "get_news", "find_tools"]


def test_the_models_last_words_explain_a_short_answer() -> None:
    selector = Selector(TOOLS, max_tools=1)
    selector.note(Message.assistant("Shall I look at the calendar?"))
    selector.note(Message.user("yes, do that"))
    assert names(selector)[0] == "get_calendar"


def test_messages_without_words_change_nothing() -> None:
    selector = Selector(TOOLS, max_tools=1)
    selector.note(Message.user("recipe"))
    first = selector.select()
    selector.note(Message.system("currency"))
    selector.note(Message.user(""))
    assert selector.select() is first


async def test_found_tools_are_sent_from_the_next_request_on() -> None:
    selector = Selector(TOOLS, max_tools=2)
    selector.note(Message.user("the weather"))
    before = names(selector)
    assert "get_recipe" not in before
    answer = await selector.find_tools("cook a recipe", 1)
    assert answer["found"] == [{"name": "get_recipe", "description": "Everything about recipe."}]
    assert set(names(selector)) == {*before, "get_recipe"}
    selector.note(Message.user("and now the news"))
    assert {"get_recipe", "get_news"} <= set(names(selector))


async def test_finding_when_everything_is_there_says_so() -> None:
    selector = Selector(TOOLS, max_tools=10)
    assert await selector.find_tools("anything") == {
        "found": [],
        "note": "No other tools exist: all are available already.",
    }


def test_what_is_sent_already_is_not_found_again_and_limits_hold() -> None:
    selector = Selector(TOOLS, max_tools=2)
    selector.note(Message.user("weather and email"))
    sent = set(names(selector))
    assert not sent & {tool.name for tool in selector.find("weather email news", 3)}
    assert len(selector.find("anything", -1)) == 1


def test_found_tools_that_are_never_called_are_forgotten_one_day() -> None:
    tools = [made(f"get_{subject}{number}") for number in range(5) for subject in SUBJECTS]
    selector = Selector(tools, max_tools=2)
    for number in range(5):
        selector.note(Message.user(f"weather {number}"))
        selector.find("news", 10)
    selector.note(Message.user("nothing special"))
    assert len(names(selector)) <= 10 + 2 + 1


def test_conversations_share_an_index() -> None:
    index = ToolIndex(TOOLS)
    one, other = Selector(index, max_tools=1), Selector(index, max_tools=1)
    one.note(Message.user("music"))
    other.note(Message.user("news"))
    assert (names(one)[0], names(other)[0]) == ("get_music", "get_news")


def test_the_finder_only_reads() -> None:
    finder = Selector(TOOLS, finder="more_tools").find_tools
    assert (finder.name, finder.reads_only, finder.pinned) == ("more_tools", True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tools": 0}, "max_tools=0"),
        ({"pinned": ["get_nothing"]}, "get_nothing"),
        ({"finder": "get_news"}, "get_news"),
    ],
)
def test_impossible_selectors_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Selector(TOOLS, **options)  # type: ignore[arg-type]
