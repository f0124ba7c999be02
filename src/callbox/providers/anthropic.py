"""Anthropic's Messages API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from callbox.dialects.wire import as_list, as_object
from callbox.providers.hosted import DEFAULT_OPTIONS, HostedProvider, Options, Wire, only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from callbox.providers.provider import Request
    from callbox.values import JsonObject

OUTPUT_TOKENS_MAX = 8_192
"""The API insists on a limit; this one where nobody says another."""

_CACHED: JsonObject = {"cache_control": {"type": "ephemeral"}}
# These blocks take no cache_control.
_UNCACHED = frozenset({"thinking", "redacted_thinking"})
_BY_NAME = ("model", "max_tokens", "messages")


class Anthropic(HostedProvider):
    """Claude.

    Args:
        model: Like ``"claude-sonnet-4-5"``.
        api_key: None lets the SDK find it: ``ANTHROPIC_API_KEY`` first.
        base_url: Of a server that speaks this API.
        headers: Sent with every request, like ``{"anthropic-beta": "..."}``.
        output_tokens_max: Tokens of one reply, unless the request says its own.
        cache: Mark the tools, the instructions and the conversation so far for Anthropic's prompt cache: a
            cached prefix is read for a tenth of its price, writing it costs a quarter more. What is marked
            must be the same bytes next time, so keep tools and instructions stable.
        client: An `anthropic.AsyncAnthropic` of one's own, with its own retries.
        options: Time, retries.

    Raises:
        ConfigurationError: At first use: no package, no key.
    """

    vendor: ClassVar[str] = "Anthropic"
    package: ClassVar[str] = "anthropic"
    extra: ClassVar[str] = "anthropic"
    key_variable: ClassVar[str] = "ANTHROPIC_API_KEY"

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        output_tokens_max: int = OUTPUT_TOKENS_MAX,
        cache: bool = False,
        client: Any = None,
        options: Options = DEFAULT_OPTIONS,
    ) -> None:
        secrets = (*(headers or {}).values(), *((api_key,) if api_key else ()))
        super().__init__(model, dialect_name="anthropic", client=client, secrets=secrets, options=options)
        self._api_key = api_key
        self._base_url = base_url
        self._headers = dict(headers or {})
        self._output_tokens_max = output_tokens_max
        self._cache = cache

    def _connect(self) -> Any:
        try:
            from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
        except ImportError:
            raise self._missing_package() from None
        return AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            default_headers=self._headers,
            max_retries=0,
            # The SDK's own choice, but for a destructor that closes it in whatever event loop runs by then.
            http_client=DefaultAsyncHttpxClient(),
        )

    def _lacks_key(self, exception: Exception) -> bool:
        # This SDK takes a client without a key, and says so at its first request.
        return isinstance(exception, TypeError) and "authentication method" in str(exception)

    def _body(self, request: Request) -> JsonObject:
        body: JsonObject = {
            "model": self._model,
            "max_tokens": request.output_tokens_max or self._output_tokens_max,
            "messages": self._conversations.write(request.messages),
        }
        system = self._speaks.system(request.messages)
        if system is not None:
            body["system"] = system
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.tools:
            # Strict only if asked for: a new set of strict tools is compiled first, and the API limits how
            # many.
            body["tools"] = self._definitions.define(request.tools, strict=request.strict is True)
            choice = self._choice(request)
            if choice is not None:
                body["tool_choice"] = choice
        return cached(body) if self._cache else body

    def _choice(self, request: Request) -> JsonObject | None:
        one_at_a_time: JsonObject = {} if request.parallel else {"disable_parallel_tool_use": True}
        match request.tool_choice:
            case "auto":
                return {"type": "auto", **one_at_a_time} if one_at_a_time else None
            case "none":
                return {"type": "none"}
            case "required":
                return {"type": "any", **one_at_a_time}
            case name:
                only(request.tools, name)
                return {"type": "tool", "name": name, **one_at_a_time}

    async def _create(self, client: Any, wire: Wire, timeout_s: float, **named: Any) -> Any:
        body = {key: value for key, value in wire.body.items() if key not in _BY_NAME}
        return await client.messages.with_raw_response.create(
            **{key: wire.body[key] for key in _BY_NAME},
            **named,
            extra_body=body,
            extra_headers=wire.headers or None,
            extra_query=wire.query or None,
            timeout=timeout_s,
        )

    async def _send(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        raw = await self._create(client, wire, timeout_s)
        return raw.http_response.json()

    async def _stream(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        from anthropic import AsyncStream

        raw = await self._create(client, wire, timeout_s, stream=True)
        # Plain dicts, as they came: the dialect reads JSON.
        return await raw.parse(to=AsyncStream[object])

    async def _close(self, source: Any) -> None:
        await source.close()

    async def _close_client(self, client: Any) -> None:
        await client.close()

    def _completes(self, chunk: Any) -> bool:
        return as_object(chunk).get("type") == "message_stop"


def cached(body: JsonObject) -> JsonObject:
    """The request with breakpoints for the prompt cache at the end of its tools, its instructions and its
    messages.

    Source: the prompt caching page of the Messages API; at most four breakpoints.
    """
    body = dict(body)
    if body.get("tools"):
        body["tools"] = [*body["tools"][:-1], {**body["tools"][-1], **_CACHED}]
    if body.get("system"):
        body["system"] = [{"type": "text", "text": body["system"], **_CACHED}]
    if body["messages"]:
        last = body["messages"][-1]
        blocks = as_list(last["content"])
        # The message is shared with the requests to come, which have their breakpoint elsewhere: a copy.
        if blocks and as_object(blocks[-1]).get("type") not in _UNCACHED:
            marked = {**last, "content": [*blocks[:-1], {**as_object(blocks[-1]), **_CACHED}]}
            body["messages"] = [*body["messages"][:-1], marked]
    return body
