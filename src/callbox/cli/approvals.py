"""`callbox approvals`: what agents may not do before a person has said yes."""

from __future__ import annotations

import getpass
from typing import Annotated, TypeAlias

import typer
from rich.text import Text

from callbox.agents.session import DEFAULT_TENANT, decide
from callbox.cli.performing import FAILED, perform, print_json
from callbox.cli.session_tables import (
    approval_json,
    asked_for,
    show_approval,
    show_approvals,
)
from callbox.cli.stores import BUSY_WAIT_S, Json, StoreUrl, Tenant, front, opened
from callbox.cli.terminal import clean, console, show_error
from callbox.errors import ConfigurationError
from callbox.policy.approval import Approval
from callbox.sessions.browsing import find_approval, waiting
from callbox.sessions.journal import Journal
from callbox.stores.store import SessionKey

app = typer.Typer(no_args_is_help=True, help="What agents may not do before a person has said yes.")
app.callback()(front)

ApprovalId: TypeAlias = Annotated[str, typer.Argument(metavar="APPROVAL", help="Its id, like apr_...")]
SessionId: TypeAlias = Annotated[
    str | None, typer.Option("--session", help="Where to look; if not given, in all sessions that wait.")
]
By: TypeAlias = Annotated[
    str | None, typer.Option(help="Who decides, for the record; your user name on this host if not given.")
]


@app.command("ls")
def list_waiting(store: StoreUrl = None, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """List what waits for a person. Exits with 1 if a session cannot be read."""

    async def work() -> int:
        found: list[tuple[SessionKey, Approval]] = []
        broken = 0
        async with opened(store) as kept:
            async for each in waiting(kept, tenant):
                if each.state is not None:
                    found += [(each.key, approval) for approval in each.state.waiting]
                elif each.error is not None:
                    broken += 1
                    show_error(each.error)
        if as_json:
            print_json([approval_json(approval) for _, approval in found])
        else:
            show_approvals(found)
        return FAILED if broken else 0

    raise typer.Exit(perform(work))


@app.command()
def show(
    approval: ApprovalId,
    session: SessionId = None,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Show what is to be approved: the tool, all arguments, why it asks, for whom and since when."""

    async def work() -> None:
        async with opened(store) as kept:
            key, state, found = await find_approval(kept, tenant, approval, session=session)
        if as_json:
            print_json({**approval_json(found), "tenant": key.tenant, "asked_for": asked_for(state)})
        else:
            show_approval(key, found, asked_for(state))

    perform(work)


@app.command()
def approve(
    approval: ApprovalId,
    by: By = None,
    note: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    session: SessionId = None,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Say yes to one call, once. It runs when the agent resumes the session."""
    perform(lambda: _decide(approval, True, by, note, session, store, tenant, as_json))


@app.command()
def refuse(
    approval: ApprovalId,
    by: By = None,
    note: Annotated[str, typer.Option(help="Why; the model is told.")] = "",
    session: SessionId = None,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Say no to one call. The model is told so when the agent resumes the session."""
    perform(lambda: _decide(approval, False, by, note, session, store, tenant, as_json))


async def _decide(
    approval_id: str,
    approved: bool,
    by: str | None,
    note: str,
    session: str | None,
    store: str | None,
    tenant: str,
    as_json: bool,
) -> None:
    async with opened(store) as kept:
        key, _, _ = await find_approval(kept, tenant, approval_id, session=session)
        async with Journal(kept, key).writing(wait_s=BUSY_WAIT_S) as writer:
            who = _user() if by is None else by
            done = await decide(writer, approval_id, approved=approved, by=who, note=note)
    if as_json:
        print_json(approval_json(done))
        return
    word = "approved" if approved else "refused"
    console.print(Text.assemble((done.id, "bold"), clean(f"  {word} {done.tool} in {key.session}, by {done.by}")))


def _user() -> str:
    """Who is at the terminal; a container may not know."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise ConfigurationError("This host does not know your name.", hint="Give --by kim@example.com.") from None
