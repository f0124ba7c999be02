"""The grammar that a local model's calls are held to: a tool's name, then JSON that fits its schema.

A call is one line, ``CALL name {arguments}``. The model is free to write text instead; once it has written
the opener it can only go on to a call that is valid. The tool's schema is made narrower for it, never wider
on purpose: every string, array and number gets a length, so that a small model that loops still closes its
JSON. Where a keyword cannot be put into a grammar it is left out and reported as a `Loss`; the gate validates
against the original schema anyway.

llama.cpp generates *without* constraints when it cannot compile a grammar, and does not say so. So every
grammar is compiled here first, and `Follower` checks what was generated, piece by piece.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, cast

from callbox.dialects.dialect import Loss
from callbox.errors import ConfigurationError, ProviderBadRequest
from callbox.values import JsonObject, json_pointer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llguidance import LLTokenizer

    from callbox.tools.tool import Tool

OPENER = "CALL "
"""What a call begins with. Capitals, because no sentence that answers a person begins like that."""

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
_KEPT = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "maxProperties",
    ),
    "boolean": (),
    "null": (),
}
_UNSUPPORTED = frozenset(
    {
        "not",
        "if",
        "then",
        "else",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
    }
)
_MEMBERS = frozenset({"properties", "patternProperties", "additionalProperties"})
_MAGNITUDE = 10**15  # doubles are exact up to 2**53, which is a little more


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of a value a model may write, where the schema itself does not say less.

    Attributes:
        string_chars_max: Characters of one string.
        items_max: Items of one array.
        items_min: Items that an array has at least, if it is there at all.
        members_max: Members of one object whose names the schema leaves open.
        closed: Objects get only the members that the schema names.
        patterns: `pattern` and `format` are part of the grammar.
    """

    string_chars_max: int = 240
    items_max: int = 16
    items_min: int = 0
    members_max: int = 8
    closed: bool = True
    patterns: bool = True


_ATTEMPTS = (
    Bounds(),
    # Closing both halves of an `allOf` contradicts; so do patterns that the regex engine refuses
    # (look-around).
    Bounds(closed=False),
    Bounds(patterns=False),
    Bounds(closed=False, patterns=False),
)


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """What one reply is held to.

    Attributes:
        lark: The grammar, as llguidance reads it.
        losses: What of the tools' schemas it does not say.
    """

    lark: str
    losses: tuple[Loss, ...]


def call_grammar(tools: Sequence[Tool], *, text: bool, calls_max: int, filled: bool = False) -> CallGrammar:
    """The grammar of a reply that may call these tools.

    Args:
        tools: At least one.
        text: The model may answer in text instead.
        calls_max: Calls in one reply, at least 1.
        filled: Arrays have at least one item. The smallest models write ``[]`` where they should copy a list, and
            none of BFCL's questions asks for an empty one.

    Raises:
        ProviderBadRequest: A schema cannot be put into a grammar. Nothing is generated unconstrained instead.
    """
    made = [_arguments_rule(tool.name, json.dumps(tool.parameters), filled) for tool in tools]
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
def _arguments_rule(name: str, parameters: str, filled: bool) -> _Rule:
    """The widest of the narrowings of a tool's schema that compiles."""
    schema = cast("JsonObject", json.loads(parameters))
    problem = ""
    for bounds in _ATTEMPTS:
        narrowed, losses = narrow(name, schema, replace(bounds, items_min=1) if filled else bounds)
        text = json.dumps(narrowed | {"x-guidance": {"whitespace_flexible": False}})
        problem = compile_problem(f"start: %json {text}")
        if not problem:
            return _Rule(text, losses)
    raise ProviderBadRequest(
        f"The schema of tool {name!r} cannot be put into a grammar: {problem}",
        hint="Make the schema simpler, or use Local(constrained=False); the gate validates either way.",
    )


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


# Narrowing a schema


def narrow(tool: str, schema: JsonObject, bounds: Bounds) -> tuple[JsonObject, tuple[Loss, ...]]:
    """A schema of bounded values that also fit `schema`, but for what the returned losses name.

    Recursion through ``$ref`` stays: only the budget of tokens bounds it.
    """
    narrower = _Narrower(tool, bounds)
    narrowed = narrower.node(schema, ())
    for keyword in ("$defs", "definitions"):
        definitions = schema.get(keyword)
        if isinstance(definitions, dict):
            narrowed[keyword] = {
                name: narrower.node(body, (keyword, name)) for name, body in cast("JsonObject", definitions).items()
            }
    return narrowed, tuple(narrower.losses)


