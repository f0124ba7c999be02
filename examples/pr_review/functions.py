"""The functions and classes of a Python module, and how their signatures compare."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef

_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.match_case)


@dataclass(frozen=True, slots=True)
class Function:
    """One function or method.

    Attributes:
        name: With its classes: ``"Connection.send"``.
        line, end_line: Where it is, decorators included.
        complexity: McCabe's: 1 and one for each branch.
        digest: Of its code without comments, blank lines and positions.
    """

    name: str
    line: int
    end_line: int
    complexity: int
    digest: str
    node: AnyFunction

    @property
    def signature(self) -> str:
        """As one writes it."""
        returns = f" -> {ast.unparse(self.node.returns)}" if self.node.returns else ""
        return f"{self.name}({ast.unparse(self.node.args)}){returns}"

    @property
    def is_private(self) -> bool:
        """Whether its own name, or that of a class around it, begins with an underscore."""
        return any(part.startswith("_") and not part.endswith("__") for part in self.name.split("."))


@dataclass(frozen=True, slots=True)
class Module:
    """What a module defines at its top level and in its classes.

    Attributes:
        classes: Line by name.
        exports: Names that it imports or lists in ``__all__``; ``module.*`` for all names of a module.
    """

    tree: ast.Module
    functions: dict[str, Function]
    classes: dict[str, int]
    exports: frozenset[str]


def read_module(source: str) -> Module:
    """Parse a module.

    Raises:
        SyntaxError: Python cannot.
    """
    try:
        tree = ast.parse(source)
    except ValueError as error:  # null bytes
        raise SyntaxError(str(error)) from None
    functions: dict[str, Function] = {}
    classes: dict[str, int] = {}
    for name, node in _definitions(tree.body, ""):
        if isinstance(node, ast.ClassDef):
            classes[name] = node.lineno
        else:
            begin = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            end = node.end_lineno or node.lineno
            functions[name] = Function(name, begin, end, complexity(node), ast.dump(node), node)
    return Module(tree, functions, classes, frozenset(_exports(tree)))


def _definitions(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, AnyFunction | ast.ClassDef]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name, node
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.If, ast.Try)):  # what depends on the version or on an import
            branches = [node.body, node.orelse, *([each.body for each in getattr(node, "handlers", [])])]
            for branch in branches:
                yield from _definitions(branch, prefix)


def _exports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").rpartition(".")[2]
            yield from (f"{module}.*" if each.name == "*" else each.asname or each.name for each in node.names)
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == "__all__" for each in targets):
                yield from (
                    each.value
                    for each in ast.walk(node.value)
                    if isinstance(each, ast.Constant) and isinstance(each.value, str)
                )


def complexity(node: ast.AST) -> int:
    """McCabe's cyclomatic complexity, functions inside included."""
    count = 1
    for each in ast.walk(node):
        if isinstance(each, _BRANCHES):
            count += 1
        elif isinstance(each, ast.BoolOp):
            count += len(each.values) - 1
        elif isinstance(each, ast.comprehension):
            count += 1 + len(each.ifs)
    return count


def breaks_callers(before: Function, after: Function) -> str | None:
    """Why calls that were right before fail now, or None."""
    old, new = before.node.args, after.node.args
    old_positional = [*old.posonlyargs, *old.args]
    new_positional = [*new.posonlyargs, *new.args]
    for at, each in enumerate(old_positional):
        if at >= len(new_positional):
            if new.vararg is None:
                return f"parameter {each.arg!r} is gone, or no longer positional"
        elif new_positional[at].arg != each.arg and each in old.args:
            return f"parameter {each.arg!r} is now {new_positional[at].arg!r}"
    required_before = old_positional[: len(old_positional) - len(old.defaults)]
    known = {each.arg for each in required_before}
    known |= {each.arg for each, default in zip(old.kwonlyargs, old.kw_defaults, strict=True) if default is None}
    for at, each in enumerate(new_positional[: len(new_positional) - len(new.defaults)]):
        # What is only positional has its place, not its name.
        if each.arg not in known and not (each in new.posonlyargs and at < len(required_before)):
            return f"parameter {each.arg!r} is now required"
    old_keywords = {each.arg: default for each, default in zip(old.kwonlyargs, old.kw_defaults, strict=True)}
    new_names = {each.arg for each in (*new.args, *new.kwonlyargs)}
    for name in old_keywords:
        if name not in new_names and new.kwarg is None:
            return f"keyword parameter {name!r} is gone"
    for each, default in zip(new.kwonlyargs, new.kw_defaults, strict=True):
        if default is None and (each.arg not in old_keywords or old_keywords[each.arg] is not None):
            return f"keyword parameter {each.arg!r} is now required"
    if old.vararg and not new.vararg:
        return f"*{old.vararg.arg} is gone"
    if old.kwarg and not new.kwarg:
        return f"**{old.kwarg.arg} is gone"
    if isinstance(before.node, ast.AsyncFunctionDef) != isinstance(after.node, ast.AsyncFunctionDef):
        return "it is awaited now" if isinstance(after.node, ast.AsyncFunctionDef) else "it is no longer awaited"
    return None
