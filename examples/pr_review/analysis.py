"""Static analysis of a change: what became of functions and of what others call, and habits that bite later."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pr_review.diff import FileDiff, is_test
from pr_review.functions import Function, Module, breaks_callers, read_module

Severity = Literal["blocker", "major", "minor", "info"]
SEVERITIES: tuple[Severity, ...] = ("blocker", "major", "minor", "info")

COMPLEX = 10
"""Of McCabe's own paper: from here on a function is hard to test."""

PACKAGING = re.compile(r"(^|/)(pyproject\.toml|setup\.(py|cfg)|requirements[^/]*\.txt|tox\.ini)\Z")
_BESIDE = ("docs", "doc", "examples", "benchmarks", "scripts", "fuzz")
"""Folders whose code nobody imports."""
_NOTES = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")

Read = Callable[[str, Literal["base", "head"]], "str | None"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a reviewer should look at.

    Attributes:
        rule: Stable, like ``"bare_except"``.
        line: In the head; of what is gone, in the base; 0: the file as a whole.
    """

    severity: Severity
    rule: str
    path: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class FunctionChange:
    """What became of one function that is not a test."""

    path: str
    name: str
    line: int
    what: Literal["added", "removed", "changed"]
    public: bool
    signature: str
    signature_before: str | None = None
    complexity: int | None = None
    complexity_before: int | None = None


@dataclass(slots=True)
class Analysis:
    """All that was found, findings by severity."""

    functions: list[FunctionChange] = field(default_factory=list[FunctionChange])
    findings: list[Finding] = field(default_factory=list[Finding])
    tests_added: list[str] = field(default_factory=list[str])
    tests_removed: list[str] = field(default_factory=list[str])
    tests_changed: list[str] = field(default_factory=list[str])


def analyze(files: list[FileDiff], read: Read, head_paths: list[str]) -> Analysis:
    """Compare base and head.

    Args:
        files: What the pull request changes.
        read: ``read(path, branch)``: the text of a file, or None.
        head_paths: All files of the head; those of tests are searched for the names of changed functions.
    """
    analysis = Analysis()
    for file in files:
        if not file.is_python:
            if PACKAGING.search(file.path) and file.status != "removed":
                _add(analysis, "info", "packaging_changed", file.path, min(file.added, default=0), "Packaging changed.")
            continue
        before = "" if file.status == "added" else read(file.old_path, "base") or ""
        after = "" if file.status == "removed" else read(file.path, "head") or ""
        _compare(analysis, file, before, after, read)
    _look_for_tests(analysis, files, read, head_paths)
    analysis.findings.sort(key=lambda each: (SEVERITIES.index(each.severity), each.path, each.line))
    return analysis


def _compare(analysis: Analysis, file: FileDiff, before: str, after: str, read: Read) -> None:
    try:
        new = read_module(after)
    except SyntaxError as error:
        said = f"Python cannot read it: {error.msg}."
        _add(analysis, "blocker", "syntax_error", file.path, error.lineno or 0, said)
        return
    try:
        old = read_module(before)
    except SyntaxError:
        old = read_module("")
    if file.is_test:
        _compare_tests(analysis, file, old, new)
    else:
        _compare_functions(analysis, file, old, new, read)
        if PACKAGING.search(file.path):
            _add(analysis, "info", "packaging_changed", file.path, min(file.added, default=0), "Packaging changed.")
    for severity, rule, line, message in _habits(new.tree, in_test=file.is_test):
        if line in file.added:
            _add(analysis, severity, rule, file.path, line, message)
    for line, text in _comments(after):
        if line in file.added and _NOTES.search(text):
            _add(analysis, "info", "note_left", file.path, line, f"A note was left: {text[:120]}")


def _compare_tests(analysis: Analysis, file: FileDiff, old: Module, new: Module) -> None:
    was = {name: each for name, each in old.functions.items() if _is_test(name)}
    now = {name: each for name, each in new.functions.items() if _is_test(name)}
    for name in now.keys() - was.keys():
        analysis.tests_added.append(f"{file.path}::{name}")
    for name in now.keys() & was.keys():
        if now[name].digest != was[name].digest:
            analysis.tests_changed.append(f"{file.path}::{name}")
    for name in was.keys() - now.keys():
        analysis.tests_removed.append(f"{file.old_path}::{name}")
        _add(analysis, "major", "test_removed", file.old_path, was[name].line, f"The test {name} is gone.")
    for tests in (analysis.tests_added, analysis.tests_changed, analysis.tests_removed):
        tests.sort()


def _is_test(name: str) -> bool:
    return name.rpartition(".")[2].startswith("test")


def _compare_functions(analysis: Analysis, file: FileDiff, old: Module, new: Module, read: Read) -> None:
    is_public = _publicity(file, read)
    for name in sorted(old.classes.keys() - new.classes.keys()):
        if is_public(name, "base"):
            said = f"The public class {name} is gone."
            _add(analysis, "major", "api_removed", file.old_path, old.classes[name], said)
    for name in sorted(old.functions.keys() | new.functions.keys()):
        was, now = old.functions.get(name), new.functions.get(name)
        if was is None and now is not None:
            public = not now.is_private and is_public(name, "head")
            _note(analysis, file, now, None, public=public)
            _check_complexity(analysis, file, now, None)
        elif now is None and was is not None:
            public = not was.is_private and is_public(name, "base")
            _note(analysis, file, None, was, public=public)
            if public and name.rpartition(".")[0] not in old.classes.keys() - new.classes.keys():
                said = f"The public function {name} is gone."
                _add(analysis, "major", "api_removed", file.old_path, was.line, said)
        elif now is not None and was is not None and now.digest != was.digest:
            public = not now.is_private and is_public(name, "head")
            _note(analysis, file, now, was, public=public)
            why = breaks_callers(was, now)
            if why and public:
                said = f"Callers of {name} break: {why}."
                _add(analysis, "major", "signature_changed", file.path, now.line, said)
            _check_complexity(analysis, file, now, was)


def _note(analysis: Analysis, file: FileDiff, now: Function | None, was: Function | None, *, public: bool) -> None:
    one = now or was
    assert one is not None
    changed = now is not None and was is not None and now.signature != was.signature
    analysis.functions.append(
        FunctionChange(
            path=file.path if now else file.old_path,
            name=one.name,
            line=one.line,
            what="removed" if now is None else "added" if was is None else "changed",
            public=public,
            signature=one.signature,
            signature_before=was.signature if was and changed else None,
            complexity=now.complexity if now else None,
            complexity_before=was.complexity if was else None,
        )
    )


def _check_complexity(analysis: Analysis, file: FileDiff, now: Function, was: Function | None) -> None:
    before = was.complexity if was else 0
    if now.complexity > COMPLEX and now.complexity > before:
        grew = f"grew from {before} to {now.complexity}" if was else f"is {now.complexity}"
        said = f"The complexity of {now.name} {grew}; above {COMPLEX} a function is hard to test."
        _add(analysis, "minor", "complexity", file.path, now.line, said)


def _publicity(file: FileDiff, read: Read) -> Callable[[str, Literal["base", "head"]], bool]:
    """What others may call: names of modules without an underscore, and those that the package itself hands on."""

    def is_public(name: str, branch: Literal["base", "head"]) -> bool:
        path = file.old_path if branch == "base" else file.path
        folder, _, module = path.rpartition("/")
        stem = module.removesuffix(".py")
        if folder.partition("/")[0] in _BESIDE or PACKAGING.search(path):
            return False
        if not stem.startswith("_") or stem == "__init__":
            return not any(part.startswith("_") for part in folder.split("/"))
        try:
            exports = read_module(read(f"{folder}/__init__.py" if folder else "__init__.py", branch) or "").exports
        except SyntaxError:
            return False
        return name.partition(".")[0] in exports or f"{stem}.*" in exports

    return is_public


def _habits(tree: ast.Module, *, in_test: bool) -> Iterator[tuple[Severity, str, int, str]]:
    """Rule, line and message of what is wrong with the code as it stands, wherever it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            yield from _handler(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if isinstance(default, (ast.List, ast.Dict, ast.Set)):
                    yield "major", "mutable_default", default.lineno, "This default is shared by all calls."
        elif isinstance(node, ast.Assert):
            if isinstance(node.test, ast.Tuple) and node.test.elts:
                yield "major", "assert_tuple", node.lineno, "This assertion is always true: it is of a tuple."
            elif not in_test:
                yield (
                    "info",
                    "assert_in_code",
                    node.lineno,
                    "python -O leaves this check out.",
                )
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare):
            yield "major", "useless_comparison", node.lineno, "This comparison has no effect; is an assert missing?"
        elif isinstance(node, ast.Compare):
            for op, right in zip(node.ops, node.comparators, strict=True):
                if isinstance(op, (ast.Is, ast.IsNot)) and _is_literal(right):
                    yield "major", "is_literal", node.lineno, "This compares identity with a literal: use ==."
        elif isinstance(node, ast.Call):
            yield from _risky_call(node)


def _handler(node: ast.ExceptHandler) -> Iterator[tuple[Severity, str, int, str]]:
    silent = all(isinstance(each, (ast.Pass, ast.Continue)) for each in node.body)
    if node.type is None:
        yield "major", "bare_except", node.lineno, "A bare except also catches KeyboardInterrupt and SystemExit."
    elif silent and isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"):
        yield "major", "swallowed_exception", node.lineno, f"Every {node.type.id} is swallowed in silence."


def _risky_call(node: ast.Call) -> Iterator[tuple[Severity, str, int, str]]:
    name = ast.unparse(node.func)
    if name in ("eval", "exec"):
        yield "major", "dynamic_code", node.lineno, f"{name} runs whatever text it is given."
    elif name in ("pickle.load", "pickle.loads", "marshal.loads", "yaml.load", "yaml.unsafe_load"):
        yield "major", "unsafe_load", node.lineno, f"{name} may run code of whoever wrote the data."
    elif name in ("breakpoint", "pdb.set_trace"):
        yield "major", "debugger_left", node.lineno, "A debugger was left in."
    for each in node.keywords:
        if each.arg == "shell" and isinstance(each.value, ast.Constant) and each.value.value is True:
            yield "major", "shell", node.lineno, "shell=True: whatever gets into this line is run."
        elif each.arg == "verify" and isinstance(each.value, ast.Constant) and each.value.value is False:
            yield "major", "unverified_tls", node.lineno, "verify=False: anybody on the way may answer."


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float, str, bytes)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    except (tokenize.TokenError, SyntaxError):
        return


def _look_for_tests(analysis: Analysis, files: list[FileDiff], read: Read, head_paths: list[str]) -> None:
    touched = [each for each in analysis.functions if each.what != "removed"]
    if touched and not any(file.is_test for file in files):
        first = touched[0]
        said = "The code changed, and no test did."
        _add(analysis, "minor", "no_test_changed", first.path, first.line, said)
    words: set[str] = set()
    for path in head_paths:
        if path.endswith(".py") and is_test(path):
            words.update(re.findall(r"[A-Za-z_]\w*", read(path, "head") or ""))
    for each in touched:
        parts = each.name.split(".")
        # A dunder method is called through its class.
        name = parts[-2] if len(parts) > 1 and parts[-1].startswith("__") else parts[-1]
        if each.public and name not in words:
            said = f"No test mentions {name}, which was {each.what}."
            _add(analysis, "minor", "untested", each.path, each.line, said)


def _add(analysis: Analysis, severity: Severity, rule: str, path: str, line: int, message: str) -> None:
    analysis.findings.append(Finding(severity, rule, path, line, message))
