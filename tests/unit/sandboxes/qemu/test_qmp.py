"""The control connection against scripted peers, friendly and hostile."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from callbox.errors import GuestProtocolError, SandboxError, SandboxLost
from callbox.sandboxes.qemu.qmp import LINE_BYTES_MAX, Qmp, connect_unix, listen_unix

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def asked(reader: asyncio.StreamReader) -> dict:
    return json.loads(await reader.readline())


def answer(request: dict, **fields: object) -> bytes:
    return json.dumps({"id": request["id"], **fields}).encode() + b"\r\n"


async def negotiate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GREETING)
    request = await asked(reader)
    assert request["execute"] == "qmp_capabilities"
    writer.write(answer(request, **{"return": {}}))


@asynccontextmanager
async def peer(folder: Path, script: Script) -> AsyncIterator[Path]:
    """A server that follows the script with its first client."""
    path = folder / "control.sock"
    failures: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
            await writer.drain()
        except AssertionError as error:
            failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, sock=listen_unix(path))
    try:
        yield path
    finally:
        server.close()
        await server.wait_closed()
    assert failures == []


async def test_commands_are_answered_and_events_delivered(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await negotiate(reader, writer)
        request = await asked(reader)
        assert request == {"execute": "stop", "id": 2}
        writer.write(b'{"event": "STOP", "timestamp": {}}\r\n' + answer(request, **{"return": {"a": 1}}))
        request = await asked(reader)
        assert request["arguments"] == {"size": 4}
        writer.write(b'{"event": "OTHER", "data": {"x": 1}}\r\n{"event": "OTHER", "data": {"x": 2}}\r\n')
        writer.write(answer(request, error={"class": "GenericError", "desc": "no such ring"}))
        await reader.read()

    async with peer(tmp_path, script) as path:
        client = await Qmp.connect(path)
        stopped = client.expect(lambda name, _: name == "STOP")
        second = client.expect(lambda name, data: name == "OTHER" and data.get("x") == 2)
        assert await client.execute("stop") == {"a": 1}
        assert await stopped == {}
        with pytest.raises(SandboxError, match="no such ring"):
            await client.execute("ringbuf-read", {"size": 4})
        assert await second == {"x": 2}
        await client.aclose()
        with pytest.raises(SandboxLost):
            await client.execute("stop")


async def test_long_paths_are_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await negotiate(reader, writer)
        await reader.read()

    async with peer(folder, script) as path:
        assert len(os.fsencode(path)) > 107
        await (await Qmp.connect(path)).aclose()


async def test_descriptor_travels_with_its_command(tmp_path: Path) -> None:
    listener = listen_unix(tmp_path / "control.sock")
    file = tmp_path / "file"
    file.write_text("what was passed")

    def serve() -> bytes:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(GREETING)
            request = json.loads(connection.recv(4096))
            connection.sendall(answer(request, **{"return": {}}))
            data, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
            handle = array.array("i", ancillary[0][2])[0]
            content = os.pread(handle, 100, 0)
            os.close(handle)
            connection.sendall(answer(json.loads(data), **{"return": {}}))
            return content

    with listener, file.open("rb") as opened:
        served = asyncio.create_task(asyncio.to_thread(serve))
        client = await Qmp.connect(tmp_path / "control.sock")
        await client.execute("getfd", {"fdname": "state"}, handles=[opened.fileno()])
        assert await served == b"what was passed"
        await client.aclose()


HOSTILE = {
    "not JSON": b"hello\n",
    "not an object": b"[1, 2]\n",
    "deeply nested": b'{"a":' * 100_000 + b"\n",
    "another id": b'{"id": 77, "return": {}}\n',
    "no id": b'{"return": {}}\n',
    "a line without end": b"x" * (LINE_BYTES_MAX + 2),
    "two answers": b'{"id": 2, "return": {}}\n{"id": 3, "return": {}}\n{"id": 4, "return": {}}\n',
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
async def test_peer_that_breaks_the_protocol_is_cut_off(tmp_path: Path, said: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await negotiate(reader, writer)
        await asked(reader)
        writer.write(said)
        await reader.read()

    async with peer(tmp_path, script) as path:
        client = await Qmp.connect(path)
        event = client.expect(lambda name, _: name == "NEVER")
        with pytest.raises(GuestProtocolError):
            for _ in range(4):
                await client.execute("query-status", timeout_s=5)
        with pytest.raises(GuestProtocolError):
            await event
        with pytest.raises(GuestProtocolError):
            await client.execute("query-status")
        assert client.closed.is_set()
        await client.aclose()


async def test_end_of_the_peer_fails_what_waits(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await negotiate(reader, writer)
        await asked(reader)

    async with peer(tmp_path, script) as path:
        client = await Qmp.connect(path)
        event = client.expect(lambda name, _: name == "SHUTDOWN")
        with pytest.raises(SandboxLost):
            await client.execute("cont")
        with pytest.raises(SandboxLost):
            await event
        await client.aclose()


async def test_silent_peer_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(tmp_path, script) as path:
        with pytest.raises(SandboxLost, match="greet"):
            await Qmp.connect(path, timeout_s=0.05)


async def test_cancelled_command_ends_the_connection_instead_of_shifting_answers(tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await negotiate(reader, writer)
        await asked(reader)
        heard.set()
        await reader.read()

    async with peer(tmp_path, script) as path:
        client = await Qmp.connect(path)
        asking = asyncio.create_task(client.execute("query-status"))
        await heard.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(SandboxLost):
            await client.execute("query-status")
        await client.aclose()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(SandboxLost):
        await Qmp.connect(tmp_path / "control.sock")
    with pytest.raises(FileNotFoundError):
        connect_unix(tmp_path / "missing" / "control.sock")
