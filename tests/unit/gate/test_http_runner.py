"""Running HTTP operations against a real server on the loopback interface."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from callbox import CallContext, Gate, ToolCall, Toolset
from callbox.errors import Rejected, ToolError
from callbox.gate.runners.http import HttpRunner
from support import let_others_run

SECRET = "s3cr3t/key"


async def echo(request: Request) -> Response:
    """What arrived."""
    body = await request.body()
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["path"],
            "raw_path": request.scope["raw_path"].decode(),
            "query": request.url.query,
            "headers": dict(request.headers),
            "cookies": request.cookies,
            "body": body.decode("utf-8", "replace"),
        },
        headers={"set-cookie": "tracked=1"},
    )


async def status(request: Request) -> Response:
    """The status that was asked for, with the key that came in its text, as careless servers do."""
    text = f"key={request.query_params.get('key', '')} auth={request.headers.get('authorization', '')} "
    code = request.path_params["code"]
    headers = {"retry-after": "7"} if code == 429 else {}
    return PlainTextResponse(text + "x" * 5_000, status_code=code, headers=headers)


async def answer(request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind == "huge":

        async def long() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"x" * 65_536
                await let_others_run(1)  # where the server notices that nobody reads any more

        return StreamingResponse(long(), status_code=int(request.query_params.get("status", "200")))
    if kind == "bomb":
        return Response(gzip.compress(b"0" * 50_000_000), headers={"content-encoding": "gzip"})
    return {
        "text": PlainTextResponse("grüezi"),
        "latin": Response("grüezi".encode("latin-1"), media_type="text/plain; charset=latin-1"),
        "charset": Response(b"abc", headers={"content-type": "text/plain; charset=no-such"}),
        "broken": Response(b"{not json", media_type="application/json"),
        "deep": Response(b"[" * 100_000, media_type="application/json"),
        "problem": Response(b'{"a": 1}', media_type="application/problem+json"),
        "binary": Response(b"\x00\x01\x02", media_type="image/png"),
        "xml": Response(b"<a/>", media_type="application/atom+xml"),
        "nothing": Response(status_code=204),
        "untyped": Response(b"plain"),
    }[kind]


async def move(request: Request) -> Response:
    return RedirectResponse("/echo")


async def stall(request: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


ROUTES = [
    Route("/v1/status/{code:int}", status, methods=["GET", "POST", "PUT"]),
    Route("/v1/answer/{kind}", answer),
    Route("/v1/move", move),
    Route("/v1/stall", stall),
    Route("/{rest:path}", echo, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(Starlette(routes=ROUTES), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    running.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def parameter(name: str, place: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "schema": {}, **({"required": True} if place == "path" else {}), **more}


def body(schema: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {"required": True, "content": {media_type: {"schema": schema}}}


ITEM = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "tags": {"type": "array"}}}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Echo", "version": "1"},
    "paths": {
        "/items/{item_id}": {
            "parameters": [parameter("item_id", "path")],
            "get": {
                "operationId": "get_item",
                "summary": "Get one item.",
                "parameters": [
                    parameter("tags", "query"),
                    parameter("filter", "query", style="deepObject", explode=True),
                    parameter("X-Trace", "header"),
                    parameter("lang", "cookie"),
                ],
            },
            "put": {"operationId": "put_item", "summary": "Replace an item.", "requestBody": body(ITEM)},
        },
        "/form": {
            "post": {
                "operationId": "send_form",
                "summary": "Send a form.",
                "requestBody": body(ITEM, "application/x-www-form-urlencoded"),
            }
        },
        "/upload": {
            "post": {
                "operationId": "upload",
                "summary": "Upload parts.",
                "requestBody": body(ITEM, "multipart/form-data"),
            }
        },
        "/status/{code}": {
            method: {
                "operationId": f"{method}_status",
                "summary": "Answer so.",
                "parameters": [parameter("code", "path")],
            }
            for method in ("get", "put", "post")
        },
        "/answer/{kind}": {
            "get": {
                "operationId": "answer",
                "summary": "Answer in kind.",
                "parameters": [parameter("kind", "path"), parameter("status", "query")],
            }
        },
        "/move": {"get": {"operationId": "move", "summary": "Redirect."}},
        "/stall": {"get": {"operationId": "stall", "summary": "Never answer."}},
        "/orders": {
            "post": {
                "operationId": "order",
                "summary": "Order once.",
                "parameters": [parameter("Idempotency-Key", "header")],
            }
        },
    },
    "components": {
        "securitySchemes": {
            "key": {"type": "apiKey", "in": "query", "name": "key"},
            "login": {"type": "http", "scheme": "basic"},
            "token": {"type": "http", "scheme": "bearer"},
        }
    },
    "security": [{"key": [], "token": []}, {"login": []}, {"key": []}],
}


def context() -> CallContext:
    return CallContext(call_id="c1", tool="t", idempotency_key="once-1")


@pytest.fixture
async def runner() -> AsyncIterator[HttpRunner]:
    made = HttpRunner(response_bytes_max=200_000)
    yield made
    await made.aclose()
    await made.aclose()


def tools(server: str, **options: Any) -> Toolset:
    return Toolset.from_openapi(DOCUMENT, base_url=server, **options)


async def test_arguments_go_where_the_document_says(server: str, runner: HttpRunner):
    arguments = {
        "item_id": "a/b?c#d",
        "tags": ["x y", "z&"],
        "filter": {"size": {"min": 1}},
        "X-Trace": "ü-1",
        "lang": "de",
    }
    got = await runner.run(tools(server, headers={"X-Fixed": "yes"})["get_item"], arguments, context)
    assert got["method"] == "GET"
    assert got["raw_path"] == "/v1/items/a%2Fb%3Fc%23d"
    assert got["query"] == "tags=x%20y&tags=z%26&filter[size][min]=1"
    assert got["headers"]["x-fixed"] == "yes"
    assert got["headers"]["x-trace"].encode("latin-1").decode() == "ü-1"
    assert got["cookies"] == {"lang": "de"}
    assert got["body"] == ""


async def test_bodies(server: str, runner: HttpRunner):
    toolset = tools(server)
    arguments = {"name": "tee ü", "tags": [1, "b"]}
    put = await runner.run(toolset["put_item"], {"item_id": 7, **arguments}, context)
    assert (put["method"], put["path"]) == ("PUT", "/v1/items/7")
    assert put["headers"]["content-type"] == "application/json"
    assert json.loads(put["body"]) == arguments
    form = await runner.run(toolset["send_form"], arguments, context)
    assert form["body"] == "name=tee+%C3%BC&tags=1&tags=b"
    upload = await runner.run(toolset["upload"], arguments, context)
    assert upload["headers"]["content-type"].startswith("multipart/form-data; boundary=")
    assert upload["body"].count('name="tags"') == 2
    assert "tee ü" in upload["body"]


@pytest.mark.parametrize("value", ["../admin", "..", "a/../../secret", ""])
async def test_a_path_argument_cannot_reach_another_route(server: str, runner: HttpRunner, value: str):
    with pytest.raises(Rejected):
        await runner.run(tools(server)["get_item"], {"item_id": value}, context)


async def test_credentials_are_sent_and_cookies_are_not_kept(server: str, runner: HttpRunner):
    both = tools(server, auth={"key": "k&1", "token": lambda: "fresh"})["get_item"]
    got = await runner.run(both, {"item_id": 1}, context)
    assert (got["query"], got["headers"]["authorization"]) == ("key=k%261", "Bearer fresh")
    login = tools(server, auth={"login": ("u", "p")})["get_item"]
    got = await runner.run(login, {"item_id": 1}, context)
    assert base64.b64decode(got["headers"]["authorization"].removeprefix("Basic ")) == b"u:p"
    assert got["cookies"] == {}


async def test_the_idempotency_key_of_the_call_is_sent(server: str, runner: HttpRunner):
    order = tools(server)["order"]
    assert order.idempotent
    got = await runner.run(order, {}, context)
    assert got["headers"]["idempotency-key"] == "once-1"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("text", "grüezi"),
        ("latin", "grüezi"),
        ("charset", "abc"),
        ("broken", "{not json"),
        ("deep", "[" * 100_000),
        ("problem", {"a": 1}),
        ("binary", {"status": 200, "content_type": "image/png", "size_bytes": 3}),
        ("xml", "<a/>"),
        ("nothing", {"status": 204}),
        ("untyped", "plain"),
    ],
)
async def test_answers(server: str, runner: HttpRunner, kind: str, expected: Any):
    assert await runner.run(tools(server)["answer"], {"kind": kind}, context) == expected


@pytest.mark.parametrize("kind", ["huge", "bomb"])
async def test_a_response_without_end_is_cut_off(server: str, runner: HttpRunner, kind: str):
    with pytest.raises(ToolError, match="more than 200,000 bytes") as caught:
        await runner.run(tools(server)["answer"], {"kind": kind}, context)
    assert caught.value.suggestion


async def test_an_error_without_end_is_cut_off(server: str, runner: HttpRunner):
    with pytest.raises(ToolError, match=r"answered 500 Internal Server Error: x{100}"):
        await runner.run(tools(server)["answer"], {"kind": "huge", "status": 500}, context)


@pytest.mark.parametrize(
    ("method", "code", "retryable"),
    [
        ("get", 400, False),
        ("get", 404, False),
        ("get", 500, False),
        *(("get", code, True) for code in (408, 425, 429, 502, 503, 504)),
        ("put", 503, True),
        ("post", 503, False),
        ("post", 408, False),
        ("post", 425, True),
        ("post", 429, True),
    ],
)
async def test_a_failure_says_its_status_and_whether_to_retry(
    server: str, runner: HttpRunner, method: str, code: int, retryable: bool
):
    with pytest.raises(ToolError) as caught:
        await runner.run(tools(server)[f"{method}_status"], {"code": code}, context)
    assert caught.value.retryable is retryable
    assert caught.value.message.startswith(f"{method.upper()} /status/{{code}} answered {code} ")
    assert ("(retry after 7 s)" in caught.value.message) is (code == 429)
    assert len(caught.value.message) < 2_200


@pytest.mark.parametrize("auth", [{"key": SECRET}, {"key": SECRET, "token": SECRET}, {"login": ("u", SECRET)}])
async def test_a_secret_is_in_no_error_even_if_the_server_repeats_it(server: str, runner: HttpRunner, auth: Any):
    encoded = base64.b64encode(f"u:{SECRET}".encode()).decode()
    for failing in ("get_status", "move"):
        arguments = {"code": 401} if failing == "get_status" else {}
        with pytest.raises(ToolError) as caught:
            await runner.run(tools(server, auth=auth)[failing], arguments, context)
        shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
        assert SECRET not in shown
        assert "s3cr3t%2Fkey" not in shown
        assert encoded not in shown


async def test_redirects_are_not_followed(server: str, runner: HttpRunner):
    with pytest.raises(ToolError, match="answered 307 Temporary Redirect; redirects are not followed"):
        await runner.run(tools(server)["move"], {}, context)


async def test_a_server_that_never_answers_is_given_up_at_the_tools_deadline(server: str):
    waiting = replace(tools(server)["stall"], timeout_s=0.05)
    gate = Gate(Toolset([waiting]))
    (result,) = await gate.execute([ToolCall("1", "stall", {})])
    assert result.error is not None
    assert result.error.code == "timeout"
    await gate.aclose()


async def test_a_server_that_is_not_there(runner: HttpRunner):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ToolError, match="no connection") as caught:
            await runner.run(tools(address)["order"], {}, context)
    assert caught.value.retryable


async def test_a_connection_that_breaks_may_have_done_its_work():
    async def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError(f"{request.url} broke")

    runner = HttpRunner(httpx.MockTransport(broken))
    toolset = tools("http://127.0.0.1:1", auth={"key": SECRET})
    for name, retryable in (("get_item", True), ("send_form", False)):
        with pytest.raises(ToolError) as caught:
            await runner.run(toolset[name], {"item_id": 1, "name": "x"}, context)
        assert caught.value.retryable is retryable
        assert "ReadError" in caught.value.message
        assert "s3cr3t" not in str(caught.value)
    await runner.aclose()


async def test_the_environment_says_nothing_about_the_way(
    server: str, runner: HttpRunner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert (await runner.run(tools(server)["order"], {}, context))["method"] == "POST"


def test_one_runner_serves_several_loops_in_turn(server: str):
    runner = HttpRunner()

    async def once() -> Any:
        try:
            return await runner.run(tools(server)["order"], {}, context)
        finally:
            await runner.aclose()

    assert [asyncio.run(once())["path"] for _ in range(2)] == ["/v1/orders", "/v1/orders"]


async def test_a_gate_runs_operations_like_any_other_tool(server: str):
    gate = Gate(tools(server))
    results = await gate.execute(
        [
            ToolCall("1", "get_item", {"item_id": "a-1", "tags": ["x"]}),
            ToolCall("2", "put_item", {"item_id": "a-1"}),
            ToolCall("3", "get_status", {"code": 404}),
            ToolCall("4", "get_item", {"item_id": "../x"}),
        ]
    )
    assert [each.call_id for each in results] == ["1", "2", "3", "4"]
    assert json.loads(results[0].content)["query"] == "tags=x"
    assert [each.error.code if each.error else None for each in results] == [
        None,
        "invalid_arguments",
        "tool_failed",
        "rejected_by_check",
    ]
    assert "answered 404" in results[2].content
    assert json.loads(results[3].content)["path"] == "/item_id"
    await gate.aclose()
