"""What must hold of a session after every death of its process, looked at from outside."""

from __future__ import annotations

import base64
import itertools
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from callbox.errors import StoreError
from callbox.messages import Message
from callbox.sessions.entries import Answered, Asked, Began, Decided, Ended, Intended, Replied
from callbox.sessions.fold import Placed, effective, fold
from callbox.sessions.journal import Journal
from callbox.stores.store import SessionKey, Store
from faults.session_world import AT_MOST_ONCE, YES_UP_TO, Files, comparable

PROMPTS = {"main": ["m1", "m4", "m5"], "fork": ["m1", "m2", "m3"]}
"""What was said in each session when all is over, and counts."""


async def violations(store: Store, files: Files, tenant: str, *, ended: bool) -> list[str]:
    """Everything that is wrong; `ended`: the life is over, so nothing may be left to do."""
    found: list[str] = []
    journals: dict[str, list[Placed]] = {}
    for info in await store.sessions(tenant):
        key = info.key
        try:
            journals[key.session] = await Journal(store, key).read()
        except StoreError as error:
            found.append(f"{key.session}: {error}")
            continue
        first = info.parent.seq + 1 if info.parent else 1
        numbers = [event.seq for event in await store.read(key)]
        if numbers != list(range(first, info.last_seq + 1)):
            found.append(f"{key.session}: {numbers} is not {first} to {info.last_seq}")
    found += await _promises(store, files, tenant, journals)
    for name, placed in journals.items():
        found += [f"{name}: {what}" for what in (*_calls(placed, ended=ended), *_approvals(placed))]
        if ended:
            found += [f"{name}: {what}" for what in _end(name, placed)]
    found += _effects(Files.lines(files.effects), journals, ended=ended)
    if ended and sorted(journals) != sorted(PROMPTS):
        found.append(f"there are the sessions {sorted(journals)}")
    return found


async def _promises(store: Store, files: Files, tenant: str, journals: dict[str, list[Placed]]) -> list[str]:
    """What was acknowledged is there, as it was; what a writer believed is what the journal says."""
    found: list[str] = []
    ends = {each.entry.run: each.entry for own in journals.values() for each in own if isinstance(each.entry, Ended)}
    decisions = {each.entry.approval for own in journals.values() for each in own if isinstance(each.entry, Decided)}
    for promise in Files.lines(files.promises):
        if (name := promise.get("appended")) is not None:
            bodies = [base64.b64decode(each) for each in promise["bodies"]]
            there = await store.read(SessionKey(tenant, name), after=promise["after"], limit=len(bodies))
            if [event.body for event in there] != bodies:
                found.append(f"{name}: what was appended after {promise['after']} is not there")
        elif (name := promise.get("state")) is not None:
            believed = pickle.loads(base64.b64decode(promise["is"]))
            if comparable(fold([p for p in journals[name] if p.seq <= promise["seq"]], name)) != believed:
                found.append(f"{name}: at {promise['seq']} a writer believed something else")
        elif (run := promise.get("run")) is not None and promise["stop"] != "approval":
            if run not in ends or (ends[run].stop, ends[run].output) != (promise["stop"], promise["output"]):
                found.append(f"{promise['of']}: run {run} was said to have ended with {promise['output']!r}")
        elif (decided := promise.get("decided")) is not None and decided not in decisions:
            found.append(f"the decision on {decided} is lost")
        elif (name := promise.get("forked")) is not None and name not in journals:
            found.append(f"the fork {name} is lost")
    return found


def _calls(placed: list[Placed], *, ended: bool) -> list[str]:
    """Each call has at most one intent and one result, the intent first; in the end it has its result."""
    found: list[str] = []
    turn, calls = 0, {}
    intents: Counter[tuple[int, str]] = Counter()
    results: Counter[tuple[int, str]] = Counter()
    for each in placed:
        match each.entry:
            case Replied(message=message, opens=True) if message is not None:
                turn = each.seq
                calls |= {(turn, call.id): call for call in message.calls if call.error is None}
            case Intended(call=call):
                intents[turn, call] += 1
                if results[turn, call]:
                    found.append(f"{call} of turn {turn} is begun after its result")
            case Answered(result=result):
                results[turn, result.call_id] += 1
                if result.error is None and not intents[turn, result.call_id]:
                    found.append(f"{result.call_id} of turn {turn} has succeeded, and was never begun")
    found += [f"{place} has {count} intents" for place, count in intents.items() if count > 1]
    found += [f"{place} has {count} results" for place, count in results.items() if count > 1]
    if ended:
        found += [f"{place} has no result" for place in calls if not results[place]]
    return found


