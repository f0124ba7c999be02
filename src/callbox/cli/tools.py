"""`callbox tools`: look at tools the way a model does."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeAlias

import typer
from rich.table import Table
from rich.text import Text

from callbox.cli.targets import Loaded, load_target
from callbox.cli.terminal import clean, console, errors
from callbox.context.counting import estimate_tokens
from callbox.dialects import NAMES, find_dialect
from callbox.errors import CallboxError, ConfigurationError
from callbox.tools.lint import Finding, lint
from callbox.tools.tool import Tool

app = typer.Typer(no_args_is_help=True, help="Look at tools the way a model does.")

_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}

Target: TypeAlias = Annotated[
    str, typer.Argument(help='"module:attribute", "module", or a JSON file of definitions or of an OpenAPI API.')
]


@app.command("lint")
def lint_command(
    target: Target,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings, too.")] = False,
) -> None:
    """Find what a model would stumble over, and what each definition costs in tokens. Exits with 1 on errors."""
    loaded = _load(target)
    findings = [*_invalid(loaded), *lint(loaded.tools)]
    costs = {tool.name: token_costs(tool) for tool in loaded.tools}
    if as_json:
        _print_json({"tools": costs, "findings": [finding.as_dict() for finding in findings]})
    else:
        _print_findings(findings)
        _print_costs(costs)
        counts = {severity: sum(each.severity == severity for each in findings) for severity in _STYLES}
        console.print(", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items()))
    failing = {"error", "warning"} if strict else {"error"}
    if any(finding.severity in failing for finding in findings):
        raise typer.Exit(1)


@app.command()
def show(
    target: Target,
    dialect_name: Annotated[
        str, typer.Option("--dialect", help=f"One of: {', '.join(NAMES)}.", metavar="NAME")
    ] = "openai",
    strict: Annotated[bool, typer.Option("--strict", help="In the vendor's strict mode, where it has one.")] = False,
) -> None:
    """Print the definitions as a vendor gets them; what its format cannot say goes to stderr."""
    loaded = _load(target)
    for finding in _invalid(loaded):
        errors.print(Text(clean(f"{finding.tools[0]}: {finding.message} {finding.fix}"), style="red"))
    try:
        definitions = find_dialect(dialect_name).define(loaded.tools, strict=strict)
    except ConfigurationError as error:
        raise _stop(error) from None
    _print_json(list(definitions))
    for loss in definitions.losses:
        errors.print(Text(clean(f"{loss.tool} {loss.path or '/'} {loss.keyword}: {loss.message}"), style="yellow"))
    if loaded.invalid:
        raise typer.Exit(1)


def token_costs(tool: Tool) -> dict[str, int]:
    """Estimated tokens of a tool's definition in each dialect."""
    return {name: _tokens(list(find_dialect(name).define([tool]))) for name in NAMES}


def _tokens(definitions: list[Any]) -> int:
    return estimate_tokens(json.dumps(definitions, ensure_ascii=False, separators=(",", ":")))


def _load(target: str) -> Loaded:
    try:
        return load_target(target)
    except ConfigurationError as error:
        raise _stop(error) from None


def _stop(error: CallboxError) -> typer.Exit:
    errors.print(Text(clean(str(error)), style="red"))
    return typer.Exit(2)


def _invalid(loaded: Loaded) -> list[Finding]:
    return [
        Finding("invalid-definition", "error", (name,), error.message, error.hint or "")
        for name, error in loaded.invalid
    ]


def _print_findings(findings: list[Finding]) -> None:
    if not findings:
        console.print("[green]Nothing to improve.[/green]")
        return
    table = Table("", "tool", "finding", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(
            Text(finding.severity, style=_STYLES[finding.severity]),
            Text(clean("\n".join(finding.tools))),
            Text.assemble(clean(finding.message), (f" {clean(finding.fix)}", "dim"), (f" [{finding.rule}]", "cyan")),
        )
    console.print(table)
    console.print()


def _print_costs(costs: dict[str, dict[str, int]]) -> None:
    table = Table("tokens (estimate)", box=None, pad_edge=False)
    for name in NAMES:
        table.add_column(name, justify="right")
    for tool, cost in costs.items():
        table.add_row(Text(clean(tool)), *(f"{cost[name]:,}" for name in NAMES))
    if len(costs) > 1:
        table.add_section()
        table.add_row("all", *(f"{sum(cost[name] for cost in costs.values()):,}" for name in NAMES), style="bold")
    console.print(table)
    console.print()


def _print_json(value: Any) -> None:
    # Not through rich: JSON is for programs, and must not be wrapped, coloured or shortened.
    typer.echo(json.dumps(value, indent=2, ensure_ascii=True))
