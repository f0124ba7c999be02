"""Writes what happens to the calls of a session into its journal, and finds there what an earlier process wrote."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from callbox.calls import feedback
from callbox.calls.call import ToolCall, ToolResult
from callbox.errors import ApprovalError
from callbox.gate.recording import Verdict
from callbox.ids import new_id
from callbox.policy.approval import Approval, approval_digest
from callbox.policy.policy import Ask
from callbox.sessions.coding import encode
from callbox.sessions.entries import Answered, Asked, Intended
from callbox.sessions.fold import OpenTurn
from callbox.sessions.journal import Writer
from callbox.sessions.sealing import SEAL_BYTES_MAX
from callbox.stores.store import EVENT_BYTES_MAX
from callbox.tools.tool import Tool

_CHARS_TOO_FEW = EVENT_BYTES_MAX // 16
"""Characters that fit however they are written."""


class SessionRecorder:
    """A `Recorder` over a session's journal.

    Args:
        writer: Of the session.
        begun: Ids of calls that an earlier process began, and that may have had an effect.
    """

    def __init__(self, writer: Writer, begun: Collection[str] = ()) -> None:
        self._writer = writer
        self._begun = begun
        self._uses: dict[str, str] = {}  # call id -> the approval that it uses up
        self._paused = False

    @property
    def life(self) -> str:
        """See `Recorder.life`."""
        return self._writer.life

    @property
    def paused(self) -> bool:
        """See `Recorder.paused`."""
        return self._paused

    async def approval(self, call: ToolCall, tool: Tool, ask: Ask, policy_version: str) -> tuple[Verdict, str]:
        """See `Recorder.approval`. A yes holds for what was shown: the same tool, arguments, policy and session."""
        state, session = self._writer.state, self._writer.journal.key.session
        digest = approval_digest(tool, call.arguments, policy_version=policy_version, session=session)
        turn = self._turn()
        begun = turn.intents.get(call.id)
        if begun is not None and begun.approval is not None and state.approvals[begun.approval].digest == digest:
            return "approved", ""  # it had begun when everything stopped, and may be run again under the same key
        known = state.approvals.get(turn.asked.get(call.id, ""))
        if known is not None and (known.digest != digest or known.used):
            known = None
        if known is not None and known.approved:
            self._uses[call.id] = known.id
            return "approved", known.note
        assert state.run is not None, "a turn belongs to a run"
        refused = state.run.refused.get(digest)
        if refused is not None:  # a person who has said no is not asked again in the same run
            return "refused", _refusal(state.approvals[refused])
        self._paused = True
        if known is not None:
            return "pending", ""
        asked = Asked(
            approval=new_id("apr"), call=call.id, tool=tool.name, arguments=call.arguments, digest=digest,
            reason=ask.reason,
        )  # fmt: skip
        self._writer.reach("approval.before")
        await self._writer.write(asked)
        self._writer.reach("approval.after")
        return "pending", ""

    def refusal(self, call: ToolCall, tool: Tool) -> str | None:
        """See `Recorder.refusal`. A no holds for this call as it was asked for, and for its like in the same run."""
        state = self._writer.state
        if state.run is None or not state.run.refused:
            return None
        asked = self._turn().asked.get(call.id, "")
        if asked in state.approvals and state.approvals[asked].approved:
            return None  # asked anew after a no
        for known in [state.approvals[each] for each in state.run.refused.values()]:
            if known.id == asked or (known.tool == tool.name and known.arguments == call.arguments):
                return _refusal(known)
        return None

    async def intent(self, call: ToolCall, tool: Tool) -> str:
        """See `Recorder.intent`."""
        turn = self._turn()
        begun = turn.intents.get(call.id)
        if begun is not None:
            return turn.key_of(call.id)
        self._writer.reach("intent.before")
        approval = self._uses.get(call.id)
        if approval is not None and self._writer.state.approvals[approval].used:
            raise ApprovalError(f"Approval {approval} was used already.")
        await self._writer.write(Intended(call=call.id, version=tool.version, approval=approval))
        self._writer.reach("intent.after")
        return turn.key_of(call.id)

    async def outcome(self, call: ToolCall, result: ToolResult) -> None:
        """See `Recorder.outcome`."""
        if call.id in self._begun and result.error is not None and not result.attempts:
            # What refuses it now says that it was not run; what it did before the crash is still not known.
            result = ToolResult.failed(call, feedback.outcome_unknown(call.name))
        result = _kept(call, result)
        self._writer.reach("outcome.before")
        await self._writer.write(Answered(result=result))
        self._writer.reach("outcome.after")

    def _turn(self) -> OpenTurn:
        turn = self._writer.state.turn
        assert turn is not None, "calls run only while a turn is open"
        return turn


def _kept(call: ToolCall, result: ToolResult) -> ToolResult:
    """The result, or that it is too large: not written down it would block the session, or its tool would run again."""
    if len(result.content) < _CHARS_TOO_FEW or len(encode(Answered(result=result))) <= EVENT_BYTES_MAX - SEAL_BYTES_MAX:
        return result
    error = feedback.tool_failed(
        f"The tool ran, but its result is larger than the {EVENT_BYTES_MAX} bytes that are kept."
    )
    return replace(ToolResult.failed(call, error), attempts=result.attempts, duration_ms=result.duration_ms)


def _refusal(approval: Approval) -> str:
    said = f": {approval.note}" if approval.note else "."
    return f"{approval.by or 'A person'} refused this call{said}"
