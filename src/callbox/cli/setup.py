"""`callbox setup`: what sandboxes need on this host, made once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from callbox.cli.sandbox_tables import size
from callbox.cli.terminal import clean, console
from callbox.cli.working import Report, work_with_bar
from callbox.sandboxes.home import Home
from callbox.sandboxes.images.debian import Base, ensure_python
from callbox.sandboxes.images.kernel import guest_kernel, setup_kernel
from callbox.sandboxes.images.store import Image, ImageStore
from callbox.sandboxes.images.usage import register_home


def setup(
    kernel: Annotated[
        Path | None, typer.Option(help="A kernel's .deb, or the folder that it was unpacked into; Debian's otherwise.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Debian's release; the host's if not given.")] = None,
    mirror: Annotated[
        list[str] | None, typer.Option(help="URL or sources file instead of the host's sources; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make everything again.")] = False,
    with_kernel: Annotated[
        bool, typer.Option("--with-kernel/--no-kernel", help="Fetch the kernel that QEMU needs; gVisor needs none.")
    ] = True,
) -> None:
    """Make the image "python" and fetch the guest's kernel. The second time, nothing is left to do."""
    home = Home.default()
    store = ImageStore(home.images)
    begun = time.perf_counter()

    def make(report: Report) -> tuple[Image, bool]:
        register_home(home)
        return ensure_python(store, base=Base(suite=suite, mirrors=mirror or ()), force=force, progress=report)

    image, made = work_with_bar(make)
    verb = "made" if made else "there already"
    _done(f"image python   {size(image.size_bytes)}, {image.entries:,} entries, {image.digest[:12]}, {verb}")
    if with_kernel:

        def fetch(report: Report) -> str:
            report("Fetching the guest's kernel", 0.1)
            version = setup_kernel(home.images, source=kernel, force=force, on_line=lambda line: report(line, 0.5))
            report("Building its initramfs", 0.9)
            return f"{version}, {guest_kernel(home.images).digest}"

        _done(f"guest kernel   {work_with_bar(fetch)}")
    console.print(Text(f"{home.images}, {time.perf_counter() - begun:.1f} s", "dim"))
    console.print(Text("Next: callbox sandbox create python", "dim"))


def _done(line: str) -> None:
    console.print(Text.assemble(("✓ ", "green"), clean(line)))
