"""Passing one request on: a client's stream becomes a stream of the guest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from callbox.errors import CallboxError
from callbox.sandboxes.channel.acceptor import Incoming
from callbox.sandboxes.channel.failures import of_guest
from callbox.sandboxes.channel.items import Data, Event
from callbox.sandboxes.channel.opener import Stream

CANCEL_TIMEOUT_S: Final = 5.0
"""How long a guest may take to answer CANCEL; then the client is answered without it."""


async def relay(incoming: Incoming, upstream: Stream) -> Mapping[str, Any]:
    """Pump both ways until `upstream` ends; return its reply, for the handler to return.

    Credit is end to end: nothing is taken from one side before the other side has room, so a relayed stream holds
    at most two windows. CANCEL passes, and so does what the guest answers to it.

    Raises:
        GuestError: What the guest answered.
        SandboxLost: The connection to the guest is gone.
    """
    pumps: list[asyncio.Task[None]] = []
    incoming.when_readable(lambda: pumps.append(asyncio.get_running_loop().create_task(_pump_body(incoming, upstream))))
    try:
        return await _pump_replies(incoming, upstream)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if incoming.gone or not incoming.cancelled.is_set() or task is None:
            raise
        # The client said CANCEL and still wants to know how it ended: for a watch that is the normal end.
        task.uncancel()
        await upstream.cancel()
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                return await upstream.result()
        except TimeoutError:
            raise asyncio.CancelledError from None
        except CallboxError as exc:
            raise _believed(exc, upstream) from None
    finally:
        await upstream.cancel()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump_replies(incoming: Incoming, upstream: Stream) -> Mapping[str, Any]:
    try:
        async for item in upstream:
            if isinstance(item, Data):
                await incoming.send(item.data, item.channel)
            elif isinstance(item, Event):
                await incoming.event_payload(item.payload)
            else:
                await incoming.end()
        return await upstream.result()
    except CallboxError as exc:
        raise _believed(exc, upstream) from None


async def _pump_body(incoming: Incoming, upstream: Stream) -> None:
    async for item in incoming:
        if isinstance(item, Data):
            await upstream.send(item.data, item.channel)
        else:
            await upstream.end()


def _believed(failure: CallboxError, upstream: Stream) -> CallboxError:
    return of_guest(failure) if upstream.answered else failure
