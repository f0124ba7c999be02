"""Every exception that callbox raises.

A mistake of the *model* is never an exception in your code: it is a `ToolResult` with a structured error.
Exceptions are for mistakes of a program, and for things that the world did.

::

    CallboxError
    ├── DefinitionError            a tool or a schema is wrong; raised where it is defined     (also ValueError)
    ├── ConfigurationError         an option, a name or a missing extra                        (also ValueError)
    ├── ToolError                  raised BY a tool: what to answer the model
    │   └── Rejected               raised by a tool's check: these arguments make no sense here
    ├── ProviderError              a model API did not answer as asked
    │   ├── ProviderAuthError          wrong or missing key
    │   ├── ProviderBadRequest         the API refused the request itself
    │   │   └── ContextOverflow        more tokens than the model's window
    │   ├── ProviderRateLimited        too many requests; `retry_after_s` when the API says it
    │   ├── ProviderUnavailable        network, 5xx, overload, time-out
    │   └── ProviderProtocolError      an answer that is not of the API's own shape
    ├── StoreError                 what remembers could not
    │   ├── StoreUnavailable           no connection, no room, stopped: ask again; not known whether it was done
    │   ├── JournalConflict            somebody else appended, or the idempotency key is taken
    │   └── JournalDamaged             what was read is not what was written
    ├── SessionError               a session could not do what was asked
    │   ├── SessionNotFound            no session of that id in this tenant, or not any more
    │   ├── SessionBusy                another process (or task) works on it
    │   ├── SessionFenced              another process took it over: nothing more is committed here
    │   ├── SessionHasForks            others share its events
    │   └── ApprovalError              unknown, decided already, or of a call that has changed
    │       └── ApprovalPending            the session waits for one: decide first
    └── SandboxError               a sandbox could not do what was asked
        ├── SandboxNotFound            no sandbox, image, snapshot or exec of that name
        ├── SandboxExists              the name is taken
        ├── SandboxLost                its machine died: memory is gone, files are as of the last save
        ├── SandboxStateError          not possible in the state that it is in
        │   └── SandboxInterrupted         somebody put it to standby under the call; ask again, and it wakes
        ├── SnapshotRefused            damaged, or made by another driver, kernel, CPU or version: never booted
        ├── GuestError                 the agent inside answered with an error; `guest_code` says which
        │   └── PathEscapes                a path leaves the roots that files are confined to
        ├── GuestProtocolError         the guest or the supervisor sent what the protocol does not allow
        ├── ImageError                 an image cannot be built, read or verified
        └── HostUnsuited               this host lacks what the driver needs; `hint` has the command
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ApprovalError",
    "ApprovalPending",
    "CallboxError",
    "ConfigurationError",
    "ContextOverflow",
    "DefinitionError",
    "GuestError",
    "GuestProtocolError",
    "HostUnsuited",
    "ImageError",
    "JournalConflict",
    "JournalDamaged",
    "PathEscapes",
    "ProviderAuthError",
    "ProviderBadRequest",
    "ProviderError",
    "ProviderProtocolError",
    "ProviderRateLimited",
    "ProviderUnavailable",
    "Rejected",
    "SandboxError",
    "SandboxExists",
    "SandboxInterrupted",
    "SandboxLost",
    "SandboxNotFound",
    "SandboxStateError",
    "SessionBusy",
    "SessionError",
    "SessionFenced",
    "SessionHasForks",
    "SessionNotFound",
    "SnapshotRefused",
    "StoreError",
    "StoreUnavailable",
    "ToolError",
]


class CallboxError(Exception):
    """Base of all. Carries a stable `code`, whether a retry can help (`retryable`), and the next step (`hint`)."""

    code: ClassVar[str] = "error"
    retryable: bool = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} {hint}")


class DefinitionError(CallboxError, ValueError):
    """A tool's definition is wrong. Raised at import time, with the fix in `hint`."""

    code = "definition_error"


class ConfigurationError(CallboxError, ValueError):
    """An option, a name, or a package that is not installed."""

    code = "configuration_error"


