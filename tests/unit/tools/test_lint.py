"""What the linter finds, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from callbox.tools.lint import Finding, lint
from callbox.tools.tool import Effect, Tool
from callbox.tools.wording import first_verb, meaning, stem, words

CITY = {"type": "string", "description": "Name of the city."}


def make(name: str, description: str, *, effect: Effect = "write", required: bool = True, **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties) if required else []}
    return Tool(name, description, schema, effect=effect)


def rules(*tools: Tool) -> list[str]:
    return [finding.rule for finding in lint(tools)]


def pairs(*described: tuple[str, str]) -> list[tuple[str, ...]]:
    tools = [make(name, text, effect="read", **{f"p{index}": CITY}) for index, (name, text) in enumerate(described)]
    return [finding.tools for finding in lint(tools) if finding.rule == "ambiguous-pair"]


def test_a_good_toolset_has_no_findings():
    assert (
        lint(
            [
                make("get_weather", "Get the current weather for one city.", effect="read", city=CITY),
                make("create_order", "Create an order for one item that is in stock.", item=CITY),
                make("delete_order", "Delete an order that has not been paid.", effect="destructive", order=CITY),
            ]
        )
        == []
    )


# Pairs that a model would confuse, and pairs that it would not


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("get_weather", "Get the weather for a city."), ("fetch_weather", "Fetch the weather of a city.")),
        (("get_weather", "Get the weather for a city."), ("weather", "Returns the weather for a given city.")),
        (("search_docs", "Search the documents."), ("find_docs", "Find documents by text.")),
        (("getUser", "Get a user by id."), ("user-lookup", "Look up a user by id.")),
        (("send_mail", "Send a mail to a customer."), ("deliver_mails", "Sends mails to customers.")),
        (
            ("stock_price", "Get the latest price of a stock, in dollars."),
            ("quote", "Returns the latest price of a stock symbol in dollars."),
        ),
        (("add_note", "Create a note in the notebook."), ("note_new", "Create a new note in the notebook.")),
        (
            ("a", "Convert an amount of money to another currency."),
            ("b", "Converts amounts of money to other currencies"),
        ),
    ],
)
def test_ambiguous_pairs_are_found(one: tuple[str, str], two: tuple[str, str]):
    assert pairs(one, two) == [(one[0], two[0])]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("create_order", "Create an order."), ("delete_order", "Delete an order.")),
        (("get_user", "Get a user by id."), ("get_order", "Get an order by id.")),
        (("get_order", "Get an order by its id."), ("get_order_items", "List the items of an order.")),
        (("search_web", "Search the web for a text."), ("search_docs", "Search our documentation for a text.")),
        (("add", "Add two numbers."), ("multiply", "Multiply two numbers.")),
        (("upload_file", "Upload a file to the bucket."), ("download_file", "Download a file from the bucket.")),
        (("get_weather", "Get the current weather for a city."), ("get_time", "Get the current time for a city.")),
        (("book_flight", "Book a flight for a passenger."), ("cancel_flight", "Cancel a flight of a passenger.")),
        (("start_vm", "Start a virtual machine."), ("stop_vm", "Stop a virtual machine.")),
        (("lock_door", "Lock the door of a car."), ("unlock_door", "Unlock the door of a car.")),
    ],
)
def test_clear_pairs_are_left_alone(one: tuple[str, str], two: tuple[str, str]):
    assert pairs(one, two) == []


def test_two_tools_that_nothing_tells_apart_are_an_error():
    found = lint(
        [
            make("read_a", "Read the sensor in the kitchen.", effect="read", city=CITY),
            make("read_b", "Read the sensor in the kitchen.", effect="read", city=CITY),
        ]
    )
    assert [(each.rule, each.severity, each.tools) for each in found] == [
        ("duplicate-tool", "error", ("read_a", "read_b"))
    ]


def test_the_same_words_for_other_parameters_are_ambiguous():
    found = lint(
        [
            make("one", "Read the sensor in the kitchen.", effect="read", city=CITY),
            make("two", "Read the sensor in the kitchen.", effect="read", town=CITY),
        ]
    )
    assert [each.rule for each in found] == ["ambiguous-pair"]


# Descriptions


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("get_weather", "Get weather.", "repeats-name"),
        ("get_weather", "This tool gets the weather.", "repeats-name"),
        ("sendMail", "Sends a mail", "repeats-name"),
        ("run", "Go.", "vague-description"),
        ("helper", "Does things with data.", "vague-description"),
        ("f", "TODO describe what this function really computes", "vague-description"),
        ("weather", "The temperature and humidity of a city.", "no-verb"),
        ("get_rates", "Get rates. " + "It knows many currencies of the world. " * 30, "long-description"),
    ],
)
def test_weak_descriptions_are_found(name: str, text: str, rule: str):
    assert rules(make(name, text, effect="read")) == [rule]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("get_weather", "Get the current temperature and wind for a city."),
        ("search", "Searches all open orders by customer name."),
        ("pay", "Charging a credit card with an amount."),
        ("x", "Tries to classify a ticket by urgency."),
    ],
)
def test_fair_descriptions_are_left_alone(name: str, text: str):
    assert rules(make(name, text, effect="egress")) == []


# Parameters

GOOD = "Charge a credit card with an amount."


def test_parameters_without_description_are_named_once():
    (found,) = lint([make("pay", GOOD, a={"type": "string"}, b=CITY, c={"type": "integer"})])
    assert (found.rule, found.path) == ("undocumented-parameter", "/properties/a")
    assert "a, c" in found.message


def test_a_description_behind_a_reference_counts():
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"$ref": "#/$defs/B", "description": "Nearer."}},
        "$defs": {"A": {"$ref": "#/$defs/C"}, "B": True, "C": {"description": "Far.", "type": "string"}},
    }
    assert rules(Tool("pay", GOOD, schema)) == []


def test_a_parameter_that_may_be_anything_is_found():
    anything = {"description": "Something."}
    assert rules(make("pay", GOOD, a=anything)) == ["untyped-parameter"]
    assert rules(make("pay", GOOD, a={**anything, "enum": [1]}, b={**anything, "anyOf": [{}]})) == []
    assert rules(make("pay", GOOD, a=True)) == ["undocumented-parameter", "untyped-parameter"]
    assert rules(make("pay", GOOD, a=False)) == ["undocumented-parameter"]


def test_many_parameters():
    many = {f"p{number}": CITY for number in range(13)}
    assert rules(make("pay", GOOD, **many)) == ["many-parameters"]
    assert rules(make("pay", GOOD, required=False, **many)) == ["many-parameters", "many-optional-parameters"]
    assert rules(make("pay", GOOD, required=False, **{f"p{number}": CITY for number in range(8)})) == []


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        inner = {"type": "object", "properties": {"x": inner}}
    return {**inner, "description": "Nested."}


def test_deep_nesting_is_found_with_its_place():
    assert rules(make("pay", GOOD, a=nested(3))) == []
    (found,) = lint([make("pay", GOOD, a=nested(4))])
    assert (found.rule, found.path) == ("deep-nesting", "/properties/a/properties/x/properties/x/properties/x")


def test_lists_and_references_nest_too_and_recursion_ends():
    tree = {
        "type": "object",
        "properties": {"a": {"description": "A tree.", "$ref": "#/$defs/T"}},
        "$defs": {"T": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/T"}]}}},
    }
    assert rules(Tool("pay", GOOD, tree)) == []
    lists: dict[str, Any] = {"type": "string"}
    for _ in range(5):
        lists = {"type": "array", "items": lists}
    assert rules(make("pay", GOOD, a={**lists, "description": "Lists."})) == ["deep-nesting"]


# Effects and numbers


@pytest.mark.parametrize(
    ("name", "effect", "expected"),
    [
        ("get_amount", "write", ["effect-unstated"]),
        ("get_amount", "read", []),
        ("delete_card", "read", ["effect-mismatch"]),
        ("delete_card", "destructive", []),
        ("charge", "write", []),
        ("check_card", "egress", []),
    ],
)
def test_a_name_that_says_another_effect_is_found(name: str, effect: Effect, expected: list[str]):
    assert rules(make(name, GOOD, effect=effect)) == expected


def test_a_mismatch_is_an_error():
    (found,) = lint([make("delete_card", GOOD, effect="read")])
    assert found.severity == "error"


def test_many_tools():
    verbs = ("paint", "print", "weigh", "mail", "cut", "bend", "wash", "iron", "store")
    things = ("tea cups", "books", "cars", "spoons", "lamps", "chairs")
    tools = [
        make(f"{verb}_{thing.replace(' ', '_')}", f"Use {verb} on {thing}, slowly.")
        for verb in verbs
        for thing in things
    ]
    assert "many-tools" in rules(*tools)
    assert "many-tools" not in rules(*tools[:50])


def test_a_finding_as_json():
    assert Finding("no-verb", "info", ("a",), "m", "f", "/p").as_dict() == {
        "rule": "no-verb",
        "severity": "info",
        "tools": ["a"],
        "path": "/p",
        "message": "m",
        "fix": "f",
    }


# Words


def test_words_of_names():
    assert words("getHTTPStatus_by-id.v2") == ["get", "httpstatus", "by", "id", "v2"]
    assert words("Größe der Fläche") == ["größe", "der", "fläche"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("searches", "search"),
        ("stopped", "stop"),
        ("creating", "create"),
        ("queries", "query"),
        ("orders", "order"),
        ("address", "address"),
        ("gets", "get"),
        ("is", "is"),
        ("bring", "bring"),
        ("speed", "speed"),
    ],
)
def test_stems(word: str, expected: str):
    assert stem(word) == expected


def test_meaning_and_verbs():
    assert meaning("This tool fetches all the orders") == ["get", "order"]
    assert first_verb("user_lookup") == "get"
    assert first_verb("weather") is None
