"""Asking the model: one request, made smaller and sent again when the model's context window was too small for it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from callbox.agents.loop import Loop
from callbox.context.compaction import Compaction
from callbox.errors import ContextOverflow, ProviderError
from callbox.messages import Reply, StreamEvent
from callbox.providers.provider import Provider, Request

log = logging.getLogger("callbox.agents")


async def ask(provider: Provider, loop: Loop, request: Request) -> Reply:
    """The model's whole answer.

    Raises:
        ContextOverflow: Nothing is left that could be cleared.
        ProviderError: See `Provider`.
    """
    while True:
        try:
            return await provider.complete(request)
        except ContextOverflow:
            if not loop.conversation.shrink():
                raise
            request = loop.again(request)


async def next_request(provider: Provider, loop: Loop) -> Request | None:
    """What to ask now, after room has been made for it; None when the run is over."""
    if loop.stop is None and (plan := loop.conversation.plan_room()) is not None:
        await _summarize(provider, loop, plan)
    return loop.next_request()


async def _summarize(provider: Provider, loop: Loop, plan: Compaction) -> None:
    """Have the model summarise what would otherwise be left out. If that fails, it is left out without a summary."""
    request = Request(messages=plan.request, output_tokens_max=plan.output_tokens_max, tool_choice="none")
    try:
        reply = await provider.complete(request)
    except ProviderError as error:
        log.warning("The conversation could not be summarised", exc_info=error)
        return
    loop.usage = loop.usage + reply.usage
    plan.apply(reply.message.text)


async def ask_streaming(provider: Provider, loop: Loop, request: Request) -> AsyncGenerator[StreamEvent]:
    """The model's answer as it is written; raises as `ask` does."""
    while True:
        begun = False
        try:
            async with aclosing(_closable(provider.stream(request))) as events:
                async for event in events:
                    begun = True
                    yield event
            return
        except ContextOverflow:
            if begun or not loop.conversation.shrink():
                raise
            request = loop.again(request)


async def _closable(events: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent]:
    """Any async iterator as one that can be closed, so that leaving early ends the request at once."""
    try:
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
