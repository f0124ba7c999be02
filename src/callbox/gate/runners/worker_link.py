"""The host's end of the worker inside one sandbox: find it or start it, and ask it, whoever dies in between.

The worker (`callbox.gate.runners.inside.worker`) is reached by a stream per call to a port of the sandbox, and not by
its standard input: streams do not get in each other's way, another program needs no offset to go on from, and a request
that was cut off in the middle is gone instead of glued to the next one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pkgutil
import struct
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from callbox.errors import (
    GuestError,
    GuestProtocolError,
    SandboxError,
    SandboxInterrupted,
    SandboxLost,
    SandboxNotFound,
)
from callbox.sandboxes.channel import Data, Eof, Stream
from callbox.sandboxes.client import Target, was_cut
from callbox.sandboxes.output import Attachment
from callbox.sandboxes.process import Process, exec_request
from callbox.sandboxes.results import Exit
from callbox.tools.source import Shipment
from callbox.values import JsonObject

log = logging.getLogger("callbox.gate.sandbox")

PROTOCOL = 1
"""Of the worker. A worker that speaks another one is another process, with a memory of its own."""

EXEC_ID = f"callbox-tools-{PROTOCOL}"
"""By which any program finds the worker of a sandbox."""

TRIES_MAX = 6
"""Times that one call is sent, or its result asked for, while supervisors die and sandboxes fall asleep."""

STOP_DEADLINE_S = 5.0
"""Seconds that ending a call may take whose caller has gone."""

FRAME_BYTES_MAX = 16_000_000
"""Of one answer of the worker, which may be anybody by now: its memory must not become ours."""

_HELLO_BYTES_MAX = 1_000
_BEYOND = 2**53
_HEAD = struct.Struct(">I")


class BoxGone(Exception):
    """The sandbox was deleted. Nothing was sent."""


class _TryAgain(Exception):
    """This attempt came to nothing; whether the request arrived is for `Sent` to say."""


@dataclass(frozen=True, slots=True)
class Where:
    """A worker: its port, and the name that this one process of it gave itself."""

    port: int
    worker: str


@dataclass(slots=True)
class Sent:
    """To which worker a call may have been sent."""

    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the worker is asked for it.

    Attributes:
        key: The same key is the same call: it runs once.
        shipment: The function.
        arguments: JSON.
        context: What the tool may know.
        context_parameter: Where it wants that.
        progress: Told what the tool reports.
    """

    key: str
    shipment: Shipment
    arguments: JsonObject
    context: JsonObject
    context_parameter: str | None
    progress: Callable[[Any], None]


