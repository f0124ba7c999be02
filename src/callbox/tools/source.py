"""The source of one function and of what it uses of its module, so that it can run elsewhere without being pickled.

Only source travels, never what our memory holds: ``KEY = os.environ["KEY"]`` is sent as that line, not as the key.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import hashlib
import inspect
import json
import linecache
import math
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from callbox.errors import DefinitionError

SOURCE_CHARS_MAX = 1_000_000
"""Characters of one tool's source with all that it uses."""

STAND_INS = {
    "callbox": {"CallContext", "ToolError", "errors", "tool"},
    "callbox.errors": {"Rejected", "ToolError"},
    "callbox.tools.call_context": {"CallContext"},
}
"""What of callbox a tool in a sandbox finds there."""

_GLOBAL_READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL")
_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class Shipment:
    """What is sent of a function.

    Attributes:
        module: Its module's name: functions of one module share their globals there.
        function: Its name among the pieces.
        pieces: Names and the statements that define them, in an order in which they can be executed.
        digest: Of all of the above.
    """

    module: str
    function: str
    pieces: tuple[tuple[str, str], ...]
    digest: str


class FunctionSource:
    """The source of a function: checked where it is defined, complete once all of its module is.

    Raises:
        DefinitionError: It cannot be sent; the message names what stands in the way.
    """

    def __init__(self, function: Any, shown: str) -> None:
        self._function = function
        self._shown = shown
        collected = _Collector(function, shown)
        # What is defined further down in the module is not there yet.
        self._shipment = None if collected.missing else collected.shipment()

    def shipment(self) -> Shipment:
        """All of it.

        Raises:
            DefinitionError: Something that it uses cannot be sent, or does not exist.
        """
        if self._shipment is None:
            collected = _Collector(self._function, self._shown)
            if collected.missing:
                name = min(collected.missing)
                raise DefinitionError(
                    f"Tool {self._shown!r} uses {name!r}, which its module does not define.",
                    hint=f"Define {name} at the top level of the module, or import it in the function.",
                )
            self._shipment = collected.shipment()
        return self._shipment


