"""Asking the model: one request, made smaller and sent again when the model's context window was too small for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from callbox.agents.loop import Loop
from callbox.context.compaction import Compaction
from callbox.errors import ContextOverflow, ProviderError
from callbox.messages import Finished, Reply, StreamEvent
from callbox.providers.provider import Provider, Request

log = logging.getLogger("callbox.agents")


async def next_request(provider: Provider, loop: Loop) -> Request | None:
    """What to ask now, after room has been made for it; None when the run is over."""
    if loop.stop is None and (plan := loop.conversation.plan_room()) is not None:
        await _summarize(provider, loop, plan)
    return loop.next_request()


async def ask(
    provider: Provider, loop: Loop, request: Request, told: Callable[[StreamEvent], None] | None = None
) -> Reply | None:
    """The model's whole answer.

    Args:
        provider: Who is asked.
        loop: Whose request it is.
        request: The request.
        told: Takes the events of the answer as it is written; None asks for all of it at once.

    Returns:
        The answer; None if the run's time ended while it was waited for.

    Raises:
        ContextOverflow: Nothing is left that could be cleared.
        ProviderError: See `Provider`.
    """
    while True:
        try:
            return await (provider.complete(request) if told is None else _read(provider, request, told))
        except ContextOverflow:
            if not loop.conversation.shrink():
                raise
            request = loop.again(request)
        except ProviderError:
            # The request may take what is left of the run's time: when that is why it failed, it is the run that ends.
            if loop.out_of_time():
                return None
            raise


async def _read(provider: Provider, request: Request, told: Callable[[StreamEvent], None]) -> Reply:
    events = provider.stream(request)
    try:
        async for event in events:
            if isinstance(event, Finished):
                return event.reply
            told(event)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
    raise AssertionError("a provider's last event is Finished")


async def _summarize(provider: Provider, loop: Loop, plan: Compaction) -> None:
    """Have the model summarise what would otherwise be left out. If that fails, it is left out without a summary."""
    request = Request(
        messages=plan.request,
        output_tokens_max=plan.output_tokens_max,
        tool_choice="none",
        timeout_s=max(0.0, loop.budget.remaining_s),
    )
    try:
        reply = await provider.complete(request)
    except ProviderError as error:
        log.warning("The conversation could not be summarised", exc_info=error)
        return
    loop.usage = loop.usage + reply.usage
    plan.apply(reply.message.text)
