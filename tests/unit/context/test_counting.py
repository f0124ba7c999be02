from __future__ import annotations

import base64
import builtins
import json
import random

import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.context.counting import (
    CALL_TOKENS,
    ESTIMATE,
    IMAGE_TOKENS,
    MEDIA_TOKENS,
    MESSAGE_TOKENS,
    Calibration,
    count_definitions,
    count_message,
    count_messages,
    count_part,
    count_tool,
    estimate_tokens,
    exact,
)
from callbox.errors import ConfigurationError
from callbox.messages import Media, Message, Opaque, Reasoning, Text
from callbox.tools.tool import Tool

RANDOM = random.Random(1)

# Text of our own in each kind, and how far the estimate may be from the o200k vocabulary.
ENGLISH = (
    "The parcel left the warehouse in Hamburg on Tuesday and is expected at your door by Friday noon. "
    "If nobody is at home, the carrier leaves a card and tries again on the next working day."
)
CODE = """\
def total(items: list[Item], tax: float = 0.19) -> float:
    subtotal = 0.0
    for item in items:
        if item.cancelled:
            continue
        subtotal += item.price * item.quantity
    return round(subtotal * (1 + tax), 2)
"""
ORDERS = [{"order_id": f"A-{i}", "status": "shipped", "total": 12.5 * i, "sku": "SKU-7"} for i in range(6)]
GERMAN = (
    "Das Paket hat am Dienstag das Lager in Hamburg verlassen und wird voraussichtlich am Freitag "
    "zugestellt. Falls niemand zu Hause ist, hinterlässt der Zusteller eine Benachrichtigung im Briefkasten."
)
CHINESE = (
    "包裹已于星期二离开汉堡仓库,预计星期五中午之前送达。如果家中无人,快递员会留下通知单,并在下一个工作日再次派送。"
)
RUSSIAN = (
    "Посылка покинула склад в Гамбурге во вторник и будет доставлена к пятнице. "
    "Если никого не окажется дома, курьер оставит извещение и придёт на следующий рабочий день."
)
LOG = """\
2026-11-02 08:14:59,120 INFO [worker-3] id=7b1f0a52-93d0-4c1e-9a57-20c7b7f0e1aa path=/api/v1/orders/9 ms=131
2026-11-02 08:15:02,004 ERROR [db] timeout after 3000 ms
"""
KINDS = {
    "english": (ENGLISH, 0.15),
    "code": (CODE, 0.25),
    "json": (json.dumps(ORDERS), 0.15),
    "german": (GERMAN, 0.25),
    "chinese": (CHINESE, 0.25),
    "russian": (RUSSIAN, 0.25),
    "base64": (base64.b64encode(RANDOM.randbytes(600)).decode(), 0.2),
    "hex": (RANDOM.randbytes(300).hex(), 0.15),
    "log": (LOG, 0.2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_is_near_a_real_vocabulary(kind: str) -> None:
    pytest.importorskip("quicktok")
    text, tolerance = KINDS[kind]
    real = exact("o200k_base").count(text)
    assert abs(estimate_tokens(text) / real - 1) <= tolerance, (estimate_tokens(text), real)


def test_nothing_costs_nothing_and_anything_costs_something() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens(" ") == 1
    assert estimate_tokens("\r") == 1
    assert estimate_tokens("\ud800") >= 1


def test_runs_of_blanks_are_cheap() -> None:
    assert estimate_tokens(" " * 1_000) < estimate_tokens("word " * 100)


def test_a_real_vocabulary_counts_what_text_means_not_what_markers_say() -> None:
    pytest.importorskip("quicktok")
    counter = exact("gpt-4o")
    assert counter.count("hi there") == 2
    assert counter.count("<|endoftext|>") > 1
    assert counter.count("lone \ud800 surrogate") > 0
    assert exact("cl100k_base").count("hello world") == 2


def test_an_unknown_vocabulary_is_refused_with_the_known_ones() -> None:
    pytest.importorskip("quicktok")
    with pytest.raises(ConfigurationError, match="o200k_base"):
        exact("klingon")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def fail(name: str, *args: object, **kwargs: object) -> object:
        if name == "quicktok":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ConfigurationError, match=r"callbox\[tokens\]"):
        exact()


def test_a_message_costs_its_parts_and_a_little_more() -> None:
    call = ToolCall("c1", "get_order", {"order_id": "A-1"})
    message = Message.assistant("Let me see.", [call])
    words = ESTIMATE.count("Let me see.")
    assert count_part(call) == CALL_TOKENS + ESTIMATE.count('get_order{"order_id":"A-1"}')
    assert count_message(message) == MESSAGE_TOKENS + words + count_part(call)
    assert count_messages([message, message]) == 2 * count_message(message)


def test_arguments_are_counted_as_the_model_wrote_them() -> None:
    spaced = '{ "order_id" :   "A-1" ,  "note" : "!!! ??? ..." }'
    read = ToolCall("c1", "get_order", {"order_id": "A-1"}, raw=spaced)
    unread = ToolCall("c1", "get_order", spaced)
    expected = CALL_TOKENS + ESTIMATE.count("get_order" + spaced)
    assert count_part(read) == count_part(unread) == expected


def test_a_result_costs_its_content() -> None:
    result = ToolResult("c1", "get_order", "shipped " * 50)
    assert count_part(result) == CALL_TOKENS + ESTIMATE.count("shipped " * 50)


def test_pictures_and_other_media_have_a_fixed_price() -> None:
    assert count_part(Media("image/png", data="A" * 1_000_000)) == IMAGE_TOKENS
    assert count_part(Media("audio/wav", url="https://example.com/a.wav")) == MEDIA_TOKENS


def test_thoughts_and_foreign_blocks_are_counted() -> None:
    assert count_part(Reasoning("I should look it up.")) == ESTIMATE.count("I should look it up.")
    assert count_part(Opaque("anthropic", {"type": "thing"})) == ESTIMATE.count('{"type":"thing"}')
    assert count_part(Text("hi")) == 1


def test_a_definition_costs_its_json() -> None:
    tool = Tool("get_order", "Look up one order.", {"type": "object", "properties": {}})
    written = {"name": "get_order", "description": "Look up one order.", "parameters": tool.parameters}
    assert count_tool(tool) == ESTIMATE.count(json.dumps(written, separators=(",", ":")))
    assert count_definitions([written, written]) == 2 * count_tool(tool)


def test_calibration_takes_the_first_report_and_then_follows_slowly() -> None:
    calibration = Calibration(weight=0.5)
    assert calibration.scale(100) == 100
    assert calibration.observe(1_000, 1_200) == pytest.approx(1.2)
    assert calibration.observe(1_000, 1_600) == pytest.approx(1.4)
    assert calibration.scale(100) == 140
    assert calibration.observations == 2


def test_calibration_is_bounded_and_ignores_what_says_nothing() -> None:
    calibration = Calibration(lowest=0.5, highest=2.0)
    calibration.observe(10, 100)
    calibration.observe(1_000, 0)
    assert (calibration.ratio, calibration.observations) == (1.0, 0)
    assert calibration.observe(1_000, 1_000_000) == 2.0
    assert Calibration().observe(1_000_000, 1) == 0.5


@pytest.mark.parametrize(
    "wrong", [{"weight": 0.0}, {"weight": 1.5}, {"lowest": 0.0}, {"lowest": 1.5}, {"highest": 0.9}]
)
def test_impossible_calibrations_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Calibration(**wrong)
