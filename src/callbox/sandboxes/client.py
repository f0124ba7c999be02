"""The connection of one program to the supervisor of a home: found or started, and found again when it died."""

from __future__ import annotations

import asyncio
import logging
import secrets
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from callbox.errors import SandboxInterrupted, SandboxLost
from callbox.sandboxes.channel import Channel
from callbox.sandboxes.guest import Guest
from callbox.sandboxes.home import Home
from callbox.sandboxes.starting import POLL_S, connect_or_start, is_alive

_LOG = logging.getLogger("callbox.sandboxes.client")

_T = TypeVar("_T")

REPEATS_MAX = 3
"""Times that one idempotent request is sent again after the supervisor died under it."""

STOP_DEADLINE_S = 120.0
"""Seconds that a supervisor may take to end: it saves what is awake."""


class Client:
    """Requests to one home's supervisor. One connection, shared by every sandbox object of an event loop.

    The connection is made when it is first needed and again whenever it was lost, so a supervisor that dies, or ends
    because nothing was awake, is noticed by nobody but those whose request must not be sent twice.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._channel: Channel | None = None
        self._connecting = asyncio.Lock()

    @classmethod
    def of(cls, home: Home | None = None) -> Client:
        """The client of the running event loop for `home`; None: the default home.

        Ask again for each request, and keep none: an object may be used in another event loop than the one that made
        it, or in a process that was forked, and a connection belongs to one loop.
        """
        home = home or Home.default()
        clients = _CLIENTS.setdefault(asyncio.get_running_loop(), {})
        if home not in clients:
            clients[home] = cls(home)
        return clients[home]

    async def channel(self) -> Channel:
        """The open connection; made now if there is none.

        Raises:
            SandboxError: No supervisor answers and none could be started; the message ends with its last words.
        """
        async with self._connecting:
            if self._channel is not None and self._channel.closed.is_set():
                await self._drop(self._channel)
            if self._channel is None:
                self._channel = await connect_or_start(self.home)
            return self._channel

    async def call(self, op: str, *, repeat: bool, **fields: Any) -> dict[str, Any]:
        """Send a request and return its reply.

        Args:
            op: Like ``"sandbox.get"``.
            repeat: Sending it twice does no more than sending it once.
            fields: The rest of the request.

        Raises:
            SandboxLost: The connection broke and `repeat` is False, or the sandbox's machine died.
            SandboxError: What the other side answered.
        """
        return await self.attempt(op, lambda channel: channel.call(op, **fields), repeat=repeat)

    async def attempt(self, what: str, use: Callable[[Channel], Awaitable[_T]], *, repeat: bool) -> _T:
        """Do something with the connection; with `repeat`, again from its beginning when the supervisor died under it.

        Raises:
            SandboxLost: As `call` does.
        """
        for repeats_left in reversed(range(REPEATS_MAX + 1)):
            channel = await self.channel()
            try:
                return await use(channel)
            except SandboxLost as error:
                if not was_cut(channel):
                    raise
                if not repeat:
                    raise unknown_outcome(what) from error
                if not repeats_left:
                    raise
                _LOG.info("supervisor was lost during %s: asking again", what)
            except SandboxInterrupted:
                # A supervisor that ends refuses whatever would wake a sandbox; the next one takes it.
                if not repeat or not repeats_left or self.home.socket.exists():
                    raise
                await self.let_it_stop()
        raise AssertionError("the last repeat returns or raises")

    async def aclose(self) -> None:
        """End the connection. The next request makes a new one."""
        async with self._connecting:
            if self._channel is not None:
                await self._drop(self._channel)

    async def stop_supervisor(self) -> None:
        """End the supervisor in good order, and return when its process has ended. Sandboxes stay, asleep.

        Raises:
            TimeoutError: It still has not ended after `STOP_DEADLINE_S`.
        """
        channel = await self.channel()
        pid = int(channel.welcome["pid"])
        await self.call("supervisor.stop", repeat=False)
        await self.aclose()
        async with asyncio.timeout(STOP_DEADLINE_S):
            while is_alive(pid):  # noqa: ASYNC110 -- another process
                await asyncio.sleep(POLL_S)

    async def let_it_stop(self) -> None:
        """Return at once, or if the supervisor is stopping, when it has gone: it lays to sleep what a request woke."""
        channel = self._channel
        # The socket's name goes first, and its successor makes it again only when it has ended.
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_DEADLINE_S):
                while channel is not None and not channel.closed.is_set() and not self.home.socket.exists():  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)

    async def _drop(self, channel: Channel) -> None:
        self._channel = None
        await channel.aclose()


@dataclass(frozen=True, slots=True)
class Target:
    """One sandbox, as requests name it. Good in every event loop."""

    home: Home
    sandbox: str

    @property
    def client(self) -> Client:
        """The connection of the running event loop."""
        return Client.of(self.home)

    async def call(self, op: str, *, repeat: bool, **fields: Any) -> dict[str, Any]:
        """See `Client.call`."""
        return await self.client.call(op, repeat=repeat, sandbox=self.sandbox, **fields)

    async def ask(self, what: str, use: Callable[[Guest], Awaitable[_T]], *, repeat: bool) -> _T:
        """Ask the guest; see `Client.attempt`."""
        return await self.client.attempt(what, lambda channel: use(self.guest(channel)), repeat=repeat)

    def guest(self, channel: Channel) -> Guest:
        """The guest, through this connection."""
        return Guest(channel, {"sandbox": self.sandbox})


_CLIENTS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Home, Client]] = weakref.WeakKeyDictionary()


def was_cut(channel: Channel) -> bool:
    """Whether `SandboxLost` meant the connection to the supervisor, and not the machine of a sandbox."""
    return channel.closed.is_set()


def unknown_outcome(op: str) -> SandboxLost:
    """What a caller is told whose request may or may not have had its effect."""
    return SandboxLost(
        f"The supervisor died during {op}; whether it was done is not known.",
        hint="Look at the sandbox before you repeat it.",
    )


def new_exec_id() -> str:
    """An exec id that nobody else chose."""
    return f"x{secrets.token_hex(8)}"
