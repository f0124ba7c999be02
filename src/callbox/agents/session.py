"""A durable conversation with an agent: what was said and done survives crashes, restarts and redeploys."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from callbox.agents.asking import ask, next_request
from callbox.agents.loop import Loop
from callbox.agents.prompt import Prompt, messages_of
from callbox.agents.recorder import SessionRecorder
from callbox.agents.run import Run
from callbox.calls import feedback
from callbox.calls.call import CallError, ToolCall, ToolResult
from callbox.errors import ApprovalError, ApprovalPending, ConfigurationError, ProviderError, SessionError
from callbox.gate.caller import Caller
from callbox.gate.gate import Gate, Restore
from callbox.gate.passage import Observer
from callbox.gate.turn import Prepared
from callbox.ids import new_id
from callbox.messages import Message
from callbox.policy.approval import Approval
from callbox.providers.provider import Provider
from callbox.sessions import browsing, portable, retention
from callbox.sessions.coding import encode, keepable
from callbox.sessions.entries import Answered, Began, Decided, Ended, Noted, Replied, turn_id
from callbox.sessions.fold import OpenTurn, Placed, SessionState, fold_to_end
from callbox.sessions.journal import LEASE_TTL_S, Journal, Writer
from callbox.sessions.points import checked, nothing
from callbox.stores.rules import check_key
from callbox.stores.store import SessionKey, Store
from callbox.tools.tool import Tool
from callbox.values import JsonObject

BUSY_WAIT_S = 10.0
"""How long a call waits for another process or task that works on the same session."""

DEFAULT_TENANT = "default"


class Answerer(Protocol):
    """What a session needs of its agent."""

    provider: Provider
    gate: Gate
    restore: Restore

    def begin_at(self, state: SessionState) -> tuple[Loop, Gate]:
        """The bookkeeping of a session's run, as it was when its last entry was written."""
        ...


