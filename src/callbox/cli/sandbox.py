"""`callbox sandbox`: make, use, copy, put to sleep and delete sandboxes."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeAlias

import typer
from rich.text import Text

from callbox.cli.certify import certify
from callbox.cli.performing import NOT_RUN, perform, print_json
from callbox.cli.sandbox_copy import copy
from callbox.cli.sandbox_exec import execute, execute_for_json, shell
from callbox.cli.sandbox_tables import ago, show_info, show_receipt, show_sandboxes, show_stats, size
from callbox.cli.terminal import clean, console
from callbox.errors import ConfigurationError
from callbox.sandboxes.sandbox import Sandbox, Snapshot, Tier
from callbox.sandboxes.spec import Lifetime, SandboxLimits

app = typer.Typer(no_args_is_help=True, help="Isolated machines for code that nobody has read.")
app.command()(certify)

Name: TypeAlias = Annotated[str, typer.Argument(metavar="BOX", help="Name or id of a sandbox.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Command: TypeAlias = Annotated[
    list[str], typer.Argument(metavar="COMMAND", help='After --: a program and arguments, or one "line for a shell".')
]
Driver: TypeAlias = Annotated[str, typer.Option(help="auto, gvisor or qemu; `callbox doctor` explains auto.")]
MemoryMb: TypeAlias = Annotated[int, typer.Option(help="Memory, MiB.")]
Cpus: TypeAlias = Annotated[int, typer.Option(help="Processors.")]
DiskMb: TypeAlias = Annotated[int, typer.Option(help="Private disk, MiB.")]
Env: TypeAlias = Annotated[list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE; may be repeated.")]
Labels: TypeAlias = Annotated[list[str] | None, typer.Option("--label", "-l", help="KEY=VALUE; may be repeated.")]
Cwd: TypeAlias = Annotated[str | None, typer.Option(help="Folder inside; /work if not given.")]
User: TypeAlias = Annotated[str, typer.Option(help="box (may do nothing special) or root of the sandbox.")]
Timeout: TypeAlias = Annotated[float | None, typer.Option("--timeout", help="Seconds until it is killed (exit 124).")]
Interactive: TypeAlias = Annotated[bool, typer.Option("--interactive", "-i", help="Pass our standard input on.")]
Tty: TypeAlias = Annotated[bool, typer.Option("--tty", "-t", help="Give it this terminal, keys and all.")]
Raw: TypeAlias = Annotated[bool, typer.Option("--raw", help="Do not clean what goes to a terminal.")]

_LIMITS = SandboxLimits()
_LIFETIME = Lifetime()


@app.command()
def create(
    image: Annotated[str, typer.Argument(help="Name of an image.")] = "python",
    name: Annotated[str | None, typer.Option(help="For later; the id if not given.")] = None,
    driver: Driver = "auto",
    memory_mb: MemoryMb = _LIMITS.memory_mb,
    cpus: Cpus = _LIMITS.cpus,
    disk_mb: DiskMb = _LIMITS.disk_mb,
    env: Env = None,
    label: Labels = None,
    idle_s: Annotated[float, typer.Option(help="Seconds without a call until it falls asleep.")] = _LIFETIME.idle_s,
    ttl_s: Annotated[float | None, typer.Option(help="Seconds until it is deleted.")] = None,
    as_json: Json = False,
) -> None:
    """Make a sandbox that stays until it is deleted."""

    async def work() -> None:
        box = await Sandbox.create(
            image,
            driver=driver,
            name=name,
            idle_s=idle_s,
            ttl_s=ttl_s,
            limits=SandboxLimits(memory_mb=memory_mb, cpus=cpus, disk_mb=disk_mb),
            env=_pairs(env),
            labels=_pairs(label),
        )
        info = await box.info()
        if as_json:
            print_json({"sandbox": asdict(info), "receipt": asdict(box.receipt) if box.receipt else None})
        elif box.receipt is not None:
            show_receipt(box.name, box.receipt)

    perform(work)


@app.command()
def run(
    image: Annotated[str, typer.Argument(help="Name of an image.")],
    command: Command,
    driver: Driver = "auto",
    memory_mb: MemoryMb = _LIMITS.memory_mb,
    cpus: Cpus = _LIMITS.cpus,
    disk_mb: DiskMb = _LIMITS.disk_mb,
    env: Env = None,
    cwd: Cwd = None,
    user: User = "box",
    timeout: Timeout = None,
    interactive: Interactive = False,
    tty: Tty = False,
    raw: Raw = False,
    as_json: Json = False,
) -> None:
    """Run one command in a sandbox of its own, delete that, and exit as the command did."""
    _check_outputs(as_json=as_json, tty=tty)

    async def work() -> int:
        limits = SandboxLimits(memory_mb=memory_mb, cpus=cpus, disk_mb=disk_mb)
        async with Sandbox.create(image, driver=driver, limits=limits, env=_pairs(env)) as box:
            if as_json:
                return await execute_for_json(box, command, cwd=cwd, env={}, user=user, timeout_s=timeout)
            options: dict[str, Any] = {"timeout_s": timeout, "interactive": interactive, "raw": raw, "tty": tty}
            return await execute(box, command, cwd=cwd, user=user, **options)

    raise typer.Exit(perform(work, failed=NOT_RUN))


@app.command("exec")
def execute_command(
    box: Name,
    command: Command,
    env: Env = None,
    cwd: Cwd = None,
    user: User = "box",
    timeout: Timeout = None,
    interactive: Interactive = False,
    tty: Tty = False,
    raw: Raw = False,
    as_json: Json = False,
) -> None:
    """Run a command in a sandbox, and exit as it did. 125: it was not run."""
    _check_outputs(as_json=as_json, tty=tty)

    async def work() -> int:
        extra = _pairs(env)
        found = await Sandbox.open(box)
        if as_json:
            return await execute_for_json(found, command, cwd=cwd, env=extra, user=user, timeout_s=timeout)
        options: dict[str, Any] = {"timeout_s": timeout, "interactive": interactive, "raw": raw, "tty": tty}
        return await execute(found, command, cwd=cwd, env=extra, user=user, **options)

    raise typer.Exit(perform(work, failed=NOT_RUN))


@app.command("shell")
def shell_command(box: Name, user: User = "box") -> None:
    """Open a shell in a sandbox, and exit as it did."""

    async def work() -> int:
        return await shell(await Sandbox.open(box), user=user)

    raise typer.Exit(perform(work, failed=NOT_RUN))


@app.command("ls")
def list_command(
    label: Labels = None,
    state: Annotated[list[str] | None, typer.Option(help="Like running or hot; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """List sandboxes, asleep or awake. None is woken by this."""

    async def work() -> None:
        infos = [box.last_info for box in await Sandbox.list(labels=_pairs(label), states=state)]
        if as_json:
            print_json([asdict(info) for info in infos])
        else:
            show_sandboxes(infos)

    perform(work)


@app.command()
def inspect(box: Name, as_json: Json = False) -> None:
    """Show all that is known of a sandbox."""

    async def work() -> None:
        info = await (await Sandbox.open(box)).info()
        if as_json:
            print_json(asdict(info))
        else:
            show_info(info)

    perform(work)


@app.command("cp")
def copy_command(
    source: Annotated[str, typer.Argument(help="A local path, or BOX:path.")],
    to: Annotated[str, typer.Argument(help="BOX:path, or a local path.")],
    as_json: Json = False,
) -> None:
    """Copy a file or a folder into a sandbox or out of it."""

    async def work() -> None:
        copied = await copy(source, to)
        if as_json:
            print_json(asdict(copied))
        else:
            files = "1 file" if copied.files == 1 else f"{copied.files:,} files"
            console.print(Text(f"{files}, {size(copied.size_bytes)}", "dim"))

    perform(work)


@app.command()
def logs(box: Name, as_json: Json = False) -> None:
    """Show what happened to a sandbox: made, slept, woken, and why."""

    async def work() -> None:
        lines = await (await Sandbox.open(box)).logs()
        if as_json:
            print_json(lines)
            return
        for line in lines:
            console.print(Text(clean(line)), soft_wrap=True)

    perform(work)


@app.command()
def standby(
    box: Name,
    tier: Annotated[
        Literal["hot", "warm", "cold"], typer.Option(help="In memory, on disk, or on disk and uncached.")
    ] = "hot",
    as_json: Json = False,
) -> None:
    """Put a sandbox to sleep now. The next call wakes it."""
    wanted: Tier = tier

    async def work() -> None:
        info = await (await Sandbox.open(box)).standby(wanted)
        if as_json:
            print_json(asdict(info))
        else:
            console.print(Text.assemble((info.name, "bold"), f"  {clean(info.state)}"))

    perform(work)


@app.command()
def resume(box: Name, as_json: Json = False) -> None:
    """Wake a sandbox now, and say what that took. Any other call wakes it, too."""

    async def work() -> None:
        found = await Sandbox.open(box)
        receipt = await found.resume()
        if as_json:
            print_json(asdict(receipt))
        else:
            show_receipt(found.name, receipt)

    perform(work)


@app.command()
def snapshot(
    box: Name,
    name: Annotated[str | None, typer.Option(help="For `restore`; an id if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Keep this instant of a sandbox, memory and files."""

    async def work() -> None:
        made = await (await Sandbox.open(box)).snapshot(name)
        if as_json:
            print_json(made.details)
        else:
            console.print(Text.assemble((clean(made.name), "bold"), f"  from {clean(box)}"))

    perform(work)