class _Collector:
    """Walks from a function to all that it uses."""

    def __init__(self, function: Any, shown: str) -> None:
        self.missing: set[str] = set()
        self._shown = shown
        self._pieces: dict[str, str] = {}
        self._begun: set[str] = set()
        self._assigned: set[str] = set()
        plain = inspect.unwrap(function) if callable(function) else function
        if not isinstance(plain, types.FunctionType):
            raise self._refused(f"is a {type(function).__name__} and no plain function", "Write it with def.")
        self._globals = plain.__globals__
        self._module = plain.__module__
        self._file = plain.__code__.co_filename
        self._statements = _Statements.of(self._file, self._globals)
        self._name = plain.__name__
        self._begun.add(self._name)
        self._add_function(plain, self._name, is_tool=True)
        self.missing -= self._assigned

    def shipment(self) -> Shipment:
        """What was collected."""
        pieces = tuple(self._pieces.items())
        text = json.dumps([self._module, self._name, pieces])
        if len(text) > SOURCE_CHARS_MAX:
            raise self._refused(
                f"and what it uses are {len(text):,} characters of source", "Put data into files of the image."
            )
        return Shipment(self._module, self._name, pieces, hashlib.sha256(text.encode()).hexdigest())

    def _refused(self, what: str, hint: str) -> DefinitionError:
        return DefinitionError(f"Tool {self._shown!r} cannot run in a sandbox: it {what}.", hint=hint)

    def _add_function(self, function: types.FunctionType, name: str, *, is_tool: bool) -> None:
        if function.__name__ == "<lambda>":
            raise self._refused("is a lambda", "Write it with def.")
        if function.__closure__:
            free = ", ".join(function.__code__.co_freevars)
            raise self._refused(
                f"uses {free} of the function around {name!r}", "Pass it as an argument, or make it a global."
            )
        if "." in function.__qualname__.rpartition("<locals>.")[2]:
            raise self._refused(f"uses the method {function.__qualname__}", "Write a function at the top level.")
        node = self._node_of(function, name)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            raise self._refused(f"uses {name!r}, whose source is no def", "Write it with def.")
        _strip(node, function)
        if is_tool:
            node.decorator_list = [each for each in node.decorator_list if not self._is_tool_decorator(each)]
        self._add(name, ast.unparse(node))

    def _node_of(self, thing: Any, name: str) -> ast.stmt:
        try:
            return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
        except (OSError, TypeError, SyntaxError, IndexError):
            raise self._refused(
                f"needs the source of {name!r}, which nobody can find", "Define it in a file, not at a prompt."
            ) from None

    def _is_tool_decorator(self, decorator: ast.expr) -> bool:
        root = decorator.func if isinstance(decorator, ast.Call) else decorator
        value = self._value_of(root)
        if value is _MISSING:  # imported in a function, say
            return (root.attr if isinstance(root, ast.Attribute) else getattr(root, "id", "")) == "tool"
        return getattr(value, "__module__", "") == "callbox.tools.signature" and value.__name__ == "tool"

    def _value_of(self, root: ast.expr) -> Any:
        if isinstance(root, ast.Name):
            return self._globals.get(root.id, _MISSING)
        if isinstance(root, ast.Attribute):
            return getattr(self._value_of(root.value), root.attr, _MISSING)
        return _MISSING

    def _add(self, name: str, text: str) -> None:
        """Add a statement after all that it needs."""
        code = compile(text, f"<{name}>", "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
        for used in _globals_of(code, self._assigned):
            if used not in self._begun:
                self._begun.add(used)
                self._resolve(used)
        self._pieces[name] = text

    def _resolve(self, name: str) -> None:
        value = self._globals.get(name, _MISSING)
        if value is _MISSING:
            if not hasattr(builtins, name):
                self.missing.add(name)
            return
        if name in ("__name__", "__doc__", "__builtins__"):
            return
        if name.startswith("__") and name.endswith("__"):
            raise self._refused(f"uses {name}, which means nothing there", "Do without it.")
        imported = self._statements.imports_of(name, value)
        if imported:
            for node in imported:
                self._check_import(node)
            self._pieces[name] = "\n".join(ast.unparse(node) for node in imported)
            return
        value = _function_of_tool(value)
        inner = inspect.unwrap(value) if callable(value) else value
        is_ours = getattr(inner, "__module__", None) == self._module and getattr(inner, "__name__", None) == name
        if is_ours and isinstance(inner, types.FunctionType):
            self._add_function(inner, name, is_tool=value is not self._globals[name])
        elif is_ours and isinstance(inner, type):
            self._add(name, ast.unparse(self._node_of(inner, name)))
        else:
            self._resolve_value(name, value)

    def _resolve_value(self, name: str, value: Any) -> None:
        statement = self._statements.assignment_of(name)
        if statement is not None:
            self._add(name, statement)
        elif _is_literal(value):
            self._pieces[name] = f"{name} = {value!r}"
        elif isinstance(value, types.ModuleType):
            self._pieces[name] = f"import {value.__name__} as {name}"
        elif _importable(value, self._module):
            self._pieces[name] = f"from {value.__module__} import {value.__qualname__} as {name}"
        else:
            raise self._refused(
                f"uses the global {name!r}, a {type(value).__name__} that cannot be sent",
                f"Assign {name} once at the top level of the module, or make it in the function.",
            )

    def _check_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.ImportFrom) and node.level:
            raise self._refused(
                f"uses {ast.unparse(node)!r}, and its package is not there",
                "Put the function into the same module, or the package into the image and import it by its full name.",
            )
        for alias in node.names:
            module = node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
            if module.partition(".")[0] != "callbox":
                continue
            known = STAND_INS.get(module, set[str]())
            if module not in STAND_INS or (isinstance(node, ast.ImportFrom) and alias.name not in known):
                raise self._refused(
                    f"uses {ast.unparse(node)!r}, which is not there",
                    "Of callbox it has CallContext, ToolError, errors.ToolError and errors.Rejected.",
                )


