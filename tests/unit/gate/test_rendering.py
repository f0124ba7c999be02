import dataclasses
import datetime
import enum
import json

import pydantic
import pytest

from callbox.gate.rendering import cut, render


class Color(enum.Enum):
    RED = "red"


class Order(pydantic.BaseModel):
    id: str
    at: datetime.date


@dataclasses.dataclass
class Point:
    x: int


def text(value):
    return render(value)


def test_a_string_is_sent_as_it_is():
    assert text('say "hi"') == 'say "hi"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({"a": [1, 2.5, True]}, {"a": [1, 2.5, True]}),
        (Order(id="A", at=datetime.date(2026, 1, 2)), {"id": "A", "at": "2026-01-02"}),
        ([Point(1)], [{"x": 1}]),
        ({"c": Color.RED}, {"c": "red"}),
        ({"n": float("nan")}, {"n": None}),
        ({1: "int key"}, {"1": "int key"}),
        ({(1, 2): 3}, {"1,2": 3}),
    ],
)
def test_a_value_becomes_json(value, expected):
    assert json.loads(text(value)) == expected


def test_what_no_rule_covers_becomes_its_text():
    class Odd:
        def __str__(self):
            return "odd one"

    assert json.loads(text({"o": Odd()})) == {"o": "odd one"}


def test_a_value_that_contains_itself_is_still_json():
    loop = []
    loop.append(loop)
    assert isinstance(json.loads(text(loop)), list)


def test_a_value_whose_own_serialiser_fails_is_named_only():
    class Broken(pydantic.BaseModel):
        x: int

        @pydantic.model_serializer
        def fail(self):
            raise ValueError("secret")

    assert json.loads(text([Broken(x=1)])) == "<list>"


def test_a_lone_surrogate_cannot_break_the_clients_encoder():
    assert text("a\ud800b").encode("utf-8") == b"a?b"
    assert text({"k": "\udfff"}).encode("utf-8")


def test_a_long_text_is_cut_and_says_so():
    content, truncated = cut("x" * 50, 10)
    assert truncated
    assert content == "x" * 10 + "\n[cut here: 10 of 50 characters]"
    assert cut("x" * 10, 10) == ("x" * 10, False)


def test_a_lazy_value_that_fails_when_it_is_read_is_named_only():
    class Lazy(dict):
        def __iter__(self):
            raise RuntimeError("lazy")

        keys = items = values = __iter__

    assert json.loads(text(Lazy(a=1))) is not None
