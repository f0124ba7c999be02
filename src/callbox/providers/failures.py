"""What a vendor's refusal means: HTTP status, error body and headers to one kind of `errors.ProviderError`.

Sources: the error pages of the OpenAI, Anthropic and Gemini APIs; the wordings of vLLM and llama.cpp servers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from callbox.dialects.wire import as_list, as_object
from callbox.errors import (
    ContextOverflow,
    ProviderAuthError,
    ProviderBadRequest,
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimited,
    ProviderUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MESSAGE_CHARS_MAX = 2_000
"""A gateway's error page may be a whole HTML document; more than this of it is cut."""

_OVERFLOW_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "request_too_large"})
_OVERFLOW_TEXT = re.compile(
    r"prompt is too long"  # Anthropic
    r"|input length and `?max_tokens`? exceed context limit"  # Anthropic, older models
    r"|exceeds? the maximum number of tokens"  # Gemini
    r"|maximum context length"  # OpenAI, vLLM
    r"|exceeds? (?:the )?(?:model's |available )?(?:context (?:window|size|length)|max(?:imum)? model len)"
    r"|longer than the maximum model length"  # vLLM
    r"|larger than the (?:max |maximum )?context (?:size|length)",  # llama.cpp, Ollama
    re.IGNORECASE,
)
_AUTH_CODES = frozenset(
    {"invalid_api_key", "authentication_error", "permission_error", "permission_denied", "unauthenticated"}
)
_RATE_CODES = frozenset({"rate_limit_exceeded", "rate_limit_error", "resource_exhausted", "too_many_requests"})
_UNAVAILABLE_CODES = frozenset(
    {"overloaded_error", "api_error", "server_error", "internal_server_error", "timeout_error", "unavailable",
     "internal", "deadline_exceeded", "vector_store_timeout"}
)  # fmt: skip
_BAD_REQUEST_CODES = frozenset(
    {"invalid_request_error", "not_found_error", "invalid_argument", "failed_precondition", "not_found",
     "invalid_prompt", "billing_error"}
)  # fmt: skip
# Waiting does not refill an account.
_OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# What keys look like, in case an API quotes one that is not the client's own: sk-..., AIza..., "Bearer ...".
_KEY = re.compile(
    r"\b(?:sk|pk|rk)-[\w*.\-]{6,}|\bAIza[\w\-]{10,}|\b(?:Bearer|Basic)\s+[\w.~+/=\-]{6,}"
    r"|\b(?:api[-_]?key|authorization|key)(?P<sep>[\"']?\s*[:=]\s*)[\"']?[\w.~+/=\-]{8,}",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is known of a failed request, in no vendor's terms.

    Attributes:
        vendor: For people: ``"OpenAI"``.
        message: What the vendor said.
        status: HTTP status; None when there was no answer, or when the error came inside a stream.
        codes: The vendor's own codes and types, any spelling.
        headers: Of the answer, names in lower case.
        body: Of the answer, where it was JSON.
        kind: ``"connection"`` no answer, ``"shape"`` an answer that nobody can read, else ``"answer"``.
    """

    vendor: str
    message: str
    status: int | None = None
    codes: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Any = None
    kind: str = "answer"


def provider_error(failure: Failure, *, now: float, secrets: Iterable[str] = ()) -> ProviderError:
    """The typed error of a failure.

    Args:
        failure: What is known.
        now: Seconds since the epoch, for headers that name a time of day.
        secrets: Strings that must not be in the message: keys, whatever the vendor quotes.
    """
    said = redact(failure.message.strip(), secrets)
    if len(said) > MESSAGE_CHARS_MAX:
        said = said[:MESSAGE_CHARS_MAX] + " ..."
    prefix = failure.vendor if failure.status is None else f"{failure.vendor} answered {failure.status}"
    message = f"{prefix}: {said}" if said else f"{prefix}."
    request_id = failure.headers.get("x-request-id") or failure.headers.get("request-id")
    if request_id:
        message += f" (request id {redact(request_id, secrets)})"
    if failure.kind == "shape":
        return ProviderProtocolError(message, status=failure.status)
    if failure.kind == "connection":
        return ProviderUnavailable(message, status=failure.status)
    return _typed(failure, message, {code.lower() for code in failure.codes if code}, now)


def _typed(failure: Failure, message: str, codes: set[str], now: float) -> ProviderError:
    status = failure.status
    if _is_overflow(failure, codes):
        return ContextOverflow(message, status=status, hint="Send less history, or use a larger window.")
    if codes & _OUT_OF_CREDIT or status == 402:
        error = ProviderRateLimited(message, status=status, hint="The account has no credit or quota left.")
        error.retryable = False
        return error
    if status in (401, 403) or codes & _AUTH_CODES or "API_KEY_INVALID" in str(failure.body):
        return ProviderAuthError(message, status=status, hint="Check the API key and what it may use.")
    if status == 429 or codes & _RATE_CODES:
        return ProviderRateLimited(message, status=status, retry_after_s=retry_after_s(failure, now))
    # 408 and 409: the vendors' own SDKs retry them; 501 is a server that will never do what was asked.
    if status in (408, 409) or (status is not None and status >= 500 and status != 501):
        return ProviderUnavailable(message, status=status, retry_after_s=retry_after_s(failure, now))
    if status in (None, 200) and codes & _UNAVAILABLE_CODES:
        return ProviderUnavailable(message, status=status, retry_after_s=retry_after_s(failure, now))
    if (status is not None and status >= 400) or codes & _BAD_REQUEST_CODES:
        return ProviderBadRequest(message, status=status)
    if status is None or status < 300:
        # An error inside a stream or a 200, of a kind that we do not know: the next try may be spared.
        return ProviderUnavailable(message, status=status)
    return ProviderProtocolError(message, status=status)


def _is_overflow(failure: Failure, codes: set[str]) -> bool:
    if codes & _OVERFLOW_CODES:
        return True
    # A rate limit's text may speak of tokens, too.
    return failure.status in (None, 200, 400, 413, 422, 500) and bool(_OVERFLOW_TEXT.search(failure.message))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without keys: vendors quote them, and exceptions end in logs."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[redacted]")
    return _KEY.sub("[redacted]", text)


def retry_after_s(failure: Failure, now: float) -> float | None:
    """How long the API asks to wait, in seconds; None when it does not say.

    Read, in this order: ``retry-after-ms``, ``retry-after`` (seconds or a date, RFC 9110 section 10.2.3),
    ``google.rpc.RetryInfo`` in the body, and the reset times of the limits that are used up.
    """
    headers = failure.headers
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    after = headers.get("retry-after")
    if after is not None:
        seconds = _number(after)
        if seconds is None:
            seconds = _until(after, now)
        if seconds is not None:
            return seconds
    told = _retry_info(failure.body)
    if told is not None:
        return told
    waits = [
        wait
        for kind in ("", "-requests", "-tokens")
        if headers.get(f"x-ratelimit-remaining{kind}") == "0"
        and (wait := _reset(headers.get(f"x-ratelimit-reset{kind}"), now)) is not None
    ]
    return max(waits, default=None)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _until(date: str, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)


def _reset(text: str | None, now: float) -> float | None:
    """``"6m0s"`` (OpenAI), seconds, or a time in seconds or milliseconds since the epoch (gateways)."""
    number = _number(text)
    if number is None:
        return _duration(text)
    if number > 1e11:
        number /= 1000
    return max(0.0, number - now) if number > 1e9 else number


def _duration(text: str | None) -> float | None:
    pieces = _DURATION.findall(text or "")
    return sum(float(amount) * _SECONDS[unit] for amount, unit in pieces) if pieces else None


def _retry_info(body: Any) -> float | None:
    details = as_object(as_object(body).get("error")).get("details")
    for detail in as_list(details):
        delay = as_object(detail).get("retryDelay")
        if delay is not None:
            return _duration(str(delay))
    return None
