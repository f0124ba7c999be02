"""Connections that carry many requests at once: the guest protocol's streams, for both ends.

::

    opener     Channel, Stream     asks: the supervisor towards a guest, a client towards the supervisor
    acceptor   Incoming, serve     answers
    relay      relay               passes a request on
    flow       Flow                credit and queue of one stream, the same at both ends
    outbox     Outbox              what one connection writes: batched, fair, bounded
    failures                       errors as they cross the wire
"""

from __future__ import annotations

from callbox.sandboxes.channel.acceptor import Handler, Incoming
from callbox.sandboxes.channel.items import Data, Eof, Event, Item
from callbox.sandboxes.channel.opener import Channel, Stream
from callbox.sandboxes.channel.relay import relay

__all__ = ["Channel", "Data", "Eof", "Event", "Handler", "Incoming", "Item", "Stream", "relay"]
