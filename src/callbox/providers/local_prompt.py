"""What a local model is told. Two ways, because 135 million parameters need more help than 7 billion.

`guided`, for the shipped model: three worked examples, then one tool (chosen by `local_choice`) with its
whole schema in a compact form, then the question. One tool a turn; when all that the question needs have
answered, `local_answer` puts the results into words. `open`, for larger models: the whole conversation and
all tools.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from callbox.providers import local_answer
from callbox.providers.local_answer import Sentence, sentence
from callbox.providers.local_choice import ToolIndex
from callbox.providers.local_grammar import OPENER
from callbox.providers.local_reading import call_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from callbox.calls.call import ToolCall, ToolResult
    from callbox.messages import Message
    from callbox.providers.provider import Request
    from callbox.tools.tool import Tool
    from callbox.values import JsonObject

Prompting = Literal["guided", "open"]

Chat = list[dict[str, str]]

# A question for more than one thing enumerates them. All 200 of BFCL's parallel questions have one of these.
_SEVERAL = re.compile(
    r"\b(?:and|also|then|both|each|every|all|respectively|plus|or|followed|another|two|three|four|five)\b"
    r"|[;,&/，、；]|[.?!。？！]\s*\w",
    re.IGNORECASE,
)
_HISTORY_MESSAGES = 4
_HISTORY_CHARS = 1_200
_RESULT_CHARS = 1_500
_FAILURES_MAX = 2


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to the model.

    Attributes:
        messages: In llama.cpp's terms.
        tools: What it may call; none means that it answers in text.
        text: It may answer in text although it may call.
        slot: Which of the engine's slots keeps this kind of prompt.
        answered: Lines of the calls that have results already.
        asked: What a further call in the same reply must take something new from; None allows any.
        several: The question may want more than one call.
        sentences: Results to put into words one by one, instead of all the above.
    """

    messages: Chat
    tools: tuple[Tool, ...]
    text: bool
    slot: Literal[0, 1]
    answered: frozenset[str] = frozenset()
    asked: str | None = None
    several: bool = True
    sentences: tuple[Sentence, ...] = ()


def write_prompt(request: Request, prompting: Prompting, *, answer: bool = False) -> Prompt:
    """The prompt for a request. `answer`: no more calls, whatever the request says."""
    turn = _Turn.of(request.messages)
    tools = () if answer or request.tool_choice == "none" else _allowed(request)
    must = request.tool_choice not in ("auto", "none")
    if prompting == "open":
        return Prompt(_open(request, tools), tools, not must, 0, turn.answered)
    if tools and (chosen := _next_tool(turn, tools, must=must)) is not None:
        tool, asked = chosen
        chat = _guided_call(turn, tool, asked)
        return Prompt(chat, (tool,), not must, 0, turn.answered, asked, _SEVERAL.search(asked) is not None)
    if turn.done:
        return Prompt(_SENTENCE_CHAT, (), True, 1, sentences=tuple(_sentences(turn, tuple(request.tools))))
    return Prompt(_guided_chat(turn), (), True, 1)


def _allowed(request: Request) -> tuple[Tool, ...]:
    if request.tool_choice in ("auto", "required"):
        return tuple(request.tools)
    return tuple(tool for tool in request.tools if tool.name == request.tool_choice)


# The conversation, as far as it matters now


@dataclass(frozen=True, slots=True)
class _Turn:
    """The last question, what was said before it, and what tools have answered since."""

    instructions: str
    history: tuple[Message, ...]
    question: str
    done: tuple[tuple[ToolCall, ToolResult], ...]

    @staticmethod
    def of(messages: Sequence[Message]) -> _Turn:
        asked = max((place for place, message in enumerate(messages) if message.role == "user"), default=-1)
        calls = {call.id: call for message in messages[asked + 1 :] for call in message.calls}
        return _Turn(
            "\n".join(message.text for message in messages if message.role == "system"),
            tuple(m for m in messages[: max(asked, 0)] if m.role in ("user", "assistant") and m.text),
            messages[asked].text if asked >= 0 else "",
            tuple(
                (calls[result.call_id], result)
                for message in messages[asked + 1 :]
                for result in message.results
                if result.call_id in calls
            ),
        )

    @property
    def answered(self) -> frozenset[str]:
        return frozenset(call_line(call.name, call.arguments) for call, _ in self.done)

    def finished(self, tool: Tool) -> bool:
        """The tool has answered, or has failed often enough."""
        results = [result for call, result in self.done if call.name == tool.name]
        return any(not result.is_error for result in results) or len(results) >= _FAILURES_MAX


