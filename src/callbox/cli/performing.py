"""Runs what a command does: one coroutine, its errors on one line, its exit code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import typer
from rich.text import Text

from callbox.cli.terminal import errors, show_error
from callbox.errors import CallboxError, ConfigurationError
from callbox.sandboxes.client import Client

_T = TypeVar("_T")

FAILED = 1
WRONG_USE = 2
NOT_RUN = 125
"""The command inside never began, or its end is not known: not to be taken for its own exit code."""
INTERRUPTED = 130


def perform(work: Callable[[], Coroutine[Any, Any, _T]], *, failed: int = FAILED) -> _T:
    """Run it on an event loop; an error of ours is shown and becomes an exit code."""
    try:
        return asyncio.run(_with_goodbye(work))
    except (CallboxError, OSError) as error:
        _show(error)
        raise typer.Exit(WRONG_USE if isinstance(error, ConfigurationError) else failed) from None
    except KeyboardInterrupt:
        errors.print(Text("cancelled", "yellow"))
        raise typer.Exit(INTERRUPTED) from None


async def _with_goodbye(work: Callable[[], Awaitable[_T]]) -> _T:
    try:
        return await work()
    finally:
        # A supervisor that knows we have gone can end in time.
        await Client.of().aclose()


def _show(error: CallboxError | OSError) -> None:
    if isinstance(error, CallboxError):
        show_error(error)
    else:
        errors.print(Text(f"{error.filename or 'this host'}: {error.strerror or error}", "red"))


def print_json(value: Any) -> None:
    """For programs: exactly one JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=True, default=str))
