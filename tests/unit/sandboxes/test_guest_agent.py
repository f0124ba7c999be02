"""The real agent as a plain process of this host, asked through the typed client."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from callbox.errors import GuestError, HostUnsuited, PathEscapes, SandboxLost, SandboxNotFound
from callbox.sandboxes.agent.binary import agent_binary, agent_digest
from callbox.sandboxes.channel import Channel, Data
from callbox.sandboxes.guest import STDERR, STDOUT, Change, ExecRequest, ExecStream, Gap, Guest, Output
from support import until
from support_channel import relaying

pytestmark = pytest.mark.timeout(90)


class Agent:
    """One agent and the ends of its two FIFOs: connect again as often as you like."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        os.chown(self.work, os.getuid(), os.getgid())
        self._state = folder / "state"
        self._pipes = [folder / "to", folder / "from"]
        for pipe in self._pipes:
            os.mkfifo(pipe)
        self._keeper = -1
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        # The agent ends, and kills what it started, when the last writer of its input is gone: we keep one open.
        self._keeper = os.open(self._pipes[0], os.O_RDWR)
        into, out = os.open(self._pipes[0], os.O_RDONLY), os.open(self._pipes[1], os.O_RDWR)
        user = ("--uid", str(os.getuid()), "--gid", str(os.getgid()))
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(agent_binary(), "stdio", "--work", self.work, "--state", self._state, *user), stdin=into, stdout=out
            )
        finally:
            os.close(into)
            os.close(out)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Channel]:
        loop = asyncio.get_running_loop()
        reader = StreamReader()
        await loop.connect_read_pipe(
            lambda: StreamReaderProtocol(reader), os.fdopen(os.open(self._pipes[1], os.O_RDWR | os.O_NONBLOCK), "rb", 0)
        )
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(os.open(self._pipes[0], os.O_WRONLY | os.O_NONBLOCK), "wb", 0)
        )
        channel = await Channel.connect(reader, StreamWriter(transport, protocol, None, loop))
        try:
            yield channel
        finally:
            await channel.aclose()

    async def stop(self) -> None:
        os.close(self._keeper)
        assert self._process is not None
        try:
            async with asyncio.timeout(10):
                assert await self._process.wait() == 0
        finally:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    try:
        agent_binary()
    except HostUnsuited as exc:
        pytest.skip(str(exc))
    agent = Agent(tmp_path)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


async def repair(guest: Guest, generation: int = 1) -> list[str]:
    """As a plain process of this host the agent leaves the host's clock and name alone, and says so."""
    repairs = await guest.repair(
        entropy=os.urandom(64),
        realtime_ns=time.time_ns(),
        hostname="test",
        machine_id="0" * 32,
        generation=generation,
    )
    return [each.name for each in repairs]


@pytest.fixture
async def guest(agent: Agent) -> AsyncIterator[Guest]:
    async with agent.connected() as channel:
        guest = Guest(channel)
        await repair(guest)
        yield guest


async def collect(stream: ExecStream) -> tuple[bytes, bytes]:
    found = {STDOUT: b"", STDERR: b""}
    async for item in stream:
        assert isinstance(item, Output)
        found[item.channel] += item.data
    return found[STDOUT], found[STDERR]


def shell(text: str, exec_id: str = "one", **options: Any) -> ExecRequest:
    return ExecRequest(id=exec_id, shell=text, **options)


async def test_welcome_names_the_build(agent: Agent) -> None:
    async with agent.connected() as channel:
        assert channel.welcome["agent"] == agent_digest()
        assert len(channel.welcome["boot_id"]) == 32
        assert channel.welcome["generation"] == 0


async def test_nothing_is_served_before_a_repair(agent: Agent) -> None:
    async with agent.connected() as channel:
        guest = Guest(channel)
        for asked in (guest.exec_start(shell("true")), guest.list("."), guest.port_list(), guest.exec_list()):
            with pytest.raises(GuestError) as caught:
                await asked
            assert caught.value.guest_code == "not_repaired"
        assert abs(await guest.ping() - time.time_ns()) < 60e9
        assert (await guest.info()).generation == 0
        assert await repair(guest, 7) == ["entropy", "clock", "network", "machine_id", "generation"]
        assert (await guest.info()).generation == 7
        assert await guest.exec_list() == []
        await guest.expect_repair()
        with pytest.raises(GuestError):
            await guest.exec_list()
        with pytest.raises(GuestError):
            await repair(guest, 7)  # a repair is never replayed
        await repair(guest, 8)
        await guest.quiesce()


async def test_a_process_runs(guest: Guest) -> None:
    async with await guest.exec_run(shell("echo out; echo err >&2; exit 3", env={"A": "b"})) as stream:
        assert await collect(stream) == (b"out\n", b"err\n")
        result = await stream.result()
    assert (result.exit_code, result.signal, result.running) == (3, None, False)
    assert (result.stdout_end, result.stderr_end) == (4, 4)
    assert await guest.exec_wait("one") == result
    (status,) = await guest.exec_list()
    assert (status.id, status.running, status.exit_code) == ("one", False, 3)
    await guest.exec_forget("one")
    for asked in (guest.exec_wait("one"), guest.exec_signal("one", 9), guest.exec_forget("one")):
        with pytest.raises(SandboxNotFound):
            await asked
    with pytest.raises(SandboxNotFound):
        await collect(await guest.exec_attach("one"))


