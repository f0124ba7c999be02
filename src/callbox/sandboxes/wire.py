"""Frames of the guest protocol, as bytes: encoding, decoding, resynchronisation. Pure; see docs/guest-protocol.md.

Nothing here knows what a frame means. `channel` does.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from enum import IntEnum
from struct import Struct, error
from typing import Any, Final, NamedTuple, NoReturn, cast

from callbox.errors import ConfigurationError, GuestError, GuestProtocolError

VERSION: Final = 1
"""Of the protocol."""

MAGIC: Final = 0xCA11B0C5
"""The first four bytes of every frame."""

HEADER_BYTES: Final = 20
"""Of every frame."""

PAYLOAD_BYTES_MAX: Final = 65_536
"""Of one frame."""

RESYNC: Final = bytes(2 * (PAYLOAD_BYTES_MAX + HEADER_BYTES))
"""What a new opener sends first. It ends any frame that its predecessor left open, and one that its payload feigned."""

WINDOW_BYTES: Final = 262_144
"""What each direction of each stream may send before the first WINDOW."""

WINDOW_BYTES_MAX: Final = 2**31 - 1
"""What no window may ever exceed."""

STREAMS_MAX: Final = 1_024
"""Open at once on one connection."""

JSON_DEPTH_MAX: Final = 32
"""Nesting of one payload; an object in an object is 2."""

PING_BYTES_MAX: Final = 64
"""Of one PING's payload."""

RESYNC_WORK_BYTES_MAX: Final = 256 * 1_024 * 1_024
"""Bytes that one decoder may check in vain. Garbage full of headers costs 4,096 times its size; nobody may burn us."""

_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "big")
_HEADER: Final = Struct(">IBBHIII")
_UNCHECKED: Final = Struct(">IBBHII")
_CRC: Final = Struct(">I")
_WINDOW: Final = Struct(">I")


class FrameType(IntEnum):
    """What a frame is. The numbers are the protocol's."""

    HELLO = 1
    WELCOME = 2
    OPEN = 3
    DATA = 4
    EVENT = 5
    EOF = 6
    CLOSE = 7
    CANCEL = 8
    WINDOW = 9
    PING = 10
    PONG = 11


class Frame(NamedTuple):
    """One frame that held.

    Attributes:
        type: A `FrameType`, or a number that this version does not know.
        channel: 0 body, 1 stdout, 2 stderr.
        stream: 0 is the connection itself.
        payload: At most 65,536 bytes.
    """

    type: int
    channel: int
    stream: int
    payload: bytes


def header(type_: int, stream: int, payload: bytes | memoryview, channel: int = 0) -> bytes:
    """The 20 bytes that go before `payload`. For writers that do not want to copy the payload."""
    size = len(payload)
    if size > PAYLOAD_BYTES_MAX:
        raise GuestProtocolError(f"A frame of {size} bytes is too large.", hint=f"At most {PAYLOAD_BYTES_MAX}.")
    start = _UNCHECKED.pack(MAGIC, type_, channel, 0, stream, size)
    return start + _CRC.pack(zlib.crc32(payload, zlib.crc32(start)))


def encode(type_: int, stream: int, payload: bytes = b"", channel: int = 0) -> bytes:
    """One whole frame.

    Raises:
        GuestProtocolError: The payload is larger than 65,536 bytes.
    """
    return header(type_, stream, payload, channel) + payload


def window(size: int) -> bytes:
    """The payload of a WINDOW frame that grants `size` more bytes."""
    return _WINDOW.pack(size)


def parse_window(payload: bytes) -> int:
    """How many bytes a WINDOW frame grants.

    Raises:
        GuestProtocolError: Not four bytes, nothing, or more than any window may be.
    """
    try:
        (size,) = _WINDOW.unpack(payload)
    except error:
        raise GuestProtocolError("A WINDOW frame is not four bytes long.") from None
    if not 0 < size <= WINDOW_BYTES_MAX:
        raise GuestProtocolError(f"A WINDOW frame grants {size} bytes.")
    return cast("int", size)


