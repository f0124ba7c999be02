"""Putting results into words, for a model that is too small to be trusted with them.

Asked freely, 135 million parameters answer fluently and wrongly: they drop values and make up names. So each result
becomes one sentence under a grammar that holds nothing but true ones: the model chooses among the ways of saying each
value ("the city is Hamburg", "it is in Hamburg"), and cannot say a value that the result does not contain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from callbox.calls.call import ToolCall, ToolResult

_VALUES_MAX = 8
_TEXT_CHARS = 400
_ARGUMENT_CHARS = 40

INSTRUCTIONS = "You turn a fact into a sentence that answers the question."

EXAMPLES = (
    (
        "Question: What is the capital of Peru?\nFact: get capital, country Peru: name Lima, people 10 million",
        "For Peru, the name is Lima, and the people are 10 million.",
    ),
    (
        "Question: How warm is it in Lisbon?\nFact: get weather, city Lisbon: sky sunny, degrees 21",
        "In Lisbon, the sky is sunny, and it is 21 degrees.",
    ),
    (
        "Question: When does the train leave?\nFact: find train, line 7: leaves 9:40, late false",
        "It leaves at 9:40, and it is not late.",
    ),
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One result to put into words.

    Attributes:
        question: What the model is shown.
        grammar: What it may say; None when there is nothing to choose.
        verbatim: What is said then, and when the grammar does not compile.
    """

    question: str
    grammar: str | None = None
    verbatim: str = ""


def sentence(call: ToolCall, result: ToolResult, asked: str) -> Sentence:
    """How one result may be told. `asked`: the question, or the part of it that this call is about."""
    title = call.name.replace("_", " ")
    if result.error is not None:
        return Sentence(asked, verbatim=f"I could not {title}: {_plain(result.error.message)}")
    try:
        value: Any = json.loads(result.content)
    except ValueError:
        value = result.content
    if isinstance(value, str):
        return Sentence(asked, verbatim=_ended(_plain(value)))
    leaves = list(_leaves(value))
    arguments = {name: _said(argument) for name, argument in _arguments(call).items()}
    # What only repeats the question is no news, unless there is nothing else.
    told = [leaf for leaf in leaves if leaf[1] not in arguments.values()] or leaves
    if not told:
        return Sentence(asked, verbatim=f"There is no result of {title}.")
    shown = told[:_VALUES_MAX]
    given = "".join(f", {name.replace('_', ' ')} {argument}" for name, argument in arguments.items())
    left_out = len(told) - len(shown)
    end = f", and {left_out} more values." if left_out else "."
    facts = ", ".join(f"{name} {said}".strip() for name, said in shown)
    return Sentence(
        f"Question: {asked}\nFact: {title}{given}: {facts}",
        _grammar(list(arguments.values()), shown, end),
        "The " + ", the ".join(f"{name or 'result'}: {said}" for name, said in shown) + end,
    )


def _grammar(arguments: list[str], told: list[tuple[str, str]], end: str) -> str:
    openings = [
        f"{word} {argument}, "
        for argument in arguments
        if len(argument) <= _ARGUMENT_CHARS
        for word in ("For", "In", "On")
    ]
    rules: list[str] = []
    for place, (name, said) in enumerate(told):
        rules.append(f"f{place}: {' | '.join(_quoted(way) for way in _ways(name, said))}")
    first = " | ".join(_quoted(way[0].upper() + way[1:]) for way in _ways(*told[0]))
    opening = f"({' | '.join(map(_quoted, openings))}) f0 | first" if openings else "first"
    joins = "".join(f' (", " | ", and ") f{place}' for place in range(1, len(told)))
    return "\n".join([f"start: begin{joins} {_quoted(end)}", f"begin: {opening}", f"first: {first}", *rules])


def _ways(name: str, said: str) -> list[str]:
    """The ways of saying a value, all true."""
    if not name:
        return [f"it is {said}", f"the result is {said}", f"that is {said}"]
    if said in ("true", "false"):
        no = "" if said == "true" else "not "
        return [f"it is {no}{name}", f"{name} is {said}"]
    if not name.endswith("s") or name.endswith(("us", "ss", "is")):
        return [f"the {name} is {said}", f"it is {said}", f"it is in {said}", f"it is {said} {name}"]
    if said[0].isdigit() and said[-1].isdigit() and ":" not in said:
        return [f"the {name} are {said}", f"it is {said} {name}", f"it has {said} {name}", f"it {name} {said}"]
    # Not a number of things, so rather a verb: arrives, opens, costs.
    return [f"it {name} {said}", f"it {name} on {said}", f"it {name} at {said}"]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The scalars of a result, each with its name in words."""
    if isinstance(value, dict):
        for key, child in cast("dict[str, Any]", value).items():
            yield from _leaves(child, key.replace("_", " "))
    elif isinstance(value, list):
        for child in cast("list[Any]", value):
            yield from _leaves(child, name)
    elif value is not None and value != "":
        yield name, _said(value)


def _arguments(call: ToolCall) -> dict[str, Any]:
    arguments: Any = call.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {}
    return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}


def _said(value: Any) -> str:
    return _plain(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_CHARS else line[:_TEXT_CHARS] + "..."


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _quoted(text: str) -> str:
    # llguidance reads a literal as JSON does; a lone surrogate has no UTF-8.
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)
