"""Putting results into words: only true sentences are possible."""

from __future__ import annotations

import json

import pytest

from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.providers.local_answer import EXAMPLES, Sentence, sentence
from callbox.providers.local_grammar import byte_tokenizer, compile_problem

pytest.importorskip("llguidance")


def told(content: object, arguments: object = None, name: str = "get_order") -> Sentence:
    call = ToolCall("c1", name, {"order_id": "A-1"} if arguments is None else arguments)
    text = content if isinstance(content, str) else json.dumps(content)
    return sentence(call, ToolResult("c1", name, text), "What is in A-1?")


def can_say(made: Sentence, text: str) -> bool:
    import llguidance

    assert made.grammar is not None
    assert compile_problem(made.grammar) == ""
    matcher = llguidance.LLMatcher(byte_tokenizer(), llguidance.LLMatcher.grammar_from_lark(made.grammar), log_level=0)
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def test_every_value_is_said_and_no_other_can_be() -> None:
    made = told({"item": "blue kettle", "pieces": 2})
    assert can_say(made, "The item is blue kettle, and it is 2 pieces.")
    assert can_say(made, "For A-1, the item is blue kettle, the pieces are 2.")
    assert not can_say(made, "The item is red kettle, and it is 2 pieces.")
    assert not can_say(made, "The item is blue kettle.")
    assert not can_say(made, "For A-2, the item is blue kettle, the pieces are 2.")


def test_verbs_booleans_and_bare_values_have_their_own_ways() -> None:
    assert can_say(told({"arrives": "Friday"}), "It arrives on Friday.")
    assert can_say(told({"status": "sent"}), "The status is sent.")
    assert can_say(told({"open": False}), "It is not open.")
    assert not can_say(told({"open": False}), "It is open.")
    assert can_say(told({"open": True}), "It is open.")
    assert can_say(told(42), "The result is 42.")
    assert can_say(told([1, 2]), "It is 1, and that is 2.")


def test_what_only_repeats_the_question_is_left_out_unless_there_is_nothing_else() -> None:
    assert can_say(told({"order_id": "A-1", "item": "lamp"}), "The item is lamp.")
    assert can_say(told({"order_id": "A-1"}), "The order id is A-1.")


def test_a_sentence_of_a_tool_is_quoted() -> None:
    assert told("It is on its way") == Sentence("What is in A-1?", verbatim="It is on its way.")
    assert told('"Ready!"').verbatim == "Ready!"
    assert len(told("x" * 1000).verbatim) < 500


def test_failures_and_emptiness_are_said() -> None:
    call = ToolCall("c1", "get_order", "{broken")
    error = CallError("tool_failed", "the database is locked")
    assert (
        sentence(call, ToolResult.failed(call, error), "?").verbatim == "I could not get order: the database is locked"
    )
    assert told({"order": None, "note": ""}).verbatim == "There is no result of get order."


def test_long_results_are_cut_and_the_cut_is_said() -> None:
    made = told({f"k{place}": f"v{place}" for place in range(11)})
    assert made.grammar is not None
    assert ", and 3 more values." in made.grammar


def test_arguments_may_still_be_text_or_nonsense() -> None:
    assert can_say(told({"item": "lamp"}, '{"order_id":"A-9"}'), "For A-9, the item is lamp.")
    assert can_say(told({"item": "lamp"}, "{broken"), "The item is lamp.")
    assert can_say(told({"item": "lamp"}, "[1]"), "The item is lamp.")
    assert can_say(told({"item": "lamp"}, {"note": "x" * 99}), "The item is lamp.")


def test_quotes_newlines_and_lone_surrogates_cannot_leave_the_grammar() -> None:
    made = told('{"item": "a \\"b\\"\\nstart: evil \\ud800"}')
    assert can_say(made, 'The item is a "b" start: evil ?.')


def test_the_examples_are_shown_in_the_form_that_is_asked() -> None:
    made = told({"item": "lamp"})
    assert made.question == "Question: What is in A-1?\nFact: get order, order id A-1: item lamp"
    assert all(question.startswith("Question: ") and "\nFact: " in question for question, _ in EXAMPLES)
