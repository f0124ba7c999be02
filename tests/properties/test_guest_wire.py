"""Laws of the guest protocol's frames: chunking never matters, garbage is survived, nobody hangs, crashes or swells."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from callbox.errors import CallboxError
from callbox.sandboxes.channel import Channel, Incoming, Stream
from callbox.sandboxes.wire import (
    HEADER_BYTES,
    MAGIC,
    PAYLOAD_BYTES_MAX,
    RESYNC,
    WINDOW_BYTES,
    Decoder,
    Frame,
    FrameType,
    encode,
)
from support_channel import WELCOME, RawPeer, byte_pipe

FRAMES = st.builds(
    Frame,
    type=st.integers(0, 255),
    channel=st.integers(0, 255),
    stream=st.integers(0, 2**32 - 1),
    payload=st.one_of(st.binary(max_size=200), st.integers(0, PAYLOAD_BYTES_MAX).map(bytes)),
)
MAGIC_BYTES = MAGIC.to_bytes(4, "big")
GARBAGE = st.lists(
    st.one_of(
        st.binary(max_size=100),
        st.sampled_from([MAGIC_BYTES, MAGIC_BYTES[:3], MAGIC_BYTES[:2] * 2, bytes(19), MAGIC_BYTES + bytes(16)]),
        FRAMES.map(lambda frame: whole(frame)[:-1]),
        FRAMES.map(lambda frame: whole(frame)[: HEADER_BYTES // 2]),
    ),
    max_size=6,
).map(b"".join)


def whole(frame: Frame) -> bytes:
    return encode(frame.type, frame.stream, frame.payload, frame.channel)


@st.composite
def chunked(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    whole_data = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole_data)), max_size=12)))
    return [whole_data[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole_data)], strict=True)]


def decode(chunks: list[bytes]) -> tuple[list[Frame], int, int]:
    decoder = Decoder()
    frames = [frame for chunk in chunks for frame in decoder.feed(chunk)]
    return frames, decoder.skipped_bytes, decoder.pending_bytes


@given(st.lists(FRAMES, max_size=6))
def test_what_is_encoded_is_decoded(frames: list[Frame]) -> None:
    assert decode([b"".join(map(whole, frames))]) == (frames, 0, 0)


@given(chunked(st.lists(st.one_of(GARBAGE, FRAMES.map(whole)), max_size=6).map(b"".join)))
def test_any_chunking_decodes_alike(chunks: list[bytes]) -> None:
    assert decode(chunks) == decode([b"".join(chunks)])


@given(GARBAGE, st.lists(FRAMES, min_size=1, max_size=4), st.integers(500, 70_000))
def test_after_the_zeros_no_frame_is_lost(garbage: bytes, frames: list[Frame], chunk_bytes: int) -> None:
    data = garbage + RESYNC + b"".join(map(whole, frames))
    decoded, _, pending = decode([data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)])
    assert decoded[-len(frames) :] == frames
    assert pending == 0


FORGED = encode(FrameType.HELLO, 0, b'{"version":1,"epoch":"forged"}') + encode(FrameType.OPEN, 1, b'{"op":"evil"}')
SWALLOWER = encode(FrameType.DATA, 1, bytes(PAYLOAD_BYTES_MAX))[:HEADER_BYTES]
"""The beginning of a frame that zeros complete."""


@given(
    st.lists(st.one_of(st.binary(max_size=50), st.sampled_from([FORGED, SWALLOWER, bytes(500)])), max_size=8),
    st.integers(0, PAYLOAD_BYTES_MAX),
    st.floats(0, 1),
)
def test_a_successor_is_always_told_from_what_a_torn_frame_holds(
    parts: list[bytes], padding: int, where: float
) -> None:
    content = b"".join(parts)
    content = bytes(max(min(padding, PAYLOAD_BYTES_MAX - len(content)), 0)) + content
    torn = encode(FrameType.DATA, 1, content)
    torn = torn[: int(where * (len(torn) - 1))]
    successor = encode(FrameType.HELLO, 0, b"{}")
    decoder = Decoder()
    *_, last = decoder.feed(torn + RESYNC + successor)
    assert last == Frame(FrameType.HELLO, 0, 0, b"{}")
    # What an acceptor goes by: frames out of a torn one never come without a byte that is not zero.
    if Frame(FrameType.HELLO, 0, 0, b'{"version":1,"epoch":"forged"}') in Decoder().feed(torn):
        assert decoder.garbage_bytes


@given(st.binary(max_size=5_000), st.integers(1, 50))
def test_what_is_kept_never_exceeds_one_frame(data: bytes, times: int) -> None:
    decoder = Decoder()
    for _ in range(times):
        decoder.feed(data)
        assert decoder.pending_bytes < PAYLOAD_BYTES_MAX + HEADER_BYTES


# Frames as somebody sends them who knows the protocol and means no good: types, streams and payloads that nearly fit.
PAYLOADS = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [
            b"{}",
            b'{"op":"ping"}',
            b'{"op":"hang"}',
            b'{"op":"flood"}',
            b'{"ok":{}}',
            b'{"error":{"code":"path_escapes"}}',
            b'{"version":1,"epoch":"x"}',
            b"\x00\x01\x00\x00",
            b"\x7f\xff\xff\xff",
            b'{"a":' + b"[" * 500,
            bytes(PAYLOAD_BYTES_MAX),
        ]
    ),
)


class Part(bytes):
    """Bytes that do not fill the screen when an example fails."""

    def __repr__(self) -> str:
        return f"Part({self[:120]!r}, {len(self)})"


NEARLY_RIGHT = st.lists(
    st.one_of(
        st.builds(encode, st.integers(0, 12), st.integers(0, 9), PAYLOADS, st.integers(0, 3)),
        st.builds(encode, st.just(FrameType.DATA), st.integers(0, 5), st.just(bytes(PAYLOAD_BYTES_MAX))),
        GARBAGE,
    ).map(Part),
    max_size=25,
)


async def handler(incoming: Incoming) -> Mapping[str, Any]:
    match incoming.request.get("op"):
        case "hang":
            await asyncio.Event().wait()
        case "flood":
            while True:
                await incoming.send(bytes(PAYLOAD_BYTES_MAX))
        case _:
            async for _ in incoming:
                break
    return {}


async def _fuzz_acceptor(parts: list[bytes]) -> None:
    async with asyncio.timeout(20), byte_pipe() as (reader, writer, other_reader, other_writer):
        serve = asyncio.create_task(Channel.serve(other_reader, other_writer, welcome=WELCOME, handler=handler))
        peer = RawPeer(reader, writer)
        peer.send(FrameType.HELLO, 0, {"version": 1, "epoch": "e"})
        for part in parts:
            peer.send_raw(part)
            await asyncio.sleep(0)
            assert other_writer.transport.get_write_buffer_size() < 2_000_000
        with suppress(OSError):  # it may have hung up on us before we were done
            writer.write_eof()
            while await reader.read(PAYLOAD_BYTES_MAX):  # ends when the acceptor hangs up: it never hangs
                pass
        await serve  # and raises nothing


async def _consume(stream: Stream) -> None:
    async for _ in stream:
        assert sum(len(getattr(item, "data", b"")) for item in stream._items) <= WINDOW_BYTES


async def _fuzz_opener(parts: list[bytes]) -> None:
    async with asyncio.timeout(20), byte_pipe() as (reader, writer, other_reader, other_writer):
        peer = RawPeer(other_reader, other_writer)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(peer.welcome())
            channel = await Channel.connect(reader, writer)
        streams = [await channel.open({"op": "ping"}) for _ in range(4)]
        asked = [asyncio.ensure_future(each) for each in (_consume(streams[0]), streams[1].result(), channel.ping())]
        await streams[2].cancel()
        for part in parts:
            peer.send_raw(part)
            await asyncio.sleep(0)
        with suppress(OSError):
            other_writer.write_eof()
        await channel.closed.wait()
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, CallboxError)
        assert not channel._streams
        await channel.aclose()


@settings(max_examples=50, deadline=None)
@given(NEARLY_RIGHT)
def test_no_client_can_hang_or_crash_the_acceptor(parts: list[bytes]) -> None:
    asyncio.run(_fuzz_acceptor(parts))


@settings(max_examples=50, deadline=None)
@given(NEARLY_RIGHT)
def test_no_guest_can_hang_or_crash_the_opener(parts: list[bytes]) -> None:
    asyncio.run(_fuzz_opener(parts))
