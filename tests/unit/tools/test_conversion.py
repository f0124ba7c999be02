"""From validated JSON arguments to what the hints name."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal, NewType

import pytest
from annotated_types import Ge, Len, MinLen
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from callbox import tool
from callbox.errors import Rejected, ToolError
from callbox.tools.conversion import plain_coercion
from callbox.tools.tool import FunctionBinding


class Level(enum.Enum):
    LOW = 1


def convert_of(hint: Any) -> Any:
    def f(value: Any) -> None:
        """Take a value."""

    f.__annotations__["value"] = hint
    binding = tool(f).binding
    assert isinstance(binding, FunctionBinding)
    return binding.convert


def converted(hint: Any, value: Any) -> Any:
    convert = convert_of(hint)
    return value if convert is None else convert({"value": value})["value"]


@pytest.mark.parametrize(
    "hint",
    [
        str,
        float,
        bool,
        None,
        Any,
        list,
        dict,
        list[str],
        Sequence[str],
        Mapping[str, float],
        dict[str, list[dict[str, Any]]],
        str | None,
        int | float,
        Literal["a", "b", None],
        Annotated[str, "text", Field(min_length=2, pattern="a")],
        Annotated[float, Ge(2)],
        Annotated[list[str], Len(1, 3), MinLen(1)],
        NewType("Name", str),
    ],
)
def test_hints_that_json_already_fits_cost_nothing(hint: Any):
    assert convert_of(hint) is None


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 5.0, 5),
        (int, 5, 5),
        (int | None, None, None),
        (int | None, 5.0, 5),
        (int | str, "5.0", "5.0"),
        (Literal[1, 2], 2.0, 2),
        (list[int], [1.0, 2], [1, 2]),
        (list[int] | None, [1.0], [1]),
        (list[int] | None, None, None),
        (dict[str, list[int]], {"a": [1.0]}, {"a": [1]}),
        (dict[str, int] | str, "x", "x"),
        (Annotated[int, Field(ge=1, description="A number.")], 5.0, 5),
        (NewType("Id", int), 5.0, 5),
    ],
)
def test_an_integral_float_arrives_as_the_int_that_was_declared(hint: Any, value: Any, expected: Any):
    made = converted(hint, value)
    assert made == expected
    assert repr(made) == repr(expected)
    is_plain, _ = plain_coercion(hint)
    assert is_plain  # without pydantic


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.booleans(), st.none()))
def test_a_coercion_never_changes_the_value_of_what_it_is_given(value: Any):
    for hint in (int, int | str, list[int], dict[str, int]):
        _, coerce = plain_coercion(hint)
        assert coerce is not None
        assert coerce(value) == value
        assert coerce([value, value]) == [value, value]
        assert coerce({"a": value}) == {"a": value}


@pytest.mark.parametrize(
    "hint",
    [
        date,
        dict[int, str],
        tuple[int, str],
        list[date],
        list[int] | list[str] | dict[str, int],
        Annotated[str, StringConstraints(to_lower=True)],
        Annotated[str, AfterValidator(str.strip)],
        Annotated[int | None, Field(ge=3)],
        Annotated[Any, Ge(3)],
        Annotated[str, Field(alias="other")],
        Literal[Level.LOW],
        Level,
    ],
)
def test_hints_that_mean_more_than_their_schema_need_pydantic(hint: Any):
    assert plain_coercion(hint) == (False, None)


def test_arguments_that_were_not_sent_stay_absent():
    @tool
    def f(a: int = 1, day: date = date(2025, 1, 1)) -> None:
        """Do it."""

    binding = f.binding
    assert isinstance(binding, FunctionBinding)
    assert binding.convert is not None
    assert binding.convert({}) == {}
    assert binding.convert({"a": 2.0}) == {"a": 2}


def test_the_given_arguments_are_not_changed():
    convert = convert_of(list[int])
    given_arguments = {"value": [1.0]}
    assert convert(given_arguments) == {"value": [1]}
    assert repr(given_arguments) == "{'value': [1.0]}"


def test_a_strict_model_takes_the_json_form_of_its_types():
    class Visit(BaseModel):
        model_config = ConfigDict(strict=True)
        day: date
        nights: int

    assert converted(Visit, {"day": "2025-01-02", "nights": 2}) == Visit(day=date(2025, 1, 2), nights=2)


def test_an_integral_float_fits_a_strict_model_too():
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        numbers: list[int]
        share: float

    assert repr(converted(Strict, {"numbers": [1.0, 2], "share": 3})) == "Strict(numbers=[1, 2], share=3.0)"
    with pytest.raises(Rejected) as caught:
        converted(Strict, {"numbers": [1.5], "share": 3})
    assert caught.value.path == "/value/numbers/0"


class Guest(BaseModel):
    name: str
    age: int

    @field_validator("age")
    @classmethod
    def grown_up(cls, age: int) -> int:
        if age < 18:
            raise ValueError("a guest must be 18 or older")
        return age


class Group(BaseModel):
    guests: list[Guest]
    leader: Guest | None = None

    @model_validator(mode="after")
    def not_empty(self) -> Group:
        if not self.guests:
            raise AssertionError("a group needs guests")  # as an assert statement does, without pytest's rewriting
        return self


def test_what_a_custom_validator_refuses_is_told_with_its_path():
    with pytest.raises(Rejected) as caught:
        converted(Group, {"guests": [{"name": "secret-name", "age": 30}, {"name": "b", "age": 3}]})
    assert caught.value.path == "/value/guests/1/age"
    assert caught.value.message == "a guest must be 18 or older"
    assert "secret-name" not in str(caught.value)


def test_several_refusals_are_told_together():
    with pytest.raises(Rejected) as caught:
        converted(Group, {"guests": [{"name": "a", "age": 1}], "leader": {"name": "b", "age": 2}})
    assert caught.value.path == "/value/guests/0/age"
    assert caught.value.message == (
        "/value/guests/0/age: a guest must be 18 or older; /value/leader/age: a guest must be 18 or older"
    )


def test_a_refusal_of_a_model_as_a_whole_points_to_the_model():
    with pytest.raises(Rejected) as caught:
        converted(Group, {"guests": []})
    assert (caught.value.path, caught.value.message) == ("/value", "a group needs guests")


def no_lives(number: int) -> int:
    raise ValueError(f"no cat has {number} lives")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, AfterValidator(no_lives)]


class Dog(BaseModel):
    kind: Literal["dog"]


def test_tags_of_unions_are_no_part_of_the_path():
    with pytest.raises(Rejected) as caught:
        converted(list[Annotated[Cat | Dog, Field(discriminator="kind")]], [{"kind": "cat", "lives": 3}])
    assert caught.value.path == "/value/0/lives"
    assert caught.value.message == "no cat has 3 lives"


def test_something_missing_is_named():
    class Late(BaseModel):
        a: int = 0

        @model_validator(mode="before")
        @classmethod
        def forget(cls, data: Any) -> Any:
            return Guest.model_validate({"name": "x"})

    with pytest.raises(Rejected) as caught:
        converted(Late, {"a": 1})
    assert caught.value.path == "/value/age"


def test_a_validator_may_raise_a_tool_error_itself():
    def refuse(value: str) -> str:
        raise ToolError("closed on Sundays", retryable=True)

    with pytest.raises(ToolError, match="closed on Sundays") as caught:
        converted(Annotated[str, AfterValidator(refuse)], "x")
    assert caught.value.retryable
