"""`callbox demo`: an agent reviews a real pull request, its tests run in a sandbox; see docs/pr-review.md."""

from __future__ import annotations

import getpass
import importlib
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

import callbox
from callbox.cli.approval import read_line
from callbox.cli.performing import perform
from callbox.cli.question import question
from callbox.cli.setup import setup
from callbox.cli.terminal import clean, console, errors, shorten
from callbox.cli.working import work
from callbox.errors import ConfigurationError, HostUnsuited, SandboxNotFound
from callbox.sandboxes.home import Home

if TYPE_CHECKING:
    from callbox.policy.approval import Approval

app = typer.Typer(invoke_without_command=True, help="Review a pull request: tests in a sandbox, coverage, findings.")
app.command("question")(question)

_MODELS = (
    ("OPENAI_API_KEY", "openai", "openai:gpt-5"),
    ("ANTHROPIC_API_KEY", "anthropic", "anthropic:claude-sonnet-4-5"),
    ("GEMINI_API_KEY", "google.genai", "gemini:gemini-2.5-pro"),
    ("GOOGLE_API_KEY", "google.genai", "gemini:gemini-2.5-pro"),
)
"""A key in the environment, the package that uses it, and the model that then reviews."""


@app.callback()
def demo(
    context: typer.Context,
    repo: Annotated[Path | None, typer.Option(help="A git repository of yours; else a real one is fetched.")] = None,
    base: Annotated[str, typer.Option(help="What the pull request goes into, with --repo.")] = "main",
    head: Annotated[str, typer.Option(help="The pull request's branch or commit, with --repo.")] = "HEAD",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help='"scripted", "openai:MODEL" and the like; else what there is a key for.'),
    ] = None,
    driver: Annotated[str, typer.Option(help='Of the sandbox: "auto", "gvisor" or "qemu".')] = "auto",
    out: Annotated[Path | None, typer.Option(help="The file that the review is posted to.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve that the review is posted.")] = False,
    unsafe_local: Annotated[
        bool, typer.Option("--unsafe-local", help="Run the tests on this host, without any isolation.")
    ] = False,
) -> None:
    """Review a pull request: run its tests in a sandbox, measure coverage, write the review. Again: it goes on."""
    if context.invoked_subcommand is not None:
        return
    begun = time.perf_counter()
    example = work(_example)
    targets, main = example("targets"), example("main")
    target = targets.RepositoryTarget(repo.absolute(), base, head) if repo else targets.demo_target()
    if repo:
        work(target.fetch)  # a wrong name is said before a session and a sandbox are made for it
    reviewer = _reviewer(main, model)
    _say("Review", f"{target.pull} of {target.repository}")
    session = main.session_id(target, reviewer)
    places = example("places")
    if unsafe_local:
        _say("Tests", "on this host, WITHOUT ANY ISOLATION (--unsafe-local): they can do whatever you can", "red")
        place = work(lambda: places.UnsafePlace(targets.cache_folder() / "unsafe" / session))
    else:
        _make_image()
        place = places.SandboxPlace(session, driver=driver)
    review = main.Review(
        target=target,
        reviewer=reviewer,
        place=place,
        store=f"sqlite:///{Home.default().root / 'sessions.db'}",
        post_to=(out or target.review_file).absolute(),
        decide=_approve if yes else _ask,
        decided_by=f"{getpass.getuser()}{' (--yes)' if yes else ''}",
    )
    calls = example("progress").CallsShown(errors)
    raise typer.Exit(perform(lambda: _review(review, calls, main.posted_to, begun)))


async def _review(review: Any, calls: Any, posted_to: Callable[[Any], str | None], begun: float) -> int:
    if hasattr(review.place, "open"):
        await _open(review.place)

    def goes_on(results: int) -> None:
        _say("Session", f"{review.session_id} goes on: {results} results are in its journal")

    try:
        run = await review.run(calls, goes_on)
    finally:
        calls.stop()
    if run.stop == "approval":
        _show(str(run.approvals[0].arguments["body"]))
        _say("Waits", "nobody has approved yet that this review is posted. To go on:", "yellow")
        for approval in run.approvals:
            errors.print(Text(f"          callbox approvals approve {approval.id}", "bold"))
        errors.print(Text(f"          {shlex.join(['callbox', *sys.argv[1:]])}", "bold"))
    else:
        _show(run.output)
        before = posted_to(run)
        if before is not None and before != str(review.post_to):  # posting is approved once, and for one place
            _say("Posted", f"before, to {before}, and not again: {review.post_to} was not written", "yellow")
    seconds = time.perf_counter() - begun
    _say("Done", f"{calls.ran} calls ran, {seconds:.1f} s, session {review.session_id}")
    return 0 if run.stop in ("done", "approval") else 1


