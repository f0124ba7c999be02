"""What the vendors' SDKs and their HTTP clients raise, read without importing any of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from callbox.dialects.wire import as_object
from callbox.providers.failures import Failure

_SDKS = frozenset({"openai", "anthropic", "google"})
_NETWORK = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "anyio", "ssl", "h11"})


def failure_of(vendor: str, exception: Exception) -> Failure | None:
    """What the exception says; None for one that is neither the SDK's nor the network's: a bug."""
    roots = {kind.__module__.partition(".")[0] for kind in type(exception).__mro__}
    name = type(exception).__name__
    response = getattr(exception, "response", None)
    status = _status(exception, response)
    if name in ("APIResponseValidationError", "UnknownApiResponseError", "ValidationError") or isinstance(
        exception, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
    ):
        # Its text quotes the whole answer.
        return Failure(vendor=vendor, message="An answer that cannot be read.", status=status, kind="shape")
    if roots & _SDKS and (status is not None or hasattr(exception, "body") or hasattr(exception, "details")):
        if name in ("APIConnectionError", "APITimeoutError"):
            return Failure(vendor=vendor, message=_with_cause(exception), kind="connection")
        body = _body(exception)
        return Failure(
            vendor=vendor,
            message=_message(body, exception),
            status=status,
            codes=_codes(body),
            headers=_headers(response),
            body=body,
        )
    if roots & _NETWORK or isinstance(exception, OSError):
        return Failure(vendor=vendor, message=_with_cause(exception), kind="connection")
    return None


def failure_in_answer(vendor: str, error: Any, status: int | None = None) -> Failure:
    """An error object that came in an answer with status 200, or inside a stream."""
    body = {"error": error}
    return Failure(vendor=vendor, message=_message(body, None), status=status, codes=_codes(body), body=body)


def _status(exception: Exception, response: Any) -> int | None:
    for value in (
        getattr(exception, "status_code", None),
        getattr(exception, "code", None),
        getattr(response, "status_code", None),
    ):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _body(exception: Exception) -> Any:
    body = getattr(exception, "body", None)
    if body is None:
        body = getattr(exception, "details", None)
    found = as_object(body)
    # The OpenAI SDK hands over what is inside "error".
    return body if "error" in found or not found else {"error": found}


def _message(body: Any, exception: Exception | None) -> str:
    error = as_object(body).get("error")
    for value in (as_object(error).get("message"), error, as_object(body).get("message"), body):
        if isinstance(value, str) and value:
            return value
    return "" if exception is None else str(getattr(exception, "message", None) or exception)


def _codes(body: Any) -> tuple[str, ...]:
    error = as_object(as_object(body).get("error"))
    return tuple(value for key in ("code", "type", "status") if isinstance(value := error.get(key), str) and value)


def _headers(response: Any) -> dict[str, str]:
    headers = getattr(response, "headers", None)
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): str(value) for name, value in cast("Mapping[Any, Any]", headers).items()}


def _with_cause(exception: BaseException) -> str:
    # "Connection error." alone helps nobody; what the socket said is in the cause.
    cause = exception.__cause__
    text = str(exception) or type(exception).__name__
    said = str(cause) if cause is not None else ""
    return f"{text} {said}" if said and said not in text else text
