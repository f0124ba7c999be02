from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from callbox import Sandbox, errors
from callbox.sandboxes import starting
from callbox.sandboxes.client import Client
from callbox.sandboxes.pool import Pool
from callbox.sandboxes.sandbox import Snapshot
from callbox.sandboxes.spec import Lifetime
from support_sandboxes import kill_supervisor, machine_pids, supervisor_pids


async def test_a_command_runs_and_says_how_it_ended(home):
    async with Sandbox.create("python") as box:
        result = await box.run("echo out; echo err >&2; exit 3")
        assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
        assert not result.ok
        assert not result.truncated
        assert result.duration_ms > 0
        assert box.receipt.tier == "new"
    assert await Sandbox.list() == []


async def test_a_list_is_no_shell_line_and_options_reach_the_command(home):
    async with Sandbox.create("python", env={"A": "1"}) as box:
        assert (await box.run(["echo", "$HOME;", "x y"])).stdout == "$HOME; x y\n"
        result = await box.run("pwd; echo $A$B", cwd="/tmp", env={"B": "2"})
        assert result.stdout == "/tmp\n12\n"
        assert (await box.run("cat", stdin="é" * 200_000)).stdout_bytes == 400_000
        assert (await box.run("true", stdin=b"nobody reads this" * 100_000)).ok
        slow = await box.run("echo begun; sleep 60", timeout_s=0.3)
        assert (slow.timed_out, slow.signal, slow.exit_code, slow.stdout) == (True, 9, 137, "begun\n")


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": ""},
        {"command": []},
        {"command": b"ls"},
        {"command": 7},
        {"command": [b"ls"]},
        {"command": ["ls", None]},
        {"command": "ls \udcff"},
        {"command": ["ls", "\udcff"]},
        {"command": ["ls", "a\0b"]},
        {"env": {"A": "\udcff"}},
        {"env": {"A=B": "c"}},
        {"env": {"A": 1}},
        {"cwd": "\udcff"},
        {"user": "nobody"},
        {"timeout_s": 0},
    ],
)
async def test_what_makes_no_sense_is_refused_before_it_is_sent(home, wrong):
    async with Sandbox.create("python") as box:
        with pytest.raises(errors.ConfigurationError) as caught:
            await box.run(**{"command": "true", **wrong})
        assert caught.value.hint


async def test_output_is_heard_as_it_comes_and_characters_stay_whole(home):
    heard = []

    async def hear(output, text):
        heard.append((output, text))

    async with Sandbox.create("python") as box:
        await box.run("printf '\\303'; sleep 0.1; printf '\\251'; echo e >&2", on_output=hear)
        await box.run("echo plain", on_output=lambda output, text: heard.append((output, text)))
    assert "".join(text for output, text in heard if output == "stdout") == "éplain\n"
    assert ("stderr", "e\n") in heard


async def test_a_long_output_keeps_head_and_tail_and_the_rest_is_readable(home):
    async with Sandbox.create("python") as box:
        result = await box.run("seq 100000", output_bytes_max=200)
        assert result.truncated
        assert result.stdout.startswith("1\n2\n")
        assert result.stdout.endswith("100000\n")
        assert f"{result.stdout_bytes - 200:,} bytes left out" in result.stdout
        process = box.process(result.process_id)
        assert (await process.stdout.read(0, 4)) == b"1\n2\n"
        assert len(await process.stdout.read(0)) == result.stdout_bytes


async def test_a_cancelled_run_ends_the_command(home):
    async with Sandbox.create("python") as box:
        began = asyncio.Event()
        running = asyncio.create_task(box.run("echo up; sleep 300", on_output=lambda *_: began.set()))
        await began.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        async with asyncio.timeout(10):
            while any(each.running for each in await box.processes()):
                await asyncio.sleep(0.01)


