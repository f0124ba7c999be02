"""What a person sees is what there is."""

import pytest

from callbox.calls.call import ToolCall
from callbox.cli.terminal import clean, full_arguments

HIDDEN = ["\x1b", "\x9b", "\u200b", "\u061c", "\ufeff", "\u202e", "\U000e0041", "\ud800", "\ue000", "\u0378", "\r"]


@pytest.mark.parametrize("hidden", HIDDEN, ids=ascii)
def test_what_cannot_be_seen_is_replaced(hidden):
    assert clean(f"a{hidden}b") == "a\ufffdb"
    assert clean(f"ä{hidden}b") == "ä\ufffdb"


@pytest.mark.parametrize("text", ["", "a\n\tb", "Grüezi\n\tשלום 你好 🙂", "e\u0301"])
def test_what_can_be_seen_stays(text):
    assert clean(text) == text


@pytest.mark.parametrize(
    "hidden", [*HIDDEN, "\n", "\t", "\u2028", "\u00a0", "\u3164", "\ufe0f", "\U000e0100"], ids=ascii
)
def test_arguments_are_shown_whole_with_what_one_would_not_see_escaped(hidden):
    (line,) = full_arguments(ToolCall("c", "pay", {f"to{hidden}": f"ä{hidden}" + "x" * 5_000}))
    assert hidden not in line
    assert line.startswith('"to\\')
    assert '": "ä\\' in line
    assert line.endswith("x" * 5_000 + '"')


def test_arguments_have_a_line_each():
    call = ToolCall("c", "pay", {"amount": 3, "to": {"name": "Ann", "tags": ["a\nb"]}})
    assert full_arguments(call) == ['"amount": 3', '"to": {"name": "Ann", "tags": ["a\\nb"]}']