@app.command()
def snapshots(as_json: Json = False) -> None:
    """List snapshots."""

    async def work() -> None:
        found = await Snapshot.list()
        if as_json:
            print_json([each.details for each in found])
            return
        for each in found:
            made = each.details.get("created_at")
            when = f"  {ago(time.time() - made)}" if isinstance(made, (int, float)) else ""
            console.print(Text.assemble((clean(each.name), "bold"), (when, "dim")))

    perform(work)


@app.command()
def restore(
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Name or id of a snapshot.")],
    name: Annotated[str | None, typer.Option(help="Of the new sandbox.")] = None,
    as_json: Json = False,
) -> None:
    """Make a sandbox from a snapshot."""

    async def work() -> None:
        box = await Sandbox.restore(snapshot, name=name)
        if as_json:
            print_json(asdict(await box.info()))
        elif box.receipt is not None:
            show_receipt(box.name, box.receipt)
        else:
            console.print(Text(box.name, "bold"))

    perform(work)


@app.command()
def fork(
    box: Name,
    count: Annotated[int, typer.Argument(help="How many children.", min=1)] = 1,
    name: Annotated[list[str] | None, typer.Option(help="Of a child; once for each of them, or not at all.")] = None,
    as_json: Json = False,
) -> None:
    """Make children of one paused instant of a sandbox, memory and files."""

    async def work() -> None:
        if name and len(name) != count:
            raise ConfigurationError(f"{count} children, but {len(name)} names.", hint="Give one for each, or none.")
        kids = await (await Sandbox.open(box)).fork(count, names=name)
        if as_json:
            print_json([asdict(kid.last_info) for kid in kids])
            return
        for kid in kids:
            console.print(Text(kid.name, "bold"))

    perform(work)


