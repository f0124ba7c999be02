"""`callbox image`: what sandboxes are made of."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.table import Table
from rich.text import Text

from callbox.cli.performing import print_json
from callbox.cli.sandbox_tables import ago, size
from callbox.cli.terminal import clean, console
from callbox.cli.working import Report, work, work_with_bar
from callbox.errors import ConfigurationError
from callbox.sandboxes.home import Home
from callbox.sandboxes.images.build import build
from callbox.sandboxes.images.kernel import prune_kernels
from callbox.sandboxes.images.oci import import_image
from callbox.sandboxes.images.registry import pull
from callbox.sandboxes.images.spec import read_spec
from callbox.sandboxes.images.store import Freed, Image, ImageStore
from callbox.sandboxes.images.usage import digests_in_use, register_home

app = typer.Typer(no_args_is_help=True, help="What sandboxes are made of.")

CREDENTIALS = "CALLBOX_REGISTRY_AUTH"
"""Environment variable with ``user:password`` for a registry: an option would show them to every process."""

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name: TypeAlias = Annotated[str | None, typer.Option("--name", help="What it is called here.")]


@app.command("build")
def build_command(
    spec: Annotated[Path, typer.Argument(help="A .toml or .json file: name, base, apt, pip, files, run, env.")],
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Build an image from a spec. Steps that were built before are taken from there."""

    def task(report: Report) -> Image:
        wanted = read_spec(spec)
        if name is not None:
            wanted = wanted.model_copy(update={"name": name})
        return build(_store(), wanted, folder=spec.absolute().parent, progress=report)

    _show(work_with_bar(task), as_json=as_json)


@app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(help="An OCI layout (folder or tar), or what docker save wrote.")],
    name: Annotated[str, typer.Option("--name", help="What it is called here.")],
    reference: Annotated[str | None, typer.Option(help="Which one, where there are several.")] = None,
    as_json: Json = False,
) -> None:
    """Import an image from an archive. Everything in it is checked against its checksums."""

    def task(report: Report) -> Image:
        return import_image(_store(), name, path, reference=reference, report=lambda line: report(line, 0.5))

    _show(work_with_bar(task), as_json=as_json)


@app.command("pull")
def pull_command(
    reference: Annotated[str, typer.Argument(help="HOST/NAME:TAG or HOST/NAME@sha256:DIGEST.")],
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Pull an image from a registry. $CALLBOX_REGISTRY_AUTH holds user:password where it asks for them."""

    def task(report: Report) -> Image:
        return pull(_store(), reference, name=name, credentials=_credentials(), progress=report)

    _show(work_with_bar(task), as_json=as_json)


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """Show all images."""
    images = work(lambda: _store().list())
    if as_json:
        print_json([_plain(image) for image in images])
        return
    if not images:
        console.print(Text("No images. Make the default one: callbox setup", "dim"))
        return
    table = Table("name", "digest", "size", "created", "from", box=None, pad_edge=False)
    for image in images:
        created = ago(time.time() - image.created_at)
        name, source = Text(clean(image.name), "bold"), Text(clean(image.source), "dim", overflow="ellipsis")
        table.add_row(name, image.digest[:12], size(image.size_bytes), created, source)
    console.print(table)


app.command("ls", help="Show all images.", hidden=True)(list_command)


@app.command("verify")
def verify_command(name: Annotated[str, typer.Argument(help="Name of an image.")]) -> None:
    """Read all of an image and compare it with its checksums."""
    image = work(lambda: _store().verify(name))
    console.print(Text.assemble(("✓ ", "green"), f"{clean(name)} {image.digest}"))


@app.command("rm")
def remove_command(names: Annotated[list[str], typer.Argument(help="Names of images.")]) -> None:
    """Take names away. Sandboxes that use the images keep them; `callbox image gc` frees the space of the others."""
    for name in names:
        work(lambda name=name: _store().remove(name))


@app.command("gc")
def gc_command(as_json: Json = False) -> None:
    """Remove images without a name that no sandbox or snapshot uses, unused layers, and what crashes left."""

    def task() -> tuple[Freed, int]:
        home = Home.default()
        used = digests_in_use(home)
        return _store().gc(used), prune_kernels(home.images, used)

    freed, kernels = work(task)
    total = freed.bytes + kernels
    if as_json:
        print_json({"images": freed.images, "layers": freed.layers, "leftovers": freed.leftovers, "bytes": total})
        return
    said = f"{size(total)} freed: {freed.images} images, {freed.layers} layers, {freed.leftovers} leftovers"
    console.print(Text(said))


def _store() -> ImageStore:
    home = Home.default()
    register_home(home)
    return ImageStore(home.images)


def _credentials() -> tuple[str, str] | None:
    value = os.environ.get(CREDENTIALS)
    if not value:
        return None
    user, colon, password = value.partition(":")
    if not colon:
        raise ConfigurationError(f"${CREDENTIALS} has no colon.", hint="It must be user:password.")
    return user, password


def _show(image: Image, *, as_json: bool) -> None:
    if as_json:
        print_json(_plain(image))
        return
    said = f"{image.name}  {size(image.size_bytes)}, {image.entries:,} entries, {image.digest[:12]}"
    console.print(Text.assemble(("✓ ", "green"), clean(said)))


def _plain(image: Image) -> dict[str, Any]:
    return {
        "name": image.name,
        "digest": image.digest,
        "created_at": image.created_at,
        "size_bytes": image.size_bytes,
        "entries": image.entries,
        "env": dict(image.env),
        "source": image.source,
    }