async def test_a_named_sandbox_stays_and_is_found_by_name_label_and_state(home):
    async with Sandbox.create("python", name="mine", labels={"team": "a"}) as box:
        await box.files.write("a.txt", "kept")
    again = await Sandbox.open("mine")
    assert again.id == box.id
    assert (await again.files.read_text("a.txt")) == "kept"
    assert [each.name for each in await Sandbox.list(labels={"team": "a"})] == ["mine"]
    assert await Sandbox.list(labels={"team": "b"}) == []
    assert await Sandbox.list(states=["failed"]) == []
    with pytest.raises(errors.SandboxExists):
        await Sandbox.create("python", name="mine")
    await again.update(labels={"team": "b"}, lifetime=Lifetime(idle_s=5))
    assert again.last_info.labels == {"team": "b"}
    assert again.last_info.spec["lifetime"]["idle_s"] == 5
    async with Sandbox.open("mine"):
        pass
    await again.delete()
    await again.delete()
    assert again.state == "gone"
    with pytest.raises(errors.SandboxNotFound):
        await Sandbox.open("mine")


async def test_a_sandbox_without_a_name_can_be_kept(home):
    async with Sandbox.create("python", keep=True) as kept:
        pass
    async with Sandbox.create("python", name="not-kept", keep=False):
        pass
    assert [box.id for box in await Sandbox.list()] == [kept.id]


async def test_a_call_wakes_it_and_the_receipt_says_from_what(home):
    async with Sandbox.create("python") as box:
        process = await box.spawn("cat", stdin=True)
        assert (await box.standby("hot")).state == "hot"
        receipt = await box.resume()
        assert receipt.tier == "hot"
        assert receipt.ms > 0
        assert next(repair["name"] for repair in receipt.repairs) == "entropy"
        await box.standby()
        await process.write("still here\n")
        assert await anext(process.stdout.lines()) == "still here"
        assert (await box.stats()).state == "running"
        assert any("hot" in line for line in await box.logs())


@pytest.mark.parametrize("stdin", [None, "input"])
async def test_a_run_ends_whoever_puts_it_to_standby_meanwhile(home, stdin):
    async with Sandbox.create("python") as box:
        began = asyncio.Event()
        command = "cat; echo up; sleep 0.5; echo done"
        running = asyncio.create_task(box.run(command, stdin=stdin, on_output=lambda *_: began.set()))
        await began.wait()
        await box.standby()
        assert (await asyncio.wait_for(running, 10)).stdout.endswith("up\ndone\n")
        first = asyncio.create_task(box.run("echo first"))
        await asyncio.gather(box.standby(), first)
        assert first.result().stdout == "first\n"


async def test_a_run_outlives_a_supervisor_that_is_stopped(home):
    box = await Sandbox.create("python", name="survivor")
    began = asyncio.Event()
    running = asyncio.create_task(box.run("echo up; sleep 0.5; echo done", on_output=lambda *_: began.set()))
    await began.wait()
    other = Client(home)
    await other.stop_supervisor()
    assert (await asyncio.wait_for(running, 20)).stdout == "up\ndone\n"


async def test_snapshots_forks_and_restores_are_sandboxes_of_their_own(bare_home):
    box = await Sandbox.create("python", name="parent")
    snapshot = await box.snapshot("kept")
    assert [each.name for each in await Snapshot.list()] == ["kept"]
    kids = await box.fork(2, names=["kid-1", "kid-2"])
    assert [kid.name for kid in kids] == ["kid-1", "kid-2"]
    assert kids.pause_ms > 0
    restored = await snapshot.restore(name="back")
    by_name = await Sandbox.restore("kept")
    assert len({each.id for each in [box, *kids, restored, by_name]}) == 5
    assert restored.receipt is not None
    async with Sandbox.restore("kept") as passing:
        pass
    assert passing.state == "gone"
    await (await Snapshot.open("kept")).remove()
    await snapshot.remove()
    assert await Snapshot.list() == []
    with pytest.raises(errors.SandboxNotFound):
        await Sandbox.restore("kept")


async def test_a_pool_keeps_machines_ready(bare_home):
    async with Pool("python", 2) as pool:
        assert pool.size == 2
        async with pool.take() as box:
            assert box.state == "running"
        named = await pool.take(name="from-pool")
    assert [each.name for each in await Sandbox.list()] == ["from-pool"]
    assert named.name == "from-pool"
    with pytest.raises(errors.ConfigurationError):
        Pool("python", 0)


