"""Twenty everyday questions with the calls that answer them. Every question is asked with all ten tools on offer.

An expected argument is a tuple of the values that count as right; `ABSENT` among them means that it may be left out.
Strings are compared without case. A question without expected calls must be answered in text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from callbox.tools.tool import Tool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ABSENT = object()


def _tool(name: str, description: str, properties: dict[str, Any], optional: tuple[str, ...] = ()) -> Tool:
    schema = {
        "type": "object",
        "properties": properties,
        "required": [key for key in properties if key not in optional],
        "additionalProperties": False,
    }
    return Tool(name, description, schema, effect="read")


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


TOOLS = (
    _tool(
        "get_weather",
        "Get the current weather in a city.",
        {
            "city": _text("Name of the city"),
            "unit": _text("Unit of temperature", enum=["celsius", "fahrenheit"]),
        },
        optional=("unit",),
    ),
    _tool(
        "get_order",
        "Look up an order: what was bought and how it is shipped.",
        {"order_id": _text('Id of the order, like "A-1042"')},
    ),
    _tool(
        "track_parcel",
        "Find out where a parcel is and when it will arrive.",
        {"tracking_number": _text("Number of the parcel, printed on its label")},
    ),
    _tool(
        "convert_currency",
        "Convert an amount of money from one currency to another.",
        {
            "amount": {"type": "number", "description": "How much"},
            "source": _text("Code of the currency to convert from, like USD"),
            "target": _text("Code of the currency to convert to, like EUR"),
        },
    ),
    _tool(
        "set_timer",
        "Start a kitchen timer.",
        {
            "minutes": {"type": "integer", "minimum": 1, "description": "How many minutes"},
            "label": _text("What the timer is for"),
        },
        optional=("label",),
    ),
    _tool(
        "send_email",
        "Send an email.",
        {
            "to": _text("Address of the recipient"),
            "subject": _text("Subject line"),
            "body": _text("Text of the email"),
        },
        optional=("body",),
    ),
    _tool(
        "search_flights",
        "Search for flights between two cities on a day.",
        {
            "origin": _text("City of departure"),
            "destination": _text("City of arrival"),
            "date": _text("Day of departure as YYYY-MM-DD", format="date"),
        },
    ),
    _tool(
        "play_music",
        "Play music of an artist.",
        {
            "artist": _text("Name of the artist"),
            "shuffle": {"type": "boolean", "description": "Play in random order"},
        },
        optional=("shuffle",),
    ),
    _tool(
        "set_light",
        "Switch the light of a room on or off.",
        {"room": _text("Name of the room"), "state": _text("On or off", enum=["on", "off"])},
    ),
    _tool(
        "get_exchange_hours",
        "Get the opening hours of a stock exchange.",
        {"exchange": _text("Which stock exchange", enum=["NYSE", "LSE", "TSE", "FWB"])},
    ),
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        id: ``"q01"`` to ``"q20"``.
        text: What is asked.
        calls: The expected calls, in any order: name, and for each argument its allowed values.
    """

    id: str
    text: str
    calls: tuple[tuple[str, Mapping[str, tuple[Any, ...]]], ...]

    def is_right(self, calls: Sequence[tuple[str, Any]]) -> bool:
        """Whether these calls are just the expected ones."""
        left = list(calls)
        for name, allowed in self.calls:
            fitting = next((call for call in left if call[0] == name and _fits(call[1], allowed)), None)
            if fitting is None:
                return False
            left.remove(fitting)
        return not left


def _fits(arguments: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> bool:
    return all(name in allowed for name in arguments) and all(
        _bare(arguments.get(name, ABSENT)) in [_bare(value) for value in values] for name, values in allowed.items()
    )


def _bare(value: Any) -> Any:
    return value.lower().rstrip(".") if isinstance(value, str) else value


def _weather(city: str, *units: Any) -> tuple[str, dict[str, tuple[Any, ...]]]:
    return "get_weather", {"city": (city,), "unit": units or (ABSENT, "celsius", "fahrenheit")}


def _money(amount: float, source: str, target: str) -> tuple[str, dict[str, tuple[Any, ...]]]:
    return "convert_currency", {"amount": (amount,), "source": (source,), "target": (target,)}


QUESTIONS = (
    Question("q01", "What's the weather in Oslo right now?", (_weather("Oslo"),)),
    Question("q02", "How warm is it in Chicago, in fahrenheit?", (_weather("Chicago", "fahrenheit"),)),
    Question("q03", "What did I buy with order A-1042?", (("get_order", {"order_id": ("A-1042",)}),)),
    Question("q04", "Please look up order number B-77.", (("get_order", {"order_id": ("B-77",)}),)),
    Question(
        "q05",
        "When will the parcel with tracking number 1Z999AA1 arrive?",
        (("track_parcel", {"tracking_number": ("1Z999AA1",)}),),
    ),
    Question("q06", "Where is parcel LX-4411?", (("track_parcel", {"tracking_number": ("LX-4411",)}),)),
    Question("q07", "Convert 120 USD to EUR.", (_money(120, "USD", "EUR"),)),
    Question("q08", "How many yen do I get for 45.50 pounds?", (_money(45.5, "GBP", "JPY"),)),
    Question(
        "q09",
        "Set a timer for 12 minutes for the pasta.",
        (("set_timer", {"minutes": (12,), "label": (ABSENT, "pasta", "the pasta")}),),
    ),
    Question("q10", "Start a timer of half an hour.", (("set_timer", {"minutes": (30,), "label": (ABSENT,)}),)),
    Question(
        "q11",
        "Send an email to kim@example.com with the subject Lunch on Friday.",
        (
            (
                "send_email",
                {"to": ("kim@example.com",), "subject": ("Lunch on Friday",), "body": (ABSENT, "")},
            ),
        ),
    ),
    Question(
        "q12",
        "Find flights from Berlin to Madrid on 2026-03-14.",
        (("search_flights", {"origin": ("Berlin",), "destination": ("Madrid",), "date": ("2026-03-14",)}),),
    ),
    Question(
        "q13",
        "Which flights go from Rome to Vienna on May 2nd, 2026?",
        (("search_flights", {"origin": ("Rome",), "destination": ("Vienna",), "date": ("2026-05-02",)}),),
    ),
    Question(
        "q14",
        "Play something by Miles Davis.",
        (("play_music", {"artist": ("Miles Davis",), "shuffle": (ABSENT, False)}),),
    ),
    Question(
        "q15",
        "Play music by Björk in random order.",
        (("play_music", {"artist": ("Björk",), "shuffle": (True,)}),),
    ),
    Question(
        "q16",
        "Turn off the light in the kitchen.",
        (("set_light", {"room": ("kitchen",), "state": ("off",)}),),
    ),
    Question("q17", "When does the stock exchange LSE open?", (("get_exchange_hours", {"exchange": ("LSE",)}),)),
    Question("q18", "What's the weather in Lima and in Quito?", (_weather("Lima"), _weather("Quito"))),
    Question(
        "q19",
        "Switch on the light in the hall and in the bedroom.",
        (
            ("set_light", {"room": ("hall", "the hall"), "state": ("on",)}),
            ("set_light", {"room": ("bedroom", "the bedroom"), "state": ("on",)}),
        ),
    ),
    Question("q20", "Thank you, that was very kind!", ()),
)