def _next_tool(turn: _Turn, tools: tuple[Tool, ...], *, must: bool) -> tuple[Tool, str] | None:
    """The tool to show now, and the part of the question that is about it."""
    index = ToolIndex(tools)
    if not must and not turn.done and max(index.scores(turn.question)) == 0:
        return None  # not a word in common with any tool: small talk
    wanted = index.plan(turn.question)
    return next((item for item in wanted if not turn.finished(item[0])), wanted[0] if must else None)


# Guided


def _guided_call(turn: _Turn, tool: Tool, asked: str) -> Chat:
    chat = [{"role": "system", "content": _CALL_INSTRUCTIONS}, *_CALL_EXAMPLES, *_history(turn)]
    return [*chat, {"role": "user", "content": _call_question(describe(tool), asked, _known(turn))}]


def _guided_chat(turn: _Turn) -> Chat:
    system = turn.instructions or _CHAT_INSTRUCTIONS
    return [{"role": "system", "content": system}, *_history(turn), {"role": "user", "content": turn.question}]


def _sentences(turn: _Turn, tools: tuple[Tool, ...]) -> Iterator[Sentence]:
    asked = {tool.name: part for tool, part in ToolIndex(tools).plan(turn.question)} if tools else {}
    told = {call_line(call.name, call.arguments): (call, result) for call, result in turn.done}
    answered = {call.name for call, result in told.values() if not result.is_error}
    for call, result in told.values():
        if not (result.is_error and call.name in answered):  # a mistake that was put right is no news
            yield sentence(call, result, asked.get(call.name, turn.question))


def _history(turn: _Turn) -> Chat:
    """The last few messages; the model's window and attention are short."""
    chat: Chat = []
    left = _HISTORY_CHARS
    for message in reversed(turn.history[-_HISTORY_MESSAGES:]):
        left -= len(message.text)
        if left < 0:
            break
        chat.insert(0, {"role": message.role, "content": message.text})
    return chat


def _known(turn: _Turn) -> list[str]:
    return [_outcome(call, result) for call, result in turn.done]


def _outcome(call: ToolCall, result: ToolResult) -> str:
    said = call_line(call.name, call.arguments).removeprefix(OPENER)
    content = result.content
    if result.error is not None:
        content = f"failed: {result.error.message}"
    if len(content) > _RESULT_CHARS:
        content = content[:_RESULT_CHARS] + " ..."
    return f"{said} -> {content}"


def _call_question(function: str, question: str, known: Sequence[str]) -> str:
    parts = [f"Function:\n{function}", f"Question: {question}"]
    if known:
        parts.insert(1, "Known:\n" + "\n".join(known))
    return "\n\n".join(parts)


def describe(tool: Tool) -> str:
    """A tool with its whole schema, in few tokens."""
    lines = [f"{tool.name}: {tool.description.strip()}"]
    required = tool.parameters.get("required") or ()
    properties = cast("JsonObject", tool.parameters.get("properties") or {})
    definitions = cast("JsonObject", tool.parameters.get("$defs") or {})
    for name, schema in properties.items():
        kind = _kind(schema, definitions, 0) + ("" if name in required else ", optional")
        description = cast("JsonObject", schema).get("description") if isinstance(schema, dict) else None
        lines.append(f"- {name} ({kind})" + (f": {description}" if description else ""))
    return "\n".join(lines)