class _Narrower:
    def __init__(self, tool: str, bounds: Bounds) -> None:
        self.losses: list[Loss] = []
        self._tool = tool
        self._bounds = bounds

    def node(self, schema: Any, path: tuple[str | int, ...], *, branch: bool = False) -> JsonObject:
        """One schema. `branch`: it is merged with its parent, so it may not be closed or opened by itself."""
        if schema is False:
            return {"enum": []}
        if not isinstance(schema, dict):
            return self._anything()
        source = cast("JsonObject", schema)
        for keyword in sorted(_UNSUPPORTED.intersection(source)):
            self._lose(path, keyword, "it is not part of the grammar")
        if "enum" in source or "const" in source:
            return {key: source[key] for key in ("enum", "const", "type") if key in source}
        types: Any = source.get("type")
        if isinstance(types, list) and len(cast("list[str]", types)) > 1:
            # One branch for each type, because a bound for numbers means something else for strings.
            rest = {key: value for key, value in source.items() if key != "type"}
            return {"anyOf": [self.node({**rest, "type": one}, path) for one in cast("list[str]", types)]}
        if isinstance(types, list) and types:
            types = cast("list[str]", types)[0]
        out = self._combined(source, path)
        kind = types if isinstance(types, str) else _implied_type(source)
        if kind is None:
            return out or ({} if branch else self._anything())
        if kind not in _KEPT:
            return out
        out["type"] = kind
        for keyword in _KEPT[kind]:
            if keyword in source:
                out[keyword] = source[keyword]
        self._bound(kind, out, path, branch=branch or _names_members(out))
        return out

    def _combined(self, source: JsonObject, path: tuple[str | int, ...]) -> JsonObject:
        out: JsonObject = {}
        if isinstance(source.get("$ref"), str):
            out["$ref"] = source["$ref"]
        # Branches stand alone unless the node says something of its own that each of them is merged with.
        alone = not {"properties", "$ref", "required"}.intersection(source)
        for keyword in ("allOf", "anyOf", "oneOf"):
            options = source.get(keyword)
            if isinstance(options, list) and options:
                merged = keyword == "allOf" or not alone
                nodes = [
                    self.node(option, (*path, keyword, place), branch=merged)
                    for place, option in enumerate(cast("list[Any]", options))
                ]
                if keyword == "oneOf":
                    # Excluding the values that fit two branches is no regular matter; the gate still does.
                    self._lose(path, keyword, "it is read as anyOf")
                out["allOf" if keyword == "allOf" or "anyOf" in out else "anyOf"] = (
                    nodes if keyword == "allOf" or "anyOf" not in out else [*out.get("allOf", []), {"anyOf": nodes}]
                )
        return out

    def _bound(self, kind: str, out: JsonObject, path: tuple[str | int, ...], *, branch: bool) -> None:
        if kind == "string":
            self._bound_string(out, path)
        elif kind in ("integer", "number"):
            _bound_number(out, kind)
        elif kind == "array":
            self._bound_array(out, path)
        elif kind == "object":
            self._bound_object(out, path, branch=branch)

    def _bound_string(self, out: JsonObject, path: tuple[str | int, ...]) -> None:
        if "format" in out and (out["format"] not in _FORMATS or not self._bounds.patterns):
            if out["format"] in _FORMATS:
                self._lose(path, "format", "it is not part of the grammar")
            del out["format"]
        if "pattern" in out and not self._bounds.patterns:
            del out["pattern"]
            self._lose(path, "pattern", "it is not part of the grammar")
        if "format" not in out:  # the formats bound themselves
            out["maxLength"] = _at_most(out.get("maxLength"), self._bounds.string_chars_max, out.get("minLength"))

    def _bound_array(self, out: JsonObject, path: tuple[str | int, ...]) -> None:
        if isinstance(out.get("prefixItems"), list):
            out["prefixItems"] = [
                self.node(item, (*path, "prefixItems", place))
                for place, item in enumerate(cast("list[Any]", out["prefixItems"]))
            ]
        if out.get("items") is not False:
            out["items"] = self.node(out.get("items"), (*path, "items"))
        choices = cast("JsonObject", out["items"]).get("enum") if isinstance(out["items"], dict) else None
        items_max = self._bounds.items_max if not choices else min(self._bounds.items_max, len(choices))
        out["maxItems"] = _at_most(out.get("maxItems"), items_max, out.get("minItems"))
        if "minItems" not in out and 0 < self._bounds.items_min <= out["maxItems"] and out["items"] is not False:
            out["minItems"] = self._bounds.items_min

    def _bound_object(self, out: JsonObject, path: tuple[str | int, ...], *, branch: bool) -> None:
        properties = cast("JsonObject", out.get("properties") or {})
        out["properties"] = {name: self.node(child, (*path, "properties", name)) for name, child in properties.items()}
        patterns = cast("JsonObject", out.pop("patternProperties", None) or {})
        if patterns and self._bounds.patterns:
            out["patternProperties"] = {
                name: self.node(child, (*path, "patternProperties", name)) for name, child in patterns.items()
            }
        if not out["properties"] and branch:
            del out["properties"]
        additional = out.pop("additionalProperties", None)
        named = bool(properties or patterns)
        if isinstance(additional, dict) and (branch or not properties):
            out["additionalProperties"] = self.node(additional, (*path, "additionalProperties"))
        elif branch or (named and not self._bounds.closed):
            if additional is False:
                out["additionalProperties"] = False
        elif named or additional is False:
            for name in cast("list[str]", out.get("required") or ()):
                out["properties"].setdefault(name, self._anything())
            out["additionalProperties"] = False
        else:
            out["additionalProperties"] = self._scalar()
        if not properties and not branch:
            out["maxProperties"] = _at_most(
                out.get("maxProperties"), self._bounds.members_max, out.get("minProperties")
            )

    def _scalar(self) -> JsonObject:
        return {"anyOf": [self.node({"type": kind}, ()) for kind in ("string", "number", "boolean", "null")]}

    def _anything(self) -> JsonObject:
        """Any value, but flat: a model that may nest without end does."""
        scalar = self._scalar()
        items = {"type": "array", "items": scalar, "maxItems": self._bounds.items_max}
        members = {
            "type": "object",
            "additionalProperties": scalar,
            "maxProperties": self._bounds.members_max,
        }
        return {"anyOf": [*scalar["anyOf"], items, members]}

    def _lose(self, path: tuple[str | int, ...], keyword: str, why: str) -> None:
        loss = Loss(self._tool, json_pointer(path), keyword, f"{why}; callbox validates it after generation")
        if loss not in self.losses:
            self.losses.append(loss)


