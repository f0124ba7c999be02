"""OpenAI's two APIs, and every server that speaks Chat Completions: vLLM, llama.cpp, Ollama, gateways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias
from urllib.parse import urlsplit

from callbox.dialects.wire import as_object, as_objects
from callbox.errors import ConfigurationError
from callbox.providers.hosted import DEFAULT_OPTIONS, HostedProvider, Options, Wire, only
from callbox.providers.json_tools import JsonToolsReader, instructions, read_reply, reply_schema, translate
from callbox.providers.rendering import ConversationCache
from callbox.providers.sdk_errors import failure_in_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from callbox.dialects.dialect import StreamReader
    from callbox.messages import Reply
    from callbox.providers.failures import Failure
    from callbox.providers.provider import Request
    from callbox.values import JsonObject

Guided: TypeAlias = Literal["vllm", "llama.cpp"]
"""Whose parameters carry the schema that the model's answer is held to."""

# What the SDK's methods insist on by name. The rest goes as `extra_body`: the SDK walks all that is passed
# by name through its types on every request, which for a history of 800 messages costs 100 times as much as
# encoding it.
_BY_NAME = ("model",)


class _OverOpenAI(HostedProvider):
    """What Chat Completions and Responses share: the client."""

    vendor: ClassVar[str] = "OpenAI"
    package: ClassVar[str] = "openai"
    extra: ClassVar[str] = "openai"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"

    def __init__(
        self,
        model: str,
        *,
        dialect_name: str,
        api_key: str | None,
        base_url: str | None,
        organization: str | None,
        headers: Mapping[str, str] | None,
        client: Any,
        options: Options,
    ) -> None:
        secrets = (*(headers or {}).values(), *((api_key,) if api_key else ()))
        super().__init__(model, dialect_name=dialect_name, client=client, secrets=secrets, options=options)
        self._api_key = api_key
        self._base_url = base_url
        self._organization = organization
        self._headers = dict(headers or {})

    def _connect(self) -> Any:
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError
        except ImportError:
            raise self._missing_package() from None

        def make(api_key: str | None) -> Any:
            return AsyncOpenAI(
                api_key=api_key,
                base_url=self._base_url,
                organization=self._organization,
                default_headers=self._headers,
                max_retries=0,
                # The SDK's own choice, but for a destructor that closes it in whatever event loop runs by
                # then.
                http_client=DefaultAsyncHttpxClient(),
            )

        try:
            return make(self._api_key)
        except OpenAIError:
            missing = self._missing_key()
        if self._base_url is None:
            raise missing
        # A server of one's own often wants no key, but the SDK does.
        return make("none")

    def _is_official(self) -> bool:
        base_url = self._base_url or str(getattr(self._given, "base_url", "") or "")
        return not base_url or (urlsplit(base_url).hostname or "").endswith(".openai.com")

    async def _close(self, source: Any) -> None:
        await source.close()

    async def _close_client(self, client: Any) -> None:
        await client.close()

    async def _create(self, create: Any, wire: Wire, timeout_s: float, **named: Any) -> Any:
        body = {key: value for key, value in wire.body.items() if key not in _BY_NAME}
        return await create(
            model=wire.body["model"],
            **named,
            extra_body=body,
            extra_headers=wire.headers or None,
            extra_query=wire.query or None,
            timeout=timeout_s,
        )

    @staticmethod
    def _chunks(raw: Any) -> Any:
        from openai import AsyncStream

        # Plain dicts: building the SDK's types costs about 0.1 ms a chunk, and the dialect reads JSON.
        return raw.parse(to=AsyncStream[object])