@dataclass(frozen=True, slots=True)
class _Statements:
    """The statements at the top level of a module, also those within `if` and `try`."""

    top: tuple[ast.stmt, ...] = ()
    all: tuple[ast.stmt, ...] = ()
    stored: dict[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def of(cls, file: str, names: dict[str, Any]) -> _Statements:
        lines = tuple(linecache.getlines(file, names))
        found = _PARSED.get(file)
        if found is None or found[0] != hash(lines):
            try:
                body = tuple(ast.parse("".join(lines)).body)
            except SyntaxError:  # a cell of a notebook with commands of the notebook's own
                body = ()
            every = tuple(_flat(body))
            while len(_PARSED) >= _PARSED_MAX:
                del _PARSED[next(iter(_PARSED))]
            found = _PARSED[file] = (hash(lines), cls(body, every, _count_stored(every)))
        return found[1]

    def imports_of(self, name: str, value: Any) -> list[ast.Import | ast.ImportFrom]:
        """The imports that gave a name its value, each cut down to that name."""
        found: list[ast.Import | ast.ImportFrom] = []
        for node in self.all:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    module = sys.modules.get(alias.name if alias.asname else bound)
                    if bound == name and module is value:
                        found.append(ast.Import([alias]))
            elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
                found += [_cut(node, alias, name) for alias in node.names if _gives(node, alias, name, value)]
        if found and isinstance(found[0], ast.ImportFrom):
            return found[:1]
        return found

    def assignment_of(self, name: str) -> str | None:
        """The one assignment that defines a name, without its annotation; None where there is not exactly one."""
        if self.stored.get(name) != 1:
            return None
        for node in self.top:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and _is_name(node.targets[0], name):
                return ast.unparse(node)
            if isinstance(node, ast.AnnAssign) and node.value is not None and _is_name(node.target, name):
                return f"{name} = {ast.unparse(node.value)}"
        return None


_PARSED: dict[str, tuple[int, _Statements]] = {}
_PARSED_MAX = 16


def _flat(body: tuple[ast.stmt, ...] | list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from _flat(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from _flat(handler.body)


def _count_stored(statements: tuple[ast.stmt, ...]) -> dict[str, int]:
    """How often each name is assigned at the top level; also by `for`, `with` and the like."""
    counts: dict[str, int] = {}
    for node in statements:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            counts[node.name] = counts.get(node.name, 0) + 1
            continue
        parts = [each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.stmt | ast.ExceptHandler)]
        for part in parts:
            for each in ast.walk(part):
                if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
                    counts[each.id] = counts.get(each.id, 0) + 1
    return counts


def _gives(node: ast.ImportFrom, alias: ast.alias, name: str, value: Any) -> bool:
    if alias.name != "*":
        return (alias.asname or alias.name) == name
    return not node.level and getattr(sys.modules.get(node.module or ""), name, _MISSING) is value


def _cut(node: ast.ImportFrom, alias: ast.alias, name: str) -> ast.ImportFrom:
    return ast.ImportFrom(node.module, [ast.alias(name) if alias.name == "*" else alias], node.level)


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _strip(node: ast.FunctionDef | ast.AsyncFunctionDef, function: types.FunctionType) -> None:
    """Drop what only the host needs: annotations, and defaults that are pydantic fields, which the gate fills."""
    arguments = node.args
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if each is not None:
            each.annotation = None
    node.returns = None
    for index, value in enumerate(function.__defaults__ or ()):
        if _is_field(value):
            arguments.defaults[index] = ast.Constant(None)
    for index, each in enumerate(arguments.kwonlyargs):
        if _is_field((function.__kwdefaults__ or {}).get(each.arg)):
            arguments.kw_defaults[index] = ast.Constant(None)


def _is_field(value: Any) -> bool:
    return type(value).__name__ == "FieldInfo"


def _globals_of(code: types.CodeType, assigned: set[str]) -> list[str]:
    """Global names that code reads, nested code included. Those that a function assigns are added to `assigned`."""
    found: dict[str, None] = {}
    own = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_NAME"}
    for each in dis.get_instructions(code):
        if each.opname == "STORE_GLOBAL":
            assigned.add(each.argval)
        if each.opname in (*_GLOBAL_READS, "STORE_GLOBAL") and each.argval not in own:
            found[each.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= dict.fromkeys(_globals_of(constant, assigned))
    for name in _IMPLICIT:
        found.pop(name, None)
    return list(found)


_IMPLICIT = ("__name__", "__module__", "__qualname__", "__annotations__", "__conditional_annotations__")


def _function_of_tool(value: Any) -> Any:
    binding = getattr(value, "binding", None)
    return getattr(binding, "function", value) if type(value).__name__ == "Tool" else value


def _is_literal(value: Any, depth: int = 0) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    if value is None or type(value) in (bool, int, str, bytes):
        return True
    if depth > 50:
        return False
    if type(value) in (list, tuple):
        return all(_is_literal(each, depth + 1) for each in cast("list[Any]", value))
    if type(value) is dict:
        members = cast("dict[Any, Any]", value).items()
        return all(_is_literal(key, depth + 1) and _is_literal(each, depth + 1) for key, each in members)
    return False


def _importable(value: Any, module: str) -> bool:
    name, home = getattr(value, "__qualname__", ""), getattr(value, "__module__", None)
    if not isinstance(home, str) or home in (module, "__main__") or not isinstance(name, str) or not name:
        return False
    return getattr(sys.modules.get(home), name, _MISSING) is value
