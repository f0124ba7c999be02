"""Errors as they cross the wire: `{"code", "message", "hint"?}` and the exceptions of `callbox.errors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from callbox.errors import (
    CallboxError,
    ConfigurationError,
    GuestError,
    GuestProtocolError,
    HostUnsuited,
    ImageError,
    PathEscapes,
    SandboxError,
    SandboxExists,
    SandboxInterrupted,
    SandboxLost,
    SandboxNotFound,
    SandboxStateError,
    SnapshotRefused,
)

GUEST_CODES: Final = frozenset(
    {
        "bad_request",
        "unknown_operation",
        "not_found",
        "exists",
        "not_a_directory",
        "is_a_directory",
        "not_empty",
        "permission_denied",
        "path_escapes",
        "too_large",
        "no_space",
        "checksum_mismatch",
        "timeout",
        "cancelled",
        "busy",
        "gone",
        "spawn_failed",
        "repair_failed",
        "not_repaired",
        "too_many_streams",
        "flow_control",
        "internal",
    }
)
"""What a guest may answer; see docs/guest-protocol.md."""

_TEXT_CHARS_MAX: Final = 4_096
"""Of a message or a hint; more is cut. It ends up in logs and in models' windows."""

_OURS: Final[Mapping[str, type[CallboxError]]] = {
    kind.code: kind
    for kind in (
        ConfigurationError,
        GuestProtocolError,
        HostUnsuited,
        ImageError,
        SandboxError,
        SandboxExists,
        SandboxInterrupted,
        SandboxLost,
        SandboxNotFound,
        SandboxStateError,
        SnapshotRefused,
    )
}


def to_wire(failure: BaseException) -> dict[str, Any]:
    """The ``error`` object of CLOSE. What is not ours is ``internal``: its text may hold what the peer must not see."""
    if isinstance(failure, GuestError):
        error = {"code": failure.guest_code, "message": failure.message}
    elif isinstance(failure, CallboxError):
        error = {"code": failure.code, "message": failure.message}
    else:
        return {"code": "internal", "message": "Something broke inside; the log says what."}
    error["message"] = error["message"][:_TEXT_CHARS_MAX]
    if failure.hint is not None:
        error["hint"] = failure.hint[:_TEXT_CHARS_MAX]
    return error


def from_wire(error: object) -> CallboxError:
    """The exception for an ``error`` object. Whatever the peer invents becomes an exception of ours."""
    if not isinstance(error, Mapping):
        return GuestProtocolError("The peer ended a stream with neither a reply nor an error.")
    fields = cast("Mapping[str, Any]", error)
    code, message, hint = (_text(fields, key) for key in ("code", "message", "hint"))
    message = message or "The peer gave no reason."
    if code == "path_escapes":
        return PathEscapes(message, hint=hint)
    if code is not None and (ours := _OURS.get(code)):
        return ours(message, hint=hint)
    return GuestError(message, guest_code=code if code in GUEST_CODES else "internal", hint=hint)


def of_guest(failure: CallboxError) -> CallboxError:
    """What may be believed of an error that a guest answered: it knows nothing of sandboxes, snapshots or this host.

    Without this a hostile guest could tell us that its machine is lost, or that a snapshot was refused.
    """
    if isinstance(failure, GuestError):
        return failure
    return GuestError(failure.message, guest_code="internal", hint=failure.hint)


def again(failure: CallboxError) -> CallboxError:
    """A fresh copy: one instance raised in many tasks would collect all their tracebacks."""
    if isinstance(failure, PathEscapes):
        return PathEscapes(failure.message, hint=failure.hint)
    if isinstance(failure, GuestError):
        return GuestError(failure.message, guest_code=failure.guest_code, hint=failure.hint)
    return type(failure)(failure.message, hint=failure.hint)


def _text(error: Mapping[str, Any], key: str) -> str | None:
    value = error.get(key)
    return value[:_TEXT_CHARS_MAX] if isinstance(value, str) and value else None