def _names_members(node: JsonObject) -> bool:
    """Other parts of the node may name members of the object that it describes: it cannot be closed by itself."""
    if "$ref" in node:
        return True
    branches = [branch for keyword in ("allOf", "anyOf") for branch in node.get(keyword, ())]
    return any(_MEMBERS.intersection(branch) or _names_members(branch) for branch in branches)


def _implied_type(source: JsonObject) -> str | None:
    """The type that the keywords speak about, where the schema does not say one."""
    for kind, keyword in (
        ("object", "properties"),
        ("object", "required"),
        ("object", "patternProperties"),
        ("array", "items"),
        ("array", "prefixItems"),
    ):
        if keyword in source:
            return kind
    if "pattern" in source or "maxLength" in source or source.get("format") in _FORMATS:
        return "string"
    if any(keyword in source for keyword in _KEPT["number"]):
        return "number"
    return None


def _at_most(own: Any, bound: int, least: Any) -> int:
    smallest = least if isinstance(least, int) else 0
    return min(own, max(bound, smallest)) if isinstance(own, int) else max(bound, smallest)


def _bound_number(out: JsonObject, kind: str) -> None:
    low = [out[key] for key in ("minimum", "exclusiveMinimum") if isinstance(out.get(key), (int, float))]
    high = [out[key] for key in ("maximum", "exclusiveMaximum") if isinstance(out.get(key), (int, float))]
    if not low:
        out["minimum"] = min(-_MAGNITUDE, *high) if high else -_MAGNITUDE
    if not high:
        out["maximum"] = max(_MAGNITUDE, *low) if low else _MAGNITUDE
    if kind == "number" and "multipleOf" not in out:
        out["multipleOf"] = 1e-9  # nine decimals: "0.333..." ends


def opened(text: str) -> re.Match[str] | None:
    """The opener and name at the start of a line, for text that no grammar held."""
    return re.match(rf"{OPENER}([A-Za-z0-9_.-]+)[ \t]?", text)


def losses_of(tools: Iterable[Tool]) -> tuple[Loss, ...]:
    """What of these tools' schemas no grammar says."""
    return tuple(
        loss for tool in tools for loss in _arguments_rule(tool.name, json.dumps(tool.parameters), False).losses
    )