async def test_a_killed_supervisor_is_replaced_and_nothing_is_noticed(home):
    box = await Sandbox.create("python", name="survivor")
    process = await box.spawn("for i in $(seq 200); do echo $i; sleep 0.01; done")
    lines = []
    async for line in process:
        lines.append(line)
        if len(lines) == 20:
            await asyncio.to_thread(kill_supervisor, home)
    assert lines == [str(i) for i in range(1, 201)]
    assert (await process.wait()).exit_code == 0
    await asyncio.to_thread(kill_supervisor, home)
    assert (await box.info()).state == "running"
    await asyncio.to_thread(kill_supervisor, home)
    await box.files.write("a", "b" * 300_000)
    await asyncio.to_thread(kill_supervisor, home)
    assert len(await box.files.read("a")) == 300_000


async def test_a_run_survives_the_supervisor_that_it_was_asked_of(home):
    box = await Sandbox.create("python", name="survivor")
    began = asyncio.Event()
    running = asyncio.create_task(box.run("echo up; sleep 1; echo done", on_output=lambda *_: began.set()))
    await began.wait()
    await asyncio.to_thread(kill_supervisor, home)
    assert (await running).stdout == "up\ndone\n"


async def test_what_must_not_be_done_twice_is_reported_as_unknown(home):
    box = await Sandbox.create("python", name="survivor")
    client = Client.of()
    channel = await client.channel()

    async def lose(_):
        await asyncio.to_thread(kill_supervisor, home)
        return await channel.call("sandbox.get", sandbox=box.id)

    with pytest.raises(errors.SandboxLost, match="not known"):
        await client.attempt("sandbox.fork", lose, repeat=False)
    assert (await box.info()).name == "survivor"


async def test_a_supervisor_is_stopped_and_the_next_call_starts_another(home):
    box = await Sandbox.create("python", name="survivor")
    await box.standby()
    await Client.of().stop_supervisor()
    assert supervisor_pids(home) == []
    assert [each.name for each in await Sandbox.list()] == ["survivor"]


async def test_many_clients_start_one_supervisor(home):
    clients = [Client(home) for _ in range(8)]
    await asyncio.gather(*(client.channel() for client in clients))
    assert len(supervisor_pids(home)) == 1
    await asyncio.gather(*(client.aclose() for client in clients))


async def test_a_supervisor_that_cannot_start_is_quoted(home, monkeypatch):
    command = ["/bin/sh", "-c", "echo first; echo the reason >&2; exit 1"]
    monkeypatch.setattr(starting, "supervisor_command", lambda _: command)
    with pytest.raises(errors.SandboxError, match="the reason") as caught:
        await Sandbox.list()
    assert str(home.log) in caught.value.hint


async def test_a_supervisor_that_never_answers_is_given_up(home, monkeypatch):
    monkeypatch.setattr(starting, "supervisor_command", lambda _: ["/bin/sh", "-c", "echo stuck; exec sleep 2"])
    monkeypatch.setattr(starting, "START_DEADLINE_S", 0.3)
    with pytest.raises(errors.SandboxError, match="did not answer"):
        await Sandbox.list()


async def test_a_dead_machine_is_reported_as_lost(home):
    box = await Sandbox.create("python", name="doomed")
    running = asyncio.create_task(box.run("sleep 300"))
    async with asyncio.timeout(10):
        while not any(each.running for each in await box.processes()):
            await asyncio.sleep(0.01)
    for pid in machine_pids(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.SandboxLost):
        await running


async def test_a_port_is_forwarded_both_ways(home):
    async with Sandbox.create("python") as box:
        server = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=18763)"
        await box.files.write("hello.txt", "from inside")
        process = await box.spawn(["python3", "-c", server], wait_port=18763, keep_alive=True)
        assert 18763 in [each.port for each in await box.ports()]
        async with box.forward(18763) as forward:
            reader, writer = await asyncio.open_connection("127.0.0.1", forward.host_port)
            writer.write(b"GET /hello.txt HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(b"from inside")
            writer.close()
            with pytest.raises(errors.HostUnsuited):
                await box.forward(18763, forward.host_port)
        await process.kill()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", forward.host_port)


async def test_a_server_that_does_not_come_up_is_quoted_and_ended(home):
    async with Sandbox.create("python") as box:
        with pytest.raises(errors.SandboxError, match="my last words"):
            await box.spawn("echo my last words; exit 4", wait_port=18764)
        with pytest.raises(errors.SandboxError, match="Nothing listened"):
            await box.spawn("sleep 300", wait_port=18764, port_timeout_s=0.3)
        assert not any(each.running for each in await box.processes())