@app.command("rm")
def remove(
    boxes: Annotated[list[str], typer.Argument(metavar="BOX...", help="Names or ids.")],
    snapshots: Annotated[bool, typer.Option("--snapshot", help="They are snapshots.")] = False,
    as_json: Json = False,
) -> None:
    """Delete sandboxes with all that they have, or snapshots."""

    async def work() -> None:
        for name in boxes:
            if snapshots:
                await (await Snapshot.open(name)).remove()
            else:
                await (await Sandbox.open(name)).delete()
            if not as_json:
                console.print(Text(f"deleted {clean(name)}", "dim"))
        if as_json:
            print_json({"deleted": boxes})

    perform(work)


@app.command()
def stats(
    box: Annotated[str | None, typer.Argument(metavar="BOX", help="Only this one.")] = None, as_json: Json = False
) -> None:
    """Show what sandboxes use on this host."""

    async def work() -> None:
        found = await Sandbox.list() if box is None else [await Sandbox.open(box)]
        rows = [await each.stats() for each in found]
        if as_json:
            print_json([asdict(row) for row in rows])
        else:
            show_stats(rows)

    perform(work)


def _check_outputs(*, as_json: bool, tty: bool) -> None:
    if as_json and tty:
        raise typer.BadParameter("--json and --tty exclude each other.")


def _pairs(given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for each in given or []:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise ConfigurationError(f"{each!r} is not of the form NAME=VALUE.", hint="Like: --env DEBUG=1")
        pairs[key] = value
    return pairs
