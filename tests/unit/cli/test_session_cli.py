"""`callbox session` and `callbox approvals`, command by command, on a SQLite file."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import stat
from contextlib import asynccontextmanager, closing

import pytest
from typer.testing import CliRunner

from callbox.cli import approvals, session, session_tables
from callbox.cli.main import app
from callbox.sessions.journal import Journal
from callbox.sessions.place import open_sessions
from callbox.stores.store import SessionKey
from support_sessions import agent, call

PAY = ([call("pay", amount=5)], "Paid.")
HIDDEN = "a\u200bb\u202ec" + " " * 3 + "\x1b[31m"
REFUND = ([call("refund", amount=9, note=HIDDEN)], "Done.")
UTC_OFFSET = re.compile(r"[+-]\d{4}")


@pytest.fixture(autouse=True)
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLBOX_HOME", str(tmp_path / "home"))
    found = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("CALLBOX_STORE", found)
    return found


def ask(*words, code=0, stdin=None):
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"}, input=stdin)
    assert result.exit_code == code, result.output
    return result.output


def ask_json(*words, code=0):
    return json.loads(ask(*words, "--json", code=code))


@asynccontextmanager
async def kept(url):
    store = open_sessions(url)
    yield store
    await store.aclose()


def say(url, name, prompt, *turns, **options):
    async def work():
        async with kept(url) as store:
            return await agent(store, [], *turns).session(name, **options).run(prompt)

    return asyncio.run(work())


def test_sessions_are_listed(url):
    say(url, "a", "Pay 5", *PAY, ttl_s=3_700)
    say(url, "b", "Refund", *REFUND)
    shown = ask("session", "ls")
    assert re.search(r"a +idle +6 +\d+ s ago +in 1 h", shown)
    assert re.search(r"b +waiting +3 ", shown)
    assert [each["session"] for each in ask_json("session", "ls", "--status", "waiting")] == ["b"]
    assert ask_json("session", "ls", "--tenant", "other") == []
    assert "idle" in ask("session", "ls", "--status", "asleep", code=2)


def test_one_is_shown_with_what_it_waits_for(url):
    run = say(url, "b", "Refund \x1b]0;x\x07 it", *REFUND)
    shown = ask("session", "show", "b")
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "refund: waits for a person" in shown
    assert run.approvals[0].id in shown
    found = ask_json("session", "show", "b")
    assert (found["status"], found["in_use"], found["messages"][0]["role"]) == ("waiting", False, "user")
    assert found["waiting"][0]["arguments"] == {"amount": 9, "note": HIDDEN}
    assert "session_not_found" in ask("session", "show", "c", code=1)


def test_what_is_shown_of_a_finished_one(url):
    say(url, "a", "Pay 5", *PAY)
    found = ask_json("session", "show", "a")
    assert found["run"]["stop"] == "done"
    assert found["messages"][1]["calls"][0]["arguments"] == {"amount": 5}
    assert found["messages"][2]["results"][0]["content"] == "paid 5"
    shown = ask("session", "show", "a")
    assert "pay: paid 5" in shown
    assert shown.count("paid 5") == 1
    assert "text" not in found["messages"][2]


def test_entries_are_printed_from_wherever(url):
    say(url, "a", "Pay 5", *PAY)
    lines = ask("session", "tail", "a").splitlines()
    assert [line.split()[3] for line in lines] == ["began", "replied", "intended", "answered", "replied", "ended"]
    assert len(ask("session", "tail", "a", "-n", "2").splitlines()) == 2
    assert ask("session", "tail", "a", "-n", "0") == ""
    seqs = [json.loads(line)["seq"] for line in ask("session", "tail", "a", "--after", "4", "--json").splitlines()]
    assert seqs == [5, 6]
    assert "session_not_found" in ask("session", "tail", "b", code=1)


def test_a_session_is_forked_and_rewound(url):
    say(url, "a", "Pay 5", *PAY)
    assert ask_json("session", "fork", "a", "b", "--at", "6")["forked_from"] == {"session": "a", "seq": 6}
    assert "already" in ask("session", "fork", "a", "b", code=1)
    assert "session_not_found" in ask("session", "fork", "x", "y", code=1)
    assert "needs an id" in ask("session", "fork", "a", "", code=2)
    say(url, "b", "More", "Yes.")
    assert "after entry 6" in ask("session", "rewind", "b", "6")
    assert len(ask_json("session", "show", "b")["messages"]) == 4
    assert "Rewind to" in ask("session", "rewind", "b", "99", code=1)
    assert "between a call and its result" in ask("session", "rewind", "a", "3", code=1)


def test_a_session_is_moved_in_a_file(url, tmp_path):
    say(url, "a", "Pay 5", *PAY)
    one, lines = tmp_path / "one.json", tmp_path / "lines.jsonl"
    ask("session", "export", "a", str(one))
    ask("session", "export", "a", str(lines), "--lines")
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert "already" in ask("session", "export", "a", str(one), code=2)
    ask("session", "export", "a", str(one), "--force")
    assert "already" in ask("session", "import", str(one), code=1)
    other = f"sqlite:///{tmp_path}/other.db"
    assert ask_json("session", "import", str(one), "--store", other)["session"] == "a"
    assert ask_json("session", "import", str(lines), "--as", "b")["entries"] == 7
    assert "needs an id" in ask("session", "import", str(one), "--as", "", code=2)
    piped = ask("session", "export", "a", "--lines")
    assert "has the 6 entries of a" in ask("session", "import", "-", "--as", "c", stdin=piped)
    messages = ask_json("session", "show", "a")["messages"]
    assert ask_json("session", "show", "a", "--store", other)["messages"] == messages
    assert ask_json("session", "show", "c")["messages"] == messages
    assert sorted(path.name for path in tmp_path.iterdir() if "json" in path.name) == ["lines.jsonl", "one.json"]


def test_a_bad_file_is_refused(url, tmp_path):
    say(url, "a", "Pay 5", *PAY)
    cut = tmp_path / "cut.jsonl"
    cut.write_text("\n".join(ask("session", "export", "a", "--lines").splitlines()[:-1]))
    assert "journal_damaged" in ask("session", "import", str(cut), "--as", "b", code=1)
    assert "No such file" in ask("session", "import", str(tmp_path / "none"), code=1)
    assert [each["session"] for each in ask_json("session", "ls")] == ["a"]


def test_sessions_are_erased(url):
    for name in "abc":
        say(url, name, "Pay 5", *PAY)
    ask("session", "fork", "a", "d")
    ask("session", "fork", "d", "e")
    assert "--yes" in ask("session", "erase", "a", code=2), "nobody can be asked here"
    assert "session_has_forks" in ask("session", "erase", "a", "--yes", code=1)
    assert ask_json("session", "erase", "a", "d", "--forks", "--yes")["erased"] == ["e", "d", "a"]
    assert "erased b" in ask("session", "erase", "b", "x", "c", "--yes", code=1), "and then there was no x"
    assert [each["session"] for each in ask_json("session", "ls")] == ["c"]


def test_what_is_over_is_collected(url, tmp_path):
    say(url, "a", "Pay 5", *PAY, ttl_s=1e-6)
    say(url, "b", "Pay 5", *PAY, ttl_s=1_000)
    say(url, "c", "Pay 5", *PAY)
    assert ask_json("session", "gc") == [{"tenant": "default", "session": "a", "fate": "erased"}]
    say(url, "d", "Pay 5", *PAY, ttl_s=1e-6)
    ask("session", "fork", "d", "e")

    async def keep():
        async with kept(url) as store, Journal(store, SessionKey("default", "e")).writing() as writer:
            await writer.expire_at(None)

    asyncio.run(keep())
    assert "kept d of default: has forks" in ask("session", "gc")
    assert [each["session"] for each in ask_json("session", "ls")] == ["b", "c", "d", "e"]


def test_what_is_over_is_collected_behind_a_session_that_cannot_be_read(url, tmp_path):
    for name in ("a", "b"):
        say(url, name, "Pay 5", *PAY, ttl_s=1e-6)
    with closing(sqlite3.connect(tmp_path / "store.db")) as db, db:
        db.execute("UPDATE sessions SET status = x'ff' WHERE session = 'a'")
    fates = {each["session"]: each["fate"] for each in ask_json("session", "gc")}
    assert fates == {"a": "damaged", "b": "erased"}
    said = ask("session", "gc")
    assert "kept a of default: damaged" in said
    assert "erased 0, kept 1" in said


def test_a_person_approves_from_another_process(url):
    say(url, "a", "Refund it", *REFUND)
    [waits] = ask_json("approvals", "ls")
    assert waits["id"] in ask("approvals", "ls")
    done = ask_json("approvals", "approve", waits["id"], "--by", "kim", "--note", "fine")
    assert (done["approved"], done["by"], done["note"]) == (True, "kim", "fine")
    assert "Nothing waits" in ask("approvals", "ls")
    assert "No session waits" in ask("approvals", "refuse", waits["id"], code=1)
    assert "already" in ask("approvals", "refuse", waits["id"], "--session", "a", code=1)
    assert "approved by kim" in ask("approvals", "show", waits["id"], "--session", "a")


def test_a_person_refuses(url, monkeypatch):
    monkeypatch.setenv("LOGNAME", "kim")
    say(url, "a", "Refund it", *REFUND)
    [waits] = ask_json("approvals", "ls")
    assert "refused refund in a, by kim" in ask("approvals", "refuse", waits["id"], "--note", "too much")
    assert ask_json("approvals", "ls") == []


def test_who_decides_must_be_known(url, monkeypatch):
    say(url, "a", "Refund it", *REFUND)
    [waits] = ask_json("approvals", "ls")

    def nobody():
        raise OSError("No username.")

    monkeypatch.setattr(approvals.getpass, "getuser", nobody)
    assert "--by" in ask("approvals", "approve", waits["id"], code=2)
    assert "Who decides" in ask("approvals", "approve", waits["id"], "--by", "", code=1)


def test_all_of_what_is_approved_is_shown_and_nothing_hides(url):
    long = "x" * 30_000
    turns = ([call("refund", amount=9, note=HIDDEN + long)], "Done.")
    run = say(url, "a", "Refund it", *turns)
    approval = run.approvals[0]
    shown = ask("approvals", "show", approval.id)
    assert "\\u200b" in shown
    assert "\\u202e" in shown
    assert "\x1b" not in shown
    assert shown.count("x") >= 30_000
    assert approval.digest in shown
    assert "by the run of: Refund it" in shown
    assert UTC_OFFSET.search(shown), "a time without its zone is none"
    found = ask_json("approvals", "show", approval.id)
    assert (found["arguments"]["note"], found["asked_for"]) == (HIDDEN + long, "Refund it")
    assert "approval_error" in ask("approvals", "show", "apr_other", code=1)


def test_a_session_that_somebody_works_on_is_busy(url, monkeypatch):
    monkeypatch.setattr(approvals, "BUSY_WAIT_S", 0)
    monkeypatch.setattr(session, "BUSY_WAIT_S", 0)
    run = say(url, "a", "Refund it", *REFUND)

    async def work():
        async with kept(url) as store, Journal(store, SessionKey("default", "a")).writing():
            words = [["approvals", "approve", run.approvals[0].id], ["session", "rewind", "a", "0"]]
            said = [await asyncio.to_thread(ask, *each, code=1) for each in words]
            return [*said, await asyncio.to_thread(ask, "session", "ls")]

    *said, listed = asyncio.run(work())
    assert all("session_busy" in each and "in use by process" in each for each in said)
    assert "waiting (in use)" in listed


def test_the_default_store_is_that_of_an_agent(tmp_path, monkeypatch):
    monkeypatch.delenv("CALLBOX_STORE")
    say(None, "mine", "Hello", "Hello.")
    assert [each["session"] for each in ask_json("session", "ls")] == ["mine"]
    assert (tmp_path / "home" / "sessions.db").exists()


LOOKS = {
    "session ls": "No sessions",
    "session show a": "session_not_found",
    "session tail a": "session_not_found",
    "session fork a b": "session_not_found",
    "session rewind a 1": "session_not_found",
    "session export a": "session_not_found",
    "session erase a --yes": "session_not_found",
    "session gc": "erased 0",
    "approvals ls": "Nothing waits",
    "approvals show apr_1": "No session waits",
    "approvals approve apr_1": "No session waits",
    "approvals refuse apr_1": "No session waits",
}


@pytest.mark.parametrize("command", LOOKS)
def test_who_only_looks_makes_no_store(command, tmp_path, monkeypatch):
    mistyped = f"sqlite:///{tmp_path}/not/there.db"
    assert "There is no file" in ask(*command.split(), "--store", mistyped, code=2)
    monkeypatch.delenv("CALLBOX_STORE")  # nobody said where, and nothing was ever kept there
    result = CliRunner().invoke(app, command.split(), env={"COLUMNS": "200"})
    assert LOOKS[command] in result.output
    assert list(tmp_path.iterdir()) == []


def test_what_is_imported_makes_its_store(url, tmp_path):
    say(url, "a", "Pay 5", *PAY)
    ask("session", "export", "a", str(tmp_path / "a.json"))
    other = f"sqlite:///{tmp_path}/other/store.db"
    ask("session", "import", str(tmp_path / "a.json"), "--store", other)
    assert [each["session"] for each in ask_json("session", "ls", "--store", other)] == ["a"]


def test_a_wrong_store_is_a_wrong_use():
    assert "There is no store" in ask("session", "ls", "--store", "mysql://root:secret@host/db", code=2)
    assert "secret" not in ask("session", "ls", "--store", "mysql://root:secret@host/db", code=2)
    assert "needs Redis" in ask("session", "--durability", "interval", "ls", code=2)


def test_a_run_that_nobody_works_on_is_unfinished(url):
    async def work():
        async with kept(url) as store:
            made = agent(store, [], "Hello.").session("a", reach=_stop)
            with pytest.raises(KeyError):
                await made.run("Hello")
            return session_tables.status_of(await store.info(made.journal.key))

    assert asyncio.run(work()) == "unfinished"
    assert "unfinished" in ask("session", "ls")


def _stop(point):
    if point == "reply.before":
        raise KeyError