async def test_what_cannot_be_started_says_why(guest: Guest) -> None:
    with pytest.raises(GuestError) as caught:
        await guest.exec_start(ExecRequest(id="none", argv=["/no/such/program"]))
    assert caught.value.guest_code in ("spawn_failed", "not_found")


async def test_standard_input_is_fed_in_pieces(guest: Guest) -> None:
    await guest.exec_start(shell("sha256sum", stdin="pipe"))
    content = os.urandom(3_000_000)
    async with await guest.exec_stdin("one") as stdin:
        await stdin.send(content[:1_000_000])
        await stdin.send(content[1_000_000:])
        await stdin.end()
        assert await stdin.written() == len(content)
    async with await guest.exec_attach("one") as stream:
        assert (await collect(stream))[0].split()[0].decode() == hashlib.sha256(content).hexdigest()


async def test_a_terminal_echoes_and_knows_its_size(guest: Guest) -> None:
    await guest.exec_start(shell("stty size; read line; stty size; echo got $line", stdin="pipe", pty=(24, 80)))
    async with await guest.exec_attach("one") as stream, await guest.exec_stdin("one") as stdin:
        seen = b""
        async for item in stream:
            assert isinstance(item, Output)
            assert item.channel == STDOUT
            if b"24 80" in item.data:
                await guest.exec_resize("one", 40, 100)
                await stdin.send(b"hello\n")
            seen += item.data
        assert (await stream.result()).exit_code == 0
    assert b"40 100" in seen
    assert b"got hello" in seen


async def test_signals_reach_the_tree(guest: Guest) -> None:
    await guest.exec_start(shell("sleep 1000 & setsid sleep 1000 & wait"))
    await guest.exec_signal("one", signal.SIGKILL)
    async with asyncio.timeout(10):
        result = await guest.exec_wait("one")
    assert result.signal == signal.SIGKILL
    assert result.exit_code is None


async def test_a_timeout_ends_everything(guest: Guest) -> None:
    async with asyncio.timeout(10):
        async with await guest.exec_run(shell("setsid sleep 1000 & sleep 1000", timeout_s=0.2)) as stream:
            result = await stream.result()
    assert result.timed_out


async def test_a_ring_that_is_full_drops_the_oldest_and_says_so(guest: Guest) -> None:
    await guest.exec_start(shell("seq 1 200000", ring_bytes=65_536))
    result = await guest.exec_wait("one")
    whole = b"".join(b"%d\n" % n for n in range(1, 200_001))
    assert result.stdout_end == len(whole)
    async with await guest.exec_attach("one") as stream:
        gap = await anext(stream)
        assert isinstance(gap, Gap)
        assert (gap.channel, gap.start) == (STDOUT, 0)
        assert gap.end >= len(whole) - 65_536
        assert (await collect(stream))[0] == whole[gap.end :]
        assert stream.offsets[STDOUT] == len(whole)


async def test_an_offset_goes_on_where_it_was(guest: Guest) -> None:
    await guest.exec_start(shell("seq 1 1000"))
    await guest.exec_wait("one")
    whole = b"".join(b"%d\n" % n for n in range(1, 1_001))
    async with await guest.exec_attach("one", stdout_offset=1_234) as stream:
        first = await anext(stream)
        assert isinstance(first, Output)
        assert first.offset == 1_234
        assert first.data + (await collect(stream))[0] == whole[1_234:]


async def test_a_host_that_died_goes_on_where_it_was(agent: Agent) -> None:
    request = shell("seq 1 5; read line; seq 6 10", stdin="pipe")
    async with agent.connected() as channel:
        guest = Guest(channel)
        await repair(guest)
        stream = await guest.exec_run(request)
        seen = b""
        async for item in stream:
            assert isinstance(item, Output)
            seen += item.data
            if seen.endswith(b"5\n"):
                break
        lost = await channel.open({"op": "exec.wait", "id": "one"})
    with pytest.raises(SandboxLost):
        await lost.result()
    async with agent.connected() as channel:
        guest = Guest(channel)
        # The same request with the same id attaches: it does not start a second one.
        async with await guest.exec_run(request, stdout_offset=stream.offsets[STDOUT]) as again:
            async with await guest.exec_stdin("one") as stdin:
                await stdin.send(b"go\n")
                await stdin.end()
                await stdin.written()
            assert seen + (await collect(again))[0] == b"".join(b"%d\n" % n for n in range(1, 11))
        assert len(await guest.exec_list()) == 1


async def test_output_that_nobody_takes_waits_in_the_guest(guest: Guest) -> None:
    async with await guest.exec_run(shell("head -c 20000000 /dev/zero", ring_bytes=32_000_000)) as stream:
        await anext(stream)
        # Listening stands still meanwhile, the process does not.
        assert (await guest.exec_wait("one")).stdout_end == 20_000_000
        size = stream.offsets[STDOUT]
        async for item in stream:
            assert isinstance(item, Output)
            size += len(item.data)
    assert size == 20_000_000


