"""The typed client against guests that lie."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from callbox.errors import ConfigurationError, GuestError, GuestProtocolError
from callbox.sandboxes.channel import Incoming
from callbox.sandboxes.guest import ExecRequest, Gap, Guest, Output
from support import until
from support_channel import received, serving

pytestmark = pytest.mark.timeout(60)

ENDED = {
    "exit_code": 0,
    "signal": None,
    "timed_out": False,
    "killed_for": None,
    "duration_ms": 1.5,
    "stdout_end": 3,
    "stderr_end": 0,
    "running": False,
}
ENTRY = {"path": "a/b", "name": "b", "type": "file", "size": 1, "mode": 420, "mtime_ns": 1, "uid": 1000, "gid": 1000}
INFO = {
    "uptime_s": 1.5,
    "memory_total_bytes": 2,
    "memory_available_bytes": 1,
    "processes": 3,
    "disk_total_bytes": 5,
    "disk_free_bytes": 4,
    "kernel": "Linux",
    "generation": 1,
    "boot_id": "b" * 32,
}
REPAIRS = [{"name": n, "how": "x", "us": 1} for n in ("entropy", "clock", "network", "machine_id", "generation")]


@asynccontextmanager
async def lying(
    reply: Mapping[str, Any], before: Callable[[Incoming], Awaitable[None]] | None = None, **fields: Any
) -> AsyncIterator[tuple[Guest, list[dict[str, Any]]]]:
    """A client whose guest answers everything with `reply`, after `before`."""
    asked: list[dict[str, Any]] = []

    async def handler(incoming: Incoming) -> Mapping[str, Any]:
        asked.append(incoming.request)
        if before is not None:
            await before(incoming)
        return reply

    async with serving(handler) as channel:
        yield Guest(channel, fields), asked


async def repair(guest: Guest) -> list[str]:
    done = await guest.repair(entropy=b"e" * 64, realtime_ns=1, hostname="h", machine_id="0" * 32, generation=2)
    return [each.name for each in done]


async def listen(guest: Guest) -> list[Output | Gap]:
    async with await guest.exec_attach("e", stdout_offset=100) as stream:
        return [item async for item in stream]


CALLS: dict[str, tuple[Callable[[Guest], Awaitable[Any]], dict[str, Any]]] = {
    "ping": (lambda g: g.ping(), {"now_ns": 1}),
    "info": (lambda g: g.info(), INFO),
    "repair": (repair, {"repairs": REPAIRS}),
    "exec_start": (lambda g: g.exec_start(ExecRequest(id="e", argv=["true"])), {"id": "e", "pid": 1}),
    "exec_wait": (lambda g: g.exec_wait("e"), ENDED),
    "stat": (lambda g: g.stat("a/b"), {"entry": ENTRY}),
    "remove": (lambda g: g.remove("a"), {"removed": 1}),
    "tree": (lambda g: g.tree("a"), {"count": 0, "truncated": False}),
    "search": (lambda g: g.search("a", "b"), {"count": 0, "truncated": False, "files": 0}),
    "port_list": (lambda g: g.port_list(), {"ports": [{"port": 80, "address": "127.0.0.1"}]}),
}


@pytest.mark.parametrize("name", CALLS)
async def test_the_right_reply_is_believed_and_fields_are_added(name: str) -> None:
    call, reply = CALLS[name]
    async with lying(reply, sandbox="s1") as (guest, asked):
        assert await call(guest) is not None
        assert asked[0]["sandbox"] == "s1"


WRONG: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in CALLS),
    *(("ping", {"now_ns": wrong}) for wrong in (None, -1, 1.5, "1", True, 2**63, [], {})),
    *(("info", INFO | {key: wrong}) for key in INFO for wrong in (None, -1, [], True)),
    *(("exec_wait", ENDED | {key: wrong}) for key in ENDED for wrong in (-1, "x", [], 2**70)),
    *(("stat", {"entry": ENTRY | {key: None}}) for key in ENTRY),
    *(("stat", {"entry": ENTRY | {"name": wrong}}) for wrong in ("../x", "a/b", "..", "\0")),
    *(("stat", {"entry": wrong}) for wrong in (None, [], "x", ENTRY | {"type": "door"}, ENTRY | {"target": 7})),
    *(("repair", {"repairs": wrong}) for wrong in ([], REPAIRS[1:], REPAIRS[::-1], REPAIRS * 2, [1], "all")),
    *(("port_list", {"ports": wrong}) for wrong in ("x", {}, [1], [{"port": 0, "address": ""}], [{"port": 65_536}])),
]


@pytest.mark.parametrize(("name", "reply"), WRONG)
async def test_a_wrong_reply_is_never_believed(name: str, reply: dict[str, Any]) -> None:
    async with lying(reply) as (guest, _):
        with pytest.raises(GuestProtocolError):
            await CALLS[name][0](guest)


async def test_a_file_that_arrives_damaged_is_not_read_to_its_end() -> None:
    async def content(incoming: Incoming) -> None:
        await incoming.send(b"evil")
        await incoming.end()

    async with lying({"size": 4, "sha256": hashlib.sha256(b"good").hexdigest()}, content) as (guest, _):
        pieces = guest.read("a")
        assert await anext(pieces) == b"evil"
        with pytest.raises(GuestProtocolError):
            await anext(pieces)
        with pytest.raises(GuestProtocolError, match="more of a file"):
            await anext(guest.read("a", length=2))
        await until(lambda: not guest.channel._streams)


async def test_a_file_that_was_stored_damaged_is_not_called_written() -> None:
    async def swallow(incoming: Incoming) -> None:
        await received(incoming)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"

    for sha256 in ("0" * 64, "short", hashlib.sha256(b"abc").hexdigest()):
        async with lying({"size": 4, "sha256": sha256}, swallow) as (guest, asked):
            for content in (b"abc", pieces(), [b"a", b"bc"]):
                with pytest.raises(GuestProtocolError):
                    await guest.write("a", content)
            assert asked[0]["sha256"] == hashlib.sha256(b"abc").hexdigest()


async def test_an_upload_whose_source_breaks_leaves_no_stream() -> None:
    def pieces() -> Any:
        yield b"abc"
        raise OSError("disk")

    async def swallow(incoming: Incoming) -> None:
        await received(incoming)
        await asyncio.Event().wait()

    async with lying({}, swallow) as (guest, _):
        with pytest.raises(OSError, match="disk"):
            await guest.write("a", pieces())
        await until(lambda: not guest.channel._streams)


@pytest.mark.parametrize(
    ("channel", "start", "end"), [(1, 99, 200), (1, 101, 200), (1, 100, 99), (2, 1, 2), (0, 0, 9), (3, 0, 9)]
)
async def test_a_gap_only_leads_forward_from_where_we_are(channel: int, start: int, end: int) -> None:
    async def gap(incoming: Incoming) -> None:
        await incoming.event({"event": "gap", "channel": channel, "from": start, "to": end})

    async with lying(ENDED, gap) as (guest, _):
        with pytest.raises(GuestProtocolError):
            await listen(guest)


async def test_offsets_follow_output_and_gaps() -> None:
    async def output(incoming: Incoming) -> None:
        await incoming.event({"event": "gap", "channel": 1, "from": 100, "to": 150})
        await incoming.send(b"abc", 1)
        await incoming.send(b"de", 2)

    async with lying(ENDED, output) as (guest, _):
        assert await listen(guest) == [
            Gap(channel=1, start=100, end=150),
            Output(channel=1, offset=150, data=b"abc"),
            Output(channel=2, offset=0, data=b"de"),
        ]


async def test_output_of_no_channel_is_refused() -> None:
    async def body(incoming: Incoming) -> None:
        await incoming.send(b"x", 0)

    async with lying(ENDED, body) as (guest, _):
        with pytest.raises(GuestProtocolError):
            await listen(guest)


async def test_a_guest_that_never_stops_listing_is_stopped() -> None:
    async def endless(incoming: Incoming) -> None:
        while True:
            await incoming.event({"event": "entries", "entries": [ENTRY] * 100})

    async with lying({}, endless) as (guest, _):
        with pytest.raises(GuestError) as caught:
            await guest.tree("a", entries_max=500)
        assert caught.value.guest_code == "too_large"
        await until(lambda: not guest.channel._streams)


async def test_a_watch_that_ends_before_it_began_is_an_error() -> None:
    async with lying({}) as (guest, _):
        with pytest.raises(GuestProtocolError):
            await guest.watch("a")

    async def nonsense(incoming: Incoming) -> None:
        await incoming.event({"event": "watching"})
        await incoming.event({"event": "changed", "changes": [{"kind": "sold", "path": "a"}]})

    async with lying({}, nonsense) as (guest, _), await guest.watch("a") as watch:
        with pytest.raises(GuestProtocolError):
            await anext(watch)


async def test_lost_changes_are_said() -> None:
    async def overflow(incoming: Incoming) -> None:
        await incoming.event({"event": "watching"})
        await incoming.event({"event": "changed", "changes": [{"kind": "moved", "path": "b", "from": "a"}] * 2})
        await incoming.event({"event": "overflow"})

    async with lying({}, overflow) as (guest, _), await guest.watch("top") as watch:
        assert [(change.kind, change.path, change.source) async for change in watch] == [
            ("moved", "b", "a"),
            ("moved", "b", "a"),
            ("overflow", "top", None),
        ]


RAW = base64.b64encode(b"d/a\xffb").decode()


async def test_a_name_that_is_no_text_is_told_and_can_be_asked_for() -> None:
    entry = ENTRY | {"path": "d/a\N{REPLACEMENT CHARACTER}b", "name": "a\N{REPLACEMENT CHARACTER}b"}
    async with lying({"entry": entry | {"path_base64": RAW}}) as (guest, asked):
        found = await guest.stat("d/é")
        assert (found.path, found.name) == ("d/a\udcffb", "a\udcffb")
        await guest.stat(found.path)
        await guest.move(found.path, "plain")
        assert asked[0]["path"] == "d/é"
        assert (asked[1].get("path"), asked[1]["path_base64"]) == (None, RAW)
        assert (asked[2].get("from"), asked[2]["from_base64"], asked[2]["to"]) == (None, RAW, "plain")
        with pytest.raises(ConfigurationError):
            await guest.stat("\ud800")
    async with lying({"entry": entry}) as (guest, _):
        assert (await guest.stat("x")).name == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize("raw", ["?", 7, base64.b64encode(b"a/..").decode(), base64.b64encode(b"a\0").decode()])
async def test_a_name_that_is_no_name_is_not_believed(raw: object) -> None:
    async with lying({"entry": ENTRY | {"path_base64": raw}}) as (guest, _):
        with pytest.raises(GuestProtocolError):
            await guest.stat("x")
