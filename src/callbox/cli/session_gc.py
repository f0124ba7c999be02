"""Erasing what is over, seen by whoever waits for it."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import aclosing

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from callbox.cli.performing import print_json
from callbox.cli.terminal import clean, console
from callbox.sessions.retention import Collected, collect
from callbox.stores.store import Store


async def collect_with_progress(store: Store, *, as_json: bool) -> None:
    """Erase all that is over now. Stopped in between, it says what was done until then."""
    told: list[Collected] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as progress:
        bar = progress.add_task("Looking for what is over", total=None)
        try:
            async with aclosing(collect(store, time.time())) as found:
                async for each in found:
                    told.append(each)
                    progress.update(bar, description=_summary(told))
        finally:
            progress.stop()
            _tell(told, as_json=as_json)


def _tell(told: list[Collected], *, as_json: bool) -> None:
    if as_json:
        print_json([{"tenant": each.key.tenant, "session": each.key.session, "fate": each.fate} for each in told])
        return
    for each in told:
        if each.fate != "erased":
            console.print(Text(clean(f"kept {each.key.session} of {each.key.tenant}: {each.fate}"), "yellow"))
    console.print(Text(_summary(told)))


def _summary(told: list[Collected]) -> str:
    counts = Counter(each.fate for each in told)
    kept = len(told) - counts["erased"]
    return f"erased {counts['erased']:,}" + (f", kept {kept:,}" if kept else "")
