"""One run, turn by turn: what to ask the model next, what its answer means, when it is over.

No model is called and no tool is run here: `Agent` does both, whole or streamed, around this one bookkeeping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from callbox.agents.conversation import Conversation
from callbox.agents.run import Run, Stop
from callbox.calls.call import ToolCall, ToolResult
from callbox.gate.caller import Budget
from callbox.messages import NO_USAGE, Message, Reply, Usage
from callbox.providers.provider import Request, ToolChoice

_WITHOUT_ANSWER: dict[Stop, str] = {
    "calls": "the calls of this run are used up",
    "corrections": "the model got nowhere, turn after turn",
    "turns": "the turns of this run are used up",
    "time": "the time of this run is used up",
    "length": "the model's answer was longer than it may be",
    "filter": "the model's vendor held its answer back",
    "refusal": "the model refused",
    "done": "the model said nothing",
}


@dataclass(slots=True)
class Loop:
    """The state of one run.

    Attributes:
        conversation: The messages, and what of them is sent.
        settings: What every request of this run has in common.
        budget: What the run may spend.
    """

    conversation: Conversation
    settings: Request
    budget: Budget
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    results: list[ToolResult] = field(default_factory=list[ToolResult])
    usage: Usage = NO_USAGE
    turns: int = 0
    output: str = ""
    stop: Stop | None = None
    _closing: Stop | None = None
    _pending: Message | None = None

    def next_request(self) -> Request | None:
        """What to ask the model now; None when the run is over.

        A run whose budget of calls or corrections is spent gets one last request without tools, so that the person
        who asked gets an answer; a run whose time is spent ends at once.
        """
        if self.stop is not None:
            return None
        exhausted = "turns" if self.turns >= self.budget.limits.turns_per_run_max else self.budget.exhausted
        if exhausted == "time" or (exhausted is not None and self._closing is not None):
            self._end(exhausted)
            return None
        self._closing = exhausted
        self.conversation.make_room()
        return self._request("none" if exhausted else self._tool_choice())

    def again(self, request: Request) -> Request:
        """The same request with what is sent now, after the conversation has been made smaller."""
        return self._request(request.tool_choice)

    def take(self, reply: Reply, prepared: Sequence[ToolCall]) -> bool:
        """Record the model's answer.

        Args:
            reply: The answer.
            prepared: Its calls as the gate read them.

        Returns:
            Whether the calls are to be run and `give` called with their results.
        """
        self.turns += 1
        self.usage = self.usage + reply.usage
        self.conversation.account(reply)
        may_run = self._closing is None and self.settings.tool_choice != "none" and not reply.held_back
        if prepared and may_run:
            # Kept back until the results are there: a conversation in which a call has no result is one that every
            # vendor refuses, and a run may be cancelled in between.
            self._pending = _with_calls(reply.message, prepared)
            return True
        message = _with_calls(reply.message, ())
        if message.content:
            self.conversation.add(message)
        if self._closing is not None:
            self._end(self._closing, message.text)
        elif reply.finish != "paused":
            self._end(_STOPS.get(reply.finish, "done"), message.text or reply.refusal or "")
        return False

    def out_of_time(self) -> bool:
        """Whether the run's time is over; then the run ends with that."""
        if self.budget.remaining_s > 0:
            return False
        self._end("time")
        return True

    @property
    def pending(self) -> Message | None:
        """The answer whose calls are to be run, until `give`."""
        return self._pending

    def reopen(self, pending: Message) -> None:
        """Go on where an earlier process stopped: with an answer whose calls have no results yet."""
        self._pending = pending

    def give(self, results: Sequence[ToolResult]) -> None:
        """Record the results of the calls that `take` asked for."""
        assert self._pending is not None, "take said that there are calls to run"
        self.conversation.add(self._pending)
        self.conversation.add(Message("tool", tuple(results)))
        self.calls.extend(self._pending.calls)
        self.results.extend(results)
        self._pending = None

    def result(self) -> Run:
        """The run as it stands."""
        return Run(
            id=self.budget.run_id,
            output=self.output,
            stop=self.stop or "failed",
            messages=list(self.conversation.messages),
            calls=self.calls,
            results=self.results,
            usage=self.usage,
            cost=self.conversation.cost,
            turns=self.turns,
        )

    def _end(self, stop: Stop, text: str = "") -> None:
        self.stop = stop
        self.output = text or f"No answer: {_WITHOUT_ANSWER.get(stop, stop)}."

    def _tool_choice(self) -> ToolChoice:
        # A forced call is forced once: kept up, the model could never answer.
        own = self.settings.tool_choice
        return own if self.turns == 0 or own == "none" else "auto"

    def _request(self, tool_choice: ToolChoice) -> Request:
        settings, remaining_s = self.settings, self.budget.remaining_s
        return Request(
            messages=self.conversation.to_send,
            tools=self.conversation.tools_to_send(),
            tool_choice=tool_choice,
            parallel=settings.parallel,
            strict=settings.strict,
            output_tokens_max=settings.output_tokens_max,
            temperature=settings.temperature,
            timeout_s=remaining_s if settings.timeout_s is None else min(settings.timeout_s, remaining_s),
            extra=settings.extra,
        )


_STOPS: dict[str, Stop] = {"refusal": "refusal", "filter": "filter", "length": "length"}


def _with_calls(message: Message, calls: Sequence[ToolCall]) -> Message:
    """The message with its calls replaced one by one by `calls`, or left out."""
    if not calls and not message.calls:
        return message
    prepared = iter(calls)
    parts = [next(prepared, None) if isinstance(part, ToolCall) else part for part in message.content]
    return Message(message.role, tuple([part for part in parts if part is not None]))
