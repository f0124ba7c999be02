"""What both ends of a stream share: credit in both directions, and the queue of what has arrived."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from callbox.errors import GuestProtocolError
from callbox.sandboxes.channel.items import Data, Eof, Event, Item
from callbox.sandboxes.channel.outbox import Outbox
from callbox.sandboxes.wire import PAYLOAD_BYTES_MAX, WINDOW_BYTES, WINDOW_BYTES_MAX, FrameType, window

_GRANT_BYTES: Final = WINDOW_BYTES // 4
"""Consumed bytes are granted again in portions: a WINDOW frame for each would double the frames."""

_MERGE_BYTES_MAX: Final = 4_096
"""Small pieces of one channel are joined while they wait: a program that writes byte by byte costs little memory."""


_ORDERED_ITEMS_MAX: Final = 256
"""So many waiting pieces keep the order among channels. More are joined channel by channel: nobody may make us hold
an object for every byte by taking turns between two."""

_EVENTS_MAX: Final = 4_096
"""Waiting events of one stream. What an agent sends fills its window before: they have some hundred bytes each."""


class Flow:
    """One stream, seen from one end. Not for use from outside of `channel`."""

    def __init__(self, number: int, outbox: Outbox) -> None:
        self.number = number
        self._outbox = outbox
        self._credit = WINDOW_BYTES
        self._credit_waiters: deque[asyncio.Future[None]] = deque()
        self._items: deque[Item] = deque()
        self._last: dict[int, Data] = {}
        self._events = 0
        self._has_ended = False
        self._reader: asyncio.Future[None] | None = None
        self._allowance = WINDOW_BYTES
        self._ungranted = 0
        self._over = False

    # What the connection calls.

    def arrive(self, item: Data | Event, size: int) -> None:
        """Queue what the peer sent.

        Raises:
            GuestProtocolError: It had no credit for it, or sends more events than anybody would.
        """
        if size > self._allowance:
            raise GuestProtocolError(f"The peer sent {size} bytes with credit for {self._allowance}.")
        if size == 0:
            return  # costs the sender nothing, so an endless row of them must cost us nothing
        self._allowance -= size
        if isinstance(item, Data):
            last = self._last.get(item.channel)
            if (
                last is not None
                and len(last.data) + size <= _MERGE_BYTES_MAX
                and (last is self._items[-1] or len(self._items) >= _ORDERED_ITEMS_MAX)
            ):
                last.data += item.data
                return
            self._last[item.channel] = item
        else:
            self._events += 1
            if self._events > _EVENTS_MAX:
                raise GuestProtocolError(f"The peer sent {self._events} events that nobody has read yet.")
            self._last.clear()  # nothing may move over it
        self._items.append(item)
        self._wake()

    def arrive_end(self) -> None:
        """Queue the peer's EOF."""
        if not self._has_ended:
            self._has_ended = True
            self._items.append(Eof())
            self._last.clear()
            self._wake()

    def grant(self, size: int) -> None:
        """The peer allows so many more bytes.

        Raises:
            GuestProtocolError: More than any window may be.
        """
        self._credit += size
        if self._credit > WINDOW_BYTES_MAX:
            raise GuestProtocolError("The peer granted more than 2^31-1 bytes.")
        self._wake_senders()

    # What both ends' public methods are made of.

    async def _send(self, data: bytes | bytearray | memoryview, channel: int) -> None:
        # Frames wait in the outbox as views: bytes that could still change are copied once, here.
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        while view:
            if self._credit <= 0:
                await self._wait_for_credit(1)
            if self._over:
                return
            size = min(len(view), self._credit, PAYLOAD_BYTES_MAX)
            self._credit -= size
            await self._outbox.send(FrameType.DATA, self.number, view[:size], channel)
            view = view[size:]

    async def _send_event(self, payload: bytes) -> None:
        await self._wait_for_credit(len(payload))
        if not self._over:
            self._credit -= len(payload)
            await self._outbox.send(FrameType.EVENT, self.number, payload)

    async def _wait_for_credit(self, size: int) -> None:
        while self._credit < size and not self._over:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._credit_waiters.append(waiter)
            await waiter

    async def _wait(self) -> None:
        """Return when an item has arrived or the stream is over."""
        if self._reader is not None:
            raise RuntimeError("Two tasks read from one stream.")
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _take(self) -> Item:
        item = self._items.popleft()
        if isinstance(item, Data):
            self._ungranted += len(item.data)
            if self._last.get(item.channel) is item:
                del self._last[item.channel]
        elif isinstance(item, Event):
            self._ungranted += len(item.payload)
            self._events -= 1
        if self._ungranted >= _GRANT_BYTES and not self._over:
            self._outbox.put(FrameType.WINDOW, self.number, window(self._ungranted))
            self._allowance += self._ungranted
            self._ungranted = 0
        return item

    def _finish(self) -> None:
        """No more frames of this stream, in either direction."""
        self._over = True
        self._wake()
        self._wake_senders()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_senders(self) -> None:
        while self._credit_waiters:
            waiter = self._credit_waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
