"""The HTTP server: one thread, one port, a script of steps that all wires share."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from support import let_others_run
from wire.vendor_server import anthropic, gemini, openai_chat, openai_responses
from wire.vendor_server.script import BadRequest, Cut, Fail, Garbage, Hang, Raw, Say, Step, StreamError

if TYPE_CHECKING:
    from starlette.requests import Request


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any


class VendorServer:
    """Plays a script; a context manager. Requests that a vendor would refuse get a 400 and use up no step.

    Args:
        script: What to do, request by request. When it is used up, the answer is a 500.
        key: The API key it insists on; a wrong one is quoted in the error, as OpenAI does.
        network_bytes: Size of the pieces in which streams are sent.
    """

    def __init__(self, *script: Step, key: str = "test-key", network_bytes: int = 11) -> None:
        self.script = deque(script)
        self.key = key
        self.requests: list[Seen] = []
        self.refused: list[str] = []
        self.asked = threading.Event()
        self.disconnected = threading.Event()
        self._network_bytes = network_bytes
        self._calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        routes = [
            Route("/v1/chat/completions", self._endpoint(openai_chat), methods=["POST"]),
            Route("/v1/responses", self._endpoint(openai_responses), methods=["POST"]),
            Route("/v1/messages", self._endpoint(anthropic), methods=["POST"]),
            Route("/v1beta/models/{model_and_verb}", self._endpoint(gemini), methods=["POST"]),
            Route("/v1/models/{model_and_verb}", self._endpoint(gemini), methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="vendor-server")

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def __enter__(self) -> VendorServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop()
        self._thread.join(timeout=10)
        self._socket.close()
        assert not self._thread.is_alive()

    @property
    def bodies(self) -> list[Any]:
        """The bodies of the requests that were understood."""
        return [seen.body for seen in self.requests]

    def new_id(self) -> int:
        """A number for the next call."""
        self._calls += 1
        return self._calls

    def _endpoint(self, wire: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            text = await request.body()
            found = request.headers.get(wire.KEY_HEADER) or request.headers.get("authorization", "")
            key = found.removeprefix("Bearer ")
            if key != self.key:
                message = f"Incorrect API key provided: {key}. Authorization: Bearer {key}"
                return JSONResponse(*wire.error(Fail(401, message, "invalid_api_key")))
            body = json.loads(text)
            streaming = wire.is_streaming(request.url.path, body)
            try:
                wire.validate(body, dict(request.headers))
            except BadRequest as refusal:
                self.refused.append(str(refusal))
                return JSONResponse(*wire.error(Fail(400, str(refusal), wire.INVALID)))
            self.requests.append(Seen(request.url.path, dict(request.headers), body))
            self.asked.set()
            step = self.script.popleft() if self.script else Fail(500, "The script is over.")
            return self._play(wire, step, streaming, body)

        return endpoint

    def _play(self, wire: Any, step: Step, streaming: bool, body: Any) -> Response:
        match step:
            case Fail():
                content, status = wire.error(step)
                return JSONResponse(content, status, headers={"x-request-id": "req_1", **step.headers})
            case Garbage():
                return Response(step.body, media_type="application/json")
            case Raw():
                return JSONResponse(step.body)
            case Say() if not streaming:
                return JSONResponse(wire.whole(step, body, self.new_id))
            case Say():
                return self._stream(wire.events(step, body, self.new_id), "end")
            case Hang() if not streaming:
                return _Streamed(self, b"", "hang", self._network_bytes, started=False)
            case Hang() | Cut() | StreamError():
                events = wire.events(step.reply, body, self.new_id)[: step.after]
                if isinstance(step, StreamError):
                    return self._stream([*events, wire.error_event(step)], "end")
                ending = "hang" if isinstance(step, Hang) else "end" if step.polite else "break"
                return self._stream(events, ending)
        raise AssertionError(step)

    def _stream(self, events: list[str], ending: str) -> Response:
        return _Streamed(self, "".join(events).encode(), ending, self._network_bytes)


class _Server(uvicorn.Server):
    """Stops when it is told, not at the next of uvicorn's ten looks a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._running = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.on_tick(0)
        self._running.set()
        await self._stopped.wait()

    def stop(self) -> None:
        """From another thread."""
        assert self._running.wait(10)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopped.set)


class _Streamed(Response):
    """A body in small pieces, and one of three ends."""

    def __init__(self, server: VendorServer, body: bytes, ending: str, size: int, *, started: bool = True) -> None:
        super().__init__(body)
        self._server, self._ending, self._size, self._started = server, ending, size, started

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._started:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at in range(0, len(self.body), self._size):
            piece = self.body[at : at + self._size]
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
            await let_others_run(1)
        if self._ending == "break":
            raise ConnectionAbortedError("as the script says")
        if self._ending == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            self._server.disconnected.set()
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
