from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from callbox.errors import ConfigurationError, GuestError, GuestProtocolError
from callbox.sandboxes.wire import (
    JSON_DEPTH_MAX,
    MAGIC,
    PAYLOAD_BYTES_MAX,
    RESYNC,
    Decoder,
    Frame,
    FrameType,
    dump_object,
    encode,
    parse_object,
    parse_window,
    window,
)

VECTORS = json.loads((Path(__file__).parents[3] / "guest/wire/testdata/vectors.json").read_text(encoding="utf-8"))[
    "vectors"
]


def joined(parts: list[dict[str, Any]]) -> bytes:
    return b"".join(bytes.fromhex(part["hex"]) if "hex" in part else bytes(part["zeros"]) for part in parts)


def expected(vector: dict[str, Any]) -> list[Frame]:
    return [Frame(f["type"], f["channel"], f["stream"], joined(f["payload"])) for f in vector["frames"]]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
@pytest.mark.parametrize("chunk_bytes", [1_000_000, 4_099, 7])
def test_decodes_the_vectors_it_shares_with_the_agent(vector: dict[str, Any], chunk_bytes: int) -> None:
    data, decoder = joined(vector["input"]), Decoder()
    frames = [f for at in range(0, len(data), chunk_bytes) for f in decoder.feed(data[at : at + chunk_bytes])]
    assert frames == expected(vector)
    assert (decoder.skipped_bytes, decoder.pending_bytes) == (vector["skipped"], vector["pending"])


CLEAN = [vector for vector in VECTORS if not vector["skipped"] and not vector["pending"]]


@pytest.mark.parametrize("vector", CLEAN, ids=[vector["name"] for vector in CLEAN])
def test_encodes_the_vectors_it_shares_with_the_agent(vector: dict[str, Any]) -> None:
    assert b"".join(encode(f.type, f.stream, f.payload, f.channel) for f in expected(vector)) == joined(vector["input"])


def test_what_is_too_large_for_a_frame_is_not_encoded() -> None:
    with pytest.raises(GuestProtocolError):
        encode(FrameType.DATA, 1, bytes(PAYLOAD_BYTES_MAX + 1))


def test_garbage_is_not_kept() -> None:
    decoder = Decoder()
    for _ in range(100):
        decoder.feed(bytes(65_536))
    assert decoder.pending_bytes == 0
    assert decoder.skipped_bytes == 100 * 65_536


def test_an_open_frame_is_all_that_is_kept() -> None:
    decoder = Decoder()
    frame = encode(FrameType.DATA, 1, bytes(PAYLOAD_BYTES_MAX))
    assert decoder.feed(frame + frame[:-1]) == [Frame(FrameType.DATA, 0, 1, bytes(PAYLOAD_BYTES_MAX))]
    assert decoder.pending_bytes == len(frame) - 1
    assert len(decoder.feed(frame[-1:])) == 1


def test_who_sends_garbage_made_of_headers_is_cut_off() -> None:
    # Sixteen bytes each, every one claims 65,536: each costs a checksum over all that follows.
    bait = (MAGIC.to_bytes(4, "big") + bytes(8) + PAYLOAD_BYTES_MAX.to_bytes(4, "big")) * 8_192
    decoder = Decoder()
    with pytest.raises(GuestProtocolError, match="garbage"):
        for _ in range(16):
            decoder.feed(bait)


def test_one_torn_frame_full_of_headers_is_survived() -> None:
    bait = (MAGIC.to_bytes(4, "big") + bytes(8) + PAYLOAD_BYTES_MAX.to_bytes(4, "big")) * 4_000
    torn = encode(FrameType.DATA, 1, bait)[:-3]  # its last two bytes are zeros, which the successor would complete
    assert Decoder().feed(torn + RESYNC + encode(FrameType.EOF, 3)) == [Frame(FrameType.EOF, 0, 3, b"")]


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{", b"[]", b'"a"', b"null", b'{"a":NaN}', b'{"a":1}x', b"\xff\xfe", b"\xef\xbb\xbf{}"),
        *(b'{"a":"\\ud800"}', b'{"a":' + b"[" * 60_000, b'{"a":' + b"9" * 60_000 + b"}"),
    ],
    ids=lambda payload: repr(payload[:12]),
)
def test_a_payload_that_is_no_plain_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(GuestProtocolError):
        parse_object(payload)


def test_a_payload_may_be_nested_32_deep_and_no_deeper() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)

    assert parse_object(nested(JSON_DEPTH_MAX))
    with pytest.raises(GuestProtocolError, match="deeper"):
        parse_object(nested(JSON_DEPTH_MAX + 1))
    with pytest.raises(GuestProtocolError, match="deeper"):
        parse_object(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}")
    assert len(parse_object(json.dumps({"a": [[]] * 100, "b": [{"c": "[[[["}] * 100}).encode())) == 2


def test_what_was_parsed_can_be_sent_on() -> None:
    value = {"path": "a/ü \U0001f600\n", "n": 1.5, "none": None}
    assert parse_object(dump_object(value)) == value
    assert parse_object(json.dumps(value).encode()) == value


def test_a_request_that_does_not_fit_says_so_to_its_maker() -> None:
    with pytest.raises(GuestError, match="does not fit") as caught:
        dump_object({"shell": "x" * PAYLOAD_BYTES_MAX})
    assert caught.value.guest_code == "too_large"
    for wrong in ({"a": object()}, {"a": float("nan")}, {"a": "\ud800"}):
        with pytest.raises(ConfigurationError):
            dump_object(wrong)


def test_a_window_grants_something_and_not_everything() -> None:
    assert parse_window(window(65_536)) == 65_536
    for wrong in (b"", b"\0\0\1", bytes(4), b"\x80\0\0\0", bytes(5)):
        with pytest.raises(GuestProtocolError):
            parse_window(wrong)
