"""The grammar that a local model's calls are held to: a tool's name, then JSON that fits its schema.

A call is one line, ``CALL name {arguments}``. The model is free to write text instead; once it has written
the opener it can only go on to a call that is valid. `local_narrowing` gives every string, array and number a
length, so that a small model that loops still closes its JSON within its budget of tokens.

llama.cpp generates *without* constraints when it cannot compile a grammar, and does not say so. So every
grammar is compiled here first, and `Follower` checks what was generated, piece by piece.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, cast

from callbox.errors import ConfigurationError, ProviderBadRequest
from callbox.providers.local_narrowing import Bounds, longest, narrow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llguidance import LLTokenizer

    from callbox.dialects.dialect import Loss
    from callbox.tools.tool import Tool
    from callbox.values import JsonObject

OPENER = "CALL "
"""What a call begins with. Capitals, because no sentence that answers a person begins like that."""

# Tried in order until one compiles. Closing both halves of an `allOf` contradicts; a pattern may be more than the
# grammar's regex engine takes.
_READINGS = (
    {"closed": True, "patterns": True},
    {"closed": False, "patterns": True},
    {"closed": True, "patterns": False},
    {"closed": False, "patterns": False},
)
# Characters of a string and items of an array: the largest that fit the budget of tokens are taken.
_SIZES = (
    *((4_000, 64), (2_000, 32), (1_000, 32), (480, 16), (240, 16), (120, 16), (120, 8)),
    *((80, 8), (60, 8), (40, 8), (30, 6), (24, 4), (16, 3)),
)
_GUIDED_CHARS = 240
_CHARS_PER_TOKEN = 2  # English has 4; a model that loops writes digits and underscores


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """What one reply is held to.

    Attributes:
        lark: The grammar, as llguidance reads it.
        losses: What of the tools' schemas it does not say.
    """

    lark: str
    losses: tuple[Loss, ...]


def call_grammar(
    tools: Sequence[Tool], *, text: bool, calls_max: int, tokens_max: int = 512, guided: bool = False
) -> CallGrammar:
    """The grammar of a reply that may call these tools.

    Args:
        tools: At least one.
        text: The model may answer in text instead.
        calls_max: Calls in one reply, at least 1.
        tokens_max: What one call may take. Strings and arrays get a length with which it is closed by then: a call that
            is cut is no JSON.
        guided: For the smallest models: strings of at most 240 characters, because they loop, and no empty arrays,
            because they write one where they should copy a list (none of BFCL's questions asks for an empty one).

    Raises:
        ProviderBadRequest: A schema cannot be put into a grammar. Nothing is generated unconstrained instead.
    """
    made = [_arguments_rule(tool.name, json.dumps(tool.parameters), tokens_max, guided) for tool in tools]
    rules = ["start: text | calls" if text else "start: calls"]
    if text:
        # Otherwise a broken call would count as text, and the constraint would constrain nothing. Only the opener's
        # beginning is forbidden, because a model that has begun with it ("CALCULATE") was about to call.
        opener = OPENER[:3]
        rules.append(f"text: TEXT\nTEXT: /(?s:.+)/ & ~/(?s:{opener}.*)/ & ~/(?s:.*\\n{opener}.*)/")
    rules.append(f'calls: call ("\\n" call){{0,{calls_max - 1}}}' if calls_max > 1 else "calls: call")
    names = " | ".join(f'"{tool.name} " a{place}' for place, tool in enumerate(tools))
    rules.append(f'call: "{OPENER}" ({names})')
    rules.extend(f"a{place}: %json {rule.schema}" for place, rule in enumerate(made))
    lark = "\n".join(rules)
    if problem := compile_problem(lark):
        raise ProviderBadRequest(
            f"The grammar of {', '.join(tool.name for tool in tools)} cannot be compiled: {problem}",
            hint="Send fewer tools at once, or use Local(constrained=False).",
        )
    return CallGrammar(lark, tuple(loss for rule in made for loss in rule.losses))


@dataclass(frozen=True, slots=True)
class _Rule:
    schema: str
    losses: tuple[Loss, ...]


@lru_cache(maxsize=512)
def _arguments_rule(name: str, parameters: str, tokens_max: int, guided: bool) -> _Rule:
    """The widest of the narrowings of a tool's schema that compiles."""
    schema = cast("JsonObject", json.loads(parameters))
    problem = ""
    for reading in _READINGS:
        narrowed, losses = _sized(name, schema, tokens_max, guided, reading)
        text = json.dumps(narrowed | {"x-guidance": {"whitespace_flexible": False}})
        problem = compile_problem(f"start: %json {text}")
        if not problem:
            return _Rule(text, losses)
    raise ProviderBadRequest(
        f"The schema of tool {name!r} cannot be put into a grammar: {problem}",
        hint="Make the schema simpler, or use Local(constrained=False); the gate validates either way.",
    )


def _sized(
    name: str, schema: JsonObject, tokens_max: int, guided: bool, reading: dict[str, bool]
) -> tuple[JsonObject, tuple[Loss, ...]]:
    narrowed: JsonObject = {}
    losses: tuple[Loss, ...] = ()
    for string_chars, items in _SIZES:
        if guided and string_chars > _GUIDED_CHARS:
            continue
        bounds = Bounds(
            string_chars_max=string_chars,
            items_max=items,
            items_min=1 if guided else 0,
            members_max=min(items, 8),
            **reading,
        )
        narrowed, losses = narrow(name, schema, bounds)
        if longest(narrowed) <= tokens_max * _CHARS_PER_TOKEN:
            break
    return narrowed, losses


# Compiling and following


def compile_problem(lark: str) -> str:
    """Why the grammar does not compile; ``""`` when it does."""
    matcher = _llguidance().LLMatcher
    failed, messages = matcher.validate_grammar_with_warnings(matcher.grammar_from_lark(lark), byte_tokenizer())
    return " ".join(messages[0].split())[:300] if failed else ""


class Follower:
    """Checks generated text against its grammar while it is being generated.

    llama.cpp compiles the same grammar with its own copy of llguidance. If that copy refuses it, the text is
    unconstrained: this is where it is noticed, at the first character that does not fit.
    """

    def __init__(self, lark: str) -> None:
        matcher = _llguidance().LLMatcher
        self._matcher = matcher(byte_tokenizer(), matcher.grammar_from_lark(lark), log_level=0)

    def feed(self, text: str) -> bool:
        """Take more text; return whether all of it so far fits."""
        data = list(text.encode())
        return self._matcher.try_consume_tokens(data) == len(data)


class _Bytes:
    """A vocabulary of single bytes: enough to compile and to follow a grammar, whatever model generates."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*tuple(bytes([value]) for value in range(256)), b"<eos>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def byte_tokenizer() -> LLTokenizer:
    """See `_Bytes`."""
    llguidance = _llguidance()
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ConfigurationError(
            "Constrained decoding needs the package llguidance.", hint='pip install "callbox[local]"'
        ) from error
    return llguidance


def losses_of(tools: Iterable[Tool]) -> tuple[Loss, ...]:
    """What of these tools' schemas no grammar says."""
    return tuple(
        loss for tool in tools for loss in _arguments_rule(tool.name, json.dumps(tool.parameters), 512, False).losses
    )