def _approvals(placed: list[Placed]) -> list[str]:
    """A decision is made once, and used once, after it was made."""
    found: list[str] = []
    asked, yes, used = set(), set(), set()
    for each in placed:
        match each.entry:
            case Asked(approval=approval):
                asked.add(approval)
            case Decided(approval=approval, approved=approved):
                if approval in yes or approval not in asked:
                    found.append(f"{approval} is decided twice, or was never asked for")
                if approved:
                    yes.add(approval)
            case Intended(approval=str(approval)):
                if approval not in yes or approval in used:
                    found.append(f"{approval} is used twice, or nobody has said yes")
                used.add(approval)
    return found


def _begun(placed: list[Placed]) -> Iterator[tuple[str, Intended]]:
    """Every intent with the idempotency key that its tool was given: where its call stands."""
    run, turn, calls = "", "", []
    for each in placed:
        match each.entry:
            case Began(run=run):
                pass
            case Replied(message=message, opens=True) as reply if message is not None:
                turn, calls = f"{each.seq}{reply.turn}", [call.id for call in message.calls]
            case Intended(call=call) as entry:
                yield f"{run}.{turn}.{calls.index(call)}", entry


def _effects(effects: list[Any], journals: dict[str, list[Placed]], *, ended: bool) -> list[str]:
    """What tools did, against what the journals say about it."""
    found: list[str] = []
    keys: defaultdict[tuple[str, Any], list[str]] = defaultdict(list)
    for each in effects:
        keys[each["tool"], each["what"]].append(each["key"])
    begun = {key: entry for own in journals.values() for key, entry in _begun(own)}
    for (name, what), of in keys.items():
        if name in AT_MOST_ONCE and len(of) > 1:
            found.append(f"{name} {what} was done {len(of)} times")
        if len(set(of)) > 1:
            found.append(f"{name} {what} was done under several keys")
        if not begun.keys() >= set(of):
            found.append(f"{name} {what} was done, and its intent is not written")
        elif name == "refund" and (what > YES_UP_TO or begun[of[0]].approval is None):
            found.append(f"refund {what} was done, and nobody has said yes to it")
    for placed in journals.values():
        found += _told(placed, keys)
    return found


def _told(placed: list[Placed], keys: dict[tuple[str, Any], list[str]]) -> list[str]:
    """What the model was told happened; what it was told did not happen, did not."""
    found: list[str] = []
    said = [message for message in fold(placed, "").messages if message.role in ("assistant", "tool")]
    for asked, answer in itertools.pairwise(said):
        for call, result in zip(asked.calls, answer.results, strict=False):
            if call.error is not None:
                continue
            done = keys.get((call.name, *call.arguments.values()), [])
            if result.error is None and not done:
                found.append(f"{call.name} {call.arguments} was not done, but the model was told so")
            if result.error is not None and result.error.code != "outcome_unknown" and done:
                found.append(f"{call.name} {call.arguments} was done, but the model was told {result.error.code}")
    return found


def _end(name: str, placed: list[Placed]) -> list[str]:
    """Everything was said once and has its answer, and a model API would take the conversation."""
    found = _refused(fold(placed, name).messages)
    live, _ = effective(placed)
    said = [each.entry.prompt_key for each in live if isinstance(each.entry, Began)]
    if said != PROMPTS[name]:
        found.append(f"{said} was said")
    if fold(placed, name).status != "idle":
        found.append("it is not at its end")
    return found


def _refused(messages: list[Message]) -> list[str]:
    """Why a model API would refuse a conversation: each call has its result in the next message, in order."""
    found: list[str] = []
    for at, message in enumerate(messages):
        answer = messages[at + 1] if at + 1 < len(messages) else None
        results = [] if answer is None else [result.call_id for result in answer.results]
        if message.calls and results != [call.id for call in message.calls]:
            found.append(f"the calls of message {at} are answered with {results}")
        if message.role == "tool" and not messages[at - 1].calls:
            found.append(f"message {at} has results that nobody asked for")
    return found