class Decoder:
    """Turns chunks of bytes into frames. Whatever is not a frame is skipped, byte by byte.

    Holds at most one incomplete frame between two calls.

    Attributes:
        skipped_bytes: That were part of no frame, up to now.
        garbage_bytes: How many of them were not zero: whoever sends some has torn a frame, or never spoke the protocol.
    """

    __slots__ = ("_buffer", "_wasted_bytes", "garbage_bytes", "skipped_bytes")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wasted_bytes = 0
        self.skipped_bytes = 0
        self.garbage_bytes = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the connection; return the frames that they complete.

        Raises:
            GuestProtocolError: The peer makes us search for frames in its garbage for too long.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        view = memoryview(buffer)
        try:
            position = self._scan(buffer, view, frames)
        finally:
            view.release()
        del buffer[:position]
        return frames

    def _scan(self, buffer: bytearray, view: memoryview, frames: list[Frame]) -> int:
        """Append the frames in `buffer`; return where the first incomplete one begins."""
        position = 0
        available = len(buffer)
        while available - position >= HEADER_BYTES:
            magic, type_, channel, reserved, stream, size, crc = _HEADER.unpack_from(buffer, position)
            if magic != MAGIC or reserved or size > PAYLOAD_BYTES_MAX:
                position = self._skip(buffer, position)
                continue
            body = position + HEADER_BYTES
            end = body + size
            if end > available:
                break
            if zlib.crc32(view[body:end], zlib.crc32(view[position : body - 4])) != crc:
                self._wasted_bytes += size
                if self._wasted_bytes > RESYNC_WORK_BYTES_MAX:
                    raise GuestProtocolError("The peer sends garbage that looks like frames.")
                position = self._skip(buffer, position)
                continue
            frames.append(Frame(type_, channel, stream, bytes(view[body:end])))
            position = end
        # Less than a header is left: what cannot become one is dropped now, so that garbage is never kept.
        while position < available and not _MAGIC_BYTES.startswith(buffer[position : position + 4]):
            position = self._skip(buffer, position)
        return position

    def _skip(self, buffer: bytearray, position: int) -> int:
        """Move to the next place after `position` where a frame may begin."""
        found = buffer.find(_MAGIC_BYTES, position + 1)
        if found < 0:
            found = len(buffer)
            # The magic may be cut by the end of the chunk.
            for kept in (3, 2, 1):
                if found - kept > position and buffer.endswith(_MAGIC_BYTES[:kept]):
                    found -= kept
                    break
        self.skipped_bytes += found - position
        self.garbage_bytes += found - position - buffer.count(0, position, found)
        return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode
_encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode


def parse_object(payload: bytes) -> dict[str, Any]:
    """Read a JSON payload. The peer may be hostile: nothing but a shallow object of valid text passes.

    Raises:
        GuestProtocolError: Not UTF-8, not JSON, no object, nested deeper than 32, a lone surrogate.
    """
    try:
        value: object = _decode_json(payload.decode())
        if b"\\ud" in payload or b"\\uD" in payload:
            # A lone surrogate passes the parser and breaks whoever prints or stores it later.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise GuestProtocolError("A payload is not JSON.") from None
    if not isinstance(value, dict):
        raise GuestProtocolError("A payload is not a JSON object.")
    if payload.count(b"{") + payload.count(b"[") > JSON_DEPTH_MAX:
        _check_depth(cast("object", value))
    return cast("dict[str, Any]", value)


def _check_depth(value: object) -> None:
    level: list[Any] = [value]
    for _ in range(JSON_DEPTH_MAX):
        below: list[Any] = []
        for node in level:
            children = cast("dict[str, Any]", node).values() if type(node) is dict else node
            below += [child for child in children if type(child) is dict or type(child) is list]
        if not below:
            return
        level = below
    raise GuestProtocolError(f"A payload is nested deeper than {JSON_DEPTH_MAX}.")


def dump_object(value: Mapping[str, Any]) -> bytes:
    """Write a JSON payload.

    Raises:
        ConfigurationError: It is no JSON.
        GuestError: It is larger than a frame (``too_large``).
    """
    try:
        payload = _encode_json(dict(value)).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(
            f"A request or reply is no JSON: {exc}.",
            hint="Use text that can be UTF-8, finite numbers, lists and objects.",
        ) from None
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise GuestError(
            f"A request or reply of {len(payload)} bytes does not fit into a frame of {PAYLOAD_BYTES_MAX}.",
            guest_code="too_large",
            hint="Send long texts as files or standard input.",
        )
    return payload
