"""Turning a JSON Schema (Draft 2020-12) into a validator, after refusing those that would hang, fetch or not end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from callbox.errors import DefinitionError
from callbox.tools.schema_tree import IN_PLACE, Path, at_pointer, children, walk
from callbox.values import JsonObject, json_pointer

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

BYTES_MAX = 1_000_000
"""Size of one schema as JSON text."""
DEPTH_MAX = 128
"""Nesting of JSON values in one schema; compilers of schemas recurse, and some have small stacks."""
EXPANSION_MAX = 100_000
"""Schemas in one definition when every `$ref` is written out (a recursive one once)."""
IN_PLACE_MAX = 10_000
"""Schemas that one single value may have to be compared with."""

_DIALECTS = frozenset(
    {
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema",
    }
)


def compile_schema(schema: JsonObject, tool_name: str = "?") -> Draft202012Validator:
    """Check a tool's parameters schema and compile it. Equal schemas share one validator.

    Nothing is ever fetched, formats are checked, and patterns run on an engine whose time is linear in its input.

    Args:
        schema: The schema of the arguments object.
        tool_name: For the error.

    Raises:
        DefinitionError: It is no schema of an object, refers to other documents, never ends, or grows without bound;
            with the fix.
    """
    text = _as_text(schema, tool_name)
    return _compile(hashlib.sha256(text.encode()).digest(), _Text(text, tool_name))


class _Text:
    """The schema's text, carried past the cache: equal to every other, so that the digest alone is the key."""

    __slots__ = ("text", "tool_name")

    def __init__(self, text: str, tool_name: str) -> None:
        self.text = text
        self.tool_name = tool_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Text)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=4096)
