"""Which store a command works on, and whose sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, TypeAlias, cast

import typer

from callbox.sessions.place import open_sessions
from callbox.stores.opening import Durability
from callbox.stores.store import Store

BUSY_WAIT_S = 5.0
"""How long a command waits for an agent that works on the session."""

StoreUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="CALLBOX_STORE",
        show_envvar=False,
        help="URL, as Agent(store=...) has it; $CALLBOX_STORE, else SQLite in callbox's folder.",
    ),
]
Tenant: TypeAlias = Annotated[str, typer.Option(help="Whose sessions.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_FRONT: ContextVar[tuple[str | None, str]] = ContextVar("front", default=(None, "sync"))


def front(
    cache: Annotated[
        str | None,
        typer.Option(
            envvar="CALLBOX_CACHE", show_envvar=False, help="URL of the Redis in front of the store; $CALLBOX_CACHE."
        ),
    ] = None,
    durability: Annotated[
        str,
        typer.Option(envvar="CALLBOX_DURABILITY", show_envvar=False, help="sync, or interval; $CALLBOX_DURABILITY."),
    ] = "sync",
) -> None:
    """What all commands of a group have in common: they must see what the agents see."""
    _FRONT.set((cache, durability))


@asynccontextmanager
async def opened(url: str | None, *, create: bool = False) -> AsyncGenerator[Store]:
    """The store, for as long as a command needs it. A mistyped URL is an error, not a new store."""
    cache, durability = _FRONT.get()
    store = open_sessions(url or None, cache=cache, durability=cast("Durability", durability), create=create)
    try:
        yield store
    finally:
        await store.aclose()
