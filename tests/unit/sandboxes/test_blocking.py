from __future__ import annotations

import inspect

import pytest

from callbox import errors
from callbox.sandboxes import blocking, files, pool, process, sandbox
from callbox.sandboxes.blocking import Pool, Sandbox, Snapshot


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
        (kid,) = box.fork(1)
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
