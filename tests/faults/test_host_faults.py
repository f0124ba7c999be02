"""A full disk, files that cannot be written, damaged files: told by a typed error, and never as an empty session.

What cannot be found out, because nothing outside of the file says otherwise: that the file was replaced by an older
copy of itself, or a session cut to a shorter one together with its number of entries; that it was emptied, which makes
it a new one; and a session's name damaged in SQLite's index of names, under which it is not found any more (SQLite's
own `integrity_check` sees that). The last tests say so.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from callbox import CallContext, tool
from callbox.agents.agent import Agent
from callbox.agents.session import Session
from callbox.errors import JournalDamaged, SessionNotFound, StoreError, StoreUnavailable
from callbox.providers.scripted import Scripted
from callbox.sessions import journal
from callbox.sessions.entries import Intended
from callbox.sessions.fold import SessionState
from callbox.stores.sqlite.store import SqliteStore
from faults.session_deaths import TESTS
from faults.session_world import Files, Noting, call

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DISK_BYTES = 2 << 20
PAGE = 4096
RESULT = random.Random(3).randbytes(3000).hex()  # journals are deflated
PAYMENTS = 6


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of our own."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", place],
                                           check=False, capture_output=True).returncode:  # fmt: skip
        pytest.skip("only root can mount a disk; the test with a limit on file sizes says the same")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", place], check=True)


def fill(place: Path, room_bytes: int) -> Path:
    """Leave so much room, and no more."""
    ballast = place / "ballast"
    left = os.statvfs(place)
    ballast.write_bytes(bytes(max(0, left.f_bavail * left.f_frsize - room_bytes)))
    return ballast


@asynccontextmanager
async def world(files: Files, path: Path) -> AsyncIterator[Session]:
    """A session whose model pays again and again; each payment leaves a line elsewhere, and a long result here."""

    @tool
    async def pay(amount: int, context: CallContext) -> str:
        """Pay."""
        files.add(files.effects, {"what": amount, "key": context.idempotency_key})
        return RESULT

    def say(messages: Any) -> Any:
        asked = max(at for at, message in enumerate(messages) if message.role == "user")
        if messages[asked].text != "Pay":
            return "Hello."
        turn = sum(message.role == "assistant" for message in messages[asked:])
        return [call("pay", amount=turn)] if turn < PAYMENTS else "Paid."

    store = SqliteStore(path)
    agent = Agent(model=Scripted(say), tools=[pay], store=Noting(store, files))  # type: ignore[arg-type]
    try:
        yield agent.session("s", lease_ttl_s=0.2, busy_wait_s=30)
    finally:
        await store.aclose()


async def check_paid(files: Files, session: Session) -> None:
    """Nothing acknowledged is lost; each payment was made at most once, and only after its intent was written."""
    placed = await session.journal.read()
    begun = sum(isinstance(each.entry, Intended) for each in placed)
    promised = max(line["after"] + len(line["bodies"]) for line in Files.lines(files.promises))
    assert len(placed) >= promised
    paid = Files.lines(files.effects)
    assert len(paid) <= begun
    assert max(Counter(each["what"] for each in paid).values(), default=0) <= 1
    told = [result.error.code if result.error else None for message in fold_messages(await session.state())
            for result in message.results]  # fmt: skip
    assert set(told) <= {None, "outcome_unknown"}
    assert told.count(None) <= len(paid)


def fold_messages(state: SessionState) -> list[Any]:
    return [message for message in state.messages if message.role == "tool"]


async def test_a_run_goes_on_when_the_full_disk_has_room_again(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "APPEND_WAIT_S", 0.001)
    ends: Counter[str] = Counter()
    for pages in range(0, 64, 4):
        files = Files(tmp_path / str(pages))
        files.folder.mkdir()
        async with world(files, disk / "sessions.db") as session:
            await session.run("Hello", key="hello")
            ballast = fill(disk, pages * PAGE)
            try:
                await session.run("Pay", key="pay")
                ends["paid"] += 1
            except StoreUnavailable:
                ends[f"stopped after {len(Files.lines(files.effects))} payments"] += 1
            await check_paid(files, session)
            ballast.unlink()
            run = await session.run("Pay", key="pay")
            assert (run.stop, run.output) == ("done", "Paid.")
            await check_paid(files, session)
        for path in disk.iterdir():
            path.unlink()
    print(f"\nfull disk: {dict(ends)}")
    assert len(ends) > 3, "it was full at different moments"
    assert StoreUnavailable.retryable


def test_a_run_goes_on_when_its_file_may_grow_again(tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    for pages in range(12, 44, 4):
        folder = tmp_path / str(pages)
        folder.mkdir()
        for sizes_max in (pages * PAGE, 0):
            job = {"url": f"sqlite:///{folder / 'sessions.db'}", "session": "s", "folder": str(folder), "key": "k",
                   "ttl_s": 60, "wait_s": 0, "hurry": True, "sizes_max": sizes_max}  # fmt: skip
            told = subprocess.run(
                [sys.executable, "-m", "faults.session_holder", json.dumps(job)], cwd=TESTS, capture_output=True,
                text=True, check=True,
            )  # fmt: skip
            end = json.loads(told.stdout.splitlines()[-1])
            ends[end["end"]] += 1
            if sizes_max:
                assert end["end"] == "done" or end == {"end": "StoreUnavailable", "retryable": True}
        assert end["end"] == "done"
        paid = [(each["tool"], each["what"]) for each in Files.lines(Files(folder).effects)]
        assert len(paid) == len(set(paid))
        asyncio.run(check(folder))
    print(f"\nlimited file: {dict(ends)}")
    assert ends["StoreUnavailable"] > 2


async def check(folder: Path) -> None:
    files = Files(folder)
    async with world(files, folder / "sessions.db") as session:
        placed = await session.journal.read()
        assert len(Files.lines(files.effects)) <= sum(isinstance(each.entry, Intended) for each in placed)
        assert len(placed) >= max(line["after"] + len(line["bodies"]) for line in Files.lines(files.promises))


async def test_a_file_that_may_not_be_written_is_told(disk: Path, tmp_path: Path) -> None:
    files = Files(tmp_path)
    path = disk / "sessions.db"
    async with world(files, path) as session:
        await session.run("Hello")
    remount(disk, "ro")
    async with world(files, path) as session:
        with pytest.raises(StoreUnavailable):
            await session.run("Pay")
    assert Files.lines(files.effects) == []
    remount(disk, "rw")
    async with world(files, path) as session:
        assert (await session.run("Pay")).output == "Paid."


# --- damage ---


@pytest.fixture
async def whole(tmp_path: Path) -> Path:
    """A file with a session of 21 entries."""
    files = Files(tmp_path)
    async with world(files, tmp_path / "whole.db") as session:
        await session.run("Hello")
        await session.run("Pay")
    return tmp_path / "whole.db"


async def said(path: Path) -> SessionState:
    async with world(Files(path.parent), path) as session:
        return await session.state()


async def look(path: Path, right: SessionState) -> str:
    """What a damaged file is taken for."""
    try:
        state = await said(path)
    except SessionNotFound:
        return "not found"
    except StoreError as error:
        return type(error).__name__
    return "as it was" if state == right else f"another state, of {state.seq} entries"


async def test_damaged_pages_are_told_and_never_an_empty_session(whole: Path, tmp_path: Path) -> None:
    right, good = await said(whole), whole.read_bytes()
    chance = random.Random(7)
    seen: Counter[str] = Counter()
    for page in range(len(good) // PAGE):
        for filler in (bytes(PAGE), b"\xff" * PAGE, chance.randbytes(PAGE)):
            damaged = tmp_path / "damaged.db"
            damaged.write_bytes(good[: page * PAGE] + filler + good[(page + 1) * PAGE :])
            seen[await look(damaged, right)] += 1
        cut = tmp_path / "cut.db"
        cut.write_bytes(good[: max(1, page) * PAGE])
        seen[f"cut: {await look(cut, right)}"] += 1
    print(f"\npages: {dict(seen)}")
    assert not [what for what in seen if "another" in what]
    assert seen["JournalDamaged"] > len(good) // PAGE


async def test_flipped_bytes_never_give_another_state(whole: Path, tmp_path: Path) -> None:
    right, good = await said(whole), whole.read_bytes()
    chance = random.Random(11)
    seen: Counter[str] = Counter()
    written = [at for at in range(len(good)) if any(good[max(0, at - 1) : at + 2])]  # most of the file is empty
    for _ in range(600):
        damaged = tmp_path / "damaged.db"
        at = chance.choice(written)
        damaged.write_bytes(good[:at] + bytes([good[at] ^ 1 << chance.randrange(8)]) + good[at + 1 :])
        seen[await look(damaged, right)] += 1
    print(f"\nbytes: {dict(seen)}")
    assert not [what for what in seen if "another" in what]
    assert seen["JournalDamaged"] > 300


@pytest.mark.parametrize("body", ["NULL", "7", "1.5", "'text'"])
async def test_a_body_that_is_no_bytes_is_told(whole: Path, body: str) -> None:
    db = sqlite3.connect(whole)
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_schema SET sql = replace(sql, 'body BLOB NOT NULL', 'body') WHERE name = 'events'")
    db.commit()
    db.close()
    db = sqlite3.connect(whole)  # reads the schema as it is now
    db.execute(f"UPDATE events SET body = {body} WHERE seq = 5")
    db.commit()
    db.close()
    with pytest.raises(JournalDamaged):
        await said(whole)


DAMAGE: dict[str, str] = {
    "a byte of a body": "UPDATE events SET body = CAST(substr(body, 1, 20) || x'00' || substr(body, 22) AS BLOB)"
    " WHERE seq = 5",
    "a shorter body": "UPDATE events SET body = substr(body, 1, length(body) - 1) WHERE seq = 5",
    "an empty body": "UPDATE events SET body = x'' WHERE seq = 5",
    "two bodies swapped": "UPDATE events SET body = (SELECT e.body FROM events e WHERE e.owner_id = events.owner_id AND"
    " e.seq = 11 - events.seq) WHERE seq IN (5, 6)",
    "another kind": "UPDATE events SET kind = 'noted' WHERE seq = 6",
    "another number": "UPDATE events SET seq = 1000 WHERE seq = 6",
    "the first is gone": "DELETE FROM events WHERE seq = 1",
    "one is gone": "DELETE FROM events WHERE seq = 7",
    "the last is gone": "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)",
    "the last five are gone": "DELETE FROM events WHERE seq > (SELECT max(seq) FROM events) - 5",
    "all are gone": "DELETE FROM events",
    "another secret": "UPDATE secrets SET secret = zeroblob(32)",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
async def test_a_changed_journal_is_told(whole: Path, tmp_path: Path, statement: str) -> None:
    db = sqlite3.connect(whole)
    assert db.execute(statement).rowcount > 0
    db.commit()
    db.close()
    with pytest.raises(JournalDamaged):
        await said(whole)
    async with world(Files(tmp_path), whole) as session:
        for attempt in (lambda: session.run("Pay"), session.resume, lambda: session.note({"a": 1})):
            with pytest.raises(JournalDamaged):
                await attempt()


async def test_a_session_cut_together_with_its_number_of_entries_is_taken_for_an_older_one(whole: Path) -> None:
    db = sqlite3.connect(whole)
    db.execute("DELETE FROM events WHERE seq > 3")
    db.execute("UPDATE sessions SET last_seq = 3")
    db.commit()
    db.close()
    assert (await said(whole)).seq == 3


async def test_an_emptied_file_is_a_new_one(whole: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    shutil.copy(whole, empty)
    os.truncate(empty, 0)
    with pytest.raises(SessionNotFound):
        await said(empty)


async def test_a_name_damaged_in_the_index_hides_its_session_until_the_file_is_checked(whole: Path) -> None:
    good = whole.read_bytes()
    name = good.rindex(b"defaults")  # tenant and session, as the index has them
    whole.write_bytes(good[:name] + b"e" + good[name + 1 :])
    with pytest.raises(SessionNotFound):
        await said(whole)
    db = sqlite3.connect(whole)
    assert db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
    db.close()
