from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from callbox.calls.plain_values import check_plain
from callbox.calls.strict_json import StrictJsonError
from callbox.limits import DEFAULT_LIMITS


def refused(value: object, **limits: int) -> str:
    with pytest.raises(StrictJsonError) as caught:
        check_plain(value, replace(DEFAULT_LIMITS, **limits))
    assert len(caught.value.message) < 200
    caught.value.message.encode()
    return caught.value.kind


class Text(str):
    """A subclass may answer differently each time."""

    __slots__ = ()


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


def doubling() -> list[Any]:
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    return value


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_plain_data_passes() -> None:
    assert check_plain({"a": [1, 2.5, None, True, "é", {"b": {}}]}, DEFAULT_LIMITS) is False


def test_whole_floats_are_noticed_at_any_depth() -> None:
    assert check_plain({"a": [{"b": 3.0}]}, DEFAULT_LIMITS) is True
    assert check_plain({"a": 3, "b": 3.5}, DEFAULT_LIMITS) is False


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"{}", "not_json"),
        (object(), "not_json"),
        ((1, 2), "not_json"),
        ({1, 2}, "not_json"),
        (Decimal(1), "not_json"),
        (Text("x"), "not_json"),
        ({"a": [b"x"]}, "not_json"),
        ({1: 2}, "not_json"),
        ({None: 2}, "not_json"),
        ({Text("x"): 2}, "not_json"),
        ({object(): 2}, "not_json"),
        (float("nan"), "number"),
        ({"a": float("-inf")}, "number"),
        (10**400, "number"),
        (-(10**400), "number"),
        ("\ud800", "surrogate"),
        ({"a": ["\udfff é"]}, "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        ("a\0b", "nul"),
        ({"a\0": 1}, "nul"),
        ({"é\0": 1}, "nul"),
        (cycle(), "too_deep"),
        (doubling(), "too_many_values"),
        ([0] * 500_000, "too_many_values"),
        ("x" * 2_000_000, "too_large"),
        ({"x" * 2_000_000: 1}, "too_large"),
        (["é" * 400_000, "é" * 400_000], "too_large"),
    ],
)
def test_what_is_no_plain_json_is_refused(value: object, kind: str) -> None:
    assert refused(value) == kind


def test_limits_are_those_of_text() -> None:
    limit = DEFAULT_LIMITS.arguments_depth_max
    assert check_plain(nested(limit), DEFAULT_LIMITS) is False
    assert refused(nested(limit + 1)) == "too_deep"
    assert check_plain([1, 2, 3], replace(DEFAULT_LIMITS, arguments_values_max=3)) is False
    assert refused([1, 2, 3], arguments_values_max=2) == "too_many_values"
    assert check_plain(10**400 - 1, DEFAULT_LIMITS) is False


def test_a_hundred_thousand_levels_need_no_recursion() -> None:
    value = nested(100_000)
    assert refused(value) == "too_deep"
    while isinstance(value, list):  # or Python itself recurses when it frees it
        value = value.pop()
