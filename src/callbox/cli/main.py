"""The `callbox` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from callbox.cli.approvals import app as approvals
from callbox.cli.chat import chat
from callbox.cli.demo import app as demo
from callbox.cli.doctor import doctor
from callbox.cli.images import app as images
from callbox.cli.sandbox import app as sandbox
from callbox.cli.session import app as session
from callbox.cli.setup import setup
from callbox.cli.terminal import console
from callbox.cli.tools import app as tools

app = typer.Typer(
    name="callbox",
    help="The open, self-hosted runtime for LLM function calling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals hold keys and other people's data
)
app.command()(chat)
app.command()(doctor)
app.command()(setup)
app.add_typer(approvals, name="approvals", help="What agents may not do before a person has said yes.")
app.add_typer(demo, name="demo")
app.add_typer(images, name="image", help="What sandboxes are made of.")
app.add_typer(sandbox, name="sandbox", help="Isolated machines for code that nobody has read.")
app.add_typer(session, name="session", help="Durable conversations: look, copy, move, forget.")
app.add_typer(tools, name="tools", help="Look at tools the way a model does.")


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(version("callbox"))
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The open, self-hosted runtime for LLM function calling."""
