"""Forgetting sessions: one that somebody names, or all whose time is over; with everything that they left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from callbox.errors import ConfigurationError, JournalDamaged, SandboxError, SessionHasForks
from callbox.sessions.sealing import life_of
from callbox.stores.rules import has_forks
from callbox.stores.store import SESSIONS_LISTED_MAX, Expired, SessionKey, Store, is_dead

_LOG = logging.getLogger("callbox.sessions")

TTL_S_MAX = 100 * 365 * 86_400
"""A hundred years: what is longer has an end that no date can say."""

Fate: TypeAlias = Literal["erased", "in use", "has forks", "damaged"]


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of a session whose time is over.

    Attributes:
        key: Which.
        fate: ``"in use"`` and ``"has forks"`` (that live on) are looked at again the next time, and so is
            ``"damaged"``: the store cannot read it, and what becomes of it is for a person to say.
    """

    key: SessionKey
    fate: Fate


def check_ttl(ttl_s: float | None) -> None:
    """Refuse what is no span of time.

    Raises:
        ConfigurationError: It is no number above zero and up to `TTL_S_MAX`.
    """
    if ttl_s is None:
        return
    given: object = ttl_s
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= TTL_S_MAX:
        raise ConfigurationError(
            f"ttl_s is a number of seconds above zero, up to {TTL_S_MAX}.", hint="Leave it out to keep a session."
        )


async def erase(store: Store, key: SessionKey) -> bool:
    """Forget a session: its journal, and the sandboxes of this host that hold state of it. False if there was none.

    One that the store cannot read is forgotten, too; its sandboxes cannot be found then, and end by their `ttl_idle_s`.

    Raises:
        SessionHasForks: Others share its entries; erase them first. Nothing was erased.
        SandboxError: A sandbox of it could not be deleted. The session is still there: erase it again.
    """
    if await store.forks(key):
        raise has_forks(key)
    life = await _life(store, key)
    if life is None:
        return await store.erase(key)
    from callbox.gate.runners.sandbox import delete_marked_sandboxes, life_mark

    mark = life_mark(life)
    # The sandboxes first: if we die in between, the session is still there to find them by.
    await delete_marked_sandboxes(mark)
    erased = await store.erase(key)
    # And again: a run that had written its intent may have made one meanwhile. One that is made later still holds
    # what no session will ever find, since the next of this id has another life, and ends by its `ttl_idle_s`.
    try:
        await delete_marked_sandboxes(mark)
    except SandboxError as error:
        _LOG.warning("Sandboxes of an erased session could not be looked for again: %s", error)
    return erased


async def _life(store: Store, key: SessionKey) -> str | None:
    try:
        loaded = await store.load(key, limit=0)
    except JournalDamaged as error:
        _LOG.warning("Sandboxes of a damaged session that is erased cannot be found: %s", error)
        return None
    return None if loaded is None else life_of(key, loaded.secret)


async def erase_with_forks(store: Store, key: SessionKey) -> AsyncGenerator[SessionKey]:
    """Erase a session's forks, their forks, and it: the youngest first. Yields each that is gone."""
    for each in await lineage(store, key):
        if await erase(store, each):
            yield each


async def lineage(store: Store, key: SessionKey) -> list[SessionKey]:
    """The session and all that share entries of it, forks before what they were forked from."""
    found, at = [key], 0
    while at < len(found):
        found += [SessionKey(key.tenant, fork) for fork in await store.forks(found[at])]
        at += 1
    return found[::-1]


async def collect(store: Store, now: float, *, page_max: int = SESSIONS_LISTED_MAX) -> AsyncGenerator[Collected]:
    """Erase the sessions of all tenants whose time is over at `now`, forks first. May be stopped at any moment.

    A session is left for the next time while somebody works on it, or while a fork of it lives on.

    Args:
        store: Where they are.
        now: Seconds since the epoch.
        page_max: How many are asked for at a time.

    Yields:
        What became of each, as it happens.
    """
    told: dict[SessionKey, Fate] = {}
    after: Expired | None = None  # a page may be full of sessions that are kept: the next begins behind it
    while page := await store.expired(now, after=after, limit=page_max):
        after = page[-1]
        for over in page:
            if over.key in told:  # as a fork of one before it
                continue
            for each in await _lineage_or_itself(store, over.key):
                fate = None if each in told else await _collect_one(store, each, now)
                if fate is not None:
                    told[each] = fate
                    yield Collected(each, fate)
                    await asyncio.sleep(0)  # a store in memory never waits: let a cancellation in


async def _lineage_or_itself(store: Store, key: SessionKey) -> list[SessionKey]:
    try:
        return await lineage(store, key)
    except JournalDamaged:
        return [key]  # erasing it asks for its forks, too, and tells what it is


async def _collect_one(store: Store, key: SessionKey, now: float) -> Fate | None:
    try:
        loaded = await store.load(key, limit=0)  # not only `info`: without its secret, its sandboxes are not found
        if loaded is None or (info := loaded.info).expires_at is None or info.expires_at > now:
            return None
        if info.owner is not None and not is_dead(info.owner):
            return "in use"
        return "erased" if await erase(store, key) else None
    except SessionHasForks:
        return "has forks"
    except JournalDamaged as error:
        _LOG.warning("A session whose time is over cannot be read: %s", error)
        return "damaged"
