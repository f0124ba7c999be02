"""What all providers over a vendor's SDK share: retries, time limits, typed errors, closed streams."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from callbox.clock import Clock, SystemClock
from callbox.dialects import find_dialect
from callbox.dialects.wire import as_object
from callbox.errors import (
    ConfigurationError,
    ProviderError,
    ProviderProtocolError,
    ProviderUnavailable,
)
from callbox.messages import Reply, StreamEvent
from callbox.providers.failures import Failure, provider_error
from callbox.providers.rendering import ConversationCache, DefinitionsCache
from callbox.providers.retrying import DEFAULT_RETRY, RetryPolicy, retried
from callbox.providers.sdk_errors import failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from callbox.dialects.dialect import Dialect, StreamReader
    from callbox.providers.provider import Request
    from callbox.tools.tool import Tool
    from callbox.values import JsonObject

T = TypeVar("T")

TIMEOUT_S = 600.0
"""Seconds for one request with all its attempts, where the request does not say."""

_END: Any = object()
# What a user of an SDK puts beside the body; everything else in `Request.extra` goes into it.
_BESIDE_BODY = ("extra_headers", "extra_query", "extra_body")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every hosted provider can be told, besides what is its vendor's own.

    Attributes:
        timeout_s: Seconds for one request with all its attempts, unless the request says its own.
        retry: How often to ask again.
        sleep: How to wait between attempts.
        clock: For retry times that are given as a time of day.
    """

    timeout_s: float = TIMEOUT_S
    retry: RetryPolicy = DEFAULT_RETRY
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Clock = field(default_factory=SystemClock)


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Wire:
    """One request in the vendor's terms.

    Attributes:
        body: Its JSON.
        headers, query: What goes beside it.
    """

    body: JsonObject
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    query: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class _OpenStream:
    source: Any
    chunks: AsyncIterator[Any]
    reader: StreamReader
    events: list[StreamEvent] = field(default_factory=list[StreamEvent])
    complete: bool = False
    ended: bool = False


class HostedProvider(ABC):
    """A provider whose model answers over HTTP through the vendor's SDK.

    Args:
        model: The model's name in the vendor's terms.
        dialect_name: The dialect it speaks.
        client: An SDK client of one's own; it is used as it is, and not closed.
        secrets: Strings that must not get into an error's text.
        options: See `Options`.
    """

    vendor: ClassVar[str]
    package: ClassVar[str]
    extra: ClassVar[str]
    key_variable: ClassVar[str]

    def __init__(
        self,
        model: str,
        *,
        dialect_name: str,
        client: Any = None,
        secrets: tuple[str, ...] = (),
        options: Options = DEFAULT_OPTIONS,
    ) -> None:
        if not model:
            raise ConfigurationError(f"{self.vendor} needs the name of a model.")
        self._model = model
        self._speaks: Dialect = find_dialect(dialect_name)
        self._options = options
        self._given = client
        self._secrets = secrets
        # An SDK's client keeps connections of the event loop that used it; every `asyncio.run` is another.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()
        self._conversations = ConversationCache(self._speaks.write)
        self._definitions = DefinitionsCache(lambda tools, strict: self._speaks.define(tools, strict=strict))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r})"

    @property
    def dialect(self) -> str:
        """See `Provider.dialect`."""
        return self._speaks.name

    @property
    def model(self) -> str:
        """See `Provider.model`."""
        return self._model

    async def complete(self, request: Request) -> Reply:
        """See `Provider.complete`."""
        wire, timeout_s, deadline = self._begin(request)
        return await retried(
            lambda: self._ask(request, wire, deadline),
            self._options.retry,
            timeout_s=timeout_s,
            sleep=self._options.sleep,
        )

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """See `Provider.stream`. Asked again only while nothing has been read; then an error is final."""
        wire, timeout_s, deadline = self._begin(request)
        stream = await retried(
            lambda: self._open(request, wire, deadline),
            self._options.retry,
            timeout_s=timeout_s,
            sleep=self._options.sleep,
        )
        try:
            while True:
                for event in stream.events:
                    yield event
                if stream.ended:
                    return
                stream.events = await self._more(stream, deadline)
        finally:
            await self._close(stream.source)

    async def aclose(self) -> None:
        """See `Provider.aclose`. A client that was passed in stays open: it is not ours.

        Clients of other event loops are still at work there; each is closed by an `aclose` in its own loop.
        """
        client = self._clients.pop(asyncio.get_running_loop(), None)
        for loop in self._loops():
            if loop.is_closed():
                self._clients.pop(loop, None)  # nothing can be awaited there any more
        if client is not None:
            await self._close_client(client)

    # What a vendor is.

    @abstractmethod
    def _connect(self) -> Any:
        """A new SDK client. What the SDK raises without a key becomes a `ConfigurationError`."""

    @abstractmethod
    def _body(self, request: Request) -> JsonObject:
        """The request in the vendor's terms, without `Request.extra`."""

    @abstractmethod
    async def _send(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        """Ask for the whole answer."""

    @abstractmethod
    async def _stream(self, client: Any, wire: Wire, timeout_s: float) -> Any:
        """Ask for a stream: an async iterable of chunks."""

    @abstractmethod
    async def _close(self, source: Any) -> None:
        """Close what `_stream` gave, and with it the connection."""

    @abstractmethod
    async def _close_client(self, client: Any) -> None:
        """Close what `_connect` gave."""

    @abstractmethod
    def _completes(self, chunk: Any) -> bool:
        """After this chunk the reply is whole; a stream that ends without one was cut."""

    def _refused(self, answer: Any) -> Failure | None:  # noqa: ARG002 - a vendor that does this overrides it
        """The failure that an answer or a chunk with status 200 reports."""
        return None

    def _read(self, answer: Any, request: Request) -> Reply:
        return self._speaks.read(answer, request.tools)

    def _reader(self, request: Request) -> StreamReader:
        return self._speaks.reader(request.tools)

    def _lacks_key(self, exception: Exception) -> bool:  # noqa: ARG002 - only where the SDK finds out late
        return False

    # The way of a request.

    def _begin(self, request: Request) -> tuple[Wire, float, float]:
        timeout_s = self._options.timeout_s if request.timeout_s is None else request.timeout_s
        body = self._body(request)
        extra = {key: value for key, value in request.extra.items() if key not in _BESIDE_BODY}
        headers, query, more = (as_object(request.extra.get(key)) for key in _BESIDE_BODY)
        wire = Wire(_merged(body, {**extra, **more}), headers, query)
        return wire, timeout_s, asyncio.get_running_loop().time() + timeout_s

    async def _ask(self, request: Request, wire: Wire, deadline: float) -> Reply:
        client = await self._client()
        answer = await self._guard(self._send(client, wire, self._remaining(deadline)), deadline)
        refused = self._refused(answer)
        if refused is not None:
            raise self._error(refused)
        reply = self._read(answer, request)
        if reply.finish == "unknown" and not reply.message.content and reply.refusal is None:
            raise ProviderProtocolError(f"{self.vendor}: An answer without a reply in it.")
        return reply

    async def _open(self, request: Request, wire: Wire, deadline: float) -> _OpenStream:
        """Open a stream and read the first thing that it says: what fails before that can be retried."""
        client = await self._client()
        source = await self._guard(self._stream(client, wire, self._remaining(deadline)), deadline)
        stream = _OpenStream(source, aiter(source), self._reader(request))
        try:
            while not stream.events and not stream.ended:
                stream.events = await self._more(stream, deadline)
        except BaseException:
            await self._close(source)
            raise
        return stream

    async def _more(self, stream: _OpenStream, deadline: float) -> list[StreamEvent]:
        try:
            chunk = await self._guard(anext(stream.chunks, _END), deadline)
        except ProviderUnavailable:
            if not stream.complete:
                raise
            # The reply had been said in full; only the goodbye is missing.
            chunk = _END
        if chunk is not _END:
            refused = self._refused(chunk)
            if refused is not None:
                raise self._error(refused)
            stream.complete = stream.complete or self._completes(chunk)
            return stream.reader.feed(chunk)
        if not stream.complete:
            # A proxy that gives up closes politely. Half a reply must not pass for a whole one.
            raise ProviderUnavailable(f"{self.vendor}: The stream ended before the reply did.")
        stream.ended = True
        return stream.reader.finish()

    async def _guard(self, awaitable: Awaitable[T], deadline: float) -> T:
        """Await something of the SDK's, until the deadline, and raise only typed errors."""
        scope = asyncio.timeout_at(deadline)
        try:
            async with scope:
                return await awaitable
        except Exception as exception:
            error = self._typed(exception, expired=scope.expired())
            if error is None:
                raise
        # Out here and not `from exception`: the SDK's exception holds the request with its key in the
        # headers, and loggers walk chains.
        raise error

    def _typed(self, exception: Exception, *, expired: bool) -> Exception | None:
        if expired and isinstance(exception, TimeoutError):
            return ProviderUnavailable(f"{self.vendor}: No whole answer in time.", hint="Raise timeout_s.")
        if self._lacks_key(exception):
            return self._missing_key()
        failure = failure_of(self.vendor, exception)
        return None if failure is None else self._error(failure)

    def _error(self, failure: Failure) -> ProviderError:
        return provider_error(failure, now=self._options.clock.wall(), secrets=self._all_secrets())

    def _missing_key(self) -> ConfigurationError:
        return ConfigurationError(f"No API key for {self.vendor}.", hint=f"Set {self.key_variable}, or pass api_key=.")

    def _missing_package(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.vendor} needs the package {self.package!r}.",
            hint=f'pip install "callbox[{self.extra}]"',
        )

    def _all_secrets(self) -> list[str]:
        found = [*self._secrets]
        for client in (self._given, *(self._clients.get(loop) for loop in self._loops())):
            # The Gemini client keeps its key one level down.
            for holder in (client, getattr(client, "_api_client", None)):
                found += [
                    key for name in ("api_key", "auth_token") if isinstance(key := getattr(holder, name, None), str)
                ]
        return found

    async def _client(self) -> Any:
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            # In a thread: importing an SDK can take seconds, which is too long for all other tasks to stand still.
            made = await asyncio.to_thread(self._connect)
            client = self._clients.setdefault(loop, made)
            if client is not made:
                await self._close_client(made)
        return client

    def _loops(self) -> list[asyncio.AbstractEventLoop]:
        # A copy, made in one step: other threads add their loops while this one looks.
        return [loop for reference in self._clients.keyrefs() if (loop := reference()) is not None]

    @staticmethod
    def _remaining(deadline: float) -> float:
        return max(0.001, math.ceil((deadline - asyncio.get_running_loop().time()) * 1000) / 1000)


def _merged(body: JsonObject, extra: JsonObject) -> JsonObject:
    """The body with `extra` in it; objects in both are joined one level deep, like Gemini's
    ``generationConfig``."""
    out = dict(body)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = {**as_object(out[key]), **as_object(value)} if both else value
    return out


def only(tools: Sequence[Tool], name: str) -> tuple[Tool, ...]:
    """The one tool of that name.

    Raises:
        ConfigurationError: It is not among them.
    """
    for tool in tools:
        if tool.name == name:
            return (tool,)
    raise ConfigurationError(
        f"tool_choice names {name!r}, which is not among the request's tools.",
        hint=f"Use auto, none, required, or one of: {', '.join(tool.name for tool in tools)}.",
    )