class OpenAIChat(_OverOpenAI):
    """Chat Completions.

    Args:
        model: Like ``"gpt-5"``, or the name that a server of one's own gives its model.
        api_key: None takes ``OPENAI_API_KEY``, as the SDK does, also for another `base_url`.
        base_url: Of any server that speaks this API, like ``"http://localhost:8000/v1"``.
        organization: OpenAI's.
        headers: Sent with every request.
        tools: ``"native"``: the API's own ``tools``. ``"json_schema"``: for servers and models without
            them, the model is held to a JSON Schema of its whole answer (one call, or a final text), which
            is read back as a call. None: ``"json_schema"`` if `guided`, else ``"native"``.
        guided: How the schema of ``"json_schema"`` is sent: ``"vllm"`` as ``structured_outputs``,
            ``"llama.cpp"`` as llama.cpp's ``json_schema``, None as the API's own ``response_format``.
        client: An `openai.AsyncOpenAI` of one's own, with its own retries.
        options: Time, retries.

    Raises:
        ConfigurationError: Options that exclude each other. At first use: no package, no key.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        headers: Mapping[str, str] | None = None,
        tools: Literal["native", "json_schema"] | None = None,
        guided: Guided | None = None,
        client: Any = None,
        options: Options = DEFAULT_OPTIONS,
    ) -> None:
        if guided is not None and tools == "native":
            raise ConfigurationError(
                "guided= only has an effect on tools='json_schema'.", hint="Leave tools= out, or guided=."
            )
        super().__init__(
            model,
            dialect_name="openai",
            api_key=api_key,
            base_url=base_url,
            organization=organization,
            headers=headers,
            client=client,
            options=options,
        )
        self._guided = guided
        self._as_json = tools == "json_schema" or guided is not None
        if self._as_json:
            self._conversations = ConversationCache(lambda messages: self._speaks.write(translate(messages)))

    def _body(self, request: Request) -> JsonObject:
        body: JsonObject = {"model": self._model, "messages": self._conversations.write(request.messages)}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.output_tokens_max is not None:
            # OpenAI's reasoning models refuse the old name, many compatible servers do not know the new one.
            name = "max_completion_tokens" if self._is_official() else "max_tokens"
            body[name] = request.output_tokens_max
        if request.tools:
            body |= self._json_tools(request, body) if self._as_json else self._native_tools(request)
        return body

    def _native_tools(self, request: Request) -> JsonObject:
        tools, choice = request.tools, request.tool_choice
        if choice not in ("auto", "none", "required") and not self._is_official():
            # llama.cpp takes the object that names a tool for "auto"; that one tool alone says the same
            # everywhere.
            tools, choice = only(tools, choice), "required"
        strict = request.strict is not False
        body: JsonObject = {"tools": self._definitions.define(tools, strict=strict)}
        if choice in ("none", "required"):
            body["tool_choice"] = choice
        elif choice != "auto":
            only(tools, choice)
            body["tool_choice"] = {"type": "function", "function": {"name": choice}}
        if not request.parallel:
            body["parallel_tool_calls"] = False
        return body

    def _json_tools(self, request: Request, body: JsonObject) -> JsonObject:
        tools, choice = request.tools, request.tool_choice
        if choice not in ("auto", "none", "required"):
            tools, choice = only(tools, choice), "required"
        first = body["messages"][:1]
        told = instructions(tools, choice)
        # One system message, at the front: many chat templates take no other.
        if first and first[0].get("role") in ("system", "developer") and isinstance(first[0]["content"], str):
            head = {**first[0], "content": f"{first[0]['content']}\n\n{told}"}
            messages = [head, *body["messages"][1:]]
        else:
            messages = [{"role": "system", "content": told}, *body["messages"]]
        return {"messages": messages, **self._held_to(reply_schema(tools, choice))}

    def _held_to(self, schema: JsonObject) -> JsonObject:
        if self._guided == "vllm":
            return {"structured_outputs": {"json": schema}}
        if self._guided == "llama.cpp":
            return {"json_schema": schema}
        named = {"name": "reply", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": named}}

    async def _send(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        create = client.chat.completions.with_raw_response.create
        raw = await self._create(create, wire, timeout_s, messages=[])
        return raw.http_response.json()

    async def _stream(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        create = client.chat.completions.with_raw_response.create
        body = {"stream_options": {"include_usage": True}, **wire.body}
        wire = Wire(body, wire.headers, wire.query)
        return self._chunks(await self._create(create, wire, timeout_s, messages=[], stream=True))

    def _completes(self, chunk: Any) -> bool:
        return any(choice.get("finish_reason") for choice in as_objects(as_object(chunk).get("choices")))

    def _refused(self, answer: Any) -> Failure | None:
        # Gateways answer 200 before they know what the model behind them says.
        error = as_object(answer).get("error")
        return failure_in_answer(self.vendor, error) if error else None

    def _read(self, answer: Any, request: Request) -> Reply:
        reply = super()._read(answer, request)
        return read_reply(reply) if self._as_json and request.tools else reply

    def _reader(self, request: Request) -> StreamReader:
        reader = super()._reader(request)
        return JsonToolsReader(reader) if self._as_json and request.tools else reader


class OpenAIResponses(_OverOpenAI):
    """The Responses API.

    Args:
        model: Like ``"gpt-5"``.
        api_key: None takes ``OPENAI_API_KEY``, as the SDK does.
        base_url: Of a server that speaks this API.
        organization: OpenAI's.
        headers: Sent with every request.
        store: Whether OpenAI keeps the reply; None leaves it to OpenAI. Reasoning that is not stored must
            come back with the next request: with ``False`` and a reasoning model, pass
            ``include=["reasoning.encrypted_content"]``.
        include: What else the reply is to hold.
        client: An `openai.AsyncOpenAI` of one's own, with its own retries.
        options: Time, retries.

    Raises:
        ConfigurationError: At first use: no package, no key.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        headers: Mapping[str, str] | None = None,
        store: bool | None = None,
        include: Sequence[str] = (),
        client: Any = None,
        options: Options = DEFAULT_OPTIONS,
    ) -> None:
        super().__init__(
            model,
            dialect_name="openai-responses",
            api_key=api_key,
            base_url=base_url,
            organization=organization,
            headers=headers,
            client=client,
            options=options,
        )
        self._store = store
        self._include = list(include)

    def _body(self, request: Request) -> JsonObject:
        body: JsonObject = {"model": self._model, "input": self._conversations.write(request.messages)}
        if self._store is not None:
            body["store"] = self._store
        if self._include:
            body["include"] = self._include
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.output_tokens_max is not None:
            body["max_output_tokens"] = request.output_tokens_max
        if request.tools:
            body["tools"] = self._definitions.define(request.tools, strict=request.strict is not False)
            choice = request.tool_choice
            if choice in ("none", "required"):
                body["tool_choice"] = choice
            elif choice != "auto":
                only(request.tools, choice)
                body["tool_choice"] = {"type": "function", "name": choice}
            if not request.parallel:
                body["parallel_tool_calls"] = False
        return body

    async def _send(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        raw = await self._create(client.responses.with_raw_response.create, wire, timeout_s)
        return raw.http_response.json()

    async def _stream(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        create = client.responses.with_raw_response.create
        return self._chunks(await self._create(create, wire, timeout_s, stream=True))

    def _completes(self, chunk: Any) -> bool:
        return as_object(chunk).get("type") in ("response.completed", "response.incomplete")

    def _refused(self, answer: Any) -> Failure | None:
        found = as_object(answer)
        if found.get("type") == "error":
            return failure_in_answer(self.vendor, found.get("error") or found)
        if found.get("type") == "response.failed":
            found = as_object(found.get("response"))
        error = found.get("error")
        return failure_in_answer(self.vendor, error) if error else None
