from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest

from callbox.errors import CallboxError, GuestError, GuestProtocolError, SandboxLost
from callbox.sandboxes.channel import Channel, Data, Incoming
from callbox.sandboxes.wire import (
    HEADER_BYTES,
    MAGIC,
    PAYLOAD_BYTES_MAX,
    RESYNC,
    STREAMS_MAX,
    WINDOW_BYTES,
    FrameType,
    encode,
    parse_object,
    window,
)
from support import let_others_run
from support_channel import WELCOME, RawPeer, byte_pipe, hostile_client, hostile_guest

pytestmark = pytest.mark.timeout(60)

DEEP = b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"
OVERSIZED = MAGIC.to_bytes(4, "big") + bytes(8) + (PAYLOAD_BYTES_MAX + 1).to_bytes(4, "big") + bytes(4)


async def answer(incoming: Incoming) -> Mapping[str, Any]:
    if incoming.request["op"] == "hang":
        await asyncio.Event().wait()
    if incoming.request["op"] == "upload":
        return {"size": sum([len(item.data) async for item in incoming if isinstance(item, Data)])}
    if incoming.request["op"] == "flood":
        while True:
            await incoming.send(bytes(PAYLOAD_BYTES_MAX))
    return {}


BREACHES: dict[str, tuple[bytes, ...]] = {
    "oversized": (OVERSIZED,),
    "garbage": (b"panic: out of memory\n" * 10,),
    "wrong crc": (encode(FrameType.EOF, 1)[:-1] + b"\x00",),
    "overdraw": tuple(encode(FrameType.DATA, 1, bytes(PAYLOAD_BYTES_MAX)) for _ in range(5)),
    "overdraw by events": tuple(encode(FrameType.EVENT, 1, b'{"a":"' + b"x" * 60_000 + b'"}') for _ in range(5)),
    "deep event": (encode(FrameType.EVENT, 1, DEEP),),
    "deep event of no stream": (encode(FrameType.EVENT, 99, DEEP),),
    "deep close": (encode(FrameType.CLOSE, 1, DEEP),),
    "close without object": (encode(FrameType.CLOSE, 1, b"[]"),),
    "unknown channel": (encode(FrameType.DATA, 1, b"x", 3),),
    "unknown type": (encode(200, 1, b"x"),),
    "open": (encode(FrameType.OPEN, 2, b"{}"),),
    "hello": (encode(FrameType.HELLO, 0, b"{}"),),
    "cancel": (encode(FrameType.CANCEL, 1),),
    "data for the connection": (encode(FrameType.DATA, 0, b"x"),),
    "window of nothing": (encode(FrameType.WINDOW, 1, bytes(4)),),
    "window of three bytes": (encode(FrameType.WINDOW, 1, bytes(3)),),
    "window above all": (encode(FrameType.WINDOW, 1, window(2**31 - 1)),),
    "large ping": (encode(FrameType.PING, 0, bytes(65)),),
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_a_guest_that_breaks_the_rules_is_cut_off(breach: str) -> None:
    async with hostile_guest() as (channel, peer):
        stream = await channel.open({"op": "ping"})
        await peer.next(FrameType.OPEN)
        for data in BREACHES[breach]:
            peer.send_raw(data)
        peer.send_raw(bytes(HEADER_BYTES))
        await asyncio.wait_for(channel.closed.wait(), 10)
        with pytest.raises(GuestProtocolError):
            await stream.result()
        with pytest.raises(GuestProtocolError):
            await channel.call("ping")
        await peer.ended()


@pytest.mark.parametrize(
    "reply", [b"{}", b'{"ok":3}', b'{"error":"no"}', b'{"ok":{},"error":{}}', b'{"error":{"code":7,"message":[]}}']
)
async def test_an_end_that_says_nothing_is_an_error_of_that_stream_only(reply: bytes) -> None:
    async with hostile_guest() as (channel, peer):
        stream = await channel.open({"op": "ping"})
        peer.send(FrameType.CLOSE, 1, reply)
        with pytest.raises(CallboxError):
            await stream.result()
        second = await channel.open({"op": "ping"})
        peer.send(FrameType.CLOSE, 3, {"ok": {"a": 1}})
        assert await second.result() == {"a": 1}


async def test_invented_codes_and_endless_messages_are_tamed() -> None:
    async with hostile_guest() as (channel, peer):
        stream = await channel.open({"op": "ping"})
        peer.send(FrameType.CLOSE, 1, {"error": {"code": "you_are_root", "message": "x" * 60_000}})
        with pytest.raises(GuestError) as caught:
            await stream.result()
        assert caught.value.guest_code == "internal"
        assert len(caught.value.message) < 5_000


async def test_frames_of_streams_that_are_over_are_dropped() -> None:
    async with hostile_guest() as (channel, peer):
        stream = await channel.open({"op": "ping"})
        peer.send(FrameType.CLOSE, 1, {"ok": {}})
        await stream.result()
        for number in (1, 77):
            peer.send(FrameType.DATA, number, bytes(PAYLOAD_BYTES_MAX))
            peer.send(FrameType.EVENT, number, {"event": "late"})
            peer.send(FrameType.EOF, number)
            peer.send(FrameType.CLOSE, number, {"ok": {}})
            peer.send_raw(encode(FrameType.WINDOW, number, window(1)))
        peer.send(FrameType.PING, 0, b"still there")
        assert (await peer.next(FrameType.PONG)).payload == b"still there"
        assert not channel.closed.is_set()


async def test_empty_data_costs_nothing() -> None:
    async with hostile_guest() as (channel, peer):
        stream = await channel.open({"op": "ping"})
        peer.send_raw(encode(FrameType.DATA, 1) * 10_000 + encode(FrameType.EOF, 1) * 10_000)
        peer.send(FrameType.PING, 0)
        await peer.next(FrameType.PONG)
        assert len(stream._items) == 1


async def test_a_guest_that_answers_no_cancel_cannot_fill_the_host() -> None:
    async with hostile_guest() as (channel, peer):
        for _ in range(STREAMS_MAX):
            await (await channel.open({"op": "hang"})).cancel()
        with pytest.raises(GuestError, match="open already"):
            await channel.open({"op": "hang"})
        peer.send_raw(encode(FrameType.DATA, 1, bytes(PAYLOAD_BYTES_MAX)) * 100)
        peer.send(FrameType.PING, 0)
        await peer.next(FrameType.PONG)
        assert not any(stream._items for stream in channel._streams.values())


async def test_what_was_under_way_before_welcome_is_skipped() -> None:
    async with byte_pipe() as (reader, writer, other_reader, other_writer):
        peer = RawPeer(other_reader, other_writer)
        peer.send_raw(encode(FrameType.DATA, 1, bytes(1_000))[500:])
        peer.send(FrameType.CLOSE, 1, {"ok": {}})
        peer.send(FrameType.WELCOME, 0, {"version": 1, "epoch": "f" * 32})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(peer.welcome())
            channel = await Channel.connect(reader, writer)
        assert not channel.closed.is_set()
        await channel.aclose()


@pytest.mark.parametrize(
    "welcome", [{"version": 2}, {"version": 1, "error": {"code": "version_mismatch"}}, {"version": None}]
)
async def test_another_version_is_refused(welcome: dict[str, Any]) -> None:
    async with byte_pipe() as (reader, writer, other_reader, other_writer), asyncio.TaskGroup() as tasks:
        peer = RawPeer(other_reader, other_writer)

        async def answer_hello() -> None:
            hello = parse_object((await peer.next(FrameType.HELLO)).payload)
            peer.send(FrameType.WELCOME, 0, {"epoch": hello["epoch"], **welcome})

        tasks.create_task(answer_hello())
        with pytest.raises(GuestProtocolError, match="version"):
            await Channel.connect(reader, writer)


async def test_a_peer_that_hangs_up_during_the_greeting_is_lost() -> None:
    async with byte_pipe() as (reader, writer, _, other_writer):
        other_writer.transport.abort()
        with pytest.raises(SandboxLost):
            await Channel.connect(reader, writer)


async def test_a_client_that_overdraws_loses_that_stream_only() -> None:
    async with hostile_client(answer) as (peer, _):
        await peer.hello()
        peer.send(FrameType.OPEN, 1, {"op": "hang"})
        for _ in range(WINDOW_BYTES // PAYLOAD_BYTES_MAX + 1):
            peer.send(FrameType.DATA, 1, bytes(PAYLOAD_BYTES_MAX))
        reply = parse_object((await peer.next(FrameType.CLOSE)).payload)
        assert reply["error"]["code"] == "flow_control"
        peer.send(FrameType.OPEN, 3, {"op": "ping"})
        assert parse_object((await peer.next(FrameType.CLOSE)).payload) == {"ok": {}}


async def test_a_client_that_opens_with_nonsense_is_told() -> None:
    async with hostile_client(answer) as (peer, _):
        await peer.hello()
        for number, payload in ((1, b"nonsense"), (3, DEEP), (5, b"[]")):
            peer.send(FrameType.OPEN, number, payload)
            closed = await peer.next(FrameType.CLOSE)
            assert (closed.stream, json.loads(closed.payload)["error"]["code"]) == (number, "bad_request")


@pytest.mark.parametrize("number", [0, 2, 3])
async def test_a_client_that_reuses_numbers_is_cut_off(number: int) -> None:
    async with hostile_client(answer) as (peer, serve):
        await peer.hello()
        peer.send(FrameType.OPEN, 3, {"op": "ping"})
        await peer.next(FrameType.CLOSE)
        peer.send(FrameType.OPEN, number, {"op": "ping"})
        await asyncio.wait_for(serve, 10)


async def test_more_streams_than_allowed_are_refused_one_by_one() -> None:
    async with hostile_client(answer) as (peer, _):
        await peer.hello()
        for number in range(1, 2 * STREAMS_MAX + 3, 2):
            peer.send(FrameType.OPEN, number, {"op": "hang"})
        closed = await peer.next(FrameType.CLOSE)
        assert closed.stream == 2 * STREAMS_MAX + 1
        assert json.loads(closed.payload)["error"]["code"] == "too_many_streams"


async def test_nothing_is_answered_before_hello() -> None:
    async with hostile_client(answer) as (peer, _):
        peer.send(FrameType.OPEN, 1, {"op": "ping"})
        peer.send(FrameType.PING, 0, b"early")
        assert (await peer.hello())["version"] == 1
        peer.send(FrameType.PING, 0, b"now")
        assert (await peer.next(FrameType.PONG, FrameType.CLOSE)).payload == b"now"


async def test_a_hello_of_another_version_is_told_ours() -> None:
    async with hostile_client(answer) as (peer, _):
        peer.send(FrameType.HELLO, 0, {"version": 9, "epoch": "e"})
        welcome = parse_object((await peer.next(FrameType.WELCOME)).payload)
        assert (welcome["version"], welcome["epoch"]) == (1, "e")
        assert welcome["error"]["code"] == "version_mismatch"
        assert "error" not in await peer.hello()


async def test_a_client_that_never_reads_costs_a_bounded_memory() -> None:
    """It asks for downloads and floods with pings, and takes nothing."""
    async with byte_pipe() as (reader, writer, other_reader, other_writer):
        serve = asyncio.create_task(Channel.serve(other_reader, other_writer, welcome={}, handler=answer))
        peer = RawPeer(reader, writer)
        peer.send(FrameType.HELLO, 0, {"version": 1, "epoch": "e"})
        for number in range(1, 101, 2):
            peer.send(FrameType.OPEN, number, {"op": "flood"})
        pings = encode(FrameType.PING, 0, bytes(64)) * 1_000
        reader._transport.pause_reading()
        for _ in range(100):
            writer.write(pings)
            await let_others_run(20)
        assert other_writer.transport.get_write_buffer_size() < 3_000_000
        # What it does not take, it may not send either: the rest of its pings waits on its own side.
        assert writer.transport.get_write_buffer_size() > 1_000_000
        writer.transport.abort()
        await asyncio.wait_for(serve, 10)


async def test_a_request_of_a_stalled_client_does_not_block_its_cancel() -> None:
    async with hostile_client(answer) as (peer, _):
        await peer.hello()
        peer.send(FrameType.OPEN, 1, {"op": "flood"})
        peer.send(FrameType.CANCEL, 1)
        closed = await peer.next(FrameType.CLOSE)
        assert json.loads(closed.payload)["error"]["code"] == "cancelled"


async def test_cancel_twice_and_cancel_of_nothing_are_harmless() -> None:
    async with hostile_client(answer) as (peer, serve):
        await peer.hello()
        peer.send(FrameType.OPEN, 1, {"op": "hang"})
        for number in (1, 1, 1, 55):
            peer.send(FrameType.CANCEL, number)
        await peer.next(FrameType.CLOSE)
        peer.send(FrameType.OPEN, 3, {"op": "ping"})
        assert (await peer.next(FrameType.CLOSE)).stream == 3
        assert not serve.done()


async def test_frames_inside_a_torn_upload_are_not_obeyed() -> None:
    asked: list[str] = []

    async def handler(incoming: Incoming) -> dict[str, Any]:
        asked.append(incoming.request["op"])
        return {}

    async with byte_pipe() as (reader, writer, other_reader, other_writer):
        serve = asyncio.create_task(Channel.serve(other_reader, other_writer, welcome=WELCOME, handler=handler))
        peer = RawPeer(reader, writer)
        await peer.hello("victim")
        forged = encode(FrameType.HELLO, 0, b'{"version":1,"epoch":"forged"}') + encode(
            FrameType.OPEN, 1, b'{"op":"evil"}'
        )
        peer.send_raw(encode(FrameType.DATA, 1, b"text" + forged + b"the rest")[:-5] + RESYNC)
        peer.send(FrameType.HELLO, 0, {"version": 1, "epoch": "successor"})
        await peer.ended()
        await serve
    assert asked == []


@pytest.mark.parametrize("zeros", [0, 1, 65_535, len(RESYNC), 3 * len(RESYNC)])
async def test_zeros_before_hello_are_fine(zeros: int) -> None:
    async with byte_pipe() as (reader, writer, other_reader, other_writer):
        serve = asyncio.create_task(Channel.serve(other_reader, other_writer, welcome=WELCOME, handler=answer))
        peer = RawPeer(reader, writer)
        peer.send_raw(bytes(zeros))
        assert (await peer.hello())["version"] == 1
        writer.close()
        await serve


async def held_bytes(*frames: bytes) -> int:
    """Memory that the host holds for frames of a guest that nobody reads."""
    async with hostile_guest() as (channel, peer):
        await channel.open({"op": "ping"})
        await peer.next(FrameType.OPEN)
        gc.collect()
        tracemalloc.start()
        try:
            for frame in frames:
                peer.send_raw(frame)
            peer.send(FrameType.PING, 0)
            await peer.next(FrameType.PONG)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("extra", [b"", encode(FrameType.EOF, 1)])
async def test_small_pieces_that_take_turns_cost_little_memory(extra: bytes) -> None:
    turns = b"".join(encode(FrameType.DATA, 1, b"x", channel) + extra for channel in (1, 2)) * 20_000
    assert await held_bytes(turns) < 1_000_000


async def test_pieces_keep_the_order_of_their_channel_however_many_wait() -> None:
    async with hostile_guest() as (channel, peer):
        stream = await channel.open({"op": "ping"})
        await peer.next(FrameType.OPEN)
        sent = {1: bytearray(), 2: bytearray()}
        for number in range(6_000):
            piece = b"%d," % number
            sent[1 + number % 2] += piece
            peer.send(FrameType.DATA, 1, piece, 1 + number % 2)
        peer.send(FrameType.CLOSE, 1, {"ok": {}})
        peer.send(FrameType.PING, 0)
        await peer.next(FrameType.PONG)
        got = {1: bytearray(), 2: bytearray()}
        async for item in stream:
            assert isinstance(item, Data)
            got[item.channel] += item.data
        assert got == sent


async def test_events_wait_as_text_and_not_without_end() -> None:
    full = b'{"a":[' + b"{}," * 21_800 + b"{}]}"
    assert await held_bytes(*[encode(FrameType.EVENT, 1, full)] * 3) < 1_000_000
    async with hostile_guest() as (channel, peer):
        stream = await channel.open({"op": "ping"})
        await peer.next(FrameType.OPEN)
        peer.send_raw(encode(FrameType.EVENT, 1, b'{"a":1}') * 5_000)
        await asyncio.wait_for(channel.closed.wait(), 10)
        with pytest.raises(GuestProtocolError, match="events"):
            await stream.result()