class WorkerLink:
    """One sandbox's worker, as one event loop sees it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._where: Where | None = None
        self._finding = asyncio.Lock()
        self._finished: list[str] = []

    async def call(self, call: Call) -> JsonObject:
        """Run one call and return its outcome. Cancelled, it ends the call inside.

        Raises:
            SandboxLost: The worker or its machine died after the call was sent; whether it had its effect is unknown.
            BoxGone: The sandbox was deleted before.
        """
        sent = Sent()
        try:
            for tries_left in reversed(range(TRIES_MAX)):
                try:
                    return await self._try(call, sent)
                except _TryAgain as error:
                    if not tries_left:
                        raise SandboxLost(
                            "The sandbox was lost again and again.", hint="Look at its logs: callbox sandbox logs."
                        ) from error
                except SandboxInterrupted:
                    if not tries_left:
                        raise
                    await self._target.client.let_it_stop()
        except asyncio.CancelledError:
            await self._stop(call.key, sent)
            raise
        raise AssertionError("the last try returns or raises")

    async def _try(self, call: Call, sent: Sent) -> JsonObject:
        try:
            where = await self._find(after=sent.worker)
        except SandboxLost as error:
            # It was the machine: as long as nothing was sent, the next attempt boots it from its disk.
            if sent.worker is not None:
                raise
            raise _TryAgain from error
        channel = await self._target.client.channel()
        before = sent.worker
        try:
            async with await self._target.guest(channel).port_forward(where.port) as stream:
                sent.worker = where.worker
                return await self._ask(stream, call, where, again=before is not None)
        except SandboxNotFound as error:  # nothing listens there, or there is no sandbox: nobody has taken it
            sent.worker = before
            self._where = None
            raise _TryAgain from error
        except (SandboxLost, GuestError, GuestProtocolError) as error:
            if not was_cut(channel):
                self._where = None
                if isinstance(error, SandboxLost):
                    raise
            raise _TryAgain from error

    async def _ask(self, stream: Stream, call: Call, where: Where, *, again: bool) -> JsonObject:
        forget, shipment = list(self._finished), call.shipment
        request: JsonObject = {"do": "call", "worker": where.worker, "id": call.key, "digest": shipment.digest}
        request |= {"again": again, "forget": forget, "arguments": call.arguments, "context": call.context}
        request["context_parameter"] = call.context_parameter
        await stream.send(_pack(request))
        frames = _Frames(stream)
        while True:
            frame = await frames.read()
            if frame is None or "stranger" in frame:
                self._where = None
                raise _TryAgain
            if "need" in frame:
                pieces = [list(piece) for piece in shipment.pieces]
                await stream.send(_pack({"module": shipment.module, "function": shipment.function, "pieces": pieces}))
            elif "progress" in frame:
                call.progress(frame["progress"])
            elif "unknown" in frame:
                raise SandboxLost(_LOST)
            elif isinstance(frame.get("done"), dict):
                self._finished = [key for key in self._finished if key not in forget]
                self._finished.append(call.key)
                return cast("JsonObject", frame["done"])
            else:
                raise GuestProtocolError("The worker of a sandbox said what it never says.")

    async def _find(self, after: str | None) -> Where:
        """The worker, started if there is none; `after`: it must be the one that a call was sent to already."""
        async with self._finding:
            ended: Exit | None = None
            if self._where is None:
                try:
                    self._where, ended = await self._look()
                except SandboxNotFound:
                    self._where = None
            if after is not None and (self._where is None or self._where.worker != after):
                raise SandboxLost(f"{_LOST}{_why(ended)}")
            if self._where is None:
                self._where = await self._start()
            return self._where

    async def _look(self) -> tuple[Where | None, Exit | None]:
        """The worker that was started before, or how it ended."""
        # Its error output is what tools print; nobody needs it here.
        attachment = Attachment(self._target, EXEC_ID, stderr_offset=_BEYOND, wakes=True)
        said = bytearray()
        async with aclosing(attachment.chunks()) as chunks:
            async for chunk in chunks:
                if chunk.output == "stdout":
                    said += chunk.data
                if b"\n" in said or len(said) > _HELLO_BYTES_MAX:
                    break
        # Whether it still runs shows when it is asked: an ended one leaves its line behind.
        ended = await Process(self._target, EXEC_ID).poll()
        if ended is not None:
            return None, ended
        return _read_hello(bytes(said)), None

    async def _start(self) -> Where:
        request = exec_request(
            EXEC_ID,
            ["python3", "-u", "-c", worker_source()],
            cwd=None,
            env=None,
            user="box",
            stdin=False,
        )
        try:
            with suppress(SandboxNotFound, GuestError):  # there was none, or somebody else has started it by now
                await self._target.ask("exec.forget", lambda guest: guest.exec_forget(EXEC_ID), repeat=True)
            try:
                await self._target.ask("exec.start", lambda guest: guest.exec_start(request), repeat=True)
            except GuestError as error:
                if error.guest_code != "exists":  # another version of this program was faster
                    raise
            where, ended = await self._look()
        except SandboxNotFound:
            raise BoxGone from None
        if where is None:
            said = await self._last_words()
            raise SandboxError(
                f"The worker for tools does not run in this image{_why(ended)} {said}".rstrip(),
                hint="The image needs python3, 3.9 or later.",
            )
        return where

    async def _last_words(self) -> str:
        with suppress(SandboxError):
            return (await Process(self._target, EXEC_ID).stderr.read(0))[-500:].decode(errors="replace")
        return ""

    async def _stop(self, key: str, sent: Sent) -> None:
        """End a call that nobody waits for. One that does not let itself be ended takes the worker with it."""
        where = self._where
        if sent.worker is None or where is None or where.worker != sent.worker:
            return
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                channel = await self._target.client.channel()
                async with await self._target.guest(channel).port_forward(where.port) as stream:
                    await stream.send(_pack({"do": "stop", "worker": where.worker, "id": key}))
                    answer = await _Frames(stream).read()
                if answer is not None and answer.get("stopped") is True:
                    return
                async with self._finding:
                    if self._where == where:
                        log.warning(
                            "Call %s in sandbox %s does not end: its worker is started again, and what it held in "
                            "memory is lost",
                            key,
                            self._target.sandbox,
                        )
                        self._where = None
                        await Process(self._target, EXEC_ID).kill()
                        await Process(self._target, EXEC_ID).wait()
        except (TimeoutError, SandboxError) as error:
            log.warning("Call %s in sandbox %s could not be ended: %s", key, self._target.sandbox, error)


_LOST = "The process in the sandbox that ran this call is gone. What it held in memory is lost, files are kept."


def _why(ended: Exit | None) -> str:
    if ended is None:
        return ""
    if ended.killed_for is not None:
        return f" It was killed: too much {ended.killed_for}."
    return f" It ended with {ended.exit_code}."


@cache
def worker_source() -> str:
    """The program that runs inside."""
    data = pkgutil.get_data("callbox.gate.runners.inside", "worker.py")
    assert data is not None
    return data.decode()


def _read_hello(said: bytes) -> Where | None:
    try:
        hello = json.loads(said.partition(b"\n")[0])
        port, worker = hello["port"], hello["worker"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Where(port, worker) if type(port) is int and 0 < port < 65_536 and type(worker) is str else None


def _pack(frame: JsonObject) -> bytes:
    body = json.dumps(frame, separators=(",", ":")).encode()
    return _HEAD.pack(len(body)) + body


class _Frames:
    """Reads frames of the worker from a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def read(self) -> JsonObject | None:
        """The next one; None at the end.

        Raises:
            GuestProtocolError: It is too large or no JSON object.
        """
        head = await self._take(_HEAD.size)
        if head is None:
            return None
        (size,) = _HEAD.unpack(head)
        if size > FRAME_BYTES_MAX:
            raise GuestProtocolError(f"The worker of a sandbox sent a frame of {size:,} bytes.")
        body = await self._take(size)
        if body is None:
            return None
        try:
            frame = json.loads(body)
        except (ValueError, RecursionError):
            raise GuestProtocolError("The worker of a sandbox sent what is no JSON.") from None
        if not isinstance(frame, dict):
            raise GuestProtocolError("The worker of a sandbox sent what is no object.")
        return cast("JsonObject", frame)

    async def _take(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            try:
                item = await anext(self._stream)
            except StopAsyncIteration:
                return None
            if isinstance(item, Eof):
                return None
            if isinstance(item, Data):
                self._buffer += item.data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken
