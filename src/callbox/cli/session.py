"""`callbox session`: look at durable sessions, copy, move and forget them. No agent is needed for it."""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import Annotated, Any, TypeAlias, cast, get_args

import typer
from rich.text import Text

from callbox.agents.session import DEFAULT_TENANT
from callbox.cli.performing import perform, print_json
from callbox.cli.session_files import export_session_to, read_source
from callbox.cli.session_gc import collect_with_progress
from callbox.cli.session_tables import (
    approval_json,
    info_json,
    message_json,
    placed_json,
    show_entry,
    show_session,
    show_sessions,
)
from callbox.cli.stores import BUSY_WAIT_S, Json, StoreUrl, Tenant, front, opened
from callbox.cli.terminal import clean, console, errors
from callbox.errors import StoreUnavailable
from callbox.sessions import browsing, portable, retention
from callbox.sessions.fold import Placed
from callbox.sessions.journal import Journal
from callbox.stores.rules import check_key, not_found
from callbox.stores.store import SessionInfo, SessionKey, Status, Store

app = typer.Typer(no_args_is_help=True, help="Durable conversations: look, copy, move, forget.")
app.callback()(front)

SessionId: TypeAlias = Annotated[str, typer.Argument(metavar="SESSION", help="Its id.")]


@app.command("ls")
def list_sessions(
    status: Annotated[str | None, typer.Option(help="Only idle, running (or unfinished), or waiting ones.")] = None,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """List sessions by id."""
    if status is not None and status not in get_args(Status):
        raise typer.BadParameter(f"It is one of: {', '.join(get_args(Status))}.", param_hint="--status")

    async def work() -> None:
        async with opened(store) as kept:
            wanted = cast("Status | None", status)
            infos = [info async for info in browsing.all_sessions(kept, tenant, status=wanted)]
        if as_json:
            print_json([info_json(info) for info in infos])
        else:
            show_sessions(infos)

    perform(work)


@app.command()
def show(session: SessionId, store: StoreUrl = None, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show a session: what was said and called, what it waits for, what is kept with it."""

    async def work() -> None:
        async with opened(store) as kept:
            key = SessionKey(tenant, session)
            info, state = await _info(kept, key), await Journal(kept, key).state()
        if not as_json:
            show_session(info, state)
            return
        run: dict[str, Any] | None = None
        if state.run is not None:
            run = {"id": state.run.id, "stop": state.run.stop, "output": state.run.output}
        print_json(
            {
                **info_json(info),
                "run": run,
                "messages": [message_json(each) for each in state.messages],
                "waiting": [approval_json(each) for each in state.waiting],
                "notes": state.notes,
            }
        )

    perform(work)


@app.command()
def tail(
    session: SessionId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then each entry as it is written.")] = False,
    after: Annotated[int | None, typer.Option(min=0, help="From the entry after this number.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Without --after: the last so many.")] = 10,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines.")] = False,
) -> None:
    """Print the entries of a session's journal, whoever writes them. Go on later with --after."""

    def say(placed: Placed) -> None:
        if as_json:
            typer.echo(portable.compact(placed_json(placed)))
        else:
            show_entry(placed)

    async def work() -> None:
        last = after or 0
        try:
            async with opened(store) as kept:
                journal = Journal(kept, SessionKey(tenant, session))
                there = await journal.read(last)
                for placed in there if after is not None else deque(there, maxlen=lines):
                    say(placed)
                last = there[-1].seq if there else last
                if not follow:
                    return
                async with aclosing(journal.follow(last)) as entries:
                    async for placed in entries:
                        say(placed)
                        last = placed.seq
            errors.print(Text("The session was erased.", "yellow"))
        except StoreUnavailable as error:
            hint = f"Go on with: --after {last}"
            raise StoreUnavailable(error.message, hint=hint) from error

    perform(work)


@app.command("fork")
def fork_session(
    session: SessionId,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Id of the new one.")],
    at: Annotated[int | None, typer.Option(min=0, help="The last entry to share; all if not given.")] = None,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Make a session that shares this one's past, and goes on by itself. Nothing is copied or run again."""

    async def work() -> None:
        async with opened(store) as kept:
            key = await browsing.fork(Journal(kept, SessionKey(tenant, session)), new, at=at)
            info = await _info(kept, key)
        if as_json:
            print_json(info_json(info))
        else:
            console.print(Text.assemble((clean(new), "bold"), clean(f"  shares {session} up to {info.last_seq}")))

    perform(work)


@app.command()
def rewind(
    session: SessionId,
    to: Annotated[int, typer.Argument(metavar="SEQ", min=0, help="The last entry that counts.")],
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Let everything after an entry count as not said. What tools did is not undone. A fork made before keeps it."""

    async def work() -> None:
        async with opened(store) as kept:
            key = SessionKey(tenant, session)
            async with Journal(kept, key).writing(wait_s=BUSY_WAIT_S) as writer:
                await browsing.rewind(writer, to)
            info = await _info(kept, key)
        if as_json:
            print_json(info_json(info))
        else:
            console.print(Text.assemble((clean(session), "bold"), f"  goes on after entry {to}"))

    perform(work)


@app.command("export")
def export_session(
    session: SessionId,
    file: Annotated[str, typer.Argument(help="Where to; - is stdout.")] = "-",
    lines: Annotated[bool, typer.Option("--lines", help="As JSON Lines, an entry a line.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
) -> None:
    """Write a session to a file, PLAIN: whoever reads the file reads the conversation."""

    async def work() -> None:
        async with opened(store) as kept:
            await export_session_to(Journal(kept, SessionKey(tenant, session)), file, lines=lines, force=force)

    perform(work)


@app.command("import")
def import_session(
    file: Annotated[str, typer.Argument(help="What export wrote; - is stdin.")],
    as_id: Annotated[str | None, typer.Option("--as", metavar="SESSION", help="Under another id.")] = None,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Make a session of a file. It never replaces one that is there, and is there whole or not at all."""

    async def work() -> None:
        document = portable.read_document(read_source(file))
        check_key(SessionKey(tenant, document.session if as_id is None else as_id))
        async with opened(store, create=True) as kept:
            key = await portable.import_session(kept, tenant, document, session_id=as_id)
            info = await _info(kept, key)
        if as_json:
            print_json(info_json(info))
        else:
            said = f"  has the {len(document.entries)} entries of {document.session}"
            console.print(Text.assemble((clean(key.session), "bold"), clean(said)))

    perform(work)


@app.command()
def erase(
    session: Annotated[list[str], typer.Argument(metavar="SESSION...", help="Their ids.")],
    forks: Annotated[bool, typer.Option("--forks", help="And all that share entries of them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreUrl = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Forget sessions for ever, with the sandboxes of this host that hold state of them."""
    if not yes:
        if not console.is_terminal:
            raise typer.BadParameter("Nobody is there to be asked; give it.", param_hint="--yes")
        typer.confirm(f"Erase {len(session)} session{'s' * (len(session) > 1)} for ever?", abort=True)

    async def work() -> None:
        gone: list[str] = []
        try:
            async with opened(store) as kept:
                for each in session:
                    key = SessionKey(tenant, each)
                    if each in gone:  # as a fork of one before it
                        continue
                    await _info(kept, key)
                    if not forks:
                        if not await retention.erase(kept, key):
                            raise not_found(key)
                        gone.append(each)
                        continue
                    async for erased in retention.erase_with_forks(kept, key):
                        gone.append(erased.session)  # noqa: PERF401 - what is gone is told, also when the next fails
        finally:
            if as_json:
                print_json({"erased": gone})
            elif gone:
                console.print(Text(clean(f"erased {', '.join(gone)}")))

    perform(work)


@app.command()
def gc(store: StoreUrl = None, as_json: Json = False) -> None:
    """Erase the sessions of all tenants whose time is over. May be stopped and started again at any moment."""

    async def work() -> None:
        async with opened(store) as kept:
            await collect_with_progress(kept, as_json=as_json)

    perform(work)


async def _info(store: Store, key: SessionKey) -> SessionInfo:
    info = await store.info(key)
    if info is None:
        raise not_found(key)
    return info
