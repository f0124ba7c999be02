from __future__ import annotations

import asyncio
import inspect
import os
import signal
import warnings

import pytest

from callbox import errors
from callbox.sandboxes import blocking, files, pool, process, sandbox
from callbox.sandboxes.blocking import Pool, Sandbox, Snapshot
from callbox.sandboxes.client import Client


def test_the_first_minute_without_async(home, tmp_path):
    with Sandbox.create("python") as box:
        assert box.run("python3 -c 'print(6*7)'").stdout == "42\n"
        box.files.write("a.txt", "hello")
        assert box.files.read("a.txt") == b"hello"
        box.files.download("a.txt", tmp_path / "a.txt")
        server = box.spawn("echo up; read x; echo $x", stdin=True)
        assert next(server.stdout.lines()) == "up"
        server.write("down\n")
        server.close_stdin()
        assert list(server) == ["up", "down"]
        assert server.wait().exit_code == 0
        assert server.stdout.read(0) == b"up\ndown\n"
        assert [chunk.offset for chunk in server.chunks(stdout_offset=3)] == [3]
        assert box.standby().state == "hot"
        assert box.resume().tier == "hot"
        with box.forward(80) as forward:
            assert forward.host_port > 0
        with box.spawn("sleep 300") as sleeper:
            pass
        assert box.process(sleeper.id).wait().signal == 9
    assert Sandbox.list() == []


def test_changes_are_an_iterator(home):
    with Sandbox.create("python") as box:
        writer = box.spawn("while :; do date > changing; sleep 0.05; done")
        changes = box.files.watch()
        assert next(changes).path
        changes.close()
        writer.kill()


def test_snapshots_forks_and_pools(bare_home):
    with Pool("python", 1) as waiting, waiting.take(name="taken") as box:
        snapshot = box.snapshot("kept")
        assert Snapshot.open("kept").id == snapshot.id
        (kid,) = forks = box.fork(1)
        assert forks.pause_ms > 0
        kid.delete()
        with snapshot.restore() as back:
            assert back.name == back.id
        snapshot.remove()
        assert Snapshot.list() == []
    found = Sandbox.open("taken")
    found.delete()
    assert found.state == "gone"
    with pytest.raises(errors.SandboxNotFound):
        Sandbox.open("taken")


def in_a_fork(work):
    """The exit code of a forked process that does `work`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other threads are not in the child is what is tested here
        pid = os.fork()
    if not pid:
        signal.alarm(20)
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_process_uses_the_same_object_and_so_does_its_parent(home):
    with Sandbox.create("python") as box:
        assert in_a_fork(lambda: box.run("echo child").stdout == "child\n") == 0
        assert box.run("echo parent", timeout_s=10).stdout == "parent\n"


def test_an_object_is_good_in_another_event_loop(home):
    async def use(box=None):
        box = box or await sandbox.Sandbox.create("python", name="travels")
        assert (await asyncio.wait_for(box.run("echo hi"), 10)).stdout == "hi\n"
        assert await box.files.list() == []
        await Client.of().aclose()
        return box

    box = asyncio.run(use())
    asyncio.run(use(box))


async def test_in_a_coroutine_it_is_refused(home):
    with pytest.raises(errors.ConfigurationError, match="coroutine"):
        Sandbox.list()


@pytest.mark.parametrize(
    ("asynchronous", "synchronous"),
    [
        (sandbox.Sandbox, blocking.Sandbox),
        (sandbox.Snapshot, blocking.Snapshot),
        (files.Files, blocking.Files),
        (process.Process, blocking.Process),
        (pool.Pool, blocking.Pool),
    ],
)
def test_nothing_of_the_asynchronous_api_is_missing(asynchronous, synchronous):
    def public(of):
        return {name for name, value in vars(of).items() if not name.startswith("_") and inspect.isroutine(value)}

    only_async = {"from_reply", "watching"}
    assert (
        public(asynchronous)
        - public(synchronous)
        - only_async
        - {name for name, value in vars(synchronous).items() if isinstance(value, staticmethod)}
        == set()
    )
