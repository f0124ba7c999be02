"""`callbox sandbox certify`: a conformance and abuse suite, as a table."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from callbox.cli.performing import perform
from callbox.cli.terminal import console
from callbox.sandboxes.home import Home

_STYLES = {"held": "green", "FAILED": "bold red", "not offered": "yellow"}


def certify(
    driver: Annotated[list[str] | None, typer.Option(help="gvisor or qemu; both if not given.")] = None,
    image: Annotated[str, typer.Option(help="An image with Python in it.")] = "python",
    scale: Annotated[float, typer.Option(help="Size of the bombs; 1 prints 10 GiB.")] = 1.0,
    only: Annotated[str, typer.Option(help="Only checks whose group or name contains this.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Attack the drivers on this host in a home of their own, and print what held. Exit code 1 if anything failed."""
    failed = 0
    for each in driver or ["gvisor", "qemu"]:
        failed += perform(functools.partial(_certify, each, image, scale, only, as_json))
    raise typer.Exit(code=1 if failed else 0)


async def _certify(driver: str, image: str, scale: float, only: str, as_json: bool) -> int:
    from callbox.sandboxes.certify.suite import CHECKS, certify

    chosen = [check for check in CHECKS if only.lower() in f"{check.group} {check.name}".lower()]
    table = Table("", "group", "promise", "what happened", "s", title=f"{driver}", box=None, pad_edge=False)
    failed = 0
    with console.status(f"{driver}: 0 of {len(chosen)}") as status:
        done = 0
        async for finding in certify(Home.default().images, driver, image=image, scale=scale, checks=chosen):
            done += 1
            failed += finding.verdict == "FAILED"
            status.update(f"{driver}: {done} of {len(chosen)}, {failed} failed")
            if as_json:
                console.print_json(json.dumps({"driver": driver, **asdict(finding)}))
            style = _STYLES[finding.verdict]
            table.add_row(
                f"[{style}]{finding.verdict}[/]", finding.group, finding.name, finding.detail, f"{finding.seconds:.1f}"
            )
    if not as_json:
        console.print(table)
    console.print(f"{driver}: {done} checks, {failed} failed")
    return failed
