"""Write docs/reference/*.md from the code: error codes, exceptions, limits, commands. `make docs`; a test compares."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import get_args

import typer

from callbox import errors
from callbox.calls import feedback
from callbox.calls.call import ErrorCode, ProblemCode
from callbox.cli.main import app
from callbox.limits import Limits

HERE = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTICE = "<!-- Written by scripts/reference.py; change the code, then run `make docs`. -->\n\n"


def errors_page() -> str:
    """Codes that a model reads, and exceptions that a program meets."""
    out = [
        NOTICE,
        "# Errors\n\n## What a model reads\n\n",
        "`ToolResult.content` of a call that did not succeed.\n\n",
    ]
    out.append("| `error` | when |\n|---|---|\n")
    out += [f"| `{code}` | {_first_line(getattr(feedback, code))} |\n" for code in get_args(ErrorCode)]
    out.append("\nProblems of `invalid_arguments` carry a code of their own: ")
    out.append(", ".join(f"`{code}`" for code in get_args(ProblemCode)) + ".\n\n")
    out.append("## What a program meets\n\n| exception | `code` | retryable | |\n|---|---|---|---|\n")
    for name in errors.__all__:
        kind = getattr(errors, name)
        out.append(f"| `{name}` | `{kind.code}` | {'yes' if kind.retryable else 'no'} | {_first_line(kind)} |\n")
    return "".join(out)


def limits_page() -> str:
    """Every limit of a gate."""
    described = _attributes(Limits)
    rows = [
        f"| `{field.name}` | {field.default:,} | {described[field.name]} |\n" for field in dataclasses.fields(Limits)
    ]
    head = (
        "# Limits\n\n`Gate(limits=Limits(...))`, `Agent(limits=Limits(...))`.\n\n| limit | default | |\n|---|---|---|\n"
    )
    return NOTICE + head + "".join(rows)


def commands_page() -> str:
    """Every command with its options."""
    out = [NOTICE, "# Commands\n"]
    root = typer.main.get_command(app)
    _command(out, root, "callbox")
    return "".join(out)


def _command(out: list[str], command: object, path: str) -> None:
    out.append(f"\n## `{path}`\n\n{inspect.cleandoc(getattr(command, 'help', '') or '')}\n")
    parameters = [one for one in getattr(command, "params", []) if one.name != "help"]
    if parameters:
        out.append("\n| | default | |\n|---|---|---|\n")
    for one in parameters:
        spelled = (
            ", ".join(f"`{spelling}`" for spelling in one.opts) if one.opts[0].startswith("-") else one.name.upper()
        )
        default = "" if one.default in (None, False) or "Sentinel" in repr(one.default) else f"`{one.default}`"
        out.append(f"| {spelled} | {default} | {getattr(one, 'help', None) or ''} |\n")
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        _command(out, inner, f"{path} {name}")


def _attributes(kind: type) -> dict[str, str]:
    """What the section "Attributes" of a class's docstring says of each; a line that is deeper goes on."""
    found: dict[str, str] = {}
    name = ""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    for line in section.splitlines():
        if not line.startswith("    "):  # the next section
            break
        if line.startswith("     "):
            found[name] += f" {line.strip()}"
        else:
            name, _, what = line.strip().partition(": ")
            found[name] = what
    return found


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0]


PAGES = {"errors.md": errors_page, "limits.md": limits_page, "commands.md": commands_page}


def main() -> int:
    """Write the pages; with ``--check`` only say whether they are up to date."""
    stale = []
    for name, make in PAGES.items():
        page = HERE / name
        text = make()
        if not page.exists() or page.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                page.parent.mkdir(parents=True, exist_ok=True)
                page.write_text(text)
    if stale and "--check" in sys.argv:
        print(f"Out of date: {', '.join(stale)}. Run: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
