"""Running tools that are operations of an HTTP API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from callbox.errors import ToolError
from callbox.gate.runners.http_request import HttpRequest, build_request
from callbox.tools.http_binding import HttpBinding

if TYPE_CHECKING:
    import httpx

    from callbox.tools.call_context import CallContext
    from callbox.tools.tool import Tool
    from callbox.values import JsonObject

RESPONSE_BYTES_MAX = 5_000_000
"""Bytes of one response, decompressed; no model can read more, and a server must not fill our memory."""
CONNECT_TIMEOUT_S = 10.0
"""Seconds until a connection stands. How long the answer may take is the tool's own time-out, which the gate keeps."""
_ERROR_CHARS_MAX = 2_000

# Nothing was done yet: the server refused to begin (RFC 6585 section 4, RFC 8470 section 5.2).
_NOT_BEGUN = frozenset({425, 429})
# It may succeed later, but it may also have been done already.
_MAYBE_DONE = frozenset({408, 502, 503, 504})


class HttpRunner:
    """Runs `HttpBinding`: one request per call, to the host of the binding and to no other.

    Redirects are not followed and cookies are not kept: either would carry one caller's credentials to somewhere else.

    Args:
        transport: What sends the requests; for tests and for proxies. Default: httpx's own.
        response_bytes_max: Larger responses are errors.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> None:
        self._transport = transport
        self._response_bytes_max = response_bytes_max
        # A connection belongs to the event loop that opened it, and one gate may serve several loops in turn.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    async def run(self, tool: Tool, arguments: JsonObject, context: Callable[[], CallContext]) -> Any:
        """See `Runner.run`.

        Returns:
            The parsed JSON of the response, or its text; ``{"status": ...}`` where it has neither.

        Raises:
            ToolError: The server did not answer, or not with success; with the status and a shortened body.
            Rejected: An argument cannot be put into the request safely.
        """
        import httpx

        binding = tool.binding
        assert isinstance(binding, HttpBinding)
        request = build_request(binding, arguments, context().idempotency_key)
        may_repeat = tool.idempotent or tool.reads_only
        where = f"{binding.method} {binding.path}"
        try:
            return await self._send(request, where, may_repeat=may_repeat)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise ToolError(f"{where}: no connection to the server.", retryable=True) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # `from None`: httpx puts the URL into its texts, and a key may be in there.
            raise ToolError(f"{where}: {type(error).__name__}.", retryable=may_repeat) from None

    async def _send(self, request: HttpRequest, where: str, *, may_repeat: bool) -> Any:
        import httpx

        client = self._client()
        sent = client.build_request(
            request.method,
            request.url,
            headers=[(name.encode(), value.encode()) for name, value in request.headers],
            content=request.content,
            files=None if request.fields is None else [(name, (None, text)) for name, text in request.fields],
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        )
        response = await client.send(sent, stream=True)
        try:
            body = await self._read(response, where)
        finally:
            await response.aclose()
        if response.is_success:
            return _value(response, body)
        raise _failure(response, body, where, request.secrets, may_repeat=may_repeat)

    async def _read(self, response: httpx.Response, where: str) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes(65_536):
            body += chunk
            if len(body) > self._response_bytes_max:
                if not response.is_success:
                    break  # of an error only the beginning is shown
                raise ToolError(
                    f"{where} answered with more than {self._response_bytes_max:,} bytes.",
                    suggestion="Ask for less: a filter, a page, fewer fields.",
                )
        return bytes(body)

    def _client(self) -> httpx.AsyncClient:
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx

        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = httpx.AsyncClient(
                transport=self._transport,
                follow_redirects=False,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                # Not the environment's proxies and .netrc: whose credentials go where is said in code.
                trust_env=False,
            )
        return client

    async def aclose(self) -> None:
        """See `Runner.aclose`. Connections of loops that have ended went with them."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


def _value(response: httpx.Response, body: bytes) -> Any:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        return {"status": response.status_code}
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return _text(response, body)  # what it calls JSON is not, or is nested without end: as it came
    is_text = kind.startswith("text/") or kind in ("", "application/xml", "application/javascript")
    if is_text or kind.endswith("+xml") or kind == "application/x-ndjson":
        return _text(response, body)
    return {"status": response.status_code, "content_type": kind, "size_bytes": len(body)}


def _text(response: httpx.Response, body: bytes) -> str:
    try:
        return body.decode(response.charset_encoding or "utf-8", "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def _failure(response: httpx.Response, body: bytes, where: str, secrets: list[str], *, may_repeat: bool) -> ToolError:
    status = response.status_code
    text = " ".join(_text(response, body[: 4 * _ERROR_CHARS_MAX]).split())
    for secret in secrets:
        text = text.replace(secret, "***")  # some servers repeat the key that they refuse
    if len(text) > _ERROR_CHARS_MAX:
        text = text[:_ERROR_CHARS_MAX] + "..."
    message = f"{where} answered {status} {response.reason_phrase}".rstrip()
    wait = response.headers.get("retry-after", "")
    if wait.isdecimal():
        message += f" (retry after {wait} s)"
    if response.is_redirect:
        message += "; redirects are not followed"
    return ToolError(
        f"{message}: {text}" if text else f"{message}.",
        retryable=status in _NOT_BEGUN or (may_repeat and status in _MAYBE_DONE),
    )
