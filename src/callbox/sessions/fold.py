"""What a journal comes to: `SessionState` is a fold over its entries and nothing else. Pure.

The law (tests/properties): folding a journal entry by entry, or all at once, or from a copy of any prefix, is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from callbox.calls.call import ToolCall, ToolResult
from callbox.errors import JournalDamaged
from callbox.messages import NO_USAGE, Message, Usage
from callbox.policy.approval import Approval
from callbox.sessions.entries import (
    Answered,
    Asked,
    Began,
    Decided,
    Ended,
    Entry,
    Intended,
    Noted,
    Replied,
    Rewound,
)
from callbox.stores.store import Status
from callbox.values import JsonValue


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry with its place in the journal.

    Attributes:
        seq: Its number.
        at: When it was appended, seconds since the epoch.
        entry: What it says.
    """

    seq: int
    at: float
    entry: Entry


@dataclass(slots=True)
class OpenTurn:
    """The model's last answer, as long as calls of it have no result.

    Attributes:
        message: The answer.
        seq: The answer's number in the journal.
        id: Tells it from what a fork or a copy of the session has under this number.
        run: The run that it belongs to.
        results: By the call's id.
        intents: Calls that were about to run, by the call's id. Without a result, nobody knows what came of them.
        asked: The newest approval of each call that needs one, by the call's id. Approvals of other turns do not count:
            some servers number the calls of every answer from 0.
    """

    message: Message
    seq: int
    id: str
    run: str
    results: dict[str, ToolResult] = field(default_factory=dict[str, ToolResult])
    intents: dict[str, Intended] = field(default_factory=dict[str, Intended])
    asked: dict[str, str] = field(default_factory=dict[str, str])
    _readable: tuple[ToolCall, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._readable = tuple([call for call in self.message.calls if call.error is None])

    def missing(self) -> list[ToolCall]:
        """Calls without a result, in the model's order. A call that could not be read has one by itself."""
        return [call for call in self._readable if call.id not in self.results]

    def key_of(self, call_id: str) -> str:
        """The idempotency key of a call: where it stands, so that it is the same whoever runs it, and of no other."""
        return f"{self.run}.{self.seq}{self.id}.{[call.id for call in self.message.calls].index(call_id)}"

    def all_results(self) -> list[ToolResult]:
        """One result per call, in the model's order; only when none is missing."""
        return [
            self.results[call.id] if call.error is None else ToolResult.failed(call, call.error)
            for call in self.message.calls
        ]


@dataclass(slots=True)
class RunState:
    """A run that has begun, or the last one.

    Attributes:
        id, prompt, prompt_key: See `Began`.
        begins: How many messages there were before its prompt.
        stop, output: Why it ended and with what; None while it has not.
        turns: Answers of the model.
        calls: Calls that were let through to a tool.
        usage: Tokens, as the vendor counted them.
        refused: What a person has refused in it: the approval's id by its digest.
    """

    id: str
    prompt: tuple[Message, ...]
    prompt_key: str | None
    begins: int = 0
    stop: str | None = None
    output: str = ""
    turns: int = 0
    calls: int = 0
    usage: Usage = NO_USAGE
    refused: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class SessionState:
    """A session at one moment.

    Attributes:
        seq: Of the last entry; 0 for none.
        messages: The conversation: prompts, answers, and calls together with all their results.
        turn: Calls that are under way, or were when everything stopped.
        run: The run that is under way, or the last one.
        approvals: All that was ever asked, by id.
        answered: What became of prompts that had an idempotency key, by it: run, stop and output.
        notes: What programs keep with it.
        begins: Entries up to this number are shared with the session that this one was forked from; 0: none.
        inherited: Approvals that were asked there: they name that session, so nobody can decide them in this one.
    """

    seq: int = 0
    messages: list[Message] = field(default_factory=list[Message])
    turn: OpenTurn | None = None
    run: RunState | None = None
    approvals: dict[str, Approval] = field(default_factory=dict[str, Approval])
    answered: dict[str, tuple[str, str, str]] = field(default_factory=dict[str, tuple[str, str, str]])
    notes: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    begins: int = field(default=0, compare=False)
    inherited: set[str] = field(default_factory=set[str], compare=False)

    @property
    def unfinished(self) -> bool:
        """A run has begun and not ended."""
        return self.run is not None and self.run.stop is None

    @property
    def waiting(self) -> list[Approval]:
        """Approvals that somebody must decide before the run can go on."""
        if self.turn is None:
            return []
        # Asked again for a call (its tool has changed, or it is a fork's now), the earlier question is void.
        newest = [self.approvals[known] for call, known in self.turn.asked.items() if call not in self.turn.results]
        return [each for each in newest if each.approved is None and each.id not in self.inherited]

    @property
    def status(self) -> Status:
        """What the store is told."""
        if self.waiting:
            return "waiting"
        return "running" if self.unfinished else "idle"

    def apply(self, placed: Placed, session: str) -> None:
        """Take in the next entry. A `Rewound` cannot be taken in: fold anew.

        Raises:
            JournalDamaged: It does not follow from what came before.
        """
        if placed.seq <= self.seq:
            raise JournalDamaged(f"Entry {placed.seq} comes after entry {self.seq}.")
        self.seq = placed.seq
        match placed.entry:
            case Began() as entry:
                self.turn = None
                self.run = RunState(entry.run, entry.prompt, entry.prompt_key, len(self.messages))
                self.messages.extend(entry.prompt)
            case Replied() as entry:
                self._replied(entry)
            case Intended() as entry:
                self._open().intents[entry.call] = entry
                self._running().calls += 1
                if entry.approval is not None:
                    self._use(entry.approval)
            case Answered() as entry:
                self._answered(entry.result)
            case Asked() as entry:
                self._asked(entry, placed.at, session)
            case Decided() as entry:
                self._decided(entry, placed.seq)
            case Ended() as entry:
                run = self._running()
                run.stop, run.output = entry.stop, entry.output
                # One that failed before it did anything is no answer: its prompt may be said again under its key.
                if run.prompt_key is not None and (entry.stop != "failed" or run.calls):
                    self.answered[run.prompt_key] = (run.id, entry.stop, entry.output)
            case Noted() as entry:
                self.notes.update(entry.values)
            case Rewound():
                raise JournalDamaged("A rewound journal must be folded from its beginning.")

    def _use(self, approval: str) -> None:
        known = self.approvals.get(approval)
        if known is None or not known.approved or known.used:
            raise JournalDamaged("A call begins under a yes that nobody gave, or that was used.")
        self.approvals[approval] = replace(known, used=True)

    def _replied(self, entry: Replied) -> None:
        run = self._running()
        if run.stop == "failed":  # said again under its key, it goes on
            run.stop, run.output = None, ""
            self.answered.pop(run.prompt_key or "", None)
        run.turns += 1
        run.usage = run.usage + entry.usage
        if entry.message is None:
            return
        if entry.opens:
            self.turn = OpenTurn(entry.message, self.seq, entry.turn, run.id)
            self._close_if_complete()
        else:
            self.messages.append(entry.message)

    def _answered(self, result: ToolResult) -> None:
        turn = self._open()
        if result.call_id in turn.results:
            raise JournalDamaged(f"Call {result.call_id} has two results.")
        turn.results[result.call_id] = result
        self._close_if_complete()

    def _asked(self, entry: Asked, at: float, session: str) -> None:
        self.approvals[entry.approval] = Approval(
            id=entry.approval, session=session, call_id=entry.call, tool=entry.tool, arguments=entry.arguments,
            digest=entry.digest, reason=entry.reason, asked_at=at,
        )  # fmt: skip
        if self.seq <= self.begins:
            self.inherited.add(entry.approval)
        self._open().asked[entry.call] = entry.approval

    def _decided(self, entry: Decided, seq: int) -> None:
        known = self.approvals.get(entry.approval)
        if known is None:
            raise JournalDamaged(f"Entry {seq} decides what nobody asked.")
        self.approvals[entry.approval] = replace(known, approved=entry.approved, by=entry.by, note=entry.note)
        if not entry.approved:
            self._running().refused[known.digest] = known.id

    def _close_if_complete(self) -> None:
        if self.turn is not None and not self.turn.missing():
            self.messages.append(self.turn.message)
            self.messages.append(Message("tool", tuple(self.turn.all_results())))
            self.turn = None

    def _open(self) -> OpenTurn:
        if self.turn is None:
            raise JournalDamaged("A call runs, but the model asked for none.")
        return self.turn

    def _running(self) -> RunState:
        if self.run is None:
            raise JournalDamaged("Something happened before anything had begun.")
        return self.run


def fold(entries: Iterable[Placed], session: str, *, begins: int = 0) -> SessionState:
    """The state that a whole journal comes to, with what was rewound left out. `begins`: see `SessionState`."""
    live, last = effective(entries)
    state = SessionState(begins=begins)
    for placed in live:
        state.apply(placed, session)
    state.seq = last
    return state


def fold_to_end(entries: Iterable[Placed], session: str, run: str) -> SessionState:
    """The state at the end of a run, as far as it was not rewound."""
    live, _ = effective(entries)
    ends = [place for place, each in enumerate(live, 1) if isinstance(each.entry, Ended) and each.entry.run == run]
    state = SessionState()
    for placed in live[: ends[-1]] if ends else live:
        state.apply(placed, session)
    return state


def effective(entries: Iterable[Placed]) -> tuple[list[Placed], int]:
    """The entries that count, and the number of the last one of all."""
    live: list[Placed] = []
    last = 0
    for placed in entries:
        last = placed.seq
        if isinstance(placed.entry, Rewound):
            to = placed.entry.to
            live = [each for each in live if each.seq <= to]
        else:
            live.append(placed)
    return live, last
