"""Hears that sessions have more events: one subscribed connection per store, for all who follow.

A notice says only "this session, of this life, has events up to n" (or: is erased). Losing one loses no event: who
follows looks into the store when it subscribes, when the connection was gone for a while, and every `CHECK_S` anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from callbox.stores.redis.ending import end
from callbox.stores.redis.link import Link
from callbox.stores.redis.names import Names, text
from callbox.stores.store import SessionKey

CHECK_S = 2.0
"""How often a follower looks whether a notice was lost: its sender may have died between the commit and the notice."""

PING_S = 1.0
"""How often a silent connection is asked whether it still lives; half of that without an answer is a no."""

ERASED = "erased"


class Subscription:
    """What one follower knows without asking.

    Attributes:
        up: Whether notices arrive.
        last: The highest number that was announced; it only grows while `up`.
        life: Of the session that is followed; notices of another one only make us look.
        erased: A session of that name was erased.
        unsure: Notices may have been lost before this moment: look into the store. Whoever looks sets it back first.
    """

    def __init__(self) -> None:
        self.up = False
        self.last = 0
        self.life = ""
        self.erased = False
        self.unsure = True
        self._changed = asyncio.Event()

    def change(self) -> None:
        """Wake the follower."""
        self._changed.set()

    def looked(self, life: str) -> None:
        """What was heard up to now needs no looking at any more; call it just before you look."""
        self.unsure = self.erased = False
        self.life, self.last = life, 0

    async def until_up(self, timeout_s: float | None) -> None:
        """Until notices arrive, or so long."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.up:
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            return

    async def wait(self, timeout_s: float) -> None:
        """Until something is new, or so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            self.unsure = True  # it has been quiet for long
        finally:
            self._changed.clear()


class News:
    """Keeps the subscribed connection while anybody follows."""

    def __init__(self, link: Link, names: Names, *, retry_s: float) -> None:
        self._link = link
        self._names = names
        self._retry_s = retry_s
        self._listeners: dict[str, set[Subscription]] = {}
        self._confirmed: set[str] = set()  # channels that the connection of now has
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def subscribed(self, key: SessionKey) -> AsyncGenerator[Subscription]:
        """Hear of one session. `up` becomes true once notices arrive."""
        channel = self._names.channel(key)
        subscription = Subscription()
        subscription.up = channel in self._confirmed
        self._listeners.setdefault(channel, set()).add(subscription)
        self._wanted.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._stay_connected())
        try:
            yield subscription
        finally:
            listeners = self._listeners[channel]
            listeners.discard(subscription)
            if not listeners:
                del self._listeners[channel]
            self._wanted.set()

    async def aclose(self) -> None:
        """Hear nothing more."""
        await end(self._task)
        self._task = None

    async def _stay_connected(self) -> None:
        while self._listeners:
            pubsub = self._link.redis.pubsub()
            try:
                await self._listen(pubsub)
            except Exception as error:  # noqa: BLE001 - whatever it is, this connection is over; the next one is tried
                self._link.failed(error)
            finally:
                self._confirmed.clear()
                for subscription in [each for group in self._listeners.values() for each in group]:
                    subscription.up = False
                    subscription.unsure = True
                    subscription.change()
                await _close(pubsub)
            if self._listeners:
                await asyncio.sleep(self._retry_s)

    async def _listen(self, pubsub: Any) -> None:
        """Until nobody follows any more; raises when the connection is gone."""
        channels: set[str] = set()
        reading: asyncio.Task[Any] | None = None
        wanting: asyncio.Task[Any] | None = None
        asked = False
        try:
            while self._listeners:
                self._wanted.clear()
                channels = await self._resubscribe(pubsub, channels)
                reading = reading or asyncio.create_task(pubsub.get_message(timeout=None))
                wanting = wanting or asyncio.create_task(self._wanted.wait())
                done, _ = await asyncio.wait(
                    {reading, wanting}, timeout=PING_S / 2 if asked else PING_S, return_when=asyncio.FIRST_COMPLETED
                )
                if reading in done:
                    self._take(reading.result())
                    reading, asked = None, False
                elif not done:
                    if asked:
                        raise TimeoutError
                    async with asyncio.timeout(PING_S):
                        await pubsub.ping()
                    asked = True
                if wanting in done:
                    wanting = None
        finally:
            rest = [task for task in (reading, wanting) if task is not None]
            for task in rest:
                task.cancel()
            if rest:
                await asyncio.wait(rest)

    async def _resubscribe(self, pubsub: Any, before: set[str]) -> set[str]:
        now = set(self._listeners)
        async with asyncio.timeout(PING_S):
            if now - before:
                await pubsub.subscribe(*(now - before))
            if before - now:
                self._confirmed -= before - now
                await pubsub.unsubscribe(*(before - now))
        return now

    def _take(self, message: Any) -> None:
        if message is None:
            return
        channel = text(message.get("channel"))
        listeners = self._listeners.get(channel, set())
        if message["type"] == "subscribe":  # also after redis-py connected anew by itself
            self._confirmed.add(channel)
            for subscription in listeners:
                subscription.up = subscription.unsure = True
                subscription.change()
        elif message["type"] == "message":
            self._link.succeeded()
            life, _, news = text(message["data"]).partition(" ")
            for subscription in listeners:
                if news == ERASED:
                    subscription.erased = True
                elif life != subscription.life and subscription.life:
                    subscription.unsure = True
                else:
                    subscription.last = max(subscription.last, int(news))
                subscription.change()


async def _close(pubsub: Any) -> None:
    try:
        async with asyncio.timeout(PING_S):
            await pubsub.aclose()
    except Exception:  # noqa: BLE001 - it is thrown away
        return
