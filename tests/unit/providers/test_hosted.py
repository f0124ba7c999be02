"""What can go wrong between us and a vendor, through the vendors' real SDKs."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from callbox import errors
from callbox.clock import SystemClock
from callbox.messages import Finished, Message, TextDelta
from callbox.providers.hosted import HostedProvider, Options
from callbox.providers.provider import Request
from callbox.providers.registry import provider
from callbox.providers.retrying import RetryPolicy
from wire.vendor_server import Call, Cut, Fail, Garbage, Hang, Raw, Say, StreamError, VendorServer

KINDS = ("openai", "openai-responses", "anthropic", "gemini")
PATHS = {"openai": "/v1", "openai-responses": "/v1", "anthropic": "", "gemini": ""}
ASK = Request(messages=(Message.user("Hello"),), timeout_s=30)
WHOLE_AND_STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
Make = Callable[..., tuple[HostedProvider, VendorServer]]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def make(kind: str, waits: list[float]) -> Iterator[Make]:
    """Makes a provider and the server that it talks to. Waits between attempts are recorded, not waited."""

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    with ExitStack() as stack:

        def made(*script: Any, attempts: int = 1, key: str = "test-key", **options: Any) -> Any:
            server = stack.enter_context(VendorServer(*script))
            policy = RetryPolicy(attempts_max=attempts)
            model = provider(
                f"{kind}:model-1",
                api_key=key,
                base_url=server.url + PATHS[kind],
                options=Options(retry=policy, sleep=sleep),
                **options,
            )
            return model, server

        yield made


async def ask(model: HostedProvider, request: Request = ASK, *, stream: bool = False) -> str:
    try:
        if not stream:
            return (await model.complete(request)).message.text
        return "".join([event.text async for event in model.stream(request) if isinstance(event, TextDelta)])
    finally:
        await model.aclose()


@WHOLE_AND_STREAMED
async def test_what_passes_is_asked_again(make: Make, waits: list[float], stream: bool) -> None:
    model, server = make(Fail(429, headers={"retry-after": "3"}), Fail(500), Fail(503), Say("At last."), attempts=4)
    assert await ask(model, stream=stream) == "At last."
    assert len(server.requests) == 4
    assert len(waits) == 3
    assert 3.0 <= waits[0] <= 3.5
    assert server.bodies[0] == server.bodies[3]


@WHOLE_AND_STREAMED
async def test_a_rate_limit_says_when_to_come_back(make: Make, stream: bool) -> None:
    model, _ = make(Fail(429, "Slow down.", headers={"retry-after": "20"}))
    with pytest.raises(errors.ProviderRateLimited, match=r"answered 429: Slow down\.") as raised:
        await ask(model, stream=stream)
    assert (raised.value.status, raised.value.retry_after_s, raised.value.retryable) == (429, 20.0, True)


@WHOLE_AND_STREAMED
@pytest.mark.parametrize("status", [500, 503, 529])
async def test_a_server_in_trouble_is_unavailable(make: Make, stream: bool, status: int) -> None:
    model, _ = make(Fail(status, "Trouble."))
    with pytest.raises(errors.ProviderUnavailable, match=r"Trouble\.") as raised:
        await ask(model, stream=stream)
    assert raised.value.status == status


OVERFLOWS = {
    "openai": Fail(400, "Too many tokens.", "context_length_exceeded"),
    "openai-responses": Fail(400, "Too many tokens.", "context_length_exceeded"),
    "anthropic": Fail(400, "prompt is too long: 210000 tokens > 200000 maximum"),
    "gemini": Fail(400, "The input token count (9) exceeds the maximum number of tokens allowed (8)."),
}


@WHOLE_AND_STREAMED
async def test_a_full_window_is_told_apart(make: Make, kind: str, stream: bool) -> None:
    model, server = make(OVERFLOWS[kind], attempts=4)
    with pytest.raises(errors.ContextOverflow) as raised:
        await ask(model, stream=stream)
    assert raised.value.status == 400
    assert len(server.requests) == 1


def everything_said(error: BaseException) -> str:
    """All that a logger could write down about an exception, its chain and its objects."""
    said: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        said += [str(seen), repr(seen), repr(seen.args), repr(vars(seen))]
        seen = seen.__cause__ or seen.__context__
    return "\n".join([*said, *traceback.format_exception(error)])


@WHOLE_AND_STREAMED
async def test_a_wrong_key_is_an_auth_error_that_does_not_tell_the_key(make: Make, stream: bool) -> None:
    secret = "hunter2-hunter2-hunter2"
    model, _ = make(key=secret, attempts=4)
    with pytest.raises(errors.ProviderAuthError, match="answered 401") as raised:
        await ask(model, stream=stream)
    assert secret not in everything_said(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert secret not in repr(model)


async def test_a_key_in_a_header_is_not_told_either(make: Make) -> None:
    secret = "gateway-secret-77"
    model, _ = make(Fail(403, f"Token {secret} was revoked."), headers={"x-gateway-token": secret})
    with pytest.raises(errors.ProviderAuthError) as raised:
        await ask(model)
    assert secret not in everything_said(raised.value)


async def test_a_key_from_the_environment_is_not_told(
    kind: str, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    secret = "from-the-environment-1"
    monkeypatch.setenv("GOOGLE_API_KEY", "")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, secret)
    with VendorServer(key="another") as server:
        model = provider(f"{kind}:m", base_url=server.url + PATHS[kind])
        with pytest.raises(errors.ProviderAuthError) as raised:
            await ask(model)  # type: ignore[arg-type]
    assert secret not in everything_said(raised.value)


@WHOLE_AND_STREAMED
async def test_garbage_is_a_protocol_error(make: Make, stream: bool) -> None:
    model, _ = make(Garbage())
    # In a stream, a page of HTML is a stream without events: it ends before a reply does.
    expected = (errors.ProviderUnavailable, errors.ProviderProtocolError) if stream else errors.ProviderProtocolError
    with pytest.raises(expected) as raised:
        await ask(model, stream=stream)
    assert "html" not in str(raised.value)


async def test_an_answer_without_a_reply_is_a_protocol_error(make: Make) -> None:
    model, _ = make(Raw({}))
    with pytest.raises(errors.ProviderProtocolError, match="without a reply"):
        await ask(model)


async def test_broken_json_in_a_stream_is_a_protocol_error(make: Make) -> None:
    model, _ = make(Garbage(b'event: message_start\r\ndata: {"half": \r\n\r\n'))
    with pytest.raises(errors.ProviderProtocolError):
        await ask(model, stream=True)


@pytest.mark.parametrize("polite", [False, True])
async def test_half_a_reply_is_never_a_whole_one(make: Make, kind: str, polite: bool) -> None:
    say = Say("It was a dark and stormy night.")
    # Enough events for some of the text, in each vendor's way.
    after = {"openai": 4, "openai-responses": 7, "anthropic": 6, "gemini": 3}[kind]
    model, server = make(Cut(say, after, polite), Say("Unused"), attempts=4)
    said: list[str] = []

    async def listen() -> None:
        async for event in model.stream(ASK):
            assert isinstance(event, TextDelta)
            said.append(event.text)

    with pytest.raises(errors.ProviderUnavailable):
        await listen()
    await model.aclose()
    text = "".join(said)
    assert text
    assert say.text.startswith(text)
    assert text != say.text
    # The person has read it already: saying it again from the start would be worse.
    assert len(server.requests) == 1


@pytest.mark.parametrize("polite", [False, True])
async def test_a_stream_that_breaks_before_it_says_anything_is_asked_again(
    make: Make, waits: list[float], polite: bool
) -> None:
    model, server = make(Cut(Say("Never"), 0, polite), Say("Once more."), attempts=2)
    assert await ask(model, stream=True) == "Once more."
    assert (len(server.requests), len(waits)) == (2, 1)


CODES = {
    "openai": "server_error",
    "openai-responses": "server_error",
    "anthropic": "overloaded_error",
    "gemini": "UNAVAILABLE",
}


async def test_an_error_inside_a_stream_is_typed(make: Make, kind: str) -> None:
    model, _ = make(StreamError(Say("Never"), 0, CODES[kind], "The engine is overloaded."))
    with pytest.raises(errors.ProviderUnavailable, match="overloaded"):
        await ask(model, stream=True)


@WHOLE_AND_STREAMED
async def test_a_request_ends_at_its_time(make: Make, stream: bool) -> None:
    model, server = make(Hang(), attempts=4)
    assert await model._client()  # loading an SDK takes longer than this test's patience
    request = Request(messages=ASK.messages, timeout_s=0.5)
    with pytest.raises(errors.ProviderUnavailable):
        await ask(model, request, stream=stream)
    assert len(server.requests) == 1
    assert await asyncio.to_thread(server.disconnected.wait, 10)


async def test_a_stream_that_falls_silent_ends_at_its_time(make: Make, kind: str) -> None:
    after = {"openai": 4, "openai-responses": 7, "anthropic": 6, "gemini": 3}[kind]
    model, server = make(Hang(Say("It was a dark and stormy night."), after))
    assert await model._client()
    request = Request(messages=ASK.messages, timeout_s=0.7)
    with pytest.raises(errors.ProviderUnavailable):
        await ask(model, request, stream=True)
    assert await asyncio.to_thread(server.disconnected.wait, 10)


async def test_cancelling_a_whole_request_closes_the_connection(make: Make) -> None:
    model, server = make(Hang())
    task = asyncio.create_task(model.complete(ASK))
    await until_asked(server)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.disconnected.wait, 10)
    await model.aclose()


async def test_cancelling_a_stream_closes_the_connection(make: Make, kind: str) -> None:
    after = {"openai": 4, "openai-responses": 7, "anthropic": 6, "gemini": 3}[kind]
    model, server = make(Hang(Say("It was a dark and stormy night."), after))
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in model.stream(ASK):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.disconnected.wait, 10)
    await model.aclose()


async def test_leaving_a_stream_closes_the_connection(make: Make, kind: str) -> None:
    after = {"openai": 4, "openai-responses": 7, "anthropic": 6, "gemini": 3}[kind]
    model, server = make(Hang(Say("It was a dark and stormy night."), after))
    stream = model.stream(ASK)
    assert isinstance(await anext(stream), TextDelta)
    await stream.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(server.disconnected.wait, 10)
    await model.aclose()


async def until_asked(server: VendorServer) -> None:
    assert await asyncio.to_thread(server.asked.wait, 20)


async def test_a_refusal_is_a_reply(make: Make, kind: str) -> None:
    for stream in (False, True):
        model, _ = make(Say(refusal="I cannot help with that."))
        if stream:
            events = [event async for event in model.stream(ASK)]
            assert isinstance(events[-1], Finished)
            reply = events[-1].reply
        else:
            reply = await model.complete(ASK)
        await model.aclose()
        assert reply.finish in ("refusal", "filter")
        assert reply.calls == ()


async def test_nobody_listening_is_unavailable(kind: str) -> None:
    with VendorServer() as server:
        url = server.url
    model = provider(
        f"{kind}:m",
        api_key="k",
        base_url=url + PATHS[kind],
        options=Options(retry=RetryPolicy(attempts_max=1)),
    )
    with pytest.raises(errors.ProviderUnavailable):
        await ask(model)  # type: ignore[arg-type]


def test_one_provider_serves_several_event_loops(kind: str) -> None:
    with VendorServer(Say("one"), Say("two"), Say("three")) as server:
        model = provider(f"{kind}:m", api_key="test-key", base_url=server.url + PATHS[kind])

        async def go() -> str:
            return (await model.complete(ASK)).message.text

        async def go_and_close() -> str:
            return await ask(model)  # type: ignore[arg-type]

        assert [asyncio.run(go_and_close()), asyncio.run(go()), asyncio.run(go_and_close())] == [
            "one",
            "two",
            "three",
        ]


def test_closing_in_one_thread_leaves_the_clients_of_others_to_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[tuple[Any, Any]] = []

    with VendorServer(Say("one"), Say("two"), Say("three")) as server:
        model: Any = provider(f"{kind}:m", api_key="test-key", base_url=server.url + PATHS[kind])
        close = model._close_client

        async def noted(client: Any) -> None:
            closed.append((asyncio.get_running_loop(), client))
            await close(client)

        monkeypatch.setattr(model, "_close_client", noted)

        async def first() -> None:
            assert (await model.complete(ASK)).message.text == "one"
            mine = await model._client()
            assert await asyncio.to_thread(lambda: asyncio.run(ask(model))) == "two"
            assert [client is mine for _, client in closed] == [False]
            assert await model._client() is mine
            assert await ask(model) == "three"
            assert closed[1] == (asyncio.get_running_loop(), mine)

        asyncio.run(first())
    assert len(model._clients) == 0


async def test_clients_of_loops_that_are_gone_are_dropped() -> None:
    model: Any = provider("openai:m", api_key="test-key")
    gone = asyncio.new_event_loop()
    model._clients[gone] = object()
    gone.close()
    await model.aclose()
    assert len(model._clients) == 0


async def test_without_a_key_the_variable_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "openai": "OPENAI_API_KEY",
        "openai-responses": "OPENAI_API_KEY",
        "anthropic": "ANTHROPIC_API_KEY",
        "gemini": "GEMINI_API_KEY",
    }
    for name in (*names.values(), "GOOGLE_API_KEY", "OPENAI_ADMIN_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Nothing of the person who runs this test: the SDK looks into configuration files, too.
    monkeypatch.setenv("HOME", "/nonexistent")
    model = provider(f"{kind}:m")
    for stream in (False, True):
        with pytest.raises(errors.ConfigurationError, match=names[kind]):
            await ask(model, stream=stream)  # type: ignore[arg-type]


async def test_without_the_package_the_extra_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra, package = {
        "openai": ("openai", "openai"),
        "openai-responses": ("openai", "openai"),
        "anthropic": ("anthropic", "anthropic"),
        "gemini": ("gemini", "google.genai"),
    }[kind]

    monkeypatch.setitem(__import__("sys").modules, package, None)
    if package == "google.genai":
        import google

        monkeypatch.delattr(google, "genai", raising=False)
    model = provider(f"{kind}:m", api_key="k")
    with pytest.raises(errors.ConfigurationError, match=rf'pip install "callbox\[{extra}\]"'):
        await ask(model)  # type: ignore[arg-type]


async def test_requests_that_come_first_together_share_one_client(make: Make) -> None:
    model, server = make(Say("one"), Say("two"))
    first, second = await asyncio.gather(model._client(), model._client())
    assert first is second
    replies = await asyncio.gather(model.complete(ASK), model.complete(ASK))
    await model.aclose()
    assert {reply.message.text for reply in replies} == {"one", "two"}
    assert len(server.requests) == 2


async def test_a_client_of_ones_own_is_used_and_left_open() -> None:
    from openai import AsyncOpenAI

    with VendorServer(Say("one"), Say("two")) as server:
        async with AsyncOpenAI(api_key="test-key", base_url=f"{server.url}/v1") as client:
            model = provider("openai:m", client=client)
            assert await ask(model) == "one"  # type: ignore[arg-type]
            assert await ask(model) == "two"  # type: ignore[arg-type]


async def test_extra_parameters_reach_the_vendor_as_they_are(make: Make, kind: str) -> None:
    model, server = make(Say("Yes."), Say("Yes."))
    extra = {
        "metadata": {"a": "b"},
        "extra_headers": {"x-trace": "t1"},
        "extra_body": {"brand_new": [1]},
        "extra_query": {},
    }
    request = Request(messages=ASK.messages, extra=extra, timeout_s=30)
    for stream in (False, True):
        if stream:
            assert [event async for event in model.stream(request)]
        else:
            await model.complete(request)
    await model.aclose()
    for seen in server.requests:
        assert seen.body["metadata"] == {"a": "b"}
        assert seen.body["brand_new"] == [1]
        assert seen.headers["x-trace"] == "t1"


async def test_a_reply_that_was_said_in_full_survives_a_bad_goodbye(make: Make, kind: str) -> None:
    # OpenAI sends [DONE] after the event that completes a reply; the others end with that event.
    say = Say("It was a dark night.")
    after = {"openai": 9, "openai-responses": 99, "anthropic": 99, "gemini": 99}[kind]
    model, _ = make(Cut(say, after))
    assert await ask(model, stream=True) == say.text


async def test_a_failed_response_in_a_stream_is_typed() -> None:
    event = (
        b'event: response.failed\ndata: {"type": "response.failed", "response": {"status": "failed", '
        b'"error": {"code": "rate_limit_exceeded", "message": "Too fast."}}}\n\n'
    )
    once = Options(retry=RetryPolicy(attempts_max=1))
    with VendorServer(Garbage(event)) as server:
        model = provider("openai-responses:m", api_key="test-key", base_url=f"{server.url}/v1", options=once)
        with pytest.raises(errors.ProviderRateLimited, match="Too fast"):
            await ask(model, stream=True)  # type: ignore[arg-type]


@WHOLE_AND_STREAMED
async def test_a_bug_is_not_dressed_up_as_the_vendors_failure(stream: bool) -> None:
    class Broken:
        @property
        def chat(self) -> Any:
            raise LookupError("a bug in a client of one's own")

    model = provider("openai:m", client=Broken())
    with pytest.raises(LookupError):
        await ask(model, stream=stream)  # type: ignore[arg-type]


def test_a_model_without_a_name_is_refused() -> None:
    from callbox.providers.openai import OpenAIChat

    with pytest.raises(errors.ConfigurationError, match="name of a model"):
        OpenAIChat("")


def test_defaults_have_a_clock() -> None:
    assert isinstance(Options().clock, SystemClock)
    assert Call("f").arguments == {}