class Session:
    """One conversation, kept in a store. Made by `Agent.session`; cheap, and made anew in every process.

    Example::

        session = agent.session("customer-42")
        run = await session.run("Where is A-1042?")
        if run.stop == "approval":
            await session.approve(run.approvals[0].id, by="kim@example.com")
            run = await session.resume()

    Everything that was acknowledged is there after a crash: the run goes on after its last durable step. A call whose
    outcome the crash hid is answered with ``outcome_unknown``; only if its tool is idempotent, or only reads, it is
    run again, with the same idempotency key.

    Args:
        agent: Who answers.
        store: Where the journal is kept.
        session_id: Names it within the tenant.
        caller: On whose behalf calls are made, unless a method is told otherwise.
        ttl_s: The session is erased so many seconds after it was last run or resumed (`retention.collect` does it, or
            ``callbox session gc``), at most `retention.TTL_S_MAX`; None: as it was made, which is never if nobody said
            otherwise.
        busy_wait_s: See `BUSY_WAIT_S`.
        lease_ttl_s: How long others wait for a process that holds the session and does not say anything any more.
        reach: For tests of faults: told every point that it passes.
    """

    def __init__(
        self,
        agent: Answerer,
        store: Store,
        session_id: str,
        *,
        caller: Caller,
        ttl_s: float | None = None,
        busy_wait_s: float = BUSY_WAIT_S,
        lease_ttl_s: float = LEASE_TTL_S,
        reach: Callable[[str], None] = nothing,
    ) -> None:
        key = SessionKey(caller.tenant_id or DEFAULT_TENANT, session_id)
        check_key(key)
        retention.check_ttl(ttl_s)
        self._agent = agent
        self._store = store
        self._ttl_s = ttl_s
        self._caller = replace(caller, session_id=session_id, tenant_id=key.tenant)
        self._busy_wait_s = busy_wait_s
        self._lease_ttl_s = lease_ttl_s
        self._reach = checked(reach)
        self.journal = Journal(store, key, reach=self._reach)

    @property
    def id(self) -> str:
        """The session's id."""
        return self.journal.key.session

    # --- running ---

    async def run(self, prompt: Prompt, *, key: str | None = None, observer: Observer | None = None) -> Run:
        """Say something, and have it answered; or go on with the very same prompt after a crash.

        If the session has an unfinished run of the same prompt, that one goes on. If it has one of another prompt, that
        one is brought to its end first.

        Args:
            prompt: What the person says.
            key: The caller's idempotency key for this prompt (a message id, say): said again with the same key, also
                long after it was answered, the answer of then is returned and nothing is done. The key alone decides:
                another prompt under it is not looked at. A run that ended with ``"failed"`` goes on under its key as
                long as it is the last one; later it is begun anew, unless it had run a tool.
            observer: Is told when calls start and finish.

        Returns:
            The run. When `Run.stop` is ``"approval"`` it has not ended: decide, then call `resume`.

        Raises:
            ApprovalPending: A run of another prompt waits for a person.
            ConfigurationError: The prompt has a call without a result, a result without a call, or what is no JSON.
                Nothing was said.
            SessionBusy: Another process or task works on it, still.
            SessionFenced: Another process took it over.
            StoreError: See there; `resume` goes on later.
            ProviderError: If it is retryable, `resume` goes on later; if not, the run has ended with ``"failed"``.
        """
        said = tuple(messages_of(prompt))
        if not isinstance(prompt, str):  # one that no model takes must not get into the journal
            self._agent.begin_at(SessionState(messages=list(said)))
            _check_prompt(said)
        await self._ensure()
        async with self._writing() as writer:
            await self._live_on(writer)
            state = writer.state
            last = state.run
            if key is not None and last is not None and last.prompt_key == key and last.stop == "failed":
                return await self._go_on(writer, observer)  # what it did stays done; nothing was answered
            if key is not None and key in state.answered:
                return await self._answer_of_then(writer, *state.answered[key])
            if state.unfinished and state.run is not None:
                if state.run.prompt_key == key and (key is not None or state.run.prompt == said):
                    return await self._go_on(writer, observer)
                run = await self._go_on(writer, observer)
                if run.stop == "approval":
                    raise ApprovalPending(
                        f"The session waits for {len(run.approvals)} approvals of an earlier run.",
                        hint=f"Decide {run.approvals[0].id}, then say this again.",
                    )
            await writer.write(Began(run=new_id("run"), prompt=said, prompt_key=key))
            return await self._go_on(writer, observer)

    async def resume(self, *, observer: Observer | None = None) -> Run:
        """Go on with the run that has not ended: after a crash, or after an approval. The last run if it has.

        Raises:
            SessionNotFound: There is no such session.
            SessionError: Nothing was ever said in it.
        """
        async with self._writing() as writer:
            await self._live_on(writer)
            run = writer.state.run
            if run is None:
                raise SessionError("Nothing was said in this session yet.", hint="Use: await session.run(...)")
            if run.stop is not None:
                return self._finished(writer.state, run.id, run.stop, run.output)
            return await self._go_on(writer, observer)

    async def _go_on(self, writer: Writer, observer: Observer | None) -> Run:
        agent, state = self._agent, writer.state
        loop, gate = agent.begin_at(state)
        try:
            if state.turn is not None:
                loop.reopen(state.turn.message)
                if not await self._answer(writer, loop, gate, observer):
                    return self._waits(writer, loop)
            while (request := await next_request(agent.provider, loop)) is not None:
                before = len(loop.conversation.messages)
                reply = await ask(agent.provider, loop, request)
                if reply is None:
                    break
                prepared = [(keepable(call), tool) for call, tool in gate.prepare(reply.calls, restore=agent.restore)]
                opens = loop.take(reply, [call for call, _ in prepared])
                kept = loop.conversation.messages[before:]
                message = loop.pending if opens else (kept[0] if kept else None)
                said = Replied(message=message, opens=opens, turn=turn_id() if opens else "", usage=reply.usage)
                writer.reach("reply.before")
                if loop.stop is not None:  # its last words, and that they are
                    run = loop.result()
                    await writer.write(said, Ended(run=run.id, stop=run.stop, output=run.output))
                    writer.reach("reply.after")
                    return run
                # Each call is written before it runs, and the answer together with the first of them.
                await (writer.hold(said) if opens else writer.write(said))
                writer.reach("reply.after")
                if opens and not await self._answer(writer, loop, gate, observer, prepared):
                    return self._waits(writer, loop)
        except ProviderError as error:
            error.run = loop.result()
            if not error.retryable:
                # Asked again it would fail again, and nothing else could ever be said in this session.
                await writer.write(Ended(run=error.run.id, stop="failed", output=error.message))
            raise
        run = loop.result()
        writer.reach("ended.before")
        await writer.write(Ended(run=run.id, stop=run.stop, output=run.output))
        writer.reach("ended.after")
        return run

    async def _answer(
        self, writer: Writer, loop: Loop, gate: Gate, observer: Observer | None, read: Sequence[Prepared] | None = None
    ) -> bool:
        """Bring every call of the open turn to its result. False if one waits for a person.

        Args:
            writer, loop, gate, observer: Of the run.
            read: The calls as they were read; None: an earlier process did, and its tools may have been others.
        """
        turn = writer.state.turn
        if turn is None:  # no call of it could be read: each has its result by itself
            assert loop.pending is not None
            results = [ToolResult.failed(call, call.error) for call in loop.pending.calls if call.error is not None]
        else:
            if read is None:
                read = await self._recovered(writer, loop, gate, turn)
            if ready := [(call, tool) for call, tool in read if call.error is None]:
                begun = {call.id for call, tool in ready if call.id in turn.intents and tool and not tool.reads_only}
                recorder = SessionRecorder(writer, begun)
                async with gate.turn(
                    caller=self._caller, budget=loop.budget, observer=observer, recorder=recorder
                ) as running:
                    await running.finish((), prepared=ready)
                    if running.paused:
                        return False
            results = turn.all_results()
        loop.budget.count_turn(results)
        loop.give(results)
        return True

    async def _recovered(self, writer: Writer, loop: Loop, gate: Gate, turn: OpenTurn) -> list[Prepared]:
        """The calls of an earlier process that can be run now; those that cannot get their results."""
        ready = gate.prepare(turn.missing())
        inherited = turn.seq <= writer.state.begins
        lost = {
            call.id: ToolResult.failed(call, error)
            for call, tool in ready
            if (error := _lost(call, tool, turn, inherited=inherited))
        }
        if lost:
            writer.reach("recovery.before")
            await writer.write(*[Answered(result=result) for result in lost.values()])
            writer.reach("recovery.after")
        ready = [(call, tool) for call, tool in ready if call.id not in lost]
        loop.budget.calls -= sum([call.id in turn.intents for call, _ in ready])  # they were paid for
        return ready

    def _waits(self, writer: Writer, loop: Loop) -> Run:
        waiting = writer.state.waiting
        names = ", ".join(each.tool for each in waiting)
        return replace(loop.result(), stop="approval", output=f"Waits for approval of {names}.", approvals=waiting)

    async def _answer_of_then(self, writer: Writer, run_id: str, stop: str, output: str) -> Run:
        state = writer.state
        if state.run is None or state.run.id != run_id:
            state = fold_to_end(await writer.journal.read(), self.id, run_id)
        return self._finished(state, run_id, stop, output)

    def _finished(self, state: SessionState, run_id: str, stop: str, output: str) -> Run:
        run = self._agent.begin_at(state)[0].result()
        return replace(run, id=run_id, stop=stop, output=output)  # pyright: ignore[reportArgumentType] - as it was written

    # --- approvals ---

    async def approvals(self) -> list[Approval]:
        """What waits for a person now."""
        return (await self.state()).waiting

    async def approve(self, approval_id: str, *, by: str, note: str = "") -> Approval:
        """Say yes to one call, once. It runs at the next `resume`.

        Args:
            approval_id: `Approval.id`.
            by: Who decides; kept in the journal.
            note: Why; kept in the journal.

        Raises:
            ApprovalError: There is no such approval, it was decided already, or it is of the session that this one was
                forked from.
        """
        return await self._decide(approval_id, approved=True, by=by, note=note)

    async def refuse(self, approval_id: str, *, by: str, note: str = "") -> Approval:
        """Say no to one call. The model is told so, and `note`, at the next `resume`. Raises like `approve`."""
        return await self._decide(approval_id, approved=False, by=by, note=note)

    async def _decide(self, approval_id: str, *, approved: bool, by: str, note: str) -> Approval:
        async with self._writing() as writer:
            return await decide(writer, approval_id, approved=approved, by=by, note=note)

    # --- looking, forking, forgetting ---

    async def state(self) -> SessionState:
        """What the journal comes to now. Reading needs nobody's leave: a run may be under way."""
        return await self.journal.state()

    async def messages(self) -> list[Message]:
        """The conversation so far; always one that a model API accepts."""
        return (await self.state()).messages

    def events(self, after: int = 0) -> AsyncGenerator[Placed]:
        """The journal's entries above `after`, then each as it is written, by whatever process.

        Raises:
            ConfigurationError: `after` is below zero.
        """
        if after < 0:
            raise ConfigurationError("Entries have numbers from 1.", hint="Use after=0 for all of them.")
        return self.journal.follow(after)

    async def fork(self, session_id: str, *, at: int | None = None) -> Session:
        """Make another session that shares this one's journal up to `at`, by reference. No effect is run again.

        Args:
            session_id: The new one's id.
            at: The last entry to share; None: all there is. A call that had no outcome then has none in the fork.

        Raises:
            SessionError: There is a session of that id.
            SessionNotFound: This one is shorter, or not there.
        """
        other = Session(
            self._agent, self._store, session_id, caller=self._caller, ttl_s=self._ttl_s,
            busy_wait_s=self._busy_wait_s, lease_ttl_s=self._lease_ttl_s, reach=self._reach,
        )  # fmt: skip
        self._reach("fork.before")
        await browsing.fork(self.journal, session_id, at=at, expires_at=self.expires_at())
        self._reach("fork.after")
        return other

    async def rewind(self, to: int) -> None:
        """Let everything after entry `to` count as not said. What tools did meanwhile is not undone.

        Raises:
            SessionError: There is no such entry, or calls were under way there.
        """
        async with self._writing() as writer:
            await browsing.rewind(writer, to)

    async def note(self, values: JsonObject) -> None:
        """Keep values with the session: JSON, by name; a later value replaces an earlier one.

        Raises:
            ConfigurationError: They are no JSON. Nothing was kept.
        """
        try:  # as it will be read: a tuple is a list then
            kept = json.loads(json.dumps(values, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError("What is kept with a session must be JSON.", hint=str(error)) from error
        await self._ensure()
        async with self._writing() as writer:
            await writer.write(Noted(values=kept))

    async def export(self) -> JsonObject:
        """The session as one JSON object, plain: what was said and done, in order, a fork's shared past with it.

        `Agent.import_session` makes a session of it again, in another store or under another id.
        """
        return await portable.export_session(self.journal)

    async def erase(self) -> bool:
        """Forget everything: its journal cannot be read afterwards, not even from copies. False if there was none.

        Sandboxes of this host that hold state of the session are deleted, too.

        Raises:
            SessionHasForks: Others share its entries; erase them first.
            SandboxError: A sandbox could not be deleted; the session is still there.
        """
        return await retention.erase(self._store, self.journal.key)

    def expires_at(self) -> float | None:
        """When the session is erased if it is run now, seconds since the epoch; None: `ttl_s` was not given."""
        return None if self._ttl_s is None else time.time() + self._ttl_s

    async def _ensure(self) -> None:
        await self.journal.ensure(expires_at=self.expires_at())

    async def _live_on(self, writer: Writer) -> None:
        if self._ttl_s is not None:
            await writer.expire_at(self.expires_at())

    def _writing(self) -> AbstractAsyncContextManager[Writer]:
        return self.journal.writing(wait_s=self._busy_wait_s, ttl_s=self._lease_ttl_s)


def _check_prompt(said: tuple[Message, ...]) -> None:
    try:
        encode(Began(run="", prompt=said))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            "The prompt cannot be kept: it has a value that is no JSON.", hint="Give Media(data=) as base64 text."
        ) from error


def _lost(call: ToolCall, tool: Tool | None, turn: OpenTurn, *, inherited: bool) -> CallError | None:
    """Why a call of an earlier process cannot be run now: it does not fit its tool any more, or it had begun.

    `inherited`: the turn is that of the session that this one was forked from, where the call runs, or will.
    """
    intent = turn.intents.get(call.id)
    if intent is None:
        harmless = tool is None or tool.idempotent or tool.reads_only
        if (
            inherited
            and not harmless
            and not (call.id in turn.asked or (tool is not None and tool.approval == "always"))
        ):
            return feedback.outcome_unknown(call.name)
        return call.error
    # A tool that has changed since says nothing about the one that ran.
    may_run_again = tool is not None and tool.version == intent.version and (tool.idempotent or tool.reads_only)
    return call.error or None if may_run_again else feedback.outcome_unknown(call.name)


async def decide(writer: Writer, approval_id: str, *, approved: bool, by: str, note: str = "") -> Approval:
    """Write down a person's decision. See `Session.approve`."""
    known = writer.state.approvals.get(approval_id)
    if known is None:
        raise ApprovalError(f"The session has no approval {approval_id!r}.", hint="Run: callbox approvals ls")
    if known.approved is not None:
        word = "approved" if known.approved else "refused"
        raise ApprovalError(f"It was {word} already, by {known.by or 'somebody'}.")
    if approval_id in writer.state.inherited:  # its digest names the other session: a yes would be good for nothing
        raise ApprovalError(
            "It was asked in the session that this one was forked from.",
            hint="Resume this session: it asks anew.",
        )
    if known not in writer.state.waiting:
        raise ApprovalError("Nothing waits for it any more.")
    if not by:
        raise ApprovalError("Who decides?", hint='Use by="kim@example.com".')
    writer.reach("decision.before")
    await writer.write(Decided(approval=approval_id, approved=approved, by=by, note=note))
    writer.reach("decision.after")
    return writer.state.approvals[approval_id]
