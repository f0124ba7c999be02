from __future__ import annotations

import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest
from typer.testing import CliRunner

from callbox.cli import sandbox_tables
from callbox.cli.main import app
from callbox.cli.sandbox_copy import local_path
from callbox.errors import PathEscapes
from callbox.sandboxes.blocking import Sandbox

# The commands run in a process of their own where their standard files matter; the supervisor is found by its socket.
PROGRAM = [sys.executable, "-c", "from callbox.cli.main import app; app()", "sandbox"]
DEADLINE_S = 20


def ask(*words, code=0):
    result = CliRunner().invoke(app, ["sandbox", *words], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def box(home):
    ask("create", "python", "--name", "box", "--label", "team=a", "--env", "A=1")
    return "box"


def run(*words, stdin=b""):
    return subprocess.run([*PROGRAM, *words], input=stdin, capture_output=True, timeout=DEADLINE_S, check=False)


def test_the_life_of_a_sandbox(box):
    assert "running" in ask("ls")
    assert "team=a" in ask("ls", "--label", "team=a")
    assert "No sandboxes" in ask("ls", "--label", "team=b")
    assert "memory_mb" in ask("inspect", box)
    assert "hot" in ask("standby", box)
    assert "woken from hot" in ask("resume", box)
    assert "box" in ask("stats")
    assert "created" in ask("logs", box)
    assert "deleted box" in ask("rm", box)
    assert "sandbox_not_found" in ask("inspect", box, code=1)


def test_programs_get_json(box):
    assert [each["name"] for each in json.loads(ask("ls", "--json"))] == ["box"]
    assert json.loads(ask("inspect", box, "--json"))["labels"] == {"team": "a"}
    assert json.loads(ask("standby", box, "--json"))["state"] == "hot"
    assert json.loads(ask("resume", box, "--json"))["tier"] == "hot"
    assert json.loads(ask("stats", box, "--json"))[0]["name"] == "box"
    assert json.loads(ask("exec", box, "--json", "--", "echo", "hi"))["stdout"] == "hi\n"
    assert json.loads(ask("logs", box, "--json"))
    assert json.loads(ask("rm", box, "--json")) == {"deleted": ["box"]}
    made = json.loads(ask("create", "python", "--json"))
    assert made["receipt"]["tier"] == "new"


def test_a_command_inside_is_like_one_here(box):
    done = run("exec", box, "--", "echo $A; echo bad >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"1\n", b"bad\n")
    assert run("exec", box, "--", "printf", "\\033]0;x\\377").stdout == b"\x1b]0;x\xff"
    assert run("exec", box, "-i", "--", "cat", stdin=b"\0\xff" * 100_000).stdout == b"\0\xff" * 100_000
    assert run("exec", box, "--timeout", "0.2", "--", "sleep", "60").returncode == 124
    assert run("exec", "nobody", "--", "true").returncode == 125
    assert run("exec", box, "-e", "X", "--", "true").returncode == 2


def test_a_sandbox_for_one_command_leaves_nothing(home):
    assert "No sandboxes" in ask("ls")  # starts the supervisor of the tests
    done = run("run", "python", "--", "exit 5")
    assert done.returncode == 5, done.stderr
    assert json.loads(ask("run", "python", "--json", "--", "echo hi"))["stdout"] == "hi\n"
    assert Sandbox.list() == []


def test_files_and_folders_are_copied_both_ways(box, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.bin").write_bytes(b"b" * 200_000)
    (folder / "link").symlink_to("/etc/passwd")
    assert "2 files" in ask("cp", str(folder), "box:")
    assert "1 file" in ask("cp", str(folder / "a.txt"), "box:named.txt")
    assert "2 files" in ask("cp", "box:folder", str(tmp_path / "back"))
    assert (tmp_path / "back" / "sub" / "b.bin").read_bytes() == b"b" * 200_000
    assert not (tmp_path / "back" / "link").exists()
    ask("cp", "box:named.txt", str(tmp_path))
    assert (tmp_path / "named.txt").read_text() == "a"
    assert json.loads(ask("cp", "box:named.txt", str(tmp_path / "n"), "--json")) == {"files": 1, "size_bytes": 1}
    ask("cp", str(folder), str(tmp_path / "no"), code=2)
    ask("cp", "box:a", "box:b", code=2)
    ask("cp", str(tmp_path / "missing"), "box:", code=2)
    ask("cp", "box:missing", str(tmp_path), code=1)


@pytest.mark.parametrize("path", ["/work/../etc/passwd", "/etc/passwd", "/work/a/../../b", "/work/a"])
def test_a_sandbox_cannot_name_files_of_ours(path):
    with pytest.raises(PathEscapes):
        local_path("/work/a", path)
    assert local_path("/work/a", "/work/a/b/c") == Path("b/c")


def test_snapshots_and_forks(bare_home):
    ask("create", "python", "--name", "box")
    assert "kept" in ask("snapshot", "box", "--name", "kept")
    assert "kept" in ask("snapshots")
    assert json.loads(ask("snapshots", "--json"))[0]["name"] == "kept"
    assert "back" in ask("restore", "kept", "--name", "back")
    ask("fork", "box", "2", "--name", "one", code=2)
    assert ask("fork", "box", "2", "--name", "one", "--name", "two").split() == ["one", "two"]
    ask("rm", "--snapshot", "kept")
    ask("rm", "box", "back", "one", "two")


@pytest.mark.parametrize(
    "words", [["shell", "box"], ["exec", "-t", "box", "--", "sh"], ["run", "-t", "python", "--", "sh"]]
)
def test_a_shell_has_our_terminal(box, words):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "dumb"
        os.execv(PROGRAM[0], [*PROGRAM, *words])
    try:
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
        os.write(terminal, b"stty size; tty; exit 6\n")
        seen = read_all(terminal)
        assert b"/dev/pts" in seen
        assert b"33 99" in seen
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    finally:
        os.close(terminal)


def test_a_shell_needs_a_terminal(box):
    assert run("shell", box).returncode == 2
    assert run("exec", "-t", box, "--", "true").returncode == 2
    assert run("exec", "-t", "--json", box, "--", "true").returncode == 2


def read_all(terminal):
    seen = b""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # EIO: nobody has the other end any more
                return seen
            if not data:
                return seen
            seen += data
    raise AssertionError(seen)


def test_spans_and_sizes_are_for_people():
    assert [sandbox_tables.ago(each) for each in (-1, 5, 120, 7200, 200_000)] == [
        "0 s ago",
        "5 s ago",
        "2 min ago",
        "2 h ago",
        "2 d ago",
    ]
    assert [sandbox_tables.size(each) for each in (5, 2048, 3 << 20, 4 << 30)] == [
        "5 B",
        "2.0 KiB",
        "3.0 MiB",
        "4.0 GiB",
    ]
