"""Bytes of a call in the journal: within twice those of its arguments and its result, however long the conversation.

What a database grows by, indexes included, after a checkpoint, over calls that follow 200 messages. The whole call
counts: the model's reply with its arguments, the intent, the outcome; everything sealed. Peers: the first size only.
``python size.py --peers PYTHON``
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from measuring import alone, markdown, subject
from server import Disk

SIZES = ((100, 300), (200, 2_000), (1_000, 10_000))
"""Bytes of arguments and of result."""

HISTORY = 200
CALLS, PEERS_CALLS = 100, 20


def subjects(peers: str | None) -> Iterator[tuple[str, str, str, str, tuple[str, ...], str]]:
    """Name, kind of store, python, script, arguments before the URL, command."""
    for kind in ("sqlite", "postgres"):
        yield f"callbox, {kind}", kind, sys.executable, "with_callbox.py", (), "calls"
    if peers is not None:
        for saver, kind in (("SqliteSaver", "sqlite"), ("SqliteSaver:delta", "sqlite"), ("PostgresSaver", "postgres")):
            name = f"langgraph, {saver.replace(':delta', ', DeltaChannel (beta)')}"
            yield name, kind, peers, "with_langgraph.py", (saver,), "calls"
        for kind in ("sqlite", "postgres"):
            yield f"dbos, {kind}: workflow of one step", kind, peers, "with_dbos.py", (), "calls-of-one"
            yield f"dbos, {kind}: one more step", kind, peers, "with_dbos.py", (), "calls"


def growth(disk: Disk, kind: str, python: str, script: str, before: tuple[str, ...], command: str,
           sizes: tuple[int, int]) -> float:  # fmt: skip
    """Bytes per call."""
    calls = CALLS if script == "with_callbox.py" else PEERS_CALLS
    url = disk.fresh(kind)
    if script == "with_dbos.py":  # a first call fills pages that are there anyway
        subject(python, script, command, *before, url, 0, calls, *sizes)
    else:
        subject(python, script, "fill", *before, url, 0, HISTORY)
    was = disk.bytes_of(url)
    subject(python, script, command, *before, url, 0, calls, *sizes)
    return (disk.bytes_of(url) - was) / calls


def measure(disk: Disk, peers: str | None, rounds: int) -> str:
    """The table. Sizes do not vary, so that one round is enough."""
    del rounds
    rows: list[list[str]] = []
    for name, *how in subjects(peers):
        script, cells = how[2], list[str]()
        for sizes in SIZES if script == "with_callbox.py" else SIZES[:1]:
            print(f"  {name} {sizes}", file=sys.stderr)
            taken = growth(disk, *how, sizes)
            cells.append(f"{taken:,.0f} ({taken / sum(sizes):.1f}x)")
        rows.append([name, *cells, *[""] * (len(SIZES) - len(cells))])
    columns = [f"bytes per call at {HISTORY} messages", *[f"{each[0]:,} + {each[1]:,}" for each in SIZES]]
    return markdown(columns, rows)


if __name__ == "__main__":
    alone(measure, __doc__)
