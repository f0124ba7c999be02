from __future__ import annotations

import json
from typing import Any

import pytest

from callbox import errors
from callbox.providers.failures import MESSAGE_CHARS_MAX, Failure, provider_error, redact, retry_after_s
from callbox.providers.sdk_errors import failure_in_answer, failure_of

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def error(message: str = "no", status: int | None = 400, *codes: str, **rest: Any) -> errors.ProviderError:
    return provider_error(Failure(vendor="V", message=message, status=status, codes=codes, **rest), now=NOW)


@pytest.mark.parametrize(
    ("status", "codes", "kind", "retryable"),
    [
        (400, (), errors.ProviderBadRequest, False),
        (401, (), errors.ProviderAuthError, False),
        (403, ("permission_error",), errors.ProviderAuthError, False),
        (402, ("billing_error",), errors.ProviderRateLimited, False),
        (404, ("model_not_found",), errors.ProviderBadRequest, False),
        (408, (), errors.ProviderUnavailable, True),
        (409, (), errors.ProviderUnavailable, True),
        (413, ("request_too_large",), errors.ContextOverflow, False),
        (422, (), errors.ProviderBadRequest, False),
        (429, ("rate_limit_exceeded",), errors.ProviderRateLimited, True),
        (429, ("insufficient_quota",), errors.ProviderRateLimited, False),
        (500, ("server_error",), errors.ProviderUnavailable, True),
        (501, (), errors.ProviderBadRequest, False),
        (503, ("UNAVAILABLE",), errors.ProviderUnavailable, True),
        (529, ("overloaded_error",), errors.ProviderUnavailable, True),
        # In a stream or in a 200 there is only the code.
        (None, ("overloaded_error",), errors.ProviderUnavailable, True),
        (200, ("rate_limit_error",), errors.ProviderRateLimited, True),
        (200, ("invalid_request_error",), errors.ProviderBadRequest, False),
        (200, ("authentication_error",), errors.ProviderAuthError, False),
        (None, ("something_new",), errors.ProviderUnavailable, True),
        (302, (), errors.ProviderProtocolError, False),
    ],
)
def test_a_status_and_its_codes_make_one_kind(
    status: int | None, codes: tuple[str, ...], kind: type[errors.ProviderError], retryable: bool
) -> None:
    found = error("no", status, *codes)
    assert type(found) is kind
    assert found.retryable is retryable
    assert found.status == status


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "the request exceeds the available context size, try increasing it",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "The prompt (total length 9000) is longer than the maximum model length of 8192",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    ],
)
def test_context_overflow_is_known_by_every_vendors_words(message: str) -> None:
    assert type(error(message, 400)) is errors.ContextOverflow
    # The same words about a rate limit are about a rate limit.
    assert type(error(message, 429)) is errors.ProviderRateLimited


def test_context_overflow_is_known_by_its_code() -> None:
    assert type(error("?", 400, "context_length_exceeded")) is errors.ContextOverflow
    assert type(error("?", 500, "exceed_context_size_error")) is errors.ContextOverflow


def test_geminis_wrong_key_is_a_400_with_a_reason() -> None:
    body = {"error": {"details": [{"reason": "API_KEY_INVALID"}]}}
    assert type(error("API key not valid.", 400, "INVALID_ARGUMENT", body=body)) is errors.ProviderAuthError


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 -0000"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "120ms"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 9)}, 9.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str((int(NOW) + 9) * 1000)}, 9.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "3"}, 3.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "later"}, None),
        ({}, None),
    ],
)
def test_the_wait_is_read_from_headers(headers: dict[str, str], seconds: float | None) -> None:
    found = retry_after_s(Failure(vendor="V", message="", status=429, headers=headers), NOW)
    assert found == pytest.approx(seconds)
    assert error("slow down", 429, headers=headers).retry_after_s == pytest.approx(seconds)
    assert error("overloaded", 503, headers=headers).retry_after_s == pytest.approx(seconds)


def test_the_wait_is_read_from_googles_retry_info() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}, {"retryDelay": "17.5s"}]
    assert error("slow down", 429, body={"error": {"details": details}}).retry_after_s == 17.5


def test_messages_name_the_vendor_the_status_and_the_request() -> None:
    found = error("Nope.", 400, headers={"x-request-id": "req_7"})
    assert str(found) == "V answered 400: Nope. (request id req_7)"
    assert str(error("", None, "x")) == "V."


def test_a_page_of_html_is_cut() -> None:
    assert len(str(error("<p>" * 10_000, 502))) < MESSAGE_CHARS_MAX + 100


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abc123def456.",
        "Incorrect API key provided: sk-abc***********wxyz.",
        "header Authorization: Bearer abc.def-ghi was wrong",
        "header authorization=Basic dXNlcjpwYXNz",
        "https://host/v1/models?key=AIzaSyA-1234567890abcdefghij",
        '{"x-api-key": "0123456789abcdef"}',
    ],
)
def test_what_looks_like_a_key_is_redacted(text: str) -> None:
    found = redact(text)
    assert "[redacted]" in found
    for secret in ("abc123", "wxyz", "def-ghi", "dXNlc", "12345678"):
        assert secret not in found


def test_known_secrets_are_redacted_whatever_they_look_like() -> None:
    assert redact("the key hunter22 is wrong", ["hunter22"]) == "the key [redacted] is wrong"
    # A secret of three characters would make a puzzle of every sentence.
    assert redact("the key", ["the"]) == "the key"


def test_what_is_neither_the_sdks_nor_the_networks_is_a_bug() -> None:
    assert failure_of("V", KeyError("x")) is None
    assert failure_of("V", TypeError("x")) is None


def test_a_broken_connection_says_what_the_socket_said() -> None:
    exception = ConnectionError("Connection error.")
    exception.__cause__ = OSError("[Errno 111] Connection refused")
    failure = failure_of("V", exception)
    assert failure is not None
    assert failure.kind == "connection"
    assert failure.message == "Connection error. [Errno 111] Connection refused"
    assert type(provider_error(failure, now=NOW)) is errors.ProviderUnavailable


def test_an_answer_that_is_not_json_is_a_protocol_error() -> None:
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("<html>secret page")
    failure = failure_of("V", raised.value)
    assert failure is not None
    found = provider_error(failure, now=NOW)
    assert type(found) is errors.ProviderProtocolError
    assert "secret" not in str(found)


def test_an_error_inside_an_answer_may_be_an_object_or_a_text() -> None:
    assert failure_in_answer("V", {"message": "full", "code": 502}).message == "full"
    assert failure_in_answer("V", {"message": "full", "type": "overloaded_error"}).codes == ("overloaded_error",)
    assert failure_in_answer("V", "full").message == "full"
    assert failure_in_answer("V", {"odd": 1}).message == ""