class ToolError(CallboxError):
    """Raise this in a tool to answer the model with a clear error instead of a crash report.

    Args:
        message: What went wrong, for the model to read. It is sent as it is: keep secrets out of it.
        retryable: The same call may succeed later; a tool that allows retries is run again.
        suggestion: What the model should do instead.
    """

    code = "tool_failed"

    def __init__(self, message: str, *, retryable: bool = False, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.suggestion = suggestion


class Rejected(ToolError):
    """Raise this in a tool's check: the arguments fit the schema but make no sense here.

    Args:
        message: What is wrong, for the model to read.
        path: JSON Pointer of the argument that is to blame, like ``"/order_id"``.
        suggestion: What the model should do instead.
    """

    code = "rejected_by_check"

    def __init__(self, message: str, *, path: str | None = None, suggestion: str | None = None) -> None:
        super().__init__(message, suggestion=suggestion)
        self.path = path


class ProviderError(CallboxError):
    """A model API did not answer as asked.

    Attributes:
        status: Its HTTP status, where there is one.
        retry_after_s: Seconds that the API asks to wait, where it says so.
        run: The agent's run up to here (`callbox.agents.run.Run`), so that nothing is lost; None outside an agent.
    """

    code = "provider_error"
    run: object | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after_s = retry_after_s


class ProviderAuthError(ProviderError):
    """The key is wrong or missing, or may not use this model."""

    code = "provider_auth"


class ProviderBadRequest(ProviderError):
    """The API refused the request itself; sending it again will not help."""

    code = "provider_bad_request"


class ContextOverflow(ProviderBadRequest):
    """The conversation is larger than the model's context window."""

    code = "context_overflow"


class ProviderRateLimited(ProviderError):
    """Too many requests, or no quota left (then not `retryable`)."""

    code = "provider_rate_limited"
    retryable = True


class ProviderUnavailable(ProviderError):
    """Network, overload, 5xx or a time-out: the same request may succeed later."""

    code = "provider_unavailable"
    retryable = True


class ProviderProtocolError(ProviderError):
    """The API answered with something that is not of its own documented shape."""

    code = "provider_protocol"


class StoreError(CallboxError):
    """What remembers could not."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """No connection, no room, or it was stopped. Whether a write was done is not known; asking again is safe."""

    code = "store_unavailable"
    retryable = True


class JournalConflict(StoreError):
    """Somebody else appended in between, or the idempotency key is taken."""

    code = "journal_conflict"


class JournalDamaged(StoreError):
    """What was read is not what was written, or was written by a newer callbox."""

    code = "journal_damaged"


class SessionError(CallboxError):
    """A session could not do what was asked."""

    code = "session_error"


class SessionNotFound(SessionError):
    """There is no session of that id in this tenant, or not any more."""

    code = "session_not_found"


class SessionBusy(SessionError):
    """Another process, or another task, works on the session."""

    code = "session_busy"
    retryable = True


class SessionFenced(SessionError):
    """Another process took the session over, because this one seemed to be gone. Nothing more is committed here."""

    code = "session_fenced"


class SessionHasForks(SessionError):
    """Other sessions share its events."""

    code = "session_has_forks"


class ApprovalError(SessionError):
    """There is no such approval, it was decided already, or its call has changed."""

    code = "approval_error"


class ApprovalPending(ApprovalError):
    """The session waits for an approval; decide it first."""

    code = "approval_pending"


class SandboxError(CallboxError):
    """A sandbox could not do what was asked."""

    code = "sandbox_error"


class SandboxNotFound(SandboxError):
    """There is no sandbox, image, snapshot or exec of that name."""

    code = "sandbox_not_found"


class SandboxExists(SandboxError):
    """The name is taken by another one."""

    code = "sandbox_exists"


class SandboxLost(SandboxError):
    """The machine died. What was in its memory is gone; what ran may or may not have had its effect."""

    code = "sandbox_lost"


class SandboxStateError(SandboxError):
    """Not possible in the state that the sandbox is in."""

    code = "sandbox_state"


class SandboxInterrupted(SandboxStateError):
    """Somebody put the sandbox to standby under the call. What ran inside goes on when it is woken."""

    code = "sandbox_interrupted"
    retryable = True


class SnapshotRefused(SandboxError):
    """A saved state is damaged, or depends on another driver, kernel, CPU or version. It is never booted."""

    code = "snapshot_refused"


class GuestError(SandboxError):
    """The agent inside answered with an error.

    Attributes:
        guest_code: Its code, from the table in docs/guest-protocol.md, like ``"not_found"``.
    """

    code = "guest_error"

    def __init__(self, message: str, *, guest_code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.guest_code = guest_code


class PathEscapes(GuestError):
    """A path leaves the roots that files are confined to."""

    code = "path_escapes"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, guest_code="path_escapes", hint=hint)


class GuestProtocolError(SandboxError):
    """The guest or the supervisor sent what the protocol does not allow."""

    code = "guest_protocol"


class ImageError(SandboxError):
    """An image cannot be built, read or verified."""

    code = "image_error"


class HostUnsuited(SandboxError):
    """This host lacks what is needed; `hint` has the command that helps."""

    code = "host_unsuited"
