"""What an approval is bound to: change anything of it, and nobody has approved it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from callbox.tools.tool import Tool
from callbox.values import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's single-use yes or no to one call of one session, asked for or given.

    Attributes:
        id: ``apr_`` and 26 characters.
        session: Which session's run waits for it.
        call_id, tool, arguments: What is to run.
        digest: See `approval_digest`.
        reason: Why somebody is asked, for people.
        asked_at: Seconds since the epoch.
        approved: None while nobody has decided.
        by: Who decided, as they said.
        note: What they said about it; the model is told after a refusal.
        used: The call began: it cannot be used again, and cannot be taken back.
    """

    id: str
    session: str
    call_id: str
    tool: str
    arguments: JsonObject
    digest: str
    reason: str
    asked_at: float
    approved: bool | None = None
    by: str = ""
    note: str = ""
    used: bool = False


def approval_digest(tool: Tool, arguments: JsonObject, *, policy_version: str, session: str) -> str:
    """Digest of what is approved: the tool's version, canonical arguments (RFC 8785), the policy and the session.

    An attacker would have harmless arguments approved and others run, or use one yes twice, or in another session.
    """
    what = {
        "tool": tool.name,
        "version": tool.version,
        "arguments": arguments,
        "policy": policy_version,
        "session": session,
    }
    return hashlib.sha256(_canonical(what)).hexdigest()


def _canonical(value: JsonObject) -> bytes:
    import rfc8785

    try:
        return b"jcs:" + rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        # Integers beyond 2**53 have no canonical form there, because JavaScript would round them. Ours are exact.
        return b"int:" + json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
