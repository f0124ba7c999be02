"""Google's Gemini API, generateContent; also on Vertex AI through a client of one's own."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import httpx

from callbox.dialects.wire import as_list, as_object, as_objects, plain
from callbox.providers.hosted import DEFAULT_OPTIONS, HostedProvider, Options, Wire, only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from callbox.providers.provider import Request
    from callbox.values import JsonObject

# The SDK insists on contents, and walks them through its types on every request: about 0.3 s for 800
# messages, losing what it does not know. So it gets this, and the real ones in `extra_body`, whose lists
# replace its own.
_PLACEHOLDER = "replaced by extra_body"


class Gemini(HostedProvider):
    """Gemini.

    `Request.extra` is merged into the JSON of the request: ``{"safetySettings": [...]}``,
    ``{"generationConfig": {"topK": 20}}``.

    Args:
        model: Like ``"gemini-2.5-flash"``.
        api_key: None takes ``GEMINI_API_KEY`` or ``GOOGLE_API_KEY``, as the SDK does.
        base_url: Of a server that speaks this API.
        headers: Sent with every request.
        client: A `google.genai.Client` of one's own, for Vertex AI for example.
        options: Time, retries.

    Raises:
        ConfigurationError: At first use: no package, no key.
    """

    vendor: ClassVar[str] = "Gemini"
    package: ClassVar[str] = "google-genai"
    extra: ClassVar[str] = "gemini"
    key_variable: ClassVar[str] = "GEMINI_API_KEY"

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        client: Any = None,
        options: Options = DEFAULT_OPTIONS,
    ) -> None:
        secrets = (*(headers or {}).values(), *((api_key,) if api_key else ()))
        super().__init__(model, dialect_name="gemini", client=client, secrets=secrets, options=options)
        self._api_key = api_key
        self._base_url = base_url
        self._headers = dict(headers or {})
        self._transports: WeakKeyDictionary[Any, httpx.AsyncClient] = WeakKeyDictionary()

    def _connect(self) -> Any:
        try:
            from google import genai
        except ImportError:
            raise self._missing_package() from None
        # Our own, since the SDK would take aiohttp where that happens to be installed, which behaves
        # otherwise when a connection breaks, and would close it in whatever event loop runs when it is
        # collected.
        transport = httpx.AsyncClient(follow_redirects=True, event_hooks={"response": [_note_response]})
        http = genai.types.HttpOptions(
            base_url=self._base_url, headers=self._headers or None, httpx_async_client=transport
        )
        try:
            client = genai.Client(api_key=self._api_key, http_options=http)
        except ValueError:
            missing = self._missing_key()
        else:
            self._transports[client] = transport
            return client
        raise missing

    def _body(self, request: Request) -> JsonObject:
        body: JsonObject = {"contents": self._conversations.write(request.messages)}
        system = self._speaks.system(request.messages)
        if system is not None:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        settings: JsonObject = {}
        if request.temperature is not None:
            settings["temperature"] = request.temperature
        if request.output_tokens_max is not None:
            settings["maxOutputTokens"] = request.output_tokens_max
        if settings:
            body["generationConfig"] = settings
        if request.tools:
            body["tools"] = self._definitions.define(request.tools, strict=request.strict is True)
            calling = self._calling(request, body["tools"])
            if calling is not None:
                body["toolConfig"] = {"functionCallingConfig": calling}
        return body

    def _calling(self, request: Request, definitions: list[JsonObject]) -> JsonObject | None:
        match request.tool_choice:
            case "auto":
                # VALIDATED: text or calls, and calls are held to their schemas.
                return {"mode": "VALIDATED"} if request.strict else None
            case "none":
                return {"mode": "NONE"}
            case "required":
                return {"mode": "ANY"}
            case name:
                (tool,) = only(request.tools, name)
                names = [declared["name"] for declared in _declarations(definitions)]
                return {"mode": "ANY", "allowedFunctionNames": [names[list(request.tools).index(tool)]]}

    def _arguments(self, wire: Wire, timeout_s: float) -> dict[str, Any]:
        from google.genai import types

        http = types.HttpOptions(
            timeout=int(timeout_s * 1000),
            extra_body=wire.body,
            headers=dict(wire.headers) or None,
            # Said out loud: without it the SDK asks again after a broken connection, after up to ten seconds.
            retry_options=types.HttpRetryOptions(attempts=1),
        )
        config = types.GenerateContentConfig(
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True), http_options=http
        )
        return {"model": self._model, "contents": _PLACEHOLDER, "config": config}

    async def _send(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        return await client.aio.models.generate_content(**self._arguments(wire, timeout_s))

    async def _stream(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        return _Stream(await client.aio.models.generate_content_stream(**self._arguments(wire, timeout_s)))

    async def _close(self, source: Any) -> None:
        await source.aclose()

    async def _close_client(self, client: Any) -> None:
        await client.aio.aclose()
        await self._transports.pop(client).aclose()

    def _completes(self, chunk: Any) -> bool:
        found = as_object(plain(chunk))
        blocked = as_object(found.get("promptFeedback")).get("blockReason")
        return bool(blocked) or any(candidate.get("finishReason") for candidate in as_objects(found.get("candidates")))


_responses: ContextVar[list[httpx.Response] | None] = ContextVar("_responses", default=None)


async def _note_response(response: httpx.Response) -> None:
    noted = _responses.get()
    if noted is not None:
        noted.append(response)


class _Stream:
    """The SDK's stream, with its connection in hand.

    The SDK's generators hold each other in a cycle: closing the outer one leaves the connection open until
    the garbage collector comes by. So the HTTP responses that are opened while it runs are noted, and
    closed with it.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._opened: list[httpx.Response] = []

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Any:
        token = _responses.set(self._opened)
        try:
            return await self._source.__anext__()
        finally:
            _responses.reset(token)

    async def aclose(self) -> None:
        await self._source.aclose()
        for response in self._opened:
            await response.aclose()


def _declarations(definitions: list[JsonObject]) -> list[JsonObject]:
    out: list[JsonObject] = []
    for item in definitions:
        inner = as_list(item.get("functionDeclarations") or item.get("function_declarations"))
        out += inner or [item]
    return out
