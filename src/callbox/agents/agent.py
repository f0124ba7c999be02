"""An agent: a model that may call tools until it has an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from callbox.agents.asking import ask, next_request
from callbox.agents.conversation import Context, Conversation, definitions_tokens
from callbox.agents.loop import Loop
from callbox.agents.prompt import Prompt, messages_of
from callbox.agents.run import Run
from callbox.agents.stream import RunStream
from callbox.context.counting import Calibration
from callbox.context.selection import ToolIndex
from callbox.dialects import find_dialect
from callbox.errors import ConfigurationError, ProviderError
from callbox.gate.caller import ANYONE, Budget, Caller
from callbox.gate.gate import Gate
from callbox.gate.guards import Approver
from callbox.gate.outcome import Sanitizer
from callbox.limits import DEFAULT_LIMITS, Limits
from callbox.messages import Message
from callbox.policy.policy import Policy
from callbox.providers.provider import Provider, Request
from callbox.providers.registry import provider as find_provider
from callbox.tools.tool import Tool
from callbox.tools.toolset import Toolset
from callbox.values import JsonObject

if TYPE_CHECKING:
    from callbox.agents.session import Session
    from callbox.sessions.fold import SessionState
    from callbox.stores.store import Store


class Agent:
    """A model with tools.

    Example::

        agent = Agent(model="openai:gpt-5", tools=[get_order], instructions="Answer briefly.")
        run = await agent.run("Where is A-1042?")
        print(run.output)

    Args:
        model: ``"openai:gpt-5"``, ``"anthropic:..."``, ``"gemini:..."``, ``"local"``, or a provider object.
        tools: A `Toolset`, or tools and functions.
        instructions: What the model is told first.
        policy, approver, sanitizer, limits: See `Gate`.
        context: What is sent to the model when the conversation or the toolset is large; see `Context`.
        request: What every request has in common (temperature, output tokens, ...); its messages and tools are ignored.
        store: Where sessions are kept: a `Store`, ``"sqlite:///path/to.db"``, ``"postgresql://..."`` or ``"memory"``.
            None: in ``sessions.db`` in callbox's folder (``$CALLBOX_HOME``, else ``~/.local/share/callbox``).
    """

    def __init__(
        self,
        model: str | Provider,
        tools: Toolset | Tool | Iterable[Tool | Callable[..., Any]] = (),
        instructions: str | None = None,
        *,
        policy: Policy | Callable[..., Any] | None = None,
        approver: Approver | None = None,
        sanitizer: Sanitizer | None = None,
        limits: Limits = DEFAULT_LIMITS,
        context: Context | None = None,
        request: Request | None = None,
        store: str | Store | None = None,
    ) -> None:
        self.provider: Provider = find_provider(model)
        self.instructions = instructions
        toolset = tools if isinstance(tools, Toolset) else Toolset(tools)
        self.context = context or Context()
        if self.context.calibration is None:
            self.context = replace(self.context, calibration=Calibration())
        if self.context.tools_max is not None and self.context.index is None:
            self.context = replace(self.context, index=ToolIndex(toolset))
        self.limits = limits
        self.gate = Gate(toolset, policy=policy, approver=approver, sanitizer=sanitizer, limits=limits)
        self._settings = request or Request(messages=())
        self._definitions_tokens = definitions_tokens(toolset, self.context.counter)
        self.restore = find_dialect(self.provider.dialect).restore
        self._where = store
        self._store: Store | None = None

    @property
    def toolset(self) -> Toolset:
        """What the model may call."""
        return self.gate.toolset

    async def run(self, prompt: Prompt, *, history: Sequence[Message] = (), caller: Caller = ANYONE) -> Run:
        """Ask, run calls, and ask again until the model has answered or the budget is spent.

        Args:
            prompt: What the person says.
            history: `Run.messages` of an earlier run, to go on from there. This agent's instructions take the place
                of those in it.
            caller: On whose behalf; handed to policies, checks and tools.

        Returns:
            The run; look at `Run.stop` before you trust `Run.output` to be an answer.

        Raises:
            ProviderError: The model API failed for good; its `run` attribute holds the run so far.
            ConfigurationError: The history has a call without a result, or the provider cannot be used (no key).
        """
        loop, gate = self._begin(prompt, history)
        try:
            while (request := await next_request(self.provider, loop)) is not None:
                reply = await ask(self.provider, loop, request)
                if reply is None:
                    break
                prepared = gate.prepare(reply.calls, restore=self.restore)
                if loop.take(reply, [call for call, _ in prepared]):
                    async with gate.turn(caller=caller, budget=loop.budget) as turn:
                        loop.give(await turn.finish((), prepared=prepared))
        except ProviderError as error:
            error.run = loop.result()
            raise
        return loop.result()

    def run_sync(self, prompt: Prompt, *, history: Sequence[Message] = (), caller: Caller = ANYONE) -> Run:
        """`run` for programs without an event loop.

        Raises:
            ConfigurationError: There is a running loop already; await `run` there.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise ConfigurationError(
                "run_sync was called inside a running event loop.", hint="Use: await agent.run(...)"
            )

        async def once() -> Run:
            try:
                return await self.run(prompt, history=history, caller=caller)
            finally:
                # Connections belong to this loop, which ends here; the next run opens its own.
                await self.aclose()

        return asyncio.run(once())

    def stream(self, prompt: Prompt, *, history: Sequence[Message] = (), caller: Caller = ANYONE) -> RunStream:
        """`run`, told as it happens; reads start while the model is still writing.

        Example::

            async for event in agent.stream("Where is A-1042?"):
                if isinstance(event, TextDelta): print(event.text, end="")
        """
        loop, gate = self._begin(prompt, history)
        return RunStream(self.provider, loop, gate, caller)

    def session(self, session_id: str, *, caller: Caller = ANYONE, **options: Any) -> Session:
        """A durable conversation: it goes on after a crash, in any process, on any host that reaches the store.

        Args:
            session_id: Names it within ``caller.tenant_id``.
            caller: On whose behalf.
            options: See `Session`.

        Raises:
            ConfigurationError: The store cannot be used as it was given.
        """
        from callbox.agents.session import Session

        return Session(self, self.store, session_id, caller=caller, **options)

    async def import_session(
        self,
        document: str | bytes | JsonObject,
        session_id: str | None = None,
        *,
        caller: Caller = ANYONE,
        **options: Any,
    ) -> Session:
        """Make a session of what `Session.export` (or ``callbox session export``) gave, and go on where it was.

        Args:
            document: The object, or the text of it.
            session_id: Its id here; None: the one that it had.
            caller, options: See `session`.

        Raises:
            JournalDamaged: It is no such document, it was damaged, or a newer callbox made it. Nothing was imported.
            SessionError: There is a session of that id already.
        """
        from callbox.sessions.portable import import_session, read_document

        read = read_document(document)
        session = self.session(session_id or read.session, caller=caller, **options)
        key = session.journal.key
        await import_session(self.store, key.tenant, read, session_id=key.session, expires_at=session.expires_at())
        return session

    @property
    def store(self) -> Store:
        """Where sessions are kept; opened when it is first needed."""
        if self._store is None:
            from callbox.sessions.place import open_sessions

            self._store = open_sessions(self._where)
        return self._store

    async def aclose(self) -> None:
        """Close connections of the provider, of runners and of the store. Idempotent; the agent can be used again."""
        await self.provider.aclose()
        await self.gate.aclose()
        store, self._store = self._store, None
        if store is not None and store is not self._where:  # one that we were given is its giver's to close
            await store.aclose()

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def begin_at(self, state: SessionState) -> tuple[Loop, Gate]:
        """The bookkeeping of a session's run, as it was when its last entry was written."""
        run = state.run
        if run is None:
            return self._begin((), state.messages)
        budget = Budget(self.limits, run_id=run.id, calls=run.calls)
        loop, gate = self._begin(state.messages[run.begins :], state.messages[: run.begins], budget)
        loop.turns, loop.usage = run.turns, run.usage
        for message in state.messages[run.begins + len(run.prompt) :]:
            loop.calls.extend(message.calls)
            loop.results.extend(message.results)
            if message.role == "tool":
                budget.count_turn(message.results)
        codes = {result.error.code for result in loop.results if result.error is not None}
        budget.overdrawn = run.calls >= self.limits.calls_per_run_max and "budget_exhausted" in codes
        return loop, gate

    def _begin(self, prompt: Prompt, history: Sequence[Message], budget: Budget | None = None) -> tuple[Loop, Gate]:
        conversation = Conversation(self.context, self.toolset, self._definitions_tokens)
        if self.instructions:
            conversation.add(Message.system(self.instructions))
            # The history may be another agent's: its instructions must not be taken for ours.
            history = [message for message in history if message.role != "system"]
        conversation.begin((*history, *messages_of(prompt)))
        loop = Loop(conversation, self._settings, budget or Budget(self.limits))
        return loop, self.gate.with_own_tools(conversation.own_tools)
