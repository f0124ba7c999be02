from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from callbox.errors import GuestError, PathEscapes, SandboxLost, SandboxNotFound
from callbox.sandboxes.channel import Channel, Data, Eof, Event, Incoming, Stream
from callbox.sandboxes.wire import PAYLOAD_BYTES_MAX, STREAMS_MAX, WINDOW_BYTES
from support import let_others_run, until
from support_channel import WELCOME, byte_pipe, received, relaying, serving

pytestmark = pytest.mark.timeout(60)


async def echo(incoming: Incoming) -> Mapping[str, Any]:
    """The operations that these tests ask for."""
    request = incoming.request
    match request["op"]:
        case "ping":
            return {"n": request.get("n")}
        case "upload":
            return {"size": len(await received(incoming))}
        case "download":
            block = bytes(PAYLOAD_BYTES_MAX)
            for _ in range(request["blocks"]):
                await incoming.send(block)
            await incoming.end()
            return {}
        case "mixed":
            await incoming.send(b"out", 1)
            await incoming.event({"event": "gap", "channel": 2})
            await incoming.send(b"err", 2)
            await incoming.end()
            return {"done": True}
        case "both":
            async for item in incoming:
                if isinstance(item, Data):
                    await incoming.send(item.data[::-1])
            await incoming.end()
            return {}
        case "fail":
            raise {
                "escapes": PathEscapes("no"),
                "missing": SandboxNotFound("no", hint="look"),
                "full": GuestError("no", guest_code="no_space"),
                "bug": ValueError("secret"),
            }[request["how"]]
        case "hang":
            await incoming.event({"event": "hanging"})
            await asyncio.Event().wait()
    raise AssertionError(request)


@pytest.fixture(params=["direct", "relayed"])
async def channel(request: pytest.FixtureRequest):
    async with serving(echo) as direct:
        if request.param == "direct":
            yield direct
        else:
            async with relaying(direct) as relayed:
                yield relayed


async def test_welcome_says_what_the_acceptor_is(channel: Channel) -> None:
    assert {key: channel.welcome[key] for key in WELCOME} == WELCOME


async def test_many_calls_at_once_get_their_own_replies(channel: Channel) -> None:
    replies = await asyncio.gather(*(channel.call("ping", n=n) for n in range(500)))
    assert [reply["n"] for reply in replies] == list(range(500))


async def test_a_stream_delivers_in_order_and_ends(channel: Channel) -> None:
    async with await channel.open({"op": "mixed"}) as stream:
        items = [item async for item in stream]
        assert items == [Data(1, b"out"), Event(b'{"event":"gap","channel":2}'), Data(2, b"err"), Eof()]
        assert await stream.result() == {"done": True}


async def test_bytes_flow_both_ways_at_once(channel: Channel) -> None:
    pieces = [bytes([n]) * 10_000 for n in range(200)]
    async with await channel.open({"op": "both"}) as stream, asyncio.TaskGroup() as tasks:

        async def feed() -> None:
            for piece in pieces:
                await stream.send(bytearray(piece))
            await stream.end()

        tasks.create_task(feed())
        assert b"".join([item.data async for item in stream if isinstance(item, Data)]) == b"".join(pieces)


async def test_large_pieces_are_split_and_counted(channel: Channel) -> None:
    async with await channel.open({"op": "upload"}) as stream:
        await stream.send(memoryview(bytes(3_000_000)))
        await stream.end()
        assert await stream.result() == {"size": 3_000_000}


async def test_a_result_can_be_had_without_reading(channel: Channel) -> None:
    assert await channel.call("download", blocks=100) == {}


async def test_a_consumer_that_waits_stops_the_sender(channel: Channel) -> None:
    async with await channel.open({"op": "download", "blocks": 200}) as stream:
        first = await anext(stream)
        await let_others_run(500)
        assert isinstance(first, Data)
        assert sum(len(item.data) for item in stream._items if isinstance(item, Data)) <= WINDOW_BYTES
        size = len(first.data) + sum([len(item.data) async for item in stream if isinstance(item, Data)])
        assert size == 200 * PAYLOAD_BYTES_MAX


async def test_one_stream_that_waits_does_not_hold_up_others(channel: Channel) -> None:
    async with (
        await channel.open({"op": "download", "blocks": 200}),
        await channel.open({"op": "download", "blocks": 200}),
    ):
        for n in range(20):
            assert await channel.call("ping", n=n) == {"n": n}


@pytest.mark.parametrize(
    ("how", "kind", "code"),
    [("escapes", PathEscapes, "path_escapes"), ("full", GuestError, "no_space"), ("bug", GuestError, "internal")],
)
async def test_errors_come_as_what_they_are(channel: Channel, how: str, kind: type[GuestError], code: str) -> None:
    with pytest.raises(kind) as caught:
        await channel.call("fail", how=how)
    assert caught.value.guest_code == code
    assert "secret" not in str(caught.value)
    with pytest.raises(kind):
        async for _ in await channel.open({"op": "fail", "how": how}):
            pass


async def test_what_a_guest_says_of_sandboxes_is_not_believed() -> None:
    async with serving(echo) as supervisor:
        with pytest.raises(SandboxNotFound, match="look"):
            await supervisor.call("fail", how="missing")
        async with relaying(supervisor) as relayed:
            with pytest.raises(GuestError) as caught:
                await relayed.call("fail", how="missing")
            assert caught.value.guest_code == "internal"


async def test_ping_measures_the_way(channel: Channel) -> None:
    assert 0 < await channel.ping() < 10


