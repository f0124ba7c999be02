"""Runs what blocks and takes long: a bar for people, errors on one line, an exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from callbox.cli.performing import FAILED, INTERRUPTED, WRONG_USE
from callbox.cli.terminal import clean, console, errors, shorten
from callbox.errors import CallboxError, ConfigurationError

_T = TypeVar("_T")

Report = Callable[[str, float], None]
"""What is being done, and how much of the whole is done (0 to 1)."""

_WHAT_CHARS_MAX = 70


def work(task: Callable[[], _T]) -> _T:
    """Run it in this thread, so that Ctrl-C ends it at once; what it started ends with it."""
    try:
        return task()
    except CallboxError as error:
        # All lines: the last output of what failed is what one needs.
        errors.print(Text(clean(f"{error.code}: {error}"), "red"))
        raise typer.Exit(WRONG_USE if isinstance(error, ConfigurationError) else FAILED) from None
    except OSError as error:
        errors.print(Text(clean(f"{error.filename or 'this host'}: {error.strerror or error}"), "red"))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        errors.print(Text("cancelled", "yellow"))
        raise typer.Exit(INTERRUPTED) from None


def work_with_bar(task: Callable[[Report], _T]) -> _T:
    """Like `work`, with a bar on a terminal; elsewhere one line for each new thing that is done."""
    if not console.is_terminal:
        return work(lambda: task(_Lines()))
    columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("Starting", total=1.0)

        def report(what: str, share: float) -> None:
            progress.update(bar, description=_plain(what), completed=share)

        return work(lambda: task(report))


class _Lines:
    def __init__(self) -> None:
        self._last = ""

    def __call__(self, what: str, share: float) -> None:
        if what != self._last:
            self._last = what
            console.print(Text(f"{share:4.0%}  {shorten(what)}", "dim"))


def _plain(what: str) -> str:
    # Brackets are rich's own markup: what an image's maker wrote must not become that.
    return shorten(what, _WHAT_CHARS_MAX).replace("[", r"\[")