def _compile(digest: bytes, source: _Text) -> Draft202012Validator:  # noqa: ARG001 - the digest is the cache's key
    schema = cast("JsonObject", json.loads(source.text))
    check_schema(schema, source.tool_name)
    import jsonschema_rs

    try:
        return jsonschema_rs.Draft202012Validator(
            schema, offline=True, validate_formats=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except jsonschema_rs.ValidationError as error:
        raise _invalid(error, source.tool_name) from None
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise DefinitionError(
            f"Tool {source.tool_name!r}: its parameters are no valid JSON Schema. {str(error)[:300]}",
            hint="Use JSON Schema Draft 2020-12.",
        ) from None


def _as_text(schema: Any, tool_name: str) -> str:
    if not isinstance(schema, dict):
        raise DefinitionError(
            f"Tool {tool_name!r}: its parameters are not a JSON Schema object.",
            hint='Use {"type": "object", "properties": {...}}.',
        )
    check_depth(cast("JsonObject", schema), tool_name)
    try:
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise DefinitionError(
            f"Tool {tool_name!r}: its parameters are not JSON. {error}", hint="Use plain JSON values only."
        ) from None
    if len(text) > BYTES_MAX:
        raise DefinitionError(
            f"Tool {tool_name!r}: its schema has {len(text):,} bytes, more than {BYTES_MAX:,}.",
            hint="No model can read that: split the tool.",
        )
    return text


def check_depth(schema: JsonObject, tool_name: str) -> None:
    """Refuse a schema that is too deep for what walks it recursively. Iterative itself.

    Raises:
        DefinitionError: It is deeper than `DEPTH_MAX`, or has more values than a schema of `BYTES_MAX` can have.
    """
    todo: list[tuple[Any, int]] = [(schema, 1)]
    seen = 0
    while todo:
        value, depth = todo.pop()
        seen += 1
        # The count also ends the walk of a Python value that shares or contains itself.
        if depth > DEPTH_MAX or seen > BYTES_MAX:
            raise DefinitionError(
                f"Tool {tool_name!r}: its schema is nested deeper than {DEPTH_MAX} levels, or too large.",
                hint="Flatten it, or use $defs for what repeats.",
            )
        if isinstance(value, dict):
            todo += [(child, depth + 1) for child in cast("JsonObject", value).values()]
        elif isinstance(value, list | tuple):
            todo += [(child, depth + 1) for child in cast("list[Any]", value)]


def check_schema(schema: JsonObject, tool_name: str = "?") -> None:
    """Refuse what a validator would accept and then hang on, fetch, or silently ignore. See `compile_schema`."""
    if schema.get("type") != "object":
        raise DefinitionError(
            f'Tool {tool_name!r}: its parameters schema must have type "object", not {schema.get("type")!r}.',
            hint='Put the value into a property: {"type": "object", "properties": {"value": ...}}.',
        )
    for path, here in walk(schema):
        _check_identity(path, here, tool_name)
    graph = _Graph(schema, tool_name)
    graph.check_endless()
    graph.check_expansion()


def _check_identity(path: Path, here: JsonObject, tool_name: str) -> None:
    declared = here.get("$schema")
    if isinstance(declared, str) and declared.rstrip("#") not in _DIALECTS:
        raise DefinitionError(
            f"Tool {tool_name!r}: unknown $schema {declared[:200]!r} at {json_pointer(path) or '/'}.",
            hint="Remove it: callbox reads JSON Schema Draft 2020-12.",
        )
    if path and "$id" in here:
        raise DefinitionError(
            f"Tool {tool_name!r}: $id inside the schema, at {json_pointer(path)}.",
            hint="Remove it, and refer to the definition with #/$defs/<name>.",
        )
    for keyword in ("$ref", "$dynamicRef"):
        reference = here.get(keyword)
        if isinstance(reference, str) and not reference.startswith("#"):
            # An attacker who writes a tool's schema would have us fetch a URL of his choice.
            where = json_pointer(path) or "/"
            raise DefinitionError(
                f"Tool {tool_name!r}: remote {keyword} {reference[:200]!r} at {where}; nothing is ever fetched.",
                hint='Copy the schema into "$defs" and refer to it with "#/$defs/<name>".',
            )


class _Graph:
    """Which schema applies which others, by JSON Pointer; `$ref` and its kin are followed."""

    def __init__(self, schema: JsonObject, tool_name: str) -> None:
        self.root = schema
        self.tool_name = tool_name
        self.in_place: dict[str, list[str]] = {}
        self.inside: dict[str, list[str]] = {}
        self._anchors: dict[str, str] = {}
        known = dict(walk(schema))
        for path, here in known.items():
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(here.get(keyword), str):
                    self._anchors[here[keyword]] = json_pointer(path)
        todo = list(known.items())
        seen = set(known)
        while todo:
            path, here = todo.pop()
            for target, found in self._add(path, here):
                # A reference may point into any keyword, where `walk` does not go.
                fresh = [] if target in seen else [(target + inner, inside) for inner, inside in walk(found)]
                todo += [item for item in fresh if item[0] not in seen]
                seen.update(item[0] for item in fresh)

    def _add(self, path: Path, here: JsonObject) -> Iterator[tuple[Path, JsonObject]]:
        """Enter one schema; yield the schemas that it refers to."""
        pointer = json_pointer(path)
        same = self.in_place.setdefault(pointer, [])
        inner = self.inside.setdefault(pointer, [])
        for step, _ in children(here):
            if step[0] not in ("$defs", "definitions"):
                (same if step[0] in IN_PLACE else inner).append(json_pointer(path + step))
        for keyword in ("$ref", "$dynamicRef"):
            if isinstance(here.get(keyword), str):
                target, found = self._resolve(here[keyword], path)
                same.append(json_pointer(target))
                if isinstance(found, dict):
                    yield target, cast("JsonObject", found)

    def _resolve(self, reference: str, at: Path) -> tuple[Path, Any]:
        fragment = reference.removeprefix("#")
        is_pointer = fragment.startswith("/") or not fragment
        pointer = fragment if is_pointer else self._anchors.get(fragment)
        found = None if pointer is None else at_pointer(self.root, pointer)
        if found is None or not isinstance(found[1], dict | bool):
            defined = sorted(str(path[1]) for path, _ in children(self.root) if path[0] == "$defs")
            raise DefinitionError(
                f"Tool {self.tool_name!r}: {reference[:200]!r} at {json_pointer(at) or '/'} points to nothing.",
                hint=f"Defined are: {', '.join(defined[:20]) or 'no $defs'}.",
            )
        return found

    def check_endless(self) -> None:
        """A cycle that consumes no part of the value would be followed for ever."""
        for pointer in _cycle(self.in_place):
            raise DefinitionError(
                f"Tool {self.tool_name!r}: the $ref cycle through {pointer or '/'} never ends.",
                hint="A schema may refer to itself only through a part of the value: properties, items and the like.",
            )

    def check_expansion(self) -> None:
        """Doubling: n definitions that each use the next one twice are 2^n schemas."""
        together = {pointer: self.in_place[pointer] + self.inside[pointer] for pointer in self.in_place}
        for edges, most in ((self.in_place, IN_PLACE_MAX), (together, EXPANSION_MAX)):
            total = _expansion(edges)
            if total > most:
                raise DefinitionError(
                    f"Tool {self.tool_name!r}: written out, its schema has more than {most:,} parts.",
                    hint="Definitions that use each other several times multiply: merge or flatten them.",
                )


def _order(edges: dict[str, list[str]]) -> Iterator[tuple[str, bool]]:
    """Depth-first, iterative: each node when it is done, and True with a node that an edge leads back to."""
    state: dict[str, int] = {}
    for start in edges:
        todo: list[tuple[str, int]] = [(start, 0)] if start not in state else []
        while todo:
            node, index = todo.pop()
            state[node] = 1
            nexts = edges.get(node, [])
            if index == len(nexts):
                state[node] = 2
                yield node, False
                continue
            todo.append((node, index + 1))
            child = nexts[index]
            if child not in state:
                todo.append((child, 0))
            elif state[child] == 1:
                yield child, True


def _cycle(edges: dict[str, list[str]]) -> list[str]:
    return [node for node, is_cycle in _order(edges) if is_cycle][:1]


def _expansion(edges: dict[str, list[str]]) -> int:
    """The largest number of schemas that one schema becomes when it is written out; an edge back counts as one."""
    size: dict[str, int] = {}
    for node, is_cycle in _order(edges):
        if not is_cycle:
            size[node] = 1 + sum(size.get(child, 1) for child in edges.get(node, []))
    return max(size.values(), default=0)


def _invalid(error: Any, tool_name: str) -> DefinitionError:
    path = json_pointer(list(error.instance_path))
    kind = error.kind.name if error.kind is not None else ""
    message = str(error.message)[:300]
    if kind == "format" and "regex" in message:
        return DefinitionError(
            f"Tool {tool_name!r}: the pattern at {path or '/'} cannot be used: {message}.",
            hint="Patterns run on a linear-time engine: no look-around, no back-references, no huge repetitions. "
            "Say the rest in a @tool.check.",
        )
    return DefinitionError(
        f"Tool {tool_name!r}: its parameters are no valid JSON Schema, at {path or '/'}: {message}.",
        hint="Use JSON Schema Draft 2020-12.",
    )