def open_streams(channel: Channel) -> int:
    return len(channel._streams)


async def hanging(channel: Channel) -> Stream:
    stream = await channel.open({"op": "hang"})
    assert await anext(stream) == Event(b'{"event":"hanging"}')
    return stream


async def test_cancel_is_answered(channel: Channel) -> None:
    stream = await hanging(channel)
    await stream.cancel()
    with pytest.raises(GuestError) as caught:
        await stream.result()
    assert caught.value.guest_code == "cancelled"
    assert open_streams(channel) == 0


@pytest.mark.parametrize("way", ["result", "next", "call", "send", "block"])
async def test_a_cancelled_consumer_leaves_no_stream(channel: Channel, way: str) -> None:
    async def consume() -> None:
        if way == "call":
            await channel.call("hang")
        stream = await hanging(channel)
        if way == "result":
            await stream.result()
        elif way == "next":
            await anext(stream)
        elif way == "send":
            await stream.send(bytes(10_000_000))
        else:
            async with stream:
                await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    await until(lambda: open_streams(channel) == 1)
    await let_others_run(50)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: open_streams(channel) == 0)
    assert await channel.call("ping", n=1) == {"n": 1}


async def test_the_guest_hears_of_a_cancel_through_the_relay() -> None:
    seen: list[Incoming] = []

    async def handler(incoming: Incoming) -> Mapping[str, Any]:
        seen.append(incoming)
        await incoming.event({"event": "watching"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"changes": 3}  # a watch ends well
        raise AssertionError

    async with serving(handler) as guest, relaying(guest) as client:
        stream = await client.open({"op": "fs.watch"})
        await anext(stream)
        await stream.cancel()
        assert await stream.result() == {"changes": 3}
        assert seen[0].cancelled.is_set()
        await client.open({"op": "fs.watch"})
        await until(lambda: len(seen) == 2)
    assert seen[1].cancelled.is_set()


async def test_handlers_are_cancelled_when_the_peer_is_gone() -> None:
    ended = asyncio.Event()

    async def handler(incoming: Incoming) -> Mapping[str, Any]:
        try:
            await incoming.event({"event": "hanging"})
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with serving(handler) as channel:
        await hanging(channel)
    assert ended.is_set()


@pytest.mark.parametrize("abort", [True, False])
async def test_a_lost_connection_fails_everybody(abort: bool) -> None:
    async with byte_pipe() as (reader, writer, other_reader, other_writer):
        async with asyncio.TaskGroup() as tasks:
            serve = tasks.create_task(Channel.serve(other_reader, other_writer, welcome={}, handler=echo))
            channel = await Channel.connect(reader, writer)
            stream = await hanging(channel)
            sender = await hanging(channel)
            waiting = [
                asyncio.ensure_future(each)
                for each in (stream.result(), channel.call("hang"), sender.send(bytes(10_000_000)), anext(sender))
            ]
            await let_others_run(50)
            if abort:
                other_writer.transport.abort()
            else:
                await channel.aclose()
            for each in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(each, SandboxLost)
            await asyncio.wait_for(channel.closed.wait(), 10)
            await asyncio.wait([serve])
        for again in (channel.call("ping"), channel.ping(), channel.open({"op": "ping"})):
            with pytest.raises(SandboxLost):
                await again
        await channel.aclose()


async def test_a_second_hello_ends_the_streams_of_the_first() -> None:
    cancelled: list[bool] = []

    async def handler(incoming: Incoming) -> Mapping[str, Any]:
        if incoming.request["op"] == "ping":
            return {}
        try:
            await incoming.event({"event": "hanging"})
            await asyncio.Event().wait()
        finally:
            cancelled.append(incoming.gone)
        raise AssertionError

    async with byte_pipe() as (reader, writer, other_reader, other_writer), asyncio.TaskGroup() as tasks:
        tasks.create_task(Channel.serve(other_reader, other_writer, welcome={}, handler=handler))
        first = await Channel.connect(reader, writer)
        await hanging(first)
        # The first one's host dies without a word; its successor takes over the same bytes.
        first._reading.cancel()
        await asyncio.wait([first._reading])
        second = await Channel.connect(reader, writer)
        assert cancelled == [True]
        assert await second.call("ping") == {}
        await second.aclose()


async def test_no_more_streams_than_allowed() -> None:
    async with serving(echo) as channel:
        streams = [await channel.open({"op": "hang"}) for _ in range(STREAMS_MAX)]
        with pytest.raises(GuestError) as caught:
            await channel.open({"op": "ping"})
        assert caught.value.guest_code == "too_many_streams"
        for stream in streams:
            await stream.cancel()
        await until(lambda: open_streams(channel) == 0)
        assert await channel.call("ping", n=1) == {"n": 1}


async def test_who_does_not_answer_is_given_up() -> None:
    async with byte_pipe() as (reader, writer, *_):
        with pytest.raises(SandboxLost, match="did not answer"):
            await Channel.connect(reader, writer, timeout_s=0.05)


async def test_small_pieces_cost_little_while_they_wait() -> None:
    async def drip(incoming: Incoming) -> Mapping[str, Any]:
        for _ in range(20_000):
            await incoming.send(b"x", 1)
        return {}

    async with serving(drip) as channel:
        stream = await channel.open({"op": "drip"})
        await until(lambda: stream.over)
        assert len(stream._items) <= 10
        assert sum([len(item.data) async for item in stream if isinstance(item, Data)]) == 20_000