def _kind(schema: Any, definitions: JsonObject, depth: int) -> str:
    if not isinstance(schema, dict) or depth > 4:
        return "any"
    node = cast("JsonObject", schema)
    reference = node.get("$ref")
    if isinstance(reference, str):
        return _kind(definitions.get(reference.rsplit("/", 1)[-1]), definitions, depth + 1)
    if "enum" in node or "const" in node:
        return "|".join(json.dumps(value) for value in node.get("enum", [node.get("const")]))
    options: Any = node.get("anyOf") or node.get("oneOf")
    if isinstance(options, list):
        return " or ".join(_kind(option, definitions, depth + 1) for option in cast("list[Any]", options))
    kind: Any = node.get("type", "object" if "properties" in node else "any")
    if isinstance(kind, list):
        return " or ".join(cast("list[str]", kind))
    if kind == "array":
        return f"array of {_kind(node.get('items'), definitions, depth + 1)}"
    if kind == "object" and node.get("properties"):
        members = cast("JsonObject", node["properties"]).items()
        return "{" + ", ".join(f"{name}: {_kind(child, definitions, depth + 1)}" for name, child in members) + "}"
    return str(kind) + (f" like {node['format']}" if isinstance(node.get("format"), str) else "")


# Open


def _open(request: Request, tools: tuple[Tool, ...]) -> Chat:
    system = [message.text for message in request.messages if message.role == "system"]
    if tools:
        listing = "\n".join(
            json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.parameters})
            for tool in tools
        )
        system.append(_OPEN_INSTRUCTIONS.format(opener=OPENER.strip(), tools=listing))
    chat: Chat = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    for message in request.messages:
        if message.role == "system":
            continue
        if message.role == "tool":
            content = "\n".join(f"Result of {result.name}: {result.content}" for result in message.results)
        else:
            calls = [call_line(call.name, call.arguments) for call in message.calls]
            content = "\n".join([*([message.text] if message.text else []), *calls])
        role = "assistant" if message.role == "assistant" else "user"
        if chat and chat[-1]["role"] == role:  # many chat templates insist that the roles alternate
            chat[-1]["content"] += "\n\n" + content
        else:
            chat.append({"role": role, "content": content})
    return chat


# What is said in them

_CALL_INSTRUCTIONS = (
    "You answer by calling a function. Copy the values from the question. "
    "Leave out optional values that the question does not mention."
)
_CHAT_INSTRUCTIONS = "You are a helpful assistant. Answer in one or two sentences."
_OPEN_INSTRUCTIONS = """You may call these tools:
{tools}

To call one, write only a line of this form, for each call one line, and nothing else:
{opener} tool_name {{"argument": "value"}}
You then get the results. Otherwise answer in plain text."""

_WEATHER = """get_weather: Get the weather in a city.
- city (string): Name of the city
- unit ("celsius"|"fahrenheit", optional): Unit of temperature. Default is celsius"""
_CURRENCY = """convert_currency: Convert an amount of money.
- amount (number): Amount to convert
- source (string): Currency code
- target (string): Currency code"""
_MESSAGE = """send_message: Send a message to people.
- to (array of string): Names of the people
- text (string): What to say
- urgent (boolean, optional): Mark it as urgent"""


def _exchange(question: str, *answers: str) -> Chat:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "\n".join(answers)}]


_CALL_EXAMPLES: Chat = [
    *_exchange(
        _call_question(_WEATHER, "What's the weather like in Lisbon right now?", ()),
        call_line("get_weather", {"city": "Lisbon"}),
    ),
    *_exchange(
        _call_question(_CURRENCY, "How much is 250 dollars in euros, and 40 pounds in yen?", ()),
        call_line("convert_currency", {"amount": 250, "source": "USD", "target": "EUR"}),
        call_line("convert_currency", {"amount": 40, "source": "GBP", "target": "JPY"}),
    ),
    *_exchange(
        _call_question(_MESSAGE, "Tell Ana and Ben that the meeting starts at 9, it is urgent.", ()),
        call_line("send_message", {"to": ["Ana", "Ben"], "text": "The meeting starts at 9", "urgent": True}),
    ),
]

_SENTENCE_CHAT: Chat = [
    {"role": "system", "content": local_answer.INSTRUCTIONS},
    *(message for example in local_answer.EXAMPLES for message in _exchange(*example)),
]
