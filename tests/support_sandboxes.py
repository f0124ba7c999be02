"""Fixtures of the public API's tests: homes whose supervisor is a real process on a real socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import support_agent
from callbox.sandboxes import starting
from callbox.sandboxes.home import Home
from callbox.sandboxes.host.processes import find_marked, tree_of

TESTS = Path(__file__).parent
END_S = 20.0


@contextlib.contextmanager
def temporary_home(monkeypatch: pytest.MonkeyPatch, program: str, *arguments: str) -> Iterator[Home]:
    """A home whose supervisor is started on demand from a program of the tests; afterwards nothing of it runs."""
    root = Path(tempfile.mkdtemp(prefix="callbox-api-"))
    home = Home(root, root / "images")

    def command(_: Home) -> list[str]:
        words = [word.format(home=home.root, images=home.images) for word in arguments]
        return [sys.executable, str(TESTS / program), *words]

    monkeypatch.setattr(starting, "supervisor_command", command)
    monkeypatch.setenv("CALLBOX_HOME", str(root))
    monkeypatch.delenv("CALLBOX_IMAGES", raising=False)
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    try:
        yield home
    finally:
        end_all(home)
        shutil.rmtree(root, ignore_errors=True)


def supervisor_pids(home: Home) -> list[int]:
    """Processes of the home's supervisor, by their command line."""
    mark = os.fsencode(home.root)
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if mark in words and any(word.endswith(b".py") for word in words) and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_supervisor(home: Home) -> None:
    """As kill -9 does, and wait until it is gone."""
    for pid in supervisor_pids(home):
        os.kill(pid, signal.SIGKILL)
        wait(lambda pid=pid: not is_alive(pid))


def machine_pids(home: Home) -> list[int]:
    """Processes of all machines of a home."""
    from callbox.sandboxes.supervisor.record import is_sandbox_id, machine_id_of

    places = home.sandboxes.iterdir() if home.sandboxes.is_dir() else []
    ids = [machine_id_of(place.name) for place in places if is_sandbox_id(place.name)]
    return [pid for machine_id in ids for pid in tree_of(find_marked(machine_id))]


def end_all(home: Home) -> None:
    kill_supervisor(home)

    def ended() -> bool:
        # Looked for again each time: a machine that was just being started has processes that come late.
        alive = [pid for pid in machine_pids(home) if is_alive(pid)]
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not alive

    wait(ended)


def wait(condition) -> None:
    deadline = time.monotonic() + END_S
    while not condition():
        assert time.monotonic() < deadline, "it did not end"
        time.sleep(0.005)


@pytest.fixture
def home(monkeypatch):
    """Sandboxes with the real agent, without isolation."""
    if support_agent.BWRAP is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    with temporary_home(monkeypatch, "support_agent.py", "--home", "{home}", "--images", "{images}") as made:
        yield made


@pytest.fixture
def bare_home(monkeypatch):
    """Sandboxes whose memory can be saved, with an agent that only pretends."""
    with temporary_home(monkeypatch, "support_bare.py", "{home}") as made:
        yield made