async def _open(place: Any) -> None:
    begun = time.perf_counter()
    try:
        box = await place.open()
    except HostUnsuited as error:
        hint = f"{error.hint or 'Run: callbox doctor.'} Or, if you trust the pull request: callbox demo --unsafe-local"
        raise HostUnsuited(error.message, hint=hint) from None
    info = box.last_info
    how = f"{info.driver} ({info.how})" if info.how else info.driver
    was = f"there already, {info.state}" if place.found else f"made in {time.perf_counter() - begun:.1f} s"
    _say("Sandbox", f"{info.name}: {how}, no network, {was}")


async def _approve(approval: Approval) -> bool | None:
    _say("Approved", f"{approval.tool}, because you said --yes", "yellow")
    return True


async def _ask(approval: Approval) -> bool | None:
    """Show the review, and ask; None where there is nobody to ask."""
    if not (sys.stdin.isatty() and errors.is_terminal):
        return None
    _draw(errors, str(approval.arguments["body"]))
    errors.print(Text(f"\n{shorten(approval.reason)}", "yellow"))
    errors.print(Text(f"Post this review ({approval.arguments['verdict']})? [y/N, Ctrl-D: decide later] "), end="")
    said = await read_line()
    return None if not said else said.strip().lower() in ("y", "yes")


def _reviewer(main: Any, model: str | None) -> Any:
    """Who reviews, and say so."""
    if model == "scripted":
        return _scripted(main, "as you asked")
    if model is not None:
        _say("Reviewer", model)
        return main.Reviewer(re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:20], model)
    for key, package, name in _MODELS:
        if os.environ.get(key):
            if _is_installed(package):
                _say("Reviewer", f"{name}, because {key} is set; the diff and what it reads is sent there (--model)")
                return main.Reviewer(name.partition(":")[0], name)
            extra = name.partition(":")[0]
            _say("Reviewer", f'{key} is set, but its package is not installed: pip install "callbox[{extra}]"')
    return _scripted(main, "no key for a model is set, and the local model is too small to review")


def _scripted(main: Any, why: str) -> Any:
    _say("Reviewer", f"scripted: {why}. Rules decide what to call; every call is made for real.")
    return main.Reviewer("scripted")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of a package in a package
        return False


def _make_image() -> None:
    """Run `callbox setup` if nobody has."""
    from callbox.sandboxes.images.store import ImageStore

    try:
        ImageStore(Home.default().images).get("python")
    except SandboxNotFound:
        _say("Image", "python is not there yet and is made now, once")
        # QEMU needs a kernel as well, gVisor does not.
        setup(kernel=None, suite=None, mirror=None, force=False, with_kernel=shutil.which("runsc") is None)


def _example() -> Callable[[str], Any]:
    """Import modules of the example: from the wheel, or from the checkout that we are in."""
    package = Path(callbox.__file__).parent
    for folder in (package / "examples", package.parent.parent / "examples"):
        if (folder / "pr_review" / "main.py").is_file():
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
            return lambda name: importlib.import_module(f"pr_review.{name}")
    raise ConfigurationError("The example pr_review is not installed.", hint="Reinstall callbox.")


def _show(review: str) -> None:
    """The review on stdout: drawn on a terminal, as it is in a pipe."""
    if console.is_terminal:
        console.print()
        _draw(console, review)
        console.print()
    else:
        typer.echo(clean(review))


def _draw(on: Console, review: str) -> None:
    from rich.markdown import Markdown  # with its highlighter as heavy as all the rest of this command

    on.print(Markdown(clean(review)))


def _say(what: str, text: str, style: str = "dim") -> None:
    errors.print(Text.assemble((f"{what:<10}", "bold"), (clean(text), style)), soft_wrap=True)
