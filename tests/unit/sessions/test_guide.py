"""docs/sessions.md says what the code says."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from callbox.agents import session
from callbox.cli import stores
from callbox.sessions import entries, journal, portable, retention
from callbox.stores import store

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "sessions.md").read_text()


def table():
    rows = ["| kind | what it says | fields |", "|---|---|---|"]
    for kind, made in entries.KINDS.items():
        names = ", ".join(f"`{each.name}`" for each in dataclasses.fields(made))
        rows.append(f"| `{kind}` | {inspect.getdoc(made).splitlines()[0]} | {names} |")
    return "\n".join(rows)


def test_the_table_of_entries_is_that_of_the_code():
    found = re.search(r"<!-- entries:.*?-->\n(.*?)\n<!-- entries end -->", GUIDE, re.DOTALL)
    assert found is not None
    assert found[1] == table()


def test_the_limits_are_those_of_the_code():
    assert f"`EVENT_BYTES_MAX` of one entry | {store.EVENT_BYTES_MAX >> 20} MiB" in GUIDE
    assert f"`ID_BYTES_MAX` of a session's id, and of a tenant's | {store.ID_BYTES_MAX} bytes" in GUIDE
    assert f"`DOCUMENT_BYTES_MAX` of an imported document | {portable.DOCUMENT_BYTES_MAX >> 20} MiB" in GUIDE
    assert f"`FORKS_DEEP_MAX` forks of forks | {journal.FORKS_DEEP_MAX} " in GUIDE
    assert f"`TTL_S_MAX` of `ttl_s` | {retention.TTL_S_MAX / 365 / 86_400:.0f} years" in GUIDE
    assert f"`LEASE_TTL_S` until a silent writer is replaced | {journal.LEASE_TTL_S:.0f} s" in GUIDE
    assert f"{session.BUSY_WAIT_S:.0f} s in `Session` (`busy_wait_s=`), {stores.BUSY_WAIT_S:.0f} s in commands" in GUIDE
    waits = sum(journal.APPEND_WAIT_S * 2**each for each in range(journal.APPEND_TRIES - 1))
    assert f"{journal.APPEND_TRIES}, within {waits:.0f} s" in GUIDE
    assert f"`SESSIONS_LISTED_MAX` in one page | {store.SESSIONS_LISTED_MAX:,};" in GUIDE
    assert f"(30 s, renewed every {journal.LEASE_TTL_S / journal.RENEWALS_PER_TTL:.0f})" in GUIDE


@pytest.mark.slow
def test_the_example_waits_for_a_person_and_goes_on(own_home):
    def run(*argv):
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout

    example = (sys.executable, str(ROOT / "examples" / "durable_session.py"))
    command = (sys.executable, "-c", "from callbox.cli.main import app; app()")
    approval = re.search(r"apr_\w+", run(*example))[0]
    assert approval in run(*example), "asked once"
    run(*command, "approvals", "approve", approval, "--by", "kim")
    assert "refunding 39 euros" in (first := run(*example))
    assert "You have your 39 euros back." in first
    again = run(*example)
    assert "You have your 39 euros back." in again
    assert "refunding" not in again