async def test_files_are_written_and_read_whole(guest: Guest, agent: Agent) -> None:
    content = os.urandom(5_000_000)
    written = await guest.write("a/b.bin", content, mode=0o600)
    assert (written.size, written.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (agent.work / "a/b.bin").read_bytes() == content
    assert b"".join([piece async for piece in guest.read("a/b.bin")]) == content
    assert b"".join([piece async for piece in guest.read("a/b.bin", offset=10, length=100_000)]) == content[10:100_010]
    entry = await guest.stat("a/b.bin")
    assert (entry.name, entry.type, entry.size, entry.mode & 0o777) == ("b.bin", "file", len(content), 0o600)

    async def pieces() -> AsyncIterator[bytes]:
        for n in range(10):
            yield bytes([n]) * 1_000

    assert (await guest.write("c.bin", pieces())).size == 10_000
    await guest.write("c.bin", b"tail", append=True)
    assert (agent.work / "c.bin").read_bytes().endswith(b"\x09tail")
    with pytest.raises(GuestError) as caught:
        await guest.write("c.bin", b"", exclusive=True)
    assert caught.value.guest_code == "exists"


async def test_a_read_that_is_given_up_leaves_no_stream(guest: Guest) -> None:
    await guest.write("big", bytes(5_000_000))
    reading = guest.read("big")
    await anext(reading)
    await reading.aclose()
    await until(lambda: not guest.channel._streams)


async def test_folders_are_listed_found_and_changed(guest: Guest) -> None:
    for path in ("x/one.py", "x/y/two.py", "x/y/three.txt"):
        await guest.write(path, b"needle here\nnothing\n")
    assert {entry.name for entry in await guest.list("x")} == {"one.py", "y"}
    assert len((await guest.tree("x")).entries) >= 4
    assert {entry.name for entry in (await guest.glob("x", "**/*.py")).entries} == {"one.py", "two.py"}
    found = await guest.search("x", "need[a-z]e", glob="*.py")
    assert {(match.line, match.text) for match in found.matches} == {(1, "needle here")}
    assert (len(found.matches), found.truncated) == (2, False)
    assert (await guest.tree("x", entries_max=2)).truncated
    await guest.mkdir("x/new/deep")
    await guest.move("x/one.py", "x/new/one.py")
    assert (await guest.stat("x/new/one.py")).type == "file"
    assert await guest.remove("x", recursive=True) >= 6
    assert await guest.remove("x", missing_ok=True) == 0
    with pytest.raises(GuestError) as caught:
        await guest.stat("x")
    assert caught.value.guest_code == "not_found"


async def test_paths_stay_inside(guest: Guest, agent: Agent) -> None:
    (agent.work / "out").symlink_to("/etc")
    for path in ("../../etc/passwd", "out/passwd", "/etc/passwd"):
        with pytest.raises(PathEscapes):
            await guest.stat(path)
        with pytest.raises(PathEscapes):
            await anext(guest.read(path))


async def test_changes_are_seen(guest: Guest) -> None:
    async with asyncio.timeout(20), await guest.watch(".") as watch:
        await guest.write("seen.txt", b"1")
        changes: list[Change] = []
        while not any(change.path.endswith("seen.txt") for change in changes):
            changes.append(await anext(watch))
    await until(lambda: not guest.channel._streams)


async def test_ports_are_found_and_forwarded(guest: Guest) -> None:
    server = "import socket;s=socket.socket();s.bind(('127.0.0.1',0));s.listen();print(s.getsockname()[1],flush=True)\n"
    server += "c,_=s.accept();c,_=s.accept();d=c.recv(100);c.sendall(d[::-1]);c.close()"
    async with (
        asyncio.timeout(30),
        await guest.exec_run(ExecRequest(id="server", argv=[sys.executable, "-c", server])) as stream,
    ):
        first = await anext(stream)
        assert isinstance(first, Output)
        port = int(first.data)
        assert port in [each.port for each in await guest.port_list()]
        await guest.port_wait(port, timeout_s=10)
        async with await guest.port_forward(port) as connection:
            await connection.send(b"stressed")
            await connection.end()
            received = b"".join([item.data async for item in connection if isinstance(item, Data)])
        assert received == b"desserts"
        with pytest.raises(GuestError) as caught:
            await guest.port_wait(1, timeout_s=0.1)
        assert caught.value.guest_code == "timeout"


async def test_everything_works_through_a_relay(guest: Guest) -> None:
    async with relaying(guest.channel) as channel:
        client = Guest(channel, {"sandbox": "s1"})
        content = os.urandom(2_000_000)
        await client.write("r.bin", content)
        assert b"".join([piece async for piece in client.read("r.bin")]) == content
        async with await client.exec_run(shell("cat r.bin; echo err >&2")) as stream:
            assert await collect(stream) == (content, b"err\n")
        with pytest.raises(PathEscapes):
            await client.stat("../..")
        async with asyncio.timeout(20), await client.watch(".") as watch:
            await client.mkdir("made")
            await anext(watch)
    await until(lambda: not guest.channel._streams)
